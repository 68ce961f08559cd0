from __future__ import annotations

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest

from auditor import progress
from auditor.progress import Progress, Watch

LINE = re.compile(r"^(\w+): (\d+) of (\d+) (\w+), ([\d.e+-]+) a second, (-?\d+) s left$")
PAUSE = 0.02


@pytest.fixture
def lines(monkeypatch):
    """The log's lines as (label, done, total, unit, rate, seconds left)."""
    found = []
    kept = logging.Handler()
    kept.emit = lambda record: found.append(LINE.match(record.getMessage()).groups())
    level = progress.log.level
    progress.log.addHandler(kept)
    progress.log.setLevel(logging.INFO)
    # Every look makes a line: how long a pause lasts on a busy machine is nobody's promise.
    monkeypatch.setattr(progress, "_LINE_EVERY", 1e-9)
    yield found
    progress.log.setLevel(level)
    progress.log.removeHandler(kept)


def work(bar, *reached):
    for done in reached:
        time.sleep(PAUSE)
        bar.reach(done)


def test_a_line_says_how_far_how_fast_and_how_long_still(lines):
    with Progress("score", 100, "samples") as bar:
        work(bar, 10, 20, 40)
    assert [line[:4] for line in lines] == [("score", done, "100", "samples") for done in ("20", "40")]
    rate = float(lines[-1][4])
    assert 0 < rate <= 30 / (2 * PAUSE)
    assert int(lines[-1][5]) == pytest.approx(60 / rate, abs=0.6)


def test_what_was_done_before_and_by_the_first_look_counts_for_no_rate(lines):
    with Progress("train", 1000, "steps", initial=500) as bar:
        work(bar, 900, 901)
    [(*_, rate, left)] = lines
    assert float(rate) <= 1 / PAUSE
    assert int(left) > 0


def test_work_that_falls_back_is_measured_anew(lines):
    """A training that lost a worker goes on from an earlier checkpoint."""
    with Progress("train", 100, "steps") as bar:
        work(bar, 30, 40, 20, 30)
    assert [line[1] for line in lines] == ["40", "30"]
    assert all(float(line[4]) > 0 and int(line[5]) >= 0 for line in lines)


def test_advance_adds_and_the_end_needs_no_line(lines):
    with Progress("checking", 6, "rows") as bar:
        for _ in range(3):
            time.sleep(PAUSE)
            bar.advance(2)
    assert [line[1] for line in lines] == ["4"]


def test_lines_come_from_time_to_time_only(lines, monkeypatch):
    monkeypatch.undo()
    with Progress("score", 1000, "samples") as bar:
        work(bar, 1, 2, 3)
    assert lines == []


def test_a_terminal_shows_a_bar_and_a_log_none():
    program = "from auditor.progress import Progress\nwith Progress('train', 8, 'steps') as bar: bar.reach(1)"
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    os.set_blocking(master, False)
    subprocess.run([sys.executable, "-c", program], stderr=terminal, check=True)
    shown = os.read(master, 1 << 16).decode()
    os.close(terminal)
    os.close(master)
    assert "train" in shown
    assert "/8" in shown
    logged = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert (logged.stdout, logged.stderr) == (b"", b"")


def test_a_watch_looks_from_time_to_time_and_once_more_at_the_end():
    looks = []
    with Watch(lambda: looks.append(None), every=PAUSE):
        while len(looks) < 3:
            time.sleep(PAUSE)
        before = len(looks)
    assert before < len(looks)


def test_what_a_look_raises_means_not_known_yet():
    looks = []

    def look():
        looks.append(None)
        if len(looks) < 3:
            raise FileNotFoundError

    with Watch(look, every=PAUSE):
        while len(looks) < 5:
            time.sleep(PAUSE / 4)


def test_a_watch_ends_with_its_block_also_when_the_block_fails():
    threads = threading.active_count()
    with pytest.raises(KeyError), Watch(lambda: None, every=60):
        raise KeyError
    assert threading.active_count() == threads
