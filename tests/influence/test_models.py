"""Every built-in network is differentiated rightly in both modes, twice, in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from auditor.influence import Derivatives, Directions, PreciseStatistics
from auditor.influence.pushforward import micro_batch_pushforward
from auditor.influence.replay import micro_batch_pullback
from auditor.models import FACTORIES, build_model
from auditor.sam import MicroBatch, Network, State, make_perturbation
from auditor.sam.step import sam_micro_batch
from tests.influence.networks import F64, inner, moved, tangent

SMALL = {
    "mlp": {},
    "resnet": {"widths": [4, 8]},
    "small_cnn": {"widths": [4, 8]},
    "vit": {"layers": 2, "hidden": 8, "heads": 2},
    "whitened_cnn": {"widths": [4, 8]},
    "wide_resnet": {"depth": 10, "width": 1},
    "resnet18": {"small_images": True, "norm": "group"},
}
BY = 1e-5


def network(name):
    return Network(build_model(name, SMALL[name], (1, 8, 8), 3, 0, F64))


def images(size=4):
    return torch.randn(size, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=F64), torch.arange(size) % 3


def test_every_network_is_tried():
    assert SMALL.keys() == FACTORIES.keys() - {"resnet50"}  # resnet18 with other blocks


@pytest.mark.parametrize("name", SMALL)
def test_sams_direction_is_differentiated_backward_and_forward(name):
    net, perturbation = network(name), make_perturbation("sam", 0.1)
    parameters, buffers = net.parameters(), net.buffers()
    kept = {key: value.clone() for key, value in (parameters | buffers).items()}
    inputs, labels = images()
    batch = MicroBatch(inputs, labels, torch.ones(len(labels), dtype=F64), 0)
    scale = 1 / inner(parameters, parameters) ** 0.5
    along, toward = ({key: scale * value for key, value in tangent(parameters, seed).items()} for seed in (7, 8))
    ahead, behind = (
        sam_micro_batch(net, State(moved(parameters, along, sign * BY), {}, buffers), batch, perturbation).direction
        for sign in (1, -1)
    )
    numeric = (inner(ahead, toward) - inner(behind, toward)) / (2 * BY)
    pulled = micro_batch_pullback(net, State(parameters, {}, buffers), batch, perturbation, toward)
    assert inner(pulled.direct, along) + inner(pulled.through, along) == pytest.approx(numeric, rel=1e-4)
    pushed = micro_batch_pushforward(net, State(parameters, {}, buffers), batch, perturbation, moved=along)
    assert inner(pushed, toward) == pytest.approx(numeric, rel=1e-4)
    for key, value in (parameters | buffers).items():
        assert torch.equal(value, kept[key])


@pytest.mark.parametrize("name", SMALL)
def test_derivatives_of_losses_along_a_direction_are_gradient_products(name):
    net = network(name)
    parameters, buffers = net.parameters(), net.buffers()
    inputs, labels = images()
    along = tangent(parameters)
    precise = PreciseStatistics(net, ())
    found = Derivatives(net, [Directions.along(precise, parameters, buffers, [along, parameters])])(inputs, labels)
    leaves = {key: value.clone().requires_grad_() for key, value in parameters.items()}
    losses = cross_entropy(net.evaluate(leaves, buffers, inputs), labels, reduction="none")
    for row, loss in enumerate(losses):
        gradients = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
        gradient = dict(zip(leaves, gradients, strict=True))
        assert found[row].tolist() == pytest.approx([inner(gradient, along), inner(gradient, parameters)], rel=1e-8)
