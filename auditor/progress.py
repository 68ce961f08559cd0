"""Progress of long work on a terminal or in a log: how far, how fast, how long still."""

from __future__ import annotations

import sys
import time
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


class Stopwatch:
    """Seconds of the stages of one audit."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def seconds(self) -> float:
        """Seconds since the start, to the millisecond."""
        return round(time.monotonic() - self.started, 3)
