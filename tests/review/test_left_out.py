from __future__ import annotations

import numpy as np
import pytest

from auditor.errors import InputError, StageError
from auditor.review.left_out import left_out
from tests.review.test_check import decide


def asking(audit, run, **edit):
    return audit.config(run.local, edit=edit)


@pytest.mark.parametrize(("side", "sign"), [("harmful", 1), ("helpful", -1)])
def test_the_most_harmful_and_the_most_helpful_come_from_the_influence_and_stay_on_their_side(audit, run, side, sign):
    influence = sign * audit.scores["gif"]
    found = left_out(asking(audit, run, remove=side, share=0.1), run)
    count = -(-len(influence) // 10)
    assert list(found.rows) == sorted(np.argsort(influence, kind="stable")[:count])
    everything = left_out(asking(audit, run, remove=side, share=0.99), run)
    assert (influence[list(everything.rows)] < 0).all()
    assert len(everything.rows) == (influence < 0).sum()


def test_the_score_that_ranks_the_report_says_what_is_harmful_unless_it_predicts_nothing(audit, run):
    audit.scores["tracin"] = -audit.scores["gif"]
    audit.methods = (*audit.methods, "tracin")
    audit.write_scores(run)
    found = {
        rank_by: left_out(audit.config(run.local, edit={"remove": "harmful"}, report={"rank_by": rank_by}), run).rows
        for rank_by in ("auto", "gif", "tracin", "aum")
    }
    assert found["auto"] == found["gif"] == found["aum"]
    assert found["tracin"] != found["gif"]
    assert (audit.scores["tracin"][list(found["tracin"])] < 0).all()


def test_random_shares_hold_smaller_ones_and_need_no_scores(audit, run):
    run.remove("scores")
    small, large = (left_out(asking(audit, run, remove="random", share=share), run) for share in (0.1, 0.3))
    assert set(small.rows) < set(large.rows)
    with pytest.raises(StageError, match="score first"):
        left_out(asking(audit, run, remove="harmful"), run)


def test_named_samples_are_left_out_and_an_unknown_name_is_an_error(audit, run):
    names = [audit.sample_ids[row] for row in (9, 2, 2)]
    assert left_out(asking(audit, run, remove=names), run).rows == (2, 9)
    assert left_out(asking(audit, run), run, names).rows == (2, 9)
    with pytest.raises(InputError, match=r"edit: nobody and 1 more is no training sample"):
        left_out(asking(audit, run), run, ["nobody", names[0], "nothing"])
    with pytest.raises(InputError, match=r"all .* training samples"):
        left_out(asking(audit, run), run, audit.sample_ids)


def test_verdicts_leave_out_what_is_removed_and_what_is_relabelled(audit, run):
    other = audit.class_names[(audit.label[3] + 1) % len(audit.class_names)]
    decide(audit, run, (7, "remove", None), (3, "relabel", other), (5, "keep", None))
    assert left_out(asking(audit, run), run).rows == (3, 7)
