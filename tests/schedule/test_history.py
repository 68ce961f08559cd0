from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta

import pytest

from auditor.errors import InputError
from auditor.schedule.history import Entry, History
from auditor.storage import RunFolder

TICK = datetime(2026, 11, 30, 3, 0, tzinfo=UTC)
WEEK = timedelta(days=7)


def test_what_is_put_is_read_back(tmp_path):
    entries = [
        Entry(TICK, "scheduled"),
        Entry(TICK + WEEK, "missed", note='2 ticks, a "quoted", one\nand more'),
        Entry(TICK + 2 * WEEK, "failed", "digits-2026-12-14", 2, 1, "digits-2026-12-14-2", TICK, TICK + WEEK),
    ]
    history = History(RunFolder(tmp_path))
    for entry in reversed(entries):
        history.put(entry)
    assert History(RunFolder(tmp_path)).entries == entries
    assert History(RunFolder(tmp_path)).handled == TICK + 2 * WEEK


def test_a_tick_has_one_row_that_spreadsheets_read(tmp_path):
    history = History(RunFolder(tmp_path))
    history.put(Entry(TICK, "running", "digits-2026-11-30", 1))
    history.put(Entry(TICK, "done", "digits-2026-11-30", 1, 0))
    with (tmp_path / "history.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["tick"], row["status"], row["exit_code"]) == ("2026-11-30T03:00:00+00:00", "done", "0")


@pytest.mark.parametrize("status", ["running", "stopped"])
def test_only_the_newest_audit_is_gone_on_with(tmp_path, status):
    history = History(RunFolder(tmp_path))
    history.put(Entry(TICK, status, "digits-2026-11-30", 1))
    assert history.unfinished(5).tick == TICK
    assert history.unfinished(1) is None
    history.put(Entry(TICK + WEEK, "done", "digits-2026-12-07", 1, 0))
    assert history.unfinished(5) is None


@pytest.mark.parametrize("text", ["x\n", "tick,status\n2026,done\n", ",".join(["tick"]) + "\nyesterday\n"])
def test_a_table_that_is_none_is_named(tmp_path, text):
    (tmp_path / "history.csv").write_text(text + "1,2,3\n")
    with pytest.raises(InputError, match=r"history\.csv: is not the history of a schedule"):
        History(RunFolder(tmp_path))
