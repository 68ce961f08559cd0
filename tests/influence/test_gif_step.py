from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from auditor.influence import step_derivatives
from auditor.sam import MicroBatch, State, make_perturbation
from tests.influence.networks import F64, inner, moved, network, samples, tangent


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_derivatives_are_gradient_products_in_training_mode_at_the_micro_batchs_own_perturbation(norm):
    net = network(norm)
    state = State.initial(net)
    inputs, labels = samples(5)
    batch = MicroBatch(inputs, labels, torch.ones(5, dtype=F64), seed=0)
    along = tangent(state.parameters)
    found = step_derivatives(net, state, batch, make_perturbation("sam", 0.1), along)

    def losses(leaves):
        logits, _ = net.train(leaves, state.buffers, inputs, 0)
        return cross_entropy(logits, labels, reduction="none")

    def gradient(leaves, value):
        return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values()), retain_graph=True), strict=True))

    leaves = {name: value.clone().requires_grad_() for name, value in state.parameters.items()}
    ascent = gradient(leaves, losses(leaves).mean())
    at = moved(state.parameters, ascent, 0.1 / inner(ascent, ascent) ** 0.5)
    leaves = {name: value.requires_grad_() for name, value in at.items()}
    for value, number in zip(losses(leaves), found, strict=True):
        assert float(number) == pytest.approx(inner(gradient(leaves, value), along), rel=1e-9)
