"""A process that a person, or a cluster, started: what it says on its terminal, and how it ends."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from auditor.errors import InputError, StageError, Stopped
from auditor.report.masking import mask

EXIT_STOPPED = 128 + signal.SIGTERM
"""What a shell calls a process that SIGTERM has ended."""


class _Sentences(logging.Formatter):
    """Messages as a person reads them: warnings say so, the rest speaks for itself."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return f"warning: {text}" if record.levelno >= logging.WARNING else text


def talk(*, quiet: bool = False, verbose: bool = False) -> None:
    """Show what the stages log, on standard error.

    Args:
        quiet: Warnings alone.
        verbose: Everything, of libraries too.
    """
    if not verbose:
        # Deprecations inside torch and Ray: nobody who reads this terminal can act on them.
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="ray")
    handler = logging.StreamHandler()
    handler.setFormatter(_Sentences())
    logger = logging.getLogger("auditor")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


@contextmanager
def ending() -> Iterator[None]:
    """End the process as the block ends: with 2 for wrong input, 1 for a stage that could not go on, 143 for SIGTERM.

    The reason is one sentence, and the last line on standard error: Ray shows the last lines as the job's message.
    SIGTERM, with which clusters stop a job, raises `Stopped` in the block, so that everything open is closed.
    """
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    except InputError as error:
        _end(f"error: {mask(str(error))}", 2)
    except StageError as error:
        _end(f"error: {mask(str(error))}", 1)
    except Stopped as stopped:
        _end(str(stopped), EXIT_STOPPED)
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what is being closed is not disturbed
    raise Stopped("stopped on request; the same command goes on where it was")


def _end(sentence: str, code: int) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"{sentence}\n")
    sys.exit(code)
