"""Progress of long work: a bar on a terminal, a line from time to time in a log; how far, how fast, how long still."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from tqdm import tqdm

log = logging.getLogger("auditor")

_LINE_EVERY = 10.0
"""Seconds between two lines in a log."""


class Progress:
    """How far a piece of work is. The rate counts from its first sign of life: what starts up before is no work.

    Args:
        label: What is going on.
        total: Units of work.
        unit: Name of the units.
        initial: Units that were done before.
    """

    def __init__(self, label: str, total: int, unit: str, initial: int = 0) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._first = self._done = initial
        self._began = self._told = 0.0
        # On a terminal alone: a log would fill with carriage returns.
        self._bar = tqdm(
            total=total, initial=initial, desc=label, unit=f" {unit}", disable=None, leave=False, file=sys.stderr
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar off the terminal."""
        self._bar.close()

    def advance(self, units: int) -> None:
        """Say that more units are done."""
        self.reach(self._done + units)

    def reach(self, done: int) -> None:
        """Say that `done` units are done, earlier ones included."""
        now = time.monotonic()
        if done == self._done:
            return
        if not self._began or done <= self._first:
            # What was done by the first look took an unknown time; so did what is done again after a failure.
            self._began = self._told = now
            self._first = done
            self._bar.unpause()
        self._bar.update(done - self._done)
        self._done = done
        if self._bar.disable and now - self._told >= _LINE_EVERY and done < self._total:
            self._told = now
            rate = (done - self._first) / (now - self._began)
            left = (self._total - done) / rate
            log.info(
                "%s: %d of %d %s, %.3g a second, %.0f s left", self._label, done, self._total, self._unit, rate, left
            )


class Watch:
    """Looks from time to time how work is that runs elsewhere, while a block waits for it, and once more at its end.

    Args:
        look: Finds out and shows; what it raises is taken for "not known yet".
        every: Seconds between looks.
    """

    def __init__(self, look: Callable[[], None], every: float = 0.5) -> None:
        self._look = look
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stop.wait(self._every)
            with suppress(Exception):
                self._look()
