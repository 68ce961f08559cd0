from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from auditor.influence import (
    Derivatives,
    Directions,
    Point,
    PreciseStatistics,
    query_gradient,
    random_projection,
    sample_logits,
    trak_tangent,
)
from auditor.influence import trak as module
from auditor.sam import State
from tests.influence.networks import F64, network, samples

ROWS = 9


class Trained:
    """A network with training samples and a query; BatchNorm statistics depend on its parameters."""

    def __init__(self, norm):
        self.net = network(norm)
        self.state = State.initial(self.net)
        self.inputs, self.labels = samples(ROWS, seed=3)
        self.precise = PreciseStatistics(self.net, [self.inputs[:5], self.inputs[5:]])
        self.point = Point.at(self.precise, self.state.parameters, self.state.buffers)
        self.gradient = query_gradient(self.net, self.precise, self.point, [samples(4, seed=5)])
        self.size = sum(value.numel() for value in self.state.parameters.values())

    def influence(self, projection):
        """What scoring makes of the tangent, training samples in two chunks."""
        chunks = [(self.inputs[:4], self.labels[:4]), (self.inputs[4:], self.labels[4:])]
        tangent = trak_tangent(self.net, self.precise, self.point, chunks, self.gradient, projection)
        directions = Directions.along(self.precise, self.state.parameters, self.state.buffers, [tangent])
        return Derivatives(self.net, [directions])(self.inputs, self.labels)[:, 0]

    def brute_force(self, projection):
        """The paper's formula, gradient by gradient, with the whole projection and all features at once."""
        features, residuals = [], []
        for row in range(ROWS):
            leaves = {name: value.clone().requires_grad_() for name, value in self.state.parameters.items()}
            statistics = {}
            if self.net.norms:
                halves = [self.precise._of_chunk(leaves, self.state.buffers, half) for half in self.precise.chunks]
                statistics = {name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]}
            logits = sample_logits(self.net, Point(leaves, self.state.buffers, statistics), self.inputs[row : row + 1])
            p = torch.exp(-cross_entropy(logits, self.labels[row : row + 1]))
            gradient = torch.autograd.grad(torch.log(p / (1 - p)), list(leaves.values()))
            features.append(torch.cat([value.flatten() for value in gradient]) @ projection)
            residuals.append(1 - p.detach())
        phi, residual = torch.stack(features), torch.stack(residuals)
        query = torch.cat([value.flatten() for value in self.gradient.values()]) @ projection
        return -(phi @ torch.linalg.pinv(phi.T @ phi, hermitian=True) @ query) * residual


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_influence_is_the_papers_formula(norm):
    trained = Trained(norm)
    projection = random_projection(trained.state.parameters, 5, seed=1)
    whole = torch.cat(list(projection()), dim=1)
    torch.testing.assert_close(trained.influence(projection), trained.brute_force(whole), rtol=1e-7, atol=1e-10)


def test_an_orthogonal_projection_of_full_rank_changes_nothing():
    trained = Trained("batch")
    unprojected = trained.brute_force(torch.eye(trained.size, dtype=F64))
    torch.manual_seed(0)
    turned = torch.linalg.qr(torch.randn(trained.size, trained.size, dtype=F64)).Q
    blocks = torch.split(turned, 50, dim=1)
    torch.testing.assert_close(trained.influence(lambda: blocks), unprojected, rtol=1e-6, atol=1e-9)


def test_gradients_of_one_sample_at_a_time_give_the_same(monkeypatch):
    trained = Trained("batch")
    projection = random_projection(trained.state.parameters, 4, seed=2)
    together = trained.influence(projection)
    monkeypatch.setattr(module, "_NUMBERS", 1)
    torch.testing.assert_close(trained.influence(projection), together)


def test_projections_are_drawn_by_seed_in_blocks_of_independent_signs():
    parameters = {"a": torch.zeros(30, 10), "b": torch.zeros(700)}
    drawn = torch.cat(list(random_projection(parameters, 40, seed=3)()), dim=1)
    assert drawn.shape == (1000, 40)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(drawn, torch.cat(list(random_projection(parameters, 40, seed=3)()), dim=1))
    correlations = drawn.T @ drawn / 1000 - torch.eye(40)
    assert correlations.abs().max() < 0.2
    other = torch.cat(list(random_projection(parameters, 40, seed=4)()), dim=1)
    assert (drawn == other).float().mean() == pytest.approx(0.5, abs=0.02)
