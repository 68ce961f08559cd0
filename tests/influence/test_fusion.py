from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from auditor.influence import Derivatives, Directions, PreciseStatistics, directional_derivatives
from auditor.influence.fusion import Fusion, fusion_of
from auditor.models import FACTORIES, build_model
from auditor.sam import Network, State
from tests.influence.networks import F64, samples, tangent

INPUTS, LABELS = samples(6)


def drawn(module, seed=0):
    """A network in double precision whose statistics and weights are none of the usual zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    module = module.to(F64)
    with torch.no_grad():
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            if value.is_floating_point():
                value.add_(0.3 * torch.rand(value.shape, generator=generator, dtype=F64))
                assert name
    return Network(module)


def values_of(network):
    return {**network.buffers(), **network.parameters()}


def fused(network):
    return fusion_of(network, values_of(network), INPUTS[:3])


class Small(nn.Module):
    """Two convolutions with BatchNorm; what happens in between is for subclasses."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.second, self.other = nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.BatchNorm2d(4)
        self.wide, self.last, self.head = nn.Linear(16, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def middle(self, values):
        return torch.tanh(self.norm(self.first(values)))

    def forward(self, inputs):
        values = torch.tanh(self.other(self.second(self.middle(inputs))))
        return self.head(torch.tanh(self.last(self.wide(values.flatten(1)))))


ALL = (("first", "norm"), ("second", "other"), ("wide", "last"))


class ReadTwice(Small):
    def middle(self, values):
        before = self.first(values)
        return torch.tanh(self.norm(before)) + 0.01 * before


class Changed(Small):
    def middle(self, values):
        return torch.tanh(self.norm(functional.relu_(self.first(values))))


class Twice(Small):
    """One layer before two BatchNorm layers."""

    def middle(self, values):
        return torch.tanh(self.norm(self.first(values)) + self.norm(self.first(2 * values)))


class Tied(Small):
    """A weight that acts outside its layer as well."""

    def middle(self, values):
        return torch.tanh(self.norm(self.first(values)) + functional.conv2d(values, self.first.weight, padding=1))


class Uncopied(Small):
    def __deepcopy__(self, memo):
        raise TypeError("there is one of me")


class WithoutStatistics(Small):
    """BatchNorm that normalises with each batch in evaluation, too."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)


def test_a_layer_computes_what_its_batch_norm_would_have_made_of_it():
    network = drawn(Small())
    fusion = fused(network)
    assert fusion.pairs == ALL
    assert not [
        module for module in fusion.network.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    values = values_of(network)
    expected = network.evaluate(values, {}, INPUTS)
    torch.testing.assert_close(fusion.network.evaluate(fusion(values), {}, INPUTS), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("module", "pairs"),
    [
        (ReadTwice, ALL[1:]),
        (Changed, ALL[1:]),
        (Twice, ALL[1:]),
        (Tied, ALL[1:]),
        (WithoutStatistics, ALL[1:]),
        (Uncopied, ()),
    ],
)
def test_what_is_read_elsewhere_stays_and_so_does_what_cannot_be_tried(module, pairs):
    assert fused(drawn(module())).pairs == pairs


def test_the_network_itself_is_not_changed():
    network = drawn(Small())
    before, modules = copy.deepcopy(network.model.state_dict()), list(network.model.modules())
    fused(network)
    after = network.model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert list(network.model.modules()) == modules
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


@pytest.mark.parametrize("name", sorted(FACTORIES.keys() - {"vit", "mlp"}))
def test_built_in_networks_lose_the_batch_norm_that_follows_a_convolution(name):
    network = drawn(build_model(name, {}, (1, 17, 17), 3, 0))
    inputs = torch.randn(4, 1, 17, 17, dtype=F64)
    values = values_of(network)
    fusion = fusion_of(network, values, inputs[:3])
    left = [layer for layer in network.norms if layer not in {norm for _, norm in fusion.pairs}]
    # Where BatchNorm comes first in a block, what it reads is a sum; elsewhere it may stand behind pooling.
    assert bool(left) == (name in {"wide_resnet", "whitened_cnn"})
    assert fusion.pairs
    expected = network.evaluate(values, {}, inputs)
    torch.testing.assert_close(fusion.network.evaluate(fusion(values), {}, inputs), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunks", [0, 2])
@pytest.mark.parametrize("frozen", [(), ("first.", "second."), ("norm.", "other."), ("first.", "norm.")])
@pytest.mark.parametrize("count", [1, 3])
def test_derivatives_go_on_through_what_was_taken_in_whatever_of_it_is_trained(frozen, chunks, count):
    module = Small()
    for name, value in module.named_parameters():
        value.requires_grad_(not name.startswith(frozen))
    network = drawn(module)
    state = State.initial(network)
    precise = PreciseStatistics(network, [samples(6, seed=10 + chunk)[0] for chunk in range(chunks)])
    tangents = [tangent(state.parameters, seed) for seed in range(count)]
    many = Directions.along(precise, state.parameters, state.buffers, tangents)
    along = Derivatives(network, [many])
    expected = [directional_derivatives(network, many[place], INPUTS, LABELS)[1] for place in range(count)]
    torch.testing.assert_close(along(INPUTS, LABELS), torch.stack(expected, 1), rtol=1e-9, atol=1e-12)
    assert fused(network).pairs == ALL


def test_a_network_without_batch_norm_is_left_as_it_is():
    network = drawn(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    fusion = fused(network)
    assert fusion == Fusion.none(network)
    values = values_of(network)
    assert fusion(values) == values
