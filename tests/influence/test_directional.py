from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from auditor.influence import (
    Direction,
    Point,
    PreciseStatistics,
    derivatives_along,
    derivatives_at,
    directional_derivatives,
    directions_to,
    sample_logits,
)
from auditor.models import FACTORIES, build_model
from auditor.sam import Network, State
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


@pytest.mark.parametrize("count", [2, 11])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_tangents_at_one_point_share_its_pass_and_give_what_each_gives_alone(norm, count):
    net, state, precise, first = setup(norm)
    inputs, labels = samples(5)
    others = [
        Direction.along(precise, state.parameters, state.buffers, tangent(state.parameters, seed=seed))
        for seed in range(count - 1)
    ]
    shared = [Direction(first.point, other.parameters, other.statistics) for other in others]
    alone = derivatives_along(net, [first, *others], inputs, labels)
    torch.testing.assert_close(derivatives_at(net, [first, *shared], inputs, labels), alone)
    # Mixed with a direction somewhere else, each column stays in its place.
    moved_point = moved(state.parameters, first.parameters, 0.1)
    elsewhere = Direction.along(precise, moved_point, state.buffers, first.parameters)
    mixed = derivatives_along(net, [first, elsewhere, *shared], inputs, labels)
    torch.testing.assert_close(mixed[:, [0, *range(2, count + 1)]], alone)
    torch.testing.assert_close(mixed[:, 1], directional_derivatives(net, elsewhere, inputs, labels)[1])


@pytest.mark.parametrize("name", sorted(FACTORIES))
def test_built_in_networks_share_passes(name):
    net = Network(build_model(name, {}, (1, 8, 8), 3, 0))
    state = State.initial(net)
    inputs, labels = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 2])
    precise = PreciseStatistics(net, [torch.randn(6, 1, 8, 8)])
    point = Point.at(precise, state.parameters, state.buffers)
    directions = []
    for seed in range(3):
        torch.manual_seed(seed)
        along = {name: torch.randn_like(value) for name, value in state.parameters.items()}
        found = Direction.along(precise, state.parameters, state.buffers, along)
        directions.append(Direction(point, found.parameters, found.statistics))
    alone = [directional_derivatives(net, direction, inputs, labels)[1] for direction in directions]
    together = derivatives_along(net, directions, inputs, labels)
    torch.testing.assert_close(together, torch.stack(alone, 1).double(), rtol=1e-4, atol=1e-4)


def test_directions_that_share_a_point_still_do_on_another_device():
    _, state, precise, first = setup("batch")
    second = Direction(first.point, first.parameters, first.statistics)
    other = Direction.along(precise, state.parameters, state.buffers, first.parameters)
    one, two, three = directions_to([first, second, other], torch.device("cpu"))
    assert one.point is two.point
    assert one.point is not three.point
    assert all(torch.equal(one.parameters[name], value) for name, value in first.parameters.items())
