from __future__ import annotations

import pytest
import torch

from auditor.influence.pushforward import micro_batch_pushforward
from auditor.influence.replay import micro_batch_pullback
from auditor.sam import MicroBatch, State
from auditor.sam.step import sam_micro_batch
from tests.influence.networks import F64, inner, moved, network, samples, tangent
from tests.influence.test_hif import PERTURBATIONS

ROWS = 6
STEP = 1e-6
WEIGHTS = torch.tensor([0.3, -1.0, 0.0, 2.0, 0.5, 0.0], dtype=F64)


class Problem:
    """One micro-batch, and a movement of its parameters and weights."""

    def __init__(self, norm):
        self.net = network(norm, "gelu")
        self.parameters, self.buffers = self.net.parameters(), self.net.buffers()
        self.inputs, self.labels = samples(ROWS, seed=5)
        self.v = tangent(self.parameters)

    def batch(self, by=0.0):
        return MicroBatch(self.inputs, self.labels, torch.ones(ROWS, dtype=F64) + by * WEIGHTS, 3)

    def direction(self, perturbation, by):
        at = moved(self.parameters, self.v, by)
        return sam_micro_batch(self.net, self.state(perturbation, at), self.batch(by), perturbation).direction

    def state(self, perturbation, at=None):
        kept = perturbation.initial_memory(self.parameters)
        memory = {name: torch.linspace(-1, 2, value.numel(), dtype=F64).view_as(value) for name, value in kept.items()}
        return State(at or self.parameters, {}, self.buffers, memory=memory)

    def push(self, perturbation, **movement):
        return micro_batch_pushforward(self.net, self.state(perturbation), self.batch(), perturbation, **movement)


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("name", PERTURBATIONS)
def test_it_is_the_derivative_of_the_sam_direction_in_parameters_and_weights(name, norm):
    problem, perturbation = Problem(norm), PERTURBATIONS[name]
    found = problem.push(perturbation, moved=problem.v, weights=WEIGHTS)
    ahead, behind = (problem.direction(perturbation, sign * STEP) for sign in (1, -1))
    for key, value in found.items():
        torch.testing.assert_close(value, (ahead[key] - behind[key]) / (2 * STEP), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("name", PERTURBATIONS)
def test_it_is_the_transpose_of_the_pullback(name, held):
    problem, perturbation = Problem("batch"), PERTURBATIONS[name]
    toward = tangent(problem.parameters, seed=8)
    pulled = micro_batch_pullback(
        problem.net, problem.state(perturbation), problem.batch(), perturbation, toward, held=held
    )
    parameters = problem.push(perturbation, moved=problem.v, held=held)
    weights = problem.push(perturbation, weights=WEIGHTS, held=held)
    back = inner(pulled.direct, problem.v) + inner(pulled.through, problem.v)
    assert inner(parameters, toward) == pytest.approx(back, rel=1e-9)
    back = float(WEIGHTS @ (pulled.direct_weights + pulled.through_weights))
    assert inner(weights, toward) == pytest.approx(back, rel=1e-9)
