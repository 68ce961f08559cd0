from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from auditor.schedule import lock as module
from auditor.schedule.lock import lock_of
from auditor.storage import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "schedule")


def lease(folder, seconds=1.0):
    return module._Lease(folder, seconds, settle=0.2)


@pytest.mark.parametrize("make", [lock_of, lease])
def test_one_holds_it_until_it_is_given_back(folder, make):
    first, second = make(folder), make(folder)
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_it_ends_with_the_last_process_that_holds_it(folder):
    held = lock_of(folder)
    assert held.acquire()
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, pass_fds=held.descriptors)
    [descriptor] = held.descriptors
    module.os.close(descriptor)  # as when this process is killed
    assert not lock_of(folder).acquire()
    child.communicate(b"\n")
    other = lock_of(folder)
    assert other.acquire()
    other.release()


def test_a_lease_is_renewed_as_long_as_its_holder_lives(folder):
    held, other = lease(folder), lease(folder)
    assert held.acquire()
    time.sleep(2.0)
    assert not other.acquire()
    held.release()


def test_a_lease_of_a_dead_holder_ends_by_itself(folder):
    dead, other = lease(folder), lease(folder)
    dead._write()
    assert not other.acquire()
    time.sleep(1.1)
    assert other.acquire()
    other.release()


def test_of_many_that_reach_for_a_lease_at_once_one_has_it(folder):
    folder.make("")
    start, got = threading.Barrier(8), []

    def reach():
        mine = lease(folder, seconds=30.0)
        start.wait()
        if mine.acquire():
            got.append(mine)

    threads = [threading.Thread(target=reach) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    got[0].release()
