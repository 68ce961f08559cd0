"""Keepers in processes of their own, which start real processes."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from threading import Event

import pytest

from auditor.schedule.history import Entry
from auditor.schedule.keeper import Keeper
from tests.schedule.keeper_process import Every, ScriptOrder

WHEN_LET_GO = """
while not (folder / "go").exists():
    time.sleep(0.05)
"""


def names(noted, what):
    return [name for kind, name, _ in noted if kind == what]


def test_every_tick_has_one_audit(schedule):
    keeper = schedule.start(1.0)
    schedule.await_audits(3, "end")
    said = schedule.stop(keeper)
    assert keeper.returncode == 0
    begun = names(schedule.audits, "begin")
    assert len(begun) == len(set(begun)) >= 3
    assert begun == sorted(begun)
    assert all(float(name) == int(float(name)) for name in begun)
    done = [entry for entry in schedule.history.entries if entry.status == "done"]
    assert [(entry.audit, entry.exit_code, entry.attempts) for entry in done] == [
        (f"audit-{name}", 0, 1) for name in names(schedule.audits, "end")
    ]
    assert f"schedule audit: audit-{begun[0]} is done (exit code 0)" in said
    compared = [line.split() for line in (schedule.folder / "compared.log").read_text().splitlines()]
    assert compared[:3] == [[begun[0], "None"], [begun[1], begun[0]], [begun[2], begun[1]]]


def test_a_long_audit_is_made_up_for_once_and_what_it_hid_is_recorded(schedule):
    keeper = schedule.start(1.0, "time.sleep(3.3)")
    schedule.await_audits(2, "begin")
    schedule.stop(keeper)
    assert schedule.at_once() == 1
    first, second = (float(name) for name in names(schedule.audits, "begin"))
    assert second - first >= 3
    [missed] = [entry for entry in schedule.history.entries if entry.status == "missed"]
    assert (
        f"{second - first - 1:.0f} ticks, {first + 1:.3f} to {second - 1:.3f}: another audit was running" == missed.note
    )


def test_two_keepers_take_turns(schedule):
    keepers = [schedule.start(1.0, "time.sleep(0.4)") for _ in range(2)]
    schedule.await_audits(4, "end")
    for keeper in keepers:
        schedule.stop(keeper)
    assert schedule.at_once() == 1
    begun = names(schedule.audits, "begin")
    assert len(begun) == len(set(begun))


def test_a_killed_keepers_audit_is_neither_doubled_nor_lost(schedule):
    """The audit lives on and holds the lock; the next keeper waits for it, and then lets it say that it is done."""
    killed = schedule.start(1.0, WHEN_LET_GO)
    schedule.await_audits(1, "begin")
    schedule.stop(killed, signal.SIGKILL)
    [name] = names(schedule.audits, "begin")
    [entry] = [entry for entry in schedule.history.entries if entry.attempts]
    assert (entry.status, entry.ended) == ("running", None)

    keeper = schedule.start(60.0, "time.sleep(0.1)")
    schedule.await_saying(keeper, "another process is at it")
    (schedule.folder / "go").touch()
    schedule.await_audits(2, "end")
    schedule.stop(keeper)
    assert schedule.at_once() == 1
    assert names(schedule.audits, "begin") == [name, name]
    [entry] = [entry for entry in schedule.history.entries if entry.audit == f"audit-{name}"]
    assert (entry.status, entry.attempts) == ("done", 2)


def test_a_killed_keeper_and_audit_go_on_with_the_same_audit_first(schedule):
    killed = schedule.start(1.0, "time.sleep(60)")
    schedule.await_audits(1, "begin")
    schedule.stop(killed, signal.SIGKILL)
    [pid] = [int(note.name) for note in (schedule.folder / "pids").iterdir()]
    os.kill(pid, signal.SIGKILL)
    time.sleep(1.1)
    keeper = schedule.start(1.0)
    schedule.await_audits(2, "end")
    said = schedule.stop(keeper)
    begun = names(schedule.audits, "begin")
    assert begun[0] == begun[1] != begun[2]
    assert "was cut short; it goes on" in said


def test_sigterm_stops_the_audit_too_and_the_next_keeper_goes_on_with_it(schedule):
    keeper = schedule.start(1.0, "time.sleep(60)")
    schedule.await_audits(1, "begin")
    said = schedule.stop(keeper)
    assert keeper.returncode == 0
    [name] = names(schedule.audits, "stop")
    assert f"audit-{name} is stopped (exit code 143)" in said
    assert [(entry.status, entry.exit_code) for entry in schedule.history.entries if entry.attempts] == [
        ("stopped", 143)
    ]

    keeper = schedule.start(60.0)
    schedule.await_audits(1, "end")
    schedule.stop(keeper)
    assert names(schedule.audits, "begin") == [name, name]


def test_an_audit_that_always_dies_gives_way_to_the_next(schedule):
    keeper = schedule.start(2.0, "os.kill(os.getpid(), 9)")
    for _ in range(200):
        died = [entry for entry in schedule.history.entries if entry.attempts]
        if len(died) == 2:
            break
        time.sleep(0.1)
    schedule.stop(keeper)
    assert (died[0].status, died[0].exit_code, died[0].attempts) == ("stopped", 137, 5)


@pytest.fixture
def order(tmp_path):
    return ScriptOrder("unused", f"{tmp_path}/audit")


def keeper_of(order, seconds=1000.0):
    return Keeper(order, Every(seconds), Event())


def with_audit(order, audit):
    return ScriptOrder(order.config, order.run, audit=audit)


def test_downtime_is_made_up_for_once_and_recorded(schedule, order):
    now = datetime.now(UTC)
    newest = Every(1000.0).latest(now)
    schedule.history.put(Entry(newest - timedelta(seconds=5000), "scheduled"))
    assert keeper_of(order).once() == 0
    before, missed, done = schedule.history.entries
    assert (before.status, missed.status, done.status) == ("scheduled", "missed", "done")
    assert (missed.tick, done.tick) == (newest - timedelta(seconds=1000), newest)
    assert missed.note.startswith("4 ticks, ")
    assert missed.note.endswith(": nobody kept the schedule")


def test_before_the_first_tick_of_a_kept_schedule_nothing_is_due(schedule, order, caplog):
    caplog.set_level("INFO", "auditor")
    schedule.history.put(Entry(datetime.now(UTC), "scheduled"))
    assert keeper_of(order).once() == 0
    assert "nothing is due yet" in caplog.text
    assert schedule.audits == []


def test_once_does_what_is_due_once(schedule, order, caplog):
    caplog.set_level("INFO", "auditor")
    assert keeper_of(order).once() == 0
    assert keeper_of(order).once() == 0
    assert len(names(schedule.audits, "begin")) == 1
    assert "is done already" in caplog.text


def test_once_tries_again_what_failed_but_not_what_is_wrong(schedule, order):
    assert keeper_of(with_audit(order, "sys.exit(1)")).once() == 1
    assert keeper_of(with_audit(order, "sys.exit(2)")).once() == 2
    assert keeper_of(order).once() == 2
    assert len(names(schedule.audits, "begin")) == 2
    [entry] = schedule.history.entries
    assert (entry.status, entry.exit_code, entry.attempts) == ("failed", 2, 2)


def test_once_leaves_it_to_whoever_is_at_it(schedule, order, caplog):
    caplog.set_level("INFO", "auditor")
    holder = keeper_of(order)
    assert holder._lock.acquire()
    assert keeper_of(order).once() == 0
    holder._lock.release()
    assert "nothing to do here" in caplog.text
    assert schedule.audits == []


def test_a_failed_audit_is_no_predecessor(order, schedule):
    """The next one is compared with the newest that ended well."""
    tick = Every(1000.0).latest(datetime.now(UTC))
    ticks = [tick - timedelta(seconds=1000 * count) for count in (3, 2, 1)]
    for when, status in zip(ticks, ("done", "done", "failed"), strict=True):
        schedule.history.put(Entry(when, status, "some", attempts=1))
    assert schedule.history.done_before(tick).tick == ticks[1]
    assert schedule.history.done_before(ticks[1]).tick == ticks[0]
    assert schedule.history.done_before(ticks[0]) is None


def test_a_cluster_that_is_away_fails_the_attempt_and_not_the_input(schedule, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("auditor.schedule.keeper._CLUSTER_SECONDS", 0.0)
    order = ScriptOrder("unused", f"{tmp_path}/audit", address="http://127.0.0.1:9")
    assert keeper_of(order).once() == 1
    assert "no Ray cluster answers at http://127.0.0.1:9" in caplog.text
    assert schedule.audits == []
