from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.trajectory.order import epoch_order, steps_from
from tests.trajectory.builders import manifest


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 60), batch_size=st.integers(1, 60), epochs=st.integers(1, 8), seed=st.integers(0, 99))
def test_epochs_are_whole_batches_of_distinct_rows_and_all_rows_take_turns(rows, batch_size, epochs, seed):
    batch_size = min(rows, batch_size)
    uses = np.zeros(rows, int)
    for epoch in range(epochs):
        order = epoch_order(rows, batch_size, seed, epoch)
        assert len(order) == rows // batch_size * batch_size
        assert len(set(order.tolist())) == len(order)
        uses[order] += 1
    assert uses.max() - uses.min() <= 1
    assert epochs < 2 or uses.min() >= 1


def test_order_changes_with_epoch_and_seed_only():
    first = epoch_order(50, 10, 0, 0)
    assert np.array_equal(first, epoch_order(50, 10, 0, 0))
    assert not np.array_equal(first, epoch_order(50, 10, 0, 1))
    assert not np.array_equal(first, epoch_order(50, 10, 1, 0))


def test_steps_can_begin_anywhere():
    plan = manifest(epochs=3)
    whole = list(steps_from(plan, 0))
    assert [step for step, _, _ in whole] == list(range(plan.steps))
    for first in (1, 2, 5):
        for (step, epoch, rows), (other_step, other_epoch, other_rows) in zip(
            whole[first:], steps_from(plan, first), strict=True
        ):
            assert (step, epoch) == (other_step, other_epoch)
            assert all(np.array_equal(a, b) for a, b in zip(rows, other_rows, strict=True))
