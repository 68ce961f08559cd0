from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from auditor.report.detection import detect, found_curve, judge
from auditor.report.ranking import rank_samples
from tests.report.builders import Audit


def _judge(harm, wrong):
    return judge(
        np.array(harm, dtype=float), np.array(wrong, dtype=bool), pa.array([f"{row:04d}" for row in range(len(harm))])
    )


def test_a_perfect_ranking():
    found = _judge(range(100, 0, -1), [1] * 10 + [0] * 90)
    assert found.auroc == 1
    assert found.average_precision == pytest.approx(1)
    assert found.found == {"0.01": 0.1, "0.05": 0.5, "0.1": 1.0, "0.2": 1.0, "0.4": 1.0}


def test_the_reverse_of_a_perfect_ranking():
    found = _judge(range(100), [1] * 10 + [0] * 90)
    assert found.auroc == 0
    assert found.found["0.4"] == 0


def test_closed_form_of_a_mixed_ranking():
    # Order of the ranking: wrong, right, wrong, right, right.
    found = _judge([5, 4, 3, 2, 1], [1, 0, 1, 0, 0])
    assert found.auroc == pytest.approx(5 / 6)
    assert found.average_precision == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found.found == {"0.01": 0.5, "0.05": 0.5, "0.1": 0.5, "0.2": 0.5, "0.4": 0.5}
    np.testing.assert_array_equal(found.curve, [0, 0.5, 0.5, 1, 1, 1])


def test_a_constant_score_finds_nothing_by_skill():
    assert _judge([0] * 10, [1, 0] * 5).auroc == 0.5


def test_the_curve_rises_from_nothing_to_all():
    wrong = np.random.default_rng(0).random(200) < 0.3
    curve = found_curve(wrong)
    assert curve[0] == 0
    assert curve[-1] == 1
    assert np.all(np.diff(curve) >= 0)


def test_each_method_is_judged_by_its_own_orientation(tmp_path):
    audit = Audit(rows=60)
    for method, sign in (("gif", -1), ("loss", 1), ("margin", -1), ("aum", -1)):
        audit.scores[method] = (sign * audit.wrong + sign * 1e-3 * np.arange(60)).astype(np.float64)
    found = detect(rank_samples(*audit.write(tmp_path)))
    assert [found[method].auroc for method in audit.methods] == [1.0] * 4


def test_nothing_is_judged_without_truth_or_without_wrong_labels(tmp_path):
    assert detect(rank_samples(*Audit(truth=False).write(tmp_path / "a"))) == {}
    assert detect(rank_samples(*Audit(wrong_share=0).write(tmp_path / "b"))) == {}


def test_samples_of_unknown_truth_are_left_out(tmp_path):
    audit = Audit(rows=40, methods=("gif",))
    audit.scores["gif"] = -audit.wrong.astype(float)
    config, run = audit.write(tmp_path)
    hidden = np.arange(40) < 10
    audit.scores["gif"][hidden] = -5.0
    audit.write_scores(run)
    table = audit.training_table()
    truth = pa.array(audit.true, mask=hidden)
    run.remove("dataset/train")
    run.write_table(
        "dataset/train/part-00000.parquet",
        table.set_column(table.column_names.index("true_label"), "true_label", truth),
    )
    found = detect(rank_samples(config, run))
    assert found["gif"].auroc == 1
    assert len(found["gif"].curve) == 31
