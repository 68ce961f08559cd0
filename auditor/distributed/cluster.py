"""A Ray cluster for the length of an audit: the surrounding one, a given one, or a local one of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from auditor.config import Resources
from auditor.errors import StageError


@contextmanager
def cluster(resources: Resources, verbose: bool = False) -> Iterator[None]:
    """Connect to Ray and, where this call made the connection, leave it at the end.

    Args:
        resources: What the audit asks for; `ray_address` names an existing cluster.
        verbose: Show what Ray's workers log.

    Raises:
        StageError: The cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    address = resources.ray_address or os.environ.get("RAY_ADDRESS")
    logging.getLogger("ray").setLevel(logging.INFO if verbose else logging.WARNING)
    try:
        if address:
            ray.init(address=address, log_to_driver=verbose, logging_level=logging.WARNING)
        else:
            ray.init(
                num_cpus=_logical_cpus(resources),
                include_dashboard=False,
                log_to_driver=verbose,
                logging_level=logging.INFO if verbose else logging.WARNING,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise StageError(f"resources.ray_address {address}: no Ray cluster answers ({error})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _logical_cpus(resources: Resources) -> int:
    # Ray counts CPUs, it does not pin them: a local cluster takes what was asked for, and Ray Data needs one more
    # to read and write while all actors are busy.
    workers = max(resources.train_workers, resources.score_actors)
    return max(os.cpu_count() or 1, workers * resources.cpus_per_worker + 1)
