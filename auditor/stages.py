"""How long each stage of an audit took: `stages.json` in its run folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from auditor.storage import RunFolder

STAGES_FILE = "stages.json"


class Stages:
    """Seconds by stage; a stage that is there has ended well.

    Args:
        run: The run folder.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run

    def __contains__(self, stage: str) -> bool:
        return stage in self._seconds()

    def record(self, stage: str, seconds: float) -> None:
        """Note a stage, over an earlier note of it."""
        self._run.write_json(STAGES_FILE, {"seconds": {**self._seconds(), stage: round(seconds, 3)}})

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Note how long a stage took, once it has ended well."""
        started = time.monotonic()
        yield
        self.record(stage, time.monotonic() - started)

    def _seconds(self) -> dict[str, float]:
        return dict(self._run.read_json(STAGES_FILE)["seconds"]) if self._run.exists(STAGES_FILE) else {}
