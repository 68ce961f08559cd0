from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from auditor.influence import (
    Direction,
    Point,
    PreciseStatistics,
    directional_derivatives,
    sample_logits,
)
from auditor.sam import State
from tests.influence.networks import inner, moved, network, samples, tangent


def losses_at(net, precise, parameters, buffers, inputs, labels):
    return cross_entropy(sample_logits(net, Point.at(precise, parameters, buffers), inputs), labels, reduction="none")


def setup(norm, chunks=2):
    net = network(norm)
    state = State.initial(net)
    precise = PreciseStatistics(net, [samples(6, seed=10 + chunk)[0] for chunk in range(chunks)])
    direction = Direction.along(precise, state.parameters, state.buffers, tangent(state.parameters))
    return net, state, precise, direction


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_derivatives_match_finite_differences_through_the_statistics(norm):
    net, state, precise, direction = setup(norm)
    inputs, labels = samples(7)
    losses, found = directional_derivatives(net, direction, inputs, labels)
    torch.testing.assert_close(losses, losses_at(net, precise, state.parameters, state.buffers, inputs, labels))
    ahead, behind = (
        losses_at(net, precise, moved(state.parameters, direction.parameters, by), state.buffers, inputs, labels)
        for by in (1e-6, -1e-6)
    )
    torch.testing.assert_close(found, (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_forward_mode_agrees_with_a_backward_dot_product(norm):
    """Compilers and kernels have dropped tangents in silence before."""
    net, state, _, direction = setup(norm, chunks=0)
    inputs, labels = samples(5)
    _, found = directional_derivatives(net, direction, inputs, labels)
    leaves = {name: value.clone().requires_grad_() for name, value in state.parameters.items()}
    losses = cross_entropy(net.evaluate(leaves, state.buffers, inputs), labels, reduction="none")
    for index, loss in enumerate(losses):
        gradients = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
        backward = inner(dict(zip(leaves, gradients, strict=True)), direction.parameters)
        assert float(found[index]) == pytest.approx(backward, rel=1e-10)


def test_a_samples_number_does_not_depend_on_its_batch():
    net, _, _, direction = setup("batch")
    inputs, labels = samples(6)
    _, together = directional_derivatives(net, direction, inputs, labels)
    alone = [directional_derivatives(net, direction, inputs[i : i + 1], labels[i : i + 1])[1] for i in range(6)]
    torch.testing.assert_close(together, torch.cat(alone))
