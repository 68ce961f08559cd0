"""Keeping a schedule: each tick's audit once, one at a time, and nothing forgotten over a restart."""

from __future__ import annotations

import dataclasses
import logging
import signal
import time
from datetime import UTC, datetime
from threading import Event

from auditor.report.masking import mask
from auditor.schedule.child import run_child
from auditor.schedule.history import Entry, History, Status
from auditor.schedule.lock import Lock, lock_of
from auditor.schedule.order import Order
from auditor.schedule.trigger import Trigger

log = logging.getLogger("auditor")

EXIT_STOPPED = 128 + signal.SIGTERM
MOST_ATTEMPTS = 5
"""After so many an audit that is cut short each time is no longer resumed, and the next tick has its turn."""
_LOOK_SECONDS = 1.0
_LONGEST_WAIT = 3600.0
"""A clock that is set anew is noticed within an hour."""
_CLUSTER_SECONDS = 600.0
"""How long a cluster that is to take an audit may be away, as when its head starts again."""


class Keeper:
    """Starts an order's audits when a trigger is due.

    Ticks that pass while an audit runs, or while no keeper does, are missed: the newest of them is made up for by one
    audit, the others are recorded. An audit that was cut short is resumed before a new one begins. Any number of
    keepers may share a schedule; they take turns.

    Args:
        order: What to start.
        trigger: When.
        stop: Set to end: the audit that runs is stopped, too, and resumed by the next keeper.
    """

    def __init__(self, order: Order, trigger: Trigger, stop: Event) -> None:
        self._order, self._trigger, self._stop = order, trigger, stop
        self._folder = order.folder
        self._lock = lock_of(self._folder)

    def keep(self) -> None:
        """Keep the schedule until it is stopped."""
        held_by_another = False
        while not self._stop.is_set():
            if self._lock.acquire():
                held_by_another = False
                try:
                    self._begin()
                    self._resume()
                    self._run_newest(_now())
                finally:
                    self._lock.release()
                self._await_tick()
            else:
                if not held_by_another:
                    log.info("schedule %s: another process is at it; waiting for its end", self._order.name)
                held_by_another = True
                self._stop.wait(_LOOK_SECONDS)

    def once(self) -> int:
        """Do what is due now, if nobody else does, and return the exit code of the newest audit.

        The newest tick is due unless it is done: again, too, if it failed.
        """
        if not _acquire_patiently(self._lock, self._stop):
            log.info("schedule %s: another process is at it; nothing to do here", self._order.name)
            return 0
        try:
            now = _now()
            resumed = self._resume(failed=self._trigger.latest(now))
            code = self._run_newest(now)
            if code is None:
                code = resumed
            if code is None and not self._stop.is_set():
                newest = History(self._folder).entries[-1]
                what = f"{newest.audit} is {newest.status} already" if newest.audit else "nothing is due yet"
                log.info("schedule %s: %s", self._order.name, what)
                code = newest.exit_code or 0
            return EXIT_STOPPED if code is None else code
        finally:
            self._lock.release()

    def _begin(self) -> None:
        """Ticks count from the first time that a schedule is kept."""
        history = History(self._folder)
        if history.handled is None:
            history.put(Entry(_now(), "scheduled"))

    def _resume(self, failed: datetime | None = None) -> int | None:
        """Go on with an audit that was cut short, or has failed if it is that of the tick `failed`."""
        code = None
        history = History(self._folder)
        while not self._stop.is_set() and (entry := history.unfinished(MOST_ATTEMPTS, failed)):
            failed = None  # once a call
            was = {"running": "cut short"}.get(entry.status, entry.status)
            log.info("schedule %s: %s was %s; it goes on", self._order.name, entry.audit, was)
            code = self._run(history, entry)
        return code

    def _run_newest(self, now: datetime) -> int | None:
        if self._stop.is_set():
            return None
        history = History(self._folder)
        newest = self._trigger.latest(now)
        handled = history.handled
        if handled is not None and newest <= handled:
            return None
        if handled is not None:
            self._record_missed(history, handled, newest)
        return self._run(history, Entry(newest, "running", self._name(newest)))

    def _record_missed(self, history: History, handled: datetime, newest: datetime) -> None:
        missed: list[datetime] = []
        while (tick := self._trigger.after(missed[-1] if missed else handled)) < newest:
            missed.append(tick)
        if not missed:
            return
        why = "another audit was running" if history.busy_at(missed[-1]) else "nobody kept the schedule"
        which = f"1 tick, {self._trigger.label(missed[0])}"
        if len(missed) > 1:
            labels = [self._trigger.label(missed[end]) for end in (0, -1)]
            which = f"{len(missed)} ticks, {labels[0]} to {labels[1]}"
        log.warning("schedule %s: missed %s, as %s", self._order.name, which, why)
        history.put(Entry(missed[-1], "missed", note=f"{which}: {why}"))

    def _run(self, history: History, entry: Entry) -> int | None:
        """Start an audit or go on with one, and note how it ends; None where its end is not known."""
        code = self._find_submitted(entry)
        if code is None and not self._stop.is_set():
            entry = dataclasses.replace(
                entry, status="running", attempts=entry.attempts + 1, exit_code=None, started=entry.started or _now()
            )
            if self._order.address is not None:
                entry = dataclasses.replace(entry, job=f"{entry.audit}-{entry.attempts}")
            history.put(entry)
            log.info("schedule %s: %s begins", self._order.name, entry.audit)
            code = self._start(entry, history.done_before(entry.tick))
        if code is None:
            return None
        status: Status = "done" if code == 0 else "failed"
        if code > 128 or (code and self._stop.is_set()):
            status = "stopped"
        level = logging.INFO if code == 0 else logging.WARNING
        log.log(level, "schedule %s: %s is %s (exit code %d)", self._order.name, entry.audit, status, code)
        history.put(dataclasses.replace(entry, status=status, exit_code=code, ended=_now()))
        return code

    def _start(self, entry: Entry, before: Entry | None) -> int:
        if self._order.address is not None:
            from auditor.distributed.job_state import await_cluster

            if not await_cluster(self._order.address, _CLUSTER_SECONDS, self._stop):
                log.error("schedule %s: no Ray cluster answers at %s", self._order.name, mask(self._order.address))
                return EXIT_STOPPED if self._stop.is_set() else 1
        label = self._trigger.label
        command = self._order.command(label(entry.tick), label(before.tick) if before else None, entry.job)
        return run_child(command, self._stop, self._lock.descriptors)

    def _find_submitted(self, entry: Entry) -> int | None:
        """0 if an earlier attempt ended well on the cluster, without us; waits for it while it runs."""
        if self._order.address is None or not entry.job:
            return None
        from auditor.distributed.job_state import await_job

        log.info("schedule %s: looking for job %s", self._order.name, entry.job)
        return 0 if await_job(self._order.address, entry.job, self._stop) else None

    def _await_tick(self) -> None:
        told: datetime | None = None
        while not self._stop.is_set():
            now = _now()
            handled = History(self._folder).handled or now
            tick = self._trigger.after(handled)
            if tick <= now:
                return
            if tick != told:
                log.info("schedule %s: the next audit, %s, is due %s", self._order.name, self._name(tick), _shown(tick))
                told = tick
            self._stop.wait(min((tick - now).total_seconds(), _LONGEST_WAIT))

    def _name(self, tick: datetime) -> str:
        return f"{self._order.name}-{self._trigger.label(tick)}"


def _acquire_patiently(lock: Lock, stop: Event) -> bool:
    deadline = time.monotonic() + lock.patience
    while not lock.acquire():
        if time.monotonic() >= deadline or stop.wait(_LOOK_SECONDS):
            return False
    return True


def _now() -> datetime:
    return datetime.now(UTC)


def _shown(tick: datetime) -> str:
    return f"{tick:%Y-%m-%d %H:%M:%S} UTC"
