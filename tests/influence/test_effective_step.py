from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.influence import effective_steps, effective_steps_of_adamw, nearest_checkpoints
from auditor.sam import SGD, AdamW, State, adamw_step, sgd_step

RATES = np.array([0.3, 0.2, 0.25, 0.1, 0.05])


def final(bumps, momentum, weight_decay, nesterov):
    """Where a parameter ends when the gradient at each step is the given constant."""
    state = State({"w": torch.ones(1, dtype=torch.float64)}, {"w": torch.zeros(1, dtype=torch.float64)}, {})
    for rate, bump in zip(RATES, bumps, strict=True):
        gradient = {"w": torch.tensor([bump], dtype=torch.float64)}
        state = sgd_step(state, gradient, SGD(rate, momentum, weight_decay, nesterov))
    return float(state.parameters["w"])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("nesterov", [False, True])
def test_effective_step_is_what_a_unit_of_gradient_moves_the_end_by(momentum, weight_decay, nesterov):
    found = effective_steps(RATES, momentum, weight_decay, nesterov)
    still = final(np.zeros(5), momentum, weight_decay, nesterov)
    for step in range(5):
        moved = final(np.eye(5)[step], momentum, weight_decay, nesterov) - still
        assert found[step] == pytest.approx(-moved, rel=1e-12)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adamws_effective_step_is_what_a_unit_of_gradient_moves_the_end_by_where_the_second_moment_does_not_count(
    weight_decay,
):
    """ε is 1 and gradients are so small that their root adds nothing to it."""
    bump = 1e-9

    def final(bumps):
        one = torch.ones(1, dtype=torch.float64)
        state = State({"w": one}, {"w": 0 * one}, {}, {"w": 0 * one})
        for step, (rate, value) in enumerate(zip(RATES, bumps, strict=True)):
            state = adamw_step(state, {"w": value * one}, AdamW(rate, step, 0.8, 0.9, 1.0, weight_decay))
        return float(state.parameters["w"])

    found = effective_steps_of_adamw(RATES, 0.8, weight_decay)
    for step in range(5):
        moved = final(bump * np.eye(5)[step]) - final(np.zeros(5))
        assert found[step] == pytest.approx(-moved / bump, rel=1e-5)


def test_plain_gradient_descent_keeps_the_learning_rate():
    assert effective_steps(RATES, 0.0, 0.0) == pytest.approx(RATES)


def test_each_step_takes_the_checkpoint_nearest_to_its_middle():
    found = nearest_checkpoints(np.array([0, 4, 10]), 10)
    assert found.tolist() == [0, 0, 1, 1, 1, 1, 1, 2, 2, 2]


def test_one_checkpoint_serves_all_steps():
    assert nearest_checkpoints(np.array([7]), 5).tolist() == [0] * 5
