from __future__ import annotations

import pytest

from auditor.sam import learning_rate


def test_warm_up_rises_linearly_to_the_peak():
    rates = [learning_rate(step, 20, 4, 0.5, "cosine") for step in range(5)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_cosine_falls_to_half_at_the_middle_and_stays_positive():
    assert learning_rate(10, 20, 0, 1.0, "cosine") == pytest.approx(0.5)
    assert 0 < learning_rate(19, 20, 0, 1.0, "cosine") < 0.01


def test_constant_schedule_stays_at_the_peak_after_warm_up():
    assert {learning_rate(step, 20, 3, 0.7, "constant") for step in range(3, 20)} == {0.7}
