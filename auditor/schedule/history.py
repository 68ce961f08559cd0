"""What became of every tick of a schedule: a table that a person can read."""

from __future__ import annotations

import csv
import dataclasses
import io
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast, get_args

from auditor.errors import InputError
from auditor.storage import RunFolder

HISTORY_FILE = "history.csv"

Status = Literal["scheduled", "running", "done", "failed", "stopped", "missed"]
"""`scheduled`: ticks count from here. `running`: under way, or ended without leaving a word. `stopped`: on request."""


@dataclass(frozen=True)
class Entry:
    """One tick, or several that were missed together."""

    tick: datetime
    """When it was due; of several that were missed, the last."""
    status: Status
    audit: str = ""
    """The name of its run folder."""
    attempts: int = 0
    exit_code: int | None = None
    job: str = ""
    """Submission id of the last attempt, where it is a Ray job."""
    started: datetime | None = None
    ended: datetime | None = None
    note: str = ""


class History:
    """Entries in the order of their ticks, each change written at once. Only who holds the schedule's lock writes.

    Args:
        folder: The schedule's.

    Raises:
        InputError: The table is there and cannot be read.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self.entries = _parse(folder) if folder.exists(HISTORY_FILE) else []

    @property
    def handled(self) -> datetime | None:
        """The tick up to which all is decided; None for a new schedule."""
        return max((entry.tick for entry in self.entries), default=None)

    def unfinished(self, most_attempts: int, failed: datetime | None = None) -> Entry | None:
        """The newest audit, if it began and did not come to its end.

        Args:
            most_attempts: None once there were so many.
            failed: The tick whose audit counts even if it failed, unless its input was wrong.
        """
        audits = [entry for entry in self.entries if entry.attempts]
        if not audits or audits[-1].attempts >= most_attempts:
            return None
        newest = audits[-1]
        again = newest.status == "failed" and newest.tick == failed and newest.exit_code != 2
        return newest if again or newest.status in ("running", "stopped") else None

    def done_before(self, tick: datetime) -> Entry | None:
        """The newest audit that ended well, of those before a tick."""
        done = [entry for entry in self.entries if entry.status == "done" and entry.tick < tick]
        return done[-1] if done else None

    def busy_at(self, moment: datetime) -> bool:
        """Whether an audit was under way then."""
        return any(
            entry.started is not None and entry.started <= moment <= (entry.ended or entry.started)
            for entry in self.entries
        )

    def put(self, entry: Entry) -> None:
        """Note a tick, over an earlier note of it."""
        kept = [other for other in self.entries if other.tick != entry.tick]
        self.entries = sorted([*kept, entry], key=lambda other: other.tick)
        names = [field.name for field in dataclasses.fields(Entry)]
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(names)
        table.writerows([_written(getattr(other, name)) for name in names] for other in self.entries)
        self._folder.write_bytes(HISTORY_FILE, text.getvalue().encode())


def _written(value: object) -> str:
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _status(text: str) -> Status:
    if text not in get_args(Status):
        raise ValueError(text)
    return cast(Status, text)


def _parse(folder: RunFolder) -> list[Entry]:
    place = folder.full(HISTORY_FILE)
    try:
        rows = list(csv.DictReader(io.StringIO(folder.read_bytes(HISTORY_FILE).decode(), newline="")))
        return [
            Entry(
                tick=datetime.fromisoformat(row["tick"]),
                status=_status(row["status"]),
                audit=row["audit"],
                attempts=int(row["attempts"]),
                exit_code=int(row["exit_code"]) if row["exit_code"] else None,
                job=row["job"],
                started=datetime.fromisoformat(row["started"]) if row["started"] else None,
                ended=datetime.fromisoformat(row["ended"]) if row["ended"] else None,
                note=row["note"],
            )
            for row in rows
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{place}: is not the history of a schedule ({error!r}); move it away") from error
