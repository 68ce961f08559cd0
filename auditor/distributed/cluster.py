"""A Ray cluster for the length of an audit: the surrounding one, a given one, or a local one of its own."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import ray
from ray.autoscaler.sdk import request_resources

from auditor.distributed.room import lack, most_workers, worker_resources
from auditor.errors import InputError, StageError
from auditor.sections.running import Resources

log = logging.getLogger("auditor")


@contextmanager
def cluster(resources: Resources, verbose: bool = False) -> Iterator[None]:
    """Connect to Ray and, where this call made the connection, leave it at the end.

    Args:
        resources: What the audit asks for; `ray_address` names an existing cluster.
        verbose: Show what Ray's workers log.

    Raises:
        InputError: The cluster cannot be reached, or has not got what is asked for.
        StageError: No local cluster could be started.
    """
    if ray.is_initialized():
        yield
        return
    address = _address(resources)
    if not verbose:
        _hush()
    answer = signal.getsignal(signal.SIGTERM)
    options = {"log_to_driver": verbose, "logging_level": logging.INFO if verbose else logging.WARNING}
    try:
        with nullcontext() if verbose else _without_native_output():
            if address:
                _reach(address)
                ray.init(address=address, **options)
            else:
                # Nobody preempts this machine, so nobody needs to watch for it.
                os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
                # `local`: a cluster that somebody else has started on this machine is not ours to use.
                # Custom resources are names, of which a cluster of our own may have as many as it takes.
                custom = {name: amount * (most_workers(resources) + 1) for name, amount in resources.custom.items()}
                cpus = _logical_cpus(resources)
                ray.init("local", num_cpus=cpus, resources=custom, include_dashboard=False, **options)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        if address:
            raise InputError(f"resources.ray_address {address}: no Ray cluster answers ({reason})") from error
        raise StageError(f"a local Ray cluster could not be started ({reason})") from error
    if callable(answer) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, answer)  # ray.init has put its own in the place of ours
    try:
        _await_resources(resources, resources.wait_seconds if address else 0.0)
        yield
    finally:
        ray.shutdown()


def is_own_cluster(resources: Resources) -> bool:
    """Whether the cluster is a local one that was started for this audit."""
    return _address(resources) is None


def _address(resources: Resources) -> str | None:
    return resources.ray_address or os.environ.get("RAY_ADDRESS")


def _reach(address: str) -> None:
    """Find out in seconds that nobody listens: Ray itself would try for many minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _await_resources(resources: Resources, seconds: float) -> None:
    """Wait until the cluster has what is asked for; ask an autoscaling one to grow.

    Raises:
        InputError: It has not got it after this many seconds.
    """
    lacking = _lack(resources)
    if lacking and seconds:
        log.info("resources: the audit %s; waiting up to %g s for more", lacking, seconds)
        request_resources(bundles=[worker_resources(resources)] * most_workers(resources) + [{"CPU": 1}])
        try:
            lacking = _wait(resources, time.monotonic() + seconds)
        finally:
            request_resources()  # a request outlives who made it, and would keep idle machines
    if lacking:
        raise InputError(f"resources: the audit {lacking}{f' after {seconds:g} s' if seconds else ''}")
    free = ray.available_resources()
    each, workers = worker_resources(resources), most_workers(resources)
    if held := [name for name, amount in each.items() if free.get(name, 0.0) < amount * workers]:
        log.info("resources: other work on the cluster holds %s; the audit waits for its turn", " and ".join(held))


def _wait(resources: Resources, deadline: float) -> str | None:
    while (lacking := _lack(resources)) and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(2.0, left))
    return lacking


def _lack(resources: Resources) -> str | None:
    return lack(resources, [node["Resources"] for node in ray.nodes() if node["Alive"]])


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


def _logical_cpus(resources: Resources) -> int:
    # Ray counts CPUs, it does not pin them: a local cluster takes what was asked for, a place for the task that
    # prepares scoring, and one to read and write while all actors are busy.
    workers = max(most_workers(resources), resources.score_actors + 1)
    return max(os.cpu_count() or 1, workers * resources.cpus_per_worker + 1)
