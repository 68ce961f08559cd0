"""How far the workers are, written by the first of them into the run folder and shown by the driver."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from auditor.progress import Progress
from auditor.storage import RunFolder

JOURNAL = ".journal.json"


class Journal:
    """The first worker's account: which task it is at, how far, and when tasks ended.

    An attempt after a failure goes on in the account of the one before.

    Args:
        run: The run folder.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._interval = look_interval(run)
        self._told = 0.0
        self._ended: dict[str, float] = run.read_json(JOURNAL)["ended"] if run.exists(JOURNAL) else {}
        self._now: dict[str, Any] = {}

    def begin(self, task: str, done: int, total: int, unit: str) -> None:
        """A task begins, so many of its units done before."""
        self._now = {"task": task, "done": done, "total": total, "unit": unit}
        self._write()

    def reach(self, done: int) -> None:
        """So many units of the task are done; written now and then, so that it costs nothing."""
        if time.monotonic() - self._told >= self._interval:
            self._now["done"] = done
            self._write()

    def end(self) -> None:
        """The task has ended well."""
        self._ended[self._now["task"]] = time.time()
        self._write()

    def _write(self) -> None:
        self._told = time.monotonic()
        with suppress(OSError):  # nobody's training ends because a bar could not be drawn
            self._run.write_json(JOURNAL, {**self._now, "ended": self._ended})


class Board:
    """Shows what the journal says: a bar for the task at hand, a word for each that has ended.

    Args:
        run: The run folder.
        ended: Told the name and the seconds of each task that has ended, starting up included in the first.
    """

    def __init__(self, run: RunFolder, ended: Callable[[str, float], None]) -> None:
        self._run = run
        self._ended = ended
        self._told: set[str] = set()
        self._since = time.time()
        self._bar: Progress | None = None
        self.task: str | None = None
        """At hand, as far as is known."""

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def look(self) -> None:
        """Read the journal; raises what reading it raises."""
        journal = self._run.read_json(JOURNAL)
        for task, moment in journal["ended"].items():
            if task not in self._told:
                self._close()
                self._ended(task, max(0.0, moment - self._since))
                self._told.add(task)
                self._since = moment
        if journal["task"] in self._told:
            return
        if self._bar is None or self.task != journal["task"]:
            self._close()
            self.task = journal["task"]
            self._bar = Progress(journal["task"], journal["total"], journal["unit"], journal["done"])
        self._bar.reach(journal["done"])

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def look_interval(run: RunFolder) -> float:
    """Seconds between two looks, or two entries: object stores are slow, and paid by the request."""
    return 0.5 if run.local else 10.0
