from __future__ import annotations

import pytest

from auditor.data import prepare
from auditor.distributed.tasks import tasks_of, unfinished
from auditor.errors import InputError, StageError
from auditor.storage import RunFolder
from tests.distributed.builders import config, train_here


@pytest.mark.parametrize(
    ("methods", "tasks"),
    [
        (["gif", "loss", "aum"], ()),
        (["loss", "replay"], ("replay",)),
        (["ekfac_self", "out_of_sample"], ("hif",)),
        (["ekfac", "hif", "influence", "gif_step", "replay"], ("replay", "gif_step", "hif")),
    ],
)
def test_methods_ask_for_the_tasks_that_leave_their_scores_and_the_report_for_features(tmp_path, methods, tasks):
    score, rank_by = {"methods": methods}, {"rank_by": methods[0]}
    assert tasks_of(config(tmp_path, score=score, report=rank_by)) == (*tasks, "features")
    alone = {**rank_by, "neighbours": 0, "harmed": 0}
    assert tasks_of(config(tmp_path, score=score, report=alone)) == tasks


def test_what_is_left_to_do_comes_in_the_order_in_which_it_can_be_done(tmp_path):
    audit = config(tmp_path)
    prepare(audit, RunFolder(tmp_path))
    assert unfinished(audit, RunFolder(tmp_path), ["gif_step", "replay", "train"]) == ["train", "replay", "gif_step"]
    run = train_here(audit)
    assert unfinished(audit, run, ["train"]) == []
    assert unfinished(audit, run, ["gif_step", "replay", "train"]) == ["replay", "gif_step"]


def test_what_would_go_wrong_is_refused_before_anything_is_computed(tmp_path):
    audit = config(tmp_path, evaluation={"statistics": "running"})
    run = RunFolder(tmp_path)
    prepare(audit, run)
    with pytest.raises(InputError, match=r"evaluation\.statistics is running"):
        unfinished(audit, run, ["train", "replay"])
    with pytest.raises(StageError, match="train first"):
        unfinished(audit, run, ["gif_step"])
