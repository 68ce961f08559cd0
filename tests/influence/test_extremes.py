from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from auditor.influence.extremes import Extremes

VALUES = st.lists(st.lists(st.integers(-3, 3), min_size=2, max_size=2), min_size=1, max_size=30)


def brute_force(influence, query, count):
    order = sorted(range(len(influence)), key=lambda row: (influence[row][query], row))
    harmful = [(row, float(influence[row][query])) for row in order[:count] if influence[row][query] < 0]
    helpful = [(row, float(influence[row][query])) for row in order[::-1][:count] if influence[row][query] > 0]
    return harmful, helpful


@given(VALUES, st.integers(1, 4), st.integers(1, 7), st.randoms())
def test_any_cut_of_the_stream_keeps_what_sorting_everything_would(influence, count, size, random):
    found = Extremes(2, count)
    rows = list(range(len(influence)))
    random.shuffle(rows)
    for first in range(0, len(rows), size):
        some = rows[first : first + size]
        found.add(np.array(some), np.array([influence[row] for row in some], dtype=float))
    for query in range(2):
        assert (found.harmful(query), found.helpful(query)) == brute_force(influence, query, count)


def test_what_two_streams_kept_gives_the_extremes_of_both():
    influence = np.random.default_rng(0).normal(size=(40, 3))
    whole, left, right, merged = (Extremes(3, 4) for _ in range(4))
    whole.add(np.arange(40), influence)
    left.add(np.arange(17), influence[:17])
    right.add(np.arange(17, 40), influence[17:])
    for part in (left, right):
        merged.merge(*part.kept())
    for query in range(3):
        assert merged.harmful(query) == whole.harmful(query)
        assert merged.helpful(query) == whole.helpful(query)
