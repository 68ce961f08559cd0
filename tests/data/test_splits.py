from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.data.splits import assign_splits, flip_labels, limit_rows

IDS = [f"sample-{row}" for row in range(2000)]


@settings(max_examples=30)
@given(
    st.lists(st.text(max_size=5), max_size=40),
    st.floats(0, 0.5),
    st.floats(0, 0.49),
    st.integers(0, 2**32 - 1),
)
def test_every_row_is_in_exactly_one_split(ids, validation, test, seed):
    parts = assign_splits(ids, {"validation": validation, "test": test}, seed)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(ids)))
    assert all(np.all(np.diff(rows) > 0) for rows in parts.values())


def test_splits_have_their_shares():
    parts = assign_splits(IDS, {"validation": 0.2, "test": 0.1}, 0)
    assert len(parts["validation"]) == pytest.approx(400, abs=60)
    assert len(parts["test"]) == pytest.approx(200, abs=45)
    assert set(assign_splits(IDS, {}, 0)) == {"train"}


def test_rows_keep_their_split_when_rows_are_added():
    shares = {"validation": 0.2, "test": 0.1}
    few, many = assign_splits(IDS[500:], shares, 3), assign_splits(IDS, shares, 3)
    for split, rows in few.items():
        assert [IDS[500 + row] for row in rows] == [IDS[row] for row in many[split] if row >= 500]


def test_a_seed_draws_other_splits():
    shares = {"validation": 0.5}
    assert not np.array_equal(assign_splits(IDS, shares, 0)["train"], assign_splits(IDS, shares, 1)["train"])


def test_limit_keeps_the_same_rows_in_any_order():
    chosen = {IDS[row] for row in limit_rows(IDS, 100, 0)}
    backwards = IDS[::-1]
    assert chosen == {backwards[row] for row in limit_rows(backwards, 100, 0)}
    assert len(chosen) == 100


def test_a_larger_limit_keeps_what_a_smaller_one_kept():
    assert set(limit_rows(IDS, 50, 0)) < set(limit_rows(IDS, 60, 0))
    assert limit_rows(IDS, None, 0).tolist() == limit_rows(IDS, 10**9, 0).tolist() == list(range(len(IDS)))


@settings(max_examples=50)
@given(st.integers(2, 300), st.floats(0, 0.99), st.integers(2, 7), st.integers(0, 1000))
def test_exactly_the_share_is_flipped_to_another_class(count, share, classes, seed):
    labels = (np.arange(count) % classes).astype(np.int32)
    noisy, flipped = flip_labels(IDS[:count], labels, share, seed)
    assert flipped.sum() == round(share * count)
    assert np.array_equal(noisy != labels, flipped)
    assert set(noisy.tolist()) <= set(labels.tolist())
    assert noisy.dtype == np.int32


def test_flips_spread_over_the_other_classes():
    labels = np.full(2000, 3, np.int32)
    labels[:1] = [0]
    labels[1:3] = [5, 9]
    noisy, _ = flip_labels(IDS, labels, 0.9, 0)
    counts = np.bincount(noisy[3:], minlength=10)
    assert np.flatnonzero(counts).tolist() == [0, 3, 5, 9]
    assert counts[[0, 5, 9]] == pytest.approx([600, 600, 600], abs=80)


def test_flips_follow_the_ids_not_the_order():
    labels = (np.arange(200) % 4).astype(np.int32)
    order = np.random.default_rng(0).permutation(200)
    noisy, _ = flip_labels(IDS[:200], labels, 0.3, 0)
    shuffled, _ = flip_labels([IDS[row] for row in order], labels[order], 0.3, 0)
    assert np.array_equal(noisy[order], shuffled)
