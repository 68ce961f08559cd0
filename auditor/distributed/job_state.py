"""Whether a cluster takes jobs, and how one that was handed in by a process that is gone comes to its end."""

from __future__ import annotations

import logging
import socket
import time
from threading import Event
from urllib.parse import urlsplit

from ray.job_submission import JobSubmissionClient

_LOOK_SECONDS = 2.0
_PATIENCE_SECONDS = 60.0


def await_cluster(address: str, seconds: float, stop: Event) -> bool:
    """Wait until a Jobs API answers; returns whether it does.

    Args:
        address: Of the Jobs API, an http or https URL.
        seconds: When to give up.
        stop: Ends the waiting.
    """
    place = urlsplit(address)
    port = place.port or {"https": 443}.get(place.scheme, 80)
    deadline = time.monotonic() + seconds
    while not stop.is_set():
        try:
            socket.create_connection((place.hostname, port), timeout=10).close()
        except OSError:
            if time.monotonic() >= deadline:
                return False
        else:
            return True
        stop.wait(_LOOK_SECONDS)
    return False


def await_job(address: str, job: str, stop: Event) -> bool | None:
    """Wait until a job is over.

    Args:
        address: Of the Jobs API.
        job: Its submission id.
        stop: Ends the waiting, not the job.

    Returns:
        Whether it succeeded; None where the cluster knows of no such job or does not answer for a minute, and when
        waiting was stopped.
    """
    logging.getLogger("ray._private.authentication.http_token_authentication").setLevel(logging.ERROR)
    heard = time.monotonic()
    while not stop.is_set():
        try:
            client = JobSubmissionClient(address)
            jobs = {known.submission_id: known.status for known in client.list_jobs()}
        # The client raises what requests and the server raise.
        except Exception:
            if time.monotonic() - heard > _PATIENCE_SECONDS:
                return None
        else:
            heard = time.monotonic()
            if job not in jobs:
                return None
            if jobs[job].is_terminal():
                return bool(jobs[job].value == "SUCCEEDED")
        stop.wait(_LOOK_SECONDS)
    return None
