from __future__ import annotations

import numpy as np
import pytest

from auditor.fidelity.choice import standing_columns
from auditor.fidelity.fidelity import Fidelity, judge
from auditor.fidelity.removals import plan_removals
from auditor.fidelity.words import fidelity_table, sentences
from auditor.methods import AUTO
from auditor.storage import RunFolder

ROWS = 120
RANDOM = np.random.default_rng(5)
TRUE = RANDOM.normal(size=ROWS)
NOISE = RANDOM.normal(size=ROWS)
REMOVALS = plan_removals(TRUE, ROWS, 24, 24, (0.05,), 0.1, 0)


def retrained(effect, removals=REMOVALS):
    """Losses of trainings where each sample really has its effect."""
    return np.array([0.5 + effect[list(removal.rows)].sum() for removal in removals])


def judged(**predicted):
    return judge(predicted, REMOVALS, retrained(TRUE), 0.5, "replay" if "replay" in predicted else None)


def test_predictions_that_come_true_agree_perfectly():
    found = judged(replay=TRUE).methods["replay"]
    for statistic in (found.loo_pearson, found.loo_spearman, found.slope, found.lds["0.05"]):
        assert statistic.value == pytest.approx(1)
        assert statistic.low == pytest.approx(1)
    assert found.retrainings == 48


def test_the_slope_says_how_much_larger_effects_are_than_predicted():
    found = judged(replay=TRUE / 4).methods["replay"]
    assert found.slope.value == pytest.approx(4)
    assert found.loo_pearson.value == pytest.approx(1)


def test_a_prediction_of_the_wrong_sign_is_seen():
    found = judged(replay=-TRUE).methods["replay"]
    assert found.loo_pearson.value == found.lds["0.05"].value == pytest.approx(-1)


def test_a_detector_has_no_slope_and_is_never_auto():
    found = judged(replay=NOISE, loss=TRUE)
    assert found.methods["loss"].slope is None
    assert found.chosen[AUTO] == "replay"
    assert found.methods[AUTO].retrainings == 24
    assert AUTO not in judge({"loss": TRUE}, REMOVALS, retrained(TRUE), 0.5, None).methods


def test_auto_leaves_the_usual_method_for_one_that_surely_agrees_better():
    assert judged(replay=NOISE, gif=TRUE).chosen[AUTO] == "gif"
    assert judged(replay=TRUE, gif=NOISE).chosen[AUTO] == "replay"


def test_auto_stays_where_a_rival_is_better_by_luck_alone():
    slightly = TRUE + 1e-3 * NOISE
    assert judged(replay=slightly, gif=slightly).chosen[AUTO] == "replay"


def test_a_variant_that_was_chosen_is_judged_by_the_other_half():
    found = judged(**{"gif": NOISE, "gif@3": TRUE, "loss": TRUE})
    assert found.chosen["gif"] == "gif@3"
    assert found.methods["gif"].column == "gif@3"
    assert found.methods["gif"].retrainings == 24
    assert found.methods["loss"].retrainings == 48


def test_choosing_and_judging_share_no_retraining():
    """Wrong everywhere in the choosing half, right in the other: what is judged does not see what chose."""
    losses = retrained(TRUE)
    chooses = np.array([removal.chooses for removal in REMOVALS])
    spoiled = np.where(chooses, 0.5 + (0.5 - losses), losses)
    found = judge({"replay": TRUE}, REMOVALS, spoiled, 0.5, "replay").methods[AUTO]
    assert found.loo_pearson.value == pytest.approx(1)
    assert found.lds["0.05"].value == pytest.approx(1)


def test_where_half_are_too_few_to_choose_by_nothing_is_chosen_and_all_judge():
    removals = plan_removals(TRUE, ROWS, 6, 6, (0.05,), 0.0, 0)
    found = judge({"replay": NOISE, "gif": TRUE}, removals, retrained(TRUE, removals), 0.5, "replay")
    assert found.chosen[AUTO] == "replay"
    assert found.methods[AUTO].retrainings == 12


def test_the_samples_called_harmful_are_judged_together():
    found = judged(replay=TRUE).harmful
    worst = np.sort(TRUE)[:12].sum()
    assert (found.samples, found.column) == (12, "replay")
    assert found.predicted == found.measured == pytest.approx(worst)


def test_without_retrainings_there_is_no_statistic():
    removals = plan_removals(TRUE, ROWS, 0, 0, (0.05,), 0.0, 0)
    found = judge({"replay": TRUE}, removals, retrained(TRUE, removals), 0.5, "replay")
    method = found.methods["replay"]
    assert (method.loo_pearson, method.slope, method.lds) == (None, None, {})
    assert found.harmful is None
    assert sentences(found, "replay") == []


def test_what_is_written_is_read_again(tmp_path):
    found = judged(replay=TRUE, loss=NOISE)
    assert Fidelity.read(RunFolder(tmp_path)) is None
    found.write(RunFolder(tmp_path))
    assert Fidelity.read(RunFolder(tmp_path)) == found


def test_the_table_names_every_method_and_the_variant_that_stands_for_it():
    found = judged(**{"gif": NOISE, "gif@3": TRUE, "loss": NOISE})
    lines = fidelity_table(found.methods)
    assert lines[0].split()[:3] == ["method", "LOO", "Pearson"]
    assert "LDS 5%" in lines[0]
    assert any(line.startswith("gif (gif@3)") for line in lines)
    assert any(line.startswith("loss") and "–" in line for line in lines)
    assert any(line.startswith("auto (gif@3)") for line in lines)


def test_every_column_is_judged_on_everything():
    found = judged(**{"gif": NOISE, "gif@3": TRUE, "loss": NOISE})
    assert list(found.columns) == ["gif", "gif@3", "loss"]
    assert {method.retrainings for method in found.columns.values()} == {48}
    assert any(line.startswith("gif@3 ") for line in fidelity_table(found.columns))


def test_words_say_what_was_predicted_and_what_happened():
    small = TRUE / 100
    found = judge({"replay": small / 2}, REMOVALS, retrained(small), 0.5, "replay")
    first, second = sentences(found, "replay")
    worst = np.sort(small)[:12].sum()
    assert f"fell from 0.5 to {0.5 + worst:.3g}; {0.5 + worst / 2:.3g} was predicted" in first
    assert "by 24 real retrainings" in second
    assert "correlate 1.00 (95% interval 1.00 to 1.00), measured sizes being 2.00 times the predicted" in second
    assert "leaving out random 5% of the samples" in second


def test_a_prediction_below_zero_is_called_impossible():
    first, _ = sentences(judged(replay=TRUE), "replay")
    assert first.endswith("; less than nothing was predicted, which cannot be.")


def test_the_plain_column_stands_for_a_method_until_retrainings_chose():
    columns = ["gif@3", "loss", "gif", "replay@0.5", "replay"]
    assert standing_columns(columns, None) == {"replay": "replay", "gif": "gif", "loss": "loss", AUTO: "replay"}
    found = judged(**{"replay": NOISE, "replay@0.5": NOISE, "gif": NOISE, "gif@3": TRUE, "loss": NOISE})
    standing = standing_columns(columns, found)
    assert (standing["gif"], standing[AUTO]) == ("gif@3", "gif@3")
    # A choice among columns that are no longer there is none.
    assert standing_columns(["replay", "loss"], found) == {"replay": "replay", "loss": "loss", AUTO: "replay"}


def test_without_influences_auto_is_the_first_detector():
    assert standing_columns(["loss", "aum"], None)[AUTO] == "loss"
