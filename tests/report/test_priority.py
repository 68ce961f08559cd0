from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.report.detection import detect
from auditor.report.priority import detectors, disagreement, doubt, percentile, priority
from auditor.report.ranking import rank_samples
from tests.report.builders import Audit


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_a_percentile_is_the_share_below_plus_half_the_share_of_equals(values):
    found = percentile(np.array(values, dtype=float))
    for value, place in zip(values, found, strict=True):
        below, equal = sum(other < value for other in values), values.count(value)
        assert place == pytest.approx((below + equal / 2) / len(values))


def test_a_confident_other_label_disagrees_most_and_a_confident_same_one_least():
    found = disagreement(np.array([0, 0, 0, 0]), np.array([1, 1, 0, 0]), np.array([0.9, 0.4, 0.4, 0.9]))
    assert (np.diff(found) < 0).all()


def test_doubt_takes_detectors_by_their_own_direction_and_neither_influences_nor_the_control():
    names = ("replay", "gif", "loss", "margin", "random")
    assert detectors(names) == ["loss", "margin"]
    worse_first = np.array([3.0, 2.0, 1.0])
    scores = {"loss": worse_first, "margin": -worse_first, "gif": worse_first, "random": worse_first[::-1]}
    np.testing.assert_allclose(doubt(scores, worse_first), [5 / 6, 3 / 6, 1 / 6])


def test_priority_orders_by_reciprocal_ranks_of_harm_and_of_doubt():
    harms, doubts = np.array([4.0, 3.0, 2.0, 1.0, 0.0]), np.array([1.0, 0.0, 4.0, 3.0, 2.0])
    fused = 1 / (60 + np.array([1, 2, 3, 4, 5])) + 1 / (60 + np.array([4, 5, 1, 2, 3]))
    found = priority("gif", {"gif": -harms, "loss": doubts}, doubts)
    np.testing.assert_array_equal(np.argsort(-found), np.argsort(-fused))
    np.testing.assert_allclose(np.sort(found), [0.1, 0.3, 0.5, 0.7, 0.9])


def test_what_comes_first_by_both_comes_before_what_comes_first_by_one():
    values = np.arange(100.0)
    swapped = values.copy()
    swapped[[98, 0]] = values[[0, 98]]  # 99 is first by both, 98 second by harm alone, 0 second by doubt alone
    found = priority("gif", {"gif": -values, "loss": swapped}, swapped)
    assert found.argmax() == 99
    assert found[98] < found[97]


def test_a_ranking_that_predicts_nothing_leaves_the_doubt_alone():
    scores = {"gif": np.array([-1.0, 0.0, 1.0]), "loss": np.array([1.0, 2.0, 3.0])}
    np.testing.assert_allclose(priority("loss", scores, np.array([1.0, 2.0, 3.0])), [1 / 6, 3 / 6, 5 / 6])


def test_the_table_holds_the_priority_of_the_method_that_orders_it_and_keeps_its_order(tmp_path):
    audit = Audit(rows=60)
    ranking = rank_samples(*audit.write(tmp_path))
    disagreeing = disagreement(audit.label, audit.scores["suggested_label"], audit.scores["suggested_probability"])
    expected = priority("gif", {method: audit.scores[method] for method in audit.methods}, disagreeing)
    found = np.asarray(ranking.table["priority"])
    np.testing.assert_allclose(found, expected[ranking.rows])
    assert (found > 0).all()
    assert (found < 1).all()
    np.testing.assert_array_equal(ranking.rows, np.argsort(audit.scores["gif"], kind="stable"))


def test_it_is_judged_beside_the_methods(tmp_path):
    audit = Audit(rows=60)
    audit.scores["gif"] = -np.arange(60.0)
    ranking = rank_samples(*audit.write(tmp_path))
    found = detect(ranking)
    assert list(found) == ["gif", "loss", "margin", "aum", "priority"]
    wrong, values = ranking.wrong, np.asarray(ranking.table["priority"])
    pairs = values[wrong][:, None] - values[~wrong][None]
    assert found["priority"].auroc == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
