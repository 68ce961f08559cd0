"""A Ray cluster for the length of an audit: the surrounding one, a given one, or a local one of its own."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import ray

from auditor.config import Config, Resources
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
    if not verbose:
        _hush()
    options = {"log_to_driver": verbose, "logging_level": logging.INFO if verbose else logging.WARNING}
    try:
        with nullcontext() if verbose else _without_native_output():
            if address:
                ray.init(address=address, **options)
            else:
                # Nobody preempts this machine, so nobody needs to watch for it.
                os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
                ray.init(num_cpus=_logical_cpus(resources), include_dashboard=False, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise StageError(f"resources.ray_address {address}: no Ray cluster answers ({error})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _hush() -> None:
    """Keep Ray's own account of what it does off the terminal; warnings that a person can act on stay."""
    importlib.import_module("ray.data")  # it sets its own levels when it is imported

    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # That a local cluster makes itself a token, and that progress is shown by us, is nothing to act on.
    for name in ("ray._private.authentication.authentication_token_setup", "ray.data._internal.progress"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Ray Data restarts its actors, and Ray's core (2.60) prints an error about that on every driver's terminal.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


@contextmanager
def _without_native_output() -> Iterator[None]:
    """Drop what Ray's core writes to standard error while it starts: errors reach us as exceptions."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def worker_resources(config: Config) -> dict[str, float]:
    """Logical resources of one worker or actor."""
    resources = config.resources
    asked: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        asked["GPU"] = resources.gpus_per_worker
    return asked


def _logical_cpus(resources: Resources) -> int:
    # Ray counts CPUs, it does not pin them: a local cluster takes what was asked for, a place for the task that
    # prepares scoring, and one to read and write while all actors are busy.
    workers = max(resources.train_workers, resources.score_actors + 1)
    return max(os.cpu_count() or 1, workers * resources.cpus_per_worker + 1)
