from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.fidelity.removals import Removal, plan_removals, share_count

INFLUENCE = np.random.default_rng(0).normal(size=200)


def planned(ones=9, subsets=4, shares=(0.05,), influence=INFLUENCE, harmful=0.05, seed=0):
    return plan_removals(influence, 200, ones, subsets, shares, harmful, seed)


def test_the_recorded_training_itself_comes_first():
    assert planned()[0] == Removal("none", ())


def test_single_samples_are_harmful_helpful_and_random_in_turn():
    rows = [removal.rows[0] for removal in planned() if removal.kind == "one"]
    order = np.argsort(INFLUENCE)
    assert rows[0::3] == order[:3].tolist()
    assert rows[1::3] == order[::-1][:3].tolist()
    assert len(set(rows)) == 9


def test_both_halves_get_harmful_helpful_and_random_samples():
    ones = [removal for removal in planned(ones=12) if removal.kind == "one"]
    order = np.argsort(INFLUENCE)
    for half in (True, False):
        rows = [removal.rows[0] for removal in ones if removal.chooses is half]
        assert len(rows) == 6
        assert set(rows) & set(order[:5])
        assert set(rows) & set(order[-5:])
    subsets = [removal.chooses for removal in planned() if removal.kind == "subset"]
    assert subsets == [True, False, True, False]


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_a_longer_verification_begins_with_the_shorter_one(ones, more, subsets, further):
    short = {removal.key for removal in planned(ones, subsets)}
    long = {removal.key for removal in planned(ones + more, subsets + further)}
    assert short <= long
    assert len(long) >= 1 + ones + more


def test_subsets_have_their_share_differ_and_follow_the_seed():
    subsets = [removal for removal in planned(subsets=6, shares=(0.05, 0.1)) if removal.kind == "subset"]
    assert [len(removal.rows) for removal in subsets] == [10] * 6 + [20] * 6
    assert len({removal.key for removal in subsets}) == 12
    other = [removal.key for removal in planned(subsets=6, shares=(0.05, 0.1), seed=1) if removal.kind == "subset"]
    assert not {removal.key for removal in subsets} & set(other)
    assert all(removal.rows == tuple(sorted(set(removal.rows))) for removal in subsets)


def test_only_harmful_samples_are_left_out_together():
    influence = np.ones(200)
    influence[[3, 50]] = -1
    [together] = [removal for removal in planned(influence=influence) if removal.kind == "harmful"]
    assert together.rows == (3, 50)
    assert not [removal for removal in planned(influence=np.ones(200)) if removal.kind == "harmful"]


def test_without_an_influence_single_samples_are_random_and_none_is_called_harmful():
    removals = planned(influence=None)
    assert {removal.kind for removal in removals} == {"none", "one", "subset"}
    assert sum(removal.kind == "one" for removal in removals) == 9


def test_the_key_names_the_rows_alone():
    assert Removal("one", (3,)).key == Removal("subset", (3,), 0.1, True).key
    assert Removal("one", (3,)).key != Removal("one", (4,)).key


def test_no_more_single_samples_than_there_are():
    removals = plan_removals(np.arange(5.0), 5, 12, 0, (), 0.0, 0)
    assert sorted(removal.rows[0] for removal in removals if removal.kind == "one") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("share", "rows", "count"), [(0.07, 100, 7), (0.05, 1045, 53), (1.0, 9, 9)])
def test_a_share_counts_in_decimal_arithmetic(share, rows, count):
    assert share_count(share, rows) == count
