from __future__ import annotations

import logging
import time

import pytest

from auditor import progress
from auditor.distributed.journal import JOURNAL, Board, Journal
from auditor.storage import RunFolder


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


def unhurried(journal):
    """Writes whatever it is told, as if enough time had passed."""
    journal._interval = 0.0
    return journal


def test_the_board_tells_each_end_once_in_order_and_times_them_from_one_to_the_next(run):
    told = []
    with Board(run, lambda task, seconds: told.append((task, seconds))) as board:
        with pytest.raises(FileNotFoundError):
            board.look()
        began = time.time()
        journal = Journal(run)
        for task, pause in (("train", 0.05), ("replay", 0.1)):
            journal.begin(task, 0, 10, "steps")
            board.look()
            assert board.task == task
            time.sleep(pause)
            journal.end()
            board.look()
            board.look()
        spent = time.time() - began
    assert [task for task, _ in told] == ["train", "replay"]
    assert told[1][1] >= 0.1
    assert sum(seconds for _, seconds in told) <= spent + 0.1


def test_ends_that_came_between_two_looks_are_all_told(run):
    told = []
    journal = Journal(run)
    with Board(run, lambda task, _: told.append(task)) as board:
        for task in ("train", "replay", "gif_step"):
            journal.begin(task, 0, 10, "steps")
            journal.end()
        journal.begin("hif", 0, 10, "products")
        board.look()
        assert board.task == "hif"
    assert told == ["train", "replay", "gif_step"]


def test_an_attempt_after_a_failure_keeps_the_ends_of_the_one_before(run):
    first = Journal(run)
    first.begin("train", 0, 10, "steps")
    first.end()
    first.begin("replay", 0, 10, "steps")
    again = Journal(run)
    again.begin("replay", 4, 10, "steps")
    kept = run.read_json(JOURNAL)
    assert (kept["task"], kept["done"], list(kept["ended"])) == ("replay", 4, ["train"])


def test_progress_is_written_from_time_to_time_only_and_shown_task_by_task(run, monkeypatch, caplog):
    monkeypatch.setattr(progress, "_LINE_EVERY", 1e-9)
    journal = Journal(run)
    journal.begin("train", 0, 100, "steps")
    journal.reach(5)
    assert run.read_json(JOURNAL)["done"] == 0
    journal = unhurried(journal)
    with caplog.at_level(logging.INFO, logger="auditor"), Board(run, lambda *_: None) as board:
        for done in (10, 20, 30):
            journal.reach(done)
            board.look()
            time.sleep(0.01)
        journal.end()
        unhurried(journal).begin("hif", 0, 7, "products")
        for done in (1, 2, 3):
            journal.reach(done)
            board.look()
            time.sleep(0.01)
    assert [record.args[:4] for record in caplog.records] == [("train", 30, 100, "steps"), ("hif", 3, 7, "products")]


def test_an_end_that_could_not_be_told_is_told_at_the_next_look(run):
    told = []

    def ended(task, seconds):
        told.append(task)
        if len(told) == 1:
            raise OSError("no space left")

    journal = Journal(run)
    journal.begin("train", 0, 10, "steps")
    journal.end()
    with Board(run, ended) as board:
        with pytest.raises(OSError, match="no space"):
            board.look()
        board.look()
        board.look()
    assert told == ["train", "train"]
