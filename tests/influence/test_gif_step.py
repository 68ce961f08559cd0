from __future__ import annotations

import pytest
import torch

from auditor.influence import step_derivatives
from auditor.sam import MicroBatch, Past, State, make_perturbation
from auditor.sam.perturbation import sample_losses
from tests.influence.networks import F64, inner, moved, network, samples, tangent


@pytest.mark.parametrize(
    ("norm", "variant"), [("batch", "sam"), ("group", "sam"), ("none", "sam"), ("batch", "obf"), ("none", "sparse_sam")]
)
def test_derivatives_are_gradient_products_in_training_mode_at_the_micro_batchs_own_perturbation(norm, variant):
    net = network(norm)
    state = State.initial(net)
    inputs, labels = samples(5)
    batch = MicroBatch(inputs, labels, torch.ones(5, dtype=F64), seed=0)
    along, perturbation = tangent(state.parameters), make_perturbation(variant, 0.1)
    found = step_derivatives(net, state, batch, perturbation, along)

    def losses(leaves, loss_of=sample_losses):
        return loss_of(net.train(leaves, state.buffers, inputs, 0)[0], labels)

    def gradient(leaves, value):
        return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values()), retain_graph=True), strict=True))

    leaves = {name: value.clone().requires_grad_() for name, value in state.parameters.items()}
    ascent = gradient(leaves, losses(leaves, perturbation.ascent_loss).mean())
    at = moved(state.parameters, perturbation.ascent(state.parameters, ascent, Past({})), 1.0)
    leaves = {name: value.requires_grad_() for name, value in at.items()}
    for value, number in zip(losses(leaves), found, strict=True):
        assert float(number) == pytest.approx(inner(gradient(leaves, value), along), rel=1e-9)
