"""Jobs on a Ray cluster through its Jobs API: handed in, followed, and how they ended."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from auditor.errors import InputError, StageError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
_STOP_SECONDS = 30
"""What a job gets between SIGTERM and SIGKILL; Ray's 3 s are short for closing a run on a distant server."""
_PATIENCE_SECONDS = 60.0
"""How long a server that was there may not answer, before a job is no longer followed."""
_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    job: str
    """Its submission id."""
    address: str
    status: str
    """SUCCEEDED, FAILED or STOPPED, as Ray says."""
    exit_code: int | None
    """Of its process; None where Ray knows of none."""
    message: str
    """The last line of what Ray tells: for a job that failed, its reason."""


def find_address(given: str | None) -> str:
    """The Jobs API's address: the given one, RAY_API_SERVER_ADDRESS's, RAY_ADDRESS's if it is one, or a local one."""
    for address in (given, os.environ.get("RAY_API_SERVER_ADDRESS"), os.environ.get("RAY_ADDRESS")):
        if address and (address == given or address.startswith(("http://", "https://"))):
            return address.rstrip("/")
    return DEFAULT_ADDRESS


class Jobs:
    """A cluster's jobs.

    Args:
        address: Of the Jobs API, such as http://127.0.0.1:8265. A token is taken from Ray's own environment.

    Raises:
        InputError: Nobody answers there, no Ray does, or the token is refused.
    """

    def __init__(self, address: str) -> None:
        # What is uploaded is no news, and a missing token is told by the refusal.
        for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
            logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
        logging.getLogger("ray._private.authentication.http_token_authentication").setLevel(logging.ERROR)
        self.address = address
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray (2.60) would prefer it, or RAY_ADDRESS, to the argument
        with _explained(address):
            self._client = JobSubmissionClient(address)

    def submit(self, entrypoint: str, folder: Path, run: str, name: str | None = None) -> str:
        """Hand a job in; returns its id.

        Args:
            entrypoint: The command.
            folder: Becomes its working directory, and that of its workers.
            run: The run folder, noted with the job.
            name: The id; by default Ray makes one up.

        Raises:
            InputError: The id is taken, or the cluster refuses the job.
        """
        environment = {"working_dir": str(folder), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS)}}
        with _explained(self.address):
            return str(
                self._client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=name,
                    runtime_env=environment,
                    metadata={"auditor.run": run},
                )
            )

    def follow(self, job: str, show: Callable[[str], None] | None) -> Outcome:
        """Wait for a job's end.

        Args:
            job: Its id.
            show: Given what the job writes, as it comes.

        Raises:
            StageError: The cluster no longer answers.
        """
        display = _Display(show) if show is not None else None
        heard = time.monotonic()
        while True:
            try:
                if display is not None:
                    asyncio.run(self._tail(job, display))
                info = self._client.get_job_info(job)
                heard = time.monotonic()
                if info.status.is_terminal():
                    lines = (info.message or "").strip().splitlines() or [""]
                    return Outcome(job, self.address, info.status.value, info.driver_exit_code, lines[-1])
            # The client raises what aiohttp, requests and the server raise.
            except Exception as error:
                if time.monotonic() - heard > _PATIENCE_SECONDS:
                    reason = " ".join(str(error).split())
                    raise StageError(f"{self.address} no longer answers; job {job} may go on ({reason})") from error
            time.sleep(_LOOK_SECONDS)

    async def _tail(self, job: str, display: _Display) -> None:
        display.begin()
        async for text in self._client.tail_job_logs(job):
            display.take(text)


class _Display:
    """Shows each character of a log once, however often the log is sent from its beginning."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._shown = self._read = 0

    def begin(self) -> None:
        self._read = 0

    def take(self, text: str) -> None:
        self._read += len(text)
        new = self._read - self._shown
        if new > 0:
            self._show(text[-new:])
            self._shown = self._read


@contextmanager
def _explained(address: str) -> Iterator[None]:
    try:
        yield
    except AuthenticationError as error:
        raise InputError(
            f"{address}: the Ray cluster refuses the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or "
            "RAY_AUTH_TOKEN_PATH, to the cluster's"
        ) from error
    except ConnectionError as error:
        raise InputError(f"{address}: no Ray cluster answers there") from error
    except Exception as error:
        # Where the server failed, its traceback; the reason is the last line.
        reason = str(error).rstrip(". \n").splitlines()[-1:] or [type(error).__name__]
        raise InputError(f"{address}: the Ray cluster takes no job ({reason[0]})") from error
