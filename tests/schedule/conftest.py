from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from auditor.schedule.history import History
from auditor.storage import RunFolder

ROOT = Path(__file__).parents[2]


class Schedule:
    """A schedule in a folder, kept by processes whose audits are short scripts; see keeper_process.py."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keepers: list[subprocess.Popen[bytes]] = []

    def start(self, seconds: float, audit: str = "") -> subprocess.Popen[bytes]:
        """A keeper with a tick every so many seconds; `audit` is Python that its audits run."""
        with (self.folder / f"keeper-{len(self.keepers)}.log").open("w") as said:
            keeper = subprocess.Popen(
                [sys.executable, "-m", "tests.schedule.keeper_process", str(self.folder), str(seconds), audit],
                cwd=ROOT,
                stderr=said,
            )
        self.keepers.append(keeper)
        return keeper

    def said(self, keeper: subprocess.Popen[bytes]) -> str:
        """What a keeper has logged."""
        return (self.folder / f"keeper-{self.keepers.index(keeper)}.log").read_text()

    def await_saying(self, keeper: subprocess.Popen[bytes], words: str) -> None:
        """Wait until a keeper has logged some words."""
        for _ in range(600):
            if words in self.said(keeper):
                return
            time.sleep(0.05)
        pytest.fail(f"nobody said {words}: {self.said(keeper)}")

    def stop(self, keeper: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> str:
        """End a keeper; returns what it said."""
        keeper.send_signal(number)
        keeper.wait(timeout=30)
        return self.said(keeper)

    @property
    def history(self) -> History:
        return History(RunFolder(self.folder / "audit-schedule"))

    @property
    def audits(self) -> list[tuple[str, str, float]]:
        """What the audits noted: begin, end or stop, which, and when."""
        path = self.folder / "audits.log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(what, name, float(when)) for what, name, when in (line.split() for line in lines)]

    def await_audits(self, count: int, what: str) -> None:
        """Wait until so many audits have come to begin, end or stop."""
        for _ in range(600):
            if sum(noted == what for noted, _, _ in self.audits) >= count:
                return
            time.sleep(0.05)
        pytest.fail(f"no {count} audits came to {what}: {self.audits}")

    def at_once(self) -> int:
        """The most audits that ran at the same time."""
        running = most = 0
        for what, _, _ in sorted(self.audits, key=lambda noted: noted[2]):
            running += 1 if what == "begin" else -1
            most = max(most, running)
        return most


@pytest.fixture
def schedule(tmp_path):
    made = Schedule(tmp_path)
    yield made
    for keeper in made.keepers:
        if keeper.poll() is None:
            keeper.kill()
            keeper.wait()
    for note in (tmp_path / "pids").glob("*"):
        try:
            os.kill(int(note.name), signal.SIGKILL)
        except ProcessLookupError:
            continue
