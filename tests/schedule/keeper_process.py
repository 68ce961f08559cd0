"""A keeper in a process of its own, whose audits are scripts that note when they begin and end."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

from auditor.schedule.command import keep
from auditor.schedule.order import Order

PROGRAM = """
import os, pathlib, signal, sys, time
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
def note(what):
    with (folder / "audits.log").open("a") as file:
        file.write(f"{what} {name} {time.time()}\\n")
def stop(*_):
    note("stop")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
(folder / "pids").mkdir(exist_ok=True)
(folder / "pids" / str(os.getpid())).touch()
with (folder / "compared.log").open("a") as file:
    file.write(f"{name} {sys.argv[3]}\\n")
note("begin")
{audit}
note("end")
"""


@dataclass(frozen=True)
class Every:
    """A tick every so many seconds."""

    seconds: float

    def after(self, moment: datetime) -> datetime:
        return self._tick(int(moment.timestamp() / self.seconds + 1e-6) + 1)

    def latest(self, moment: datetime) -> datetime:
        return self._tick(int(moment.timestamp() / self.seconds + 1e-6))

    def label(self, tick: datetime) -> str:
        return f"{tick.timestamp():.3f}"

    def _tick(self, number: int) -> datetime:
        return datetime.fromtimestamp(number * self.seconds, UTC)


@dataclass(frozen=True)
class ScriptOrder(Order):
    """An order whose audits are scripts."""

    audit: str = ""

    def command(self, label, predecessor, *_):
        folder = self.run.rpartition("/")[0]
        return [sys.executable, "-S", "-c", PROGRAM.replace("{audit}", self.audit), folder, label, str(predecessor)]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder, seconds, audit = sys.argv[1:]
    keep(ScriptOrder("unused", f"{folder}/audit", audit=audit), Every(float(seconds)))
