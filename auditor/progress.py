"""Progress of long work on a terminal or in a log: how far, how fast, how long still."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from tqdm import tqdm


class Progress:
    """A bar on a terminal; a line every few seconds in a log.

    Args:
        label: What is going on.
        total: Units of work.
        unit: Name of one unit.
        initial: Units that were done before.
    """

    def __init__(self, label: str, total: int, unit: str, initial: int = 0) -> None:
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=initial,
            desc=f"{label:<8}",
            unit=f" {unit}",
            file=sys.stderr,
            mininterval=0.1 if terminal else 10.0,
            dynamic_ncols=terminal,
            ncols=None if terminal else 100,
            ascii=None if terminal else " -#",
            leave=True,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()

    def reach(self, done: int) -> None:
        """Say that `done` units are done, earlier ones included."""
        if done != self._bar.n:
            self._bar.update(done - self._bar.n)


class Watch:
    """Shows the progress of work that runs elsewhere, looking from time to time while a block waits for it.

    Args:
        progress: Where to show it; closed at the end.
        done: Looks how many units are done; what it raises is taken for "not known yet".
        every: Seconds between looks.
    """

    def __init__(self, progress: Progress, done: Callable[[], int], every: float = 0.5) -> None:
        self._progress = progress
        self._done = done
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        with self._progress:
            stopping = False
            while not stopping:
                stopping = self._stop.wait(self._every)
                with suppress(Exception):
                    self._progress.reach(self._done())
