from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional

from auditor.influence import (
    Derivatives,
    Directions,
    Point,
    PreciseStatistics,
    directional_derivatives,
    sample_logits,
)
from auditor.influence.contraction import Contraction
from auditor.influence.derivatives import can_contract
from auditor.influence.dual import DualPasses, dual
from auditor.influence.folded import Folded
from auditor.models import FACTORIES, build_model
from auditor.sam import Network, State
from tests.influence.networks import F64, moved, network, samples, tangent


def directions_of(net, count, chunks=2, parameters=None, shape=None):
    state = State.initial(net)
    inputs = [samples(6, seed=10 + chunk)[0] if shape is None else torch.randn(6, *shape) for chunk in range(chunks)]
    precise = PreciseStatistics(net, inputs if net.norms else [])
    at = state.parameters if parameters is None else parameters
    tangents = [{name: value.to(at[name]) for name, value in tangent(at, seed).items()} for seed in range(count)]
    return Directions.along(precise, at, state.buffers, tangents)


def moved_by_a_tenth(net):
    parameters = State.initial(net).parameters
    return moved(parameters, tangent(parameters), 0.1)


def one_by_one(net, many, inputs, labels):
    return torch.cat(
        [
            torch.stack([directional_derivatives(net, some[place], inputs, labels)[1] for place in range(len(some))], 1)
            for some in many
        ],
        dim=1,
    ).double()


def passes(folded, inputs, labels):
    return DualPasses(folded, dual(folded.network))(inputs, labels)


@pytest.mark.parametrize("chunks", [0, 2])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_points_with_one_tangent_and_with_several_give_what_each_direction_gives_alone(norm, chunks):
    net = network(norm)
    elsewhere = moved_by_a_tenth(net)
    many = [
        directions_of(net, 4, chunks),
        directions_of(net, 1, chunks, elsewhere),
        directions_of(net, 2, chunks, elsewhere),
    ]
    inputs, labels = samples(7)
    along = Derivatives(net, many)
    found = along(inputs, labels)
    torch.testing.assert_close(found, one_by_one(net, many, inputs, labels))
    # A sample's numbers do not depend on the others of its batch.
    torch.testing.assert_close(torch.cat([along(inputs[:2], labels[:2]), along(inputs[2:], labels[2:])]), found)


def test_no_directions_give_no_columns():
    assert Derivatives(network(), [])(*samples(3)).shape == (3, 0)


class Layers(nn.Module):
    """Every kind of layer that a contraction knows, tokens among them, with what models do to them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, stride=2, padding=2, dilation=2, bias=True)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.pointwise = nn.Conv2d(4, 6, 1, bias=False)
        self.group = nn.GroupNorm(2, 6)
        self.token = nn.Linear(6, 5, bias=False)
        self.layer = nn.LayerNorm(5)
        self.batch = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, 3)

    def forward(self, inputs):
        values = functional.relu_(self.stem(inputs))
        values = self.grouped(self.grouped(values))  # twice
        tokens = self.group(self.pointwise(values)).flatten(2).transpose(1, 2)
        return self.head(self.batch(self.layer(self.token(tokens)).mean(1)))


class Tied(nn.Module):
    """A weight that acts a second time outside its layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, inputs):
        return self.head(torch.tanh(self.layer(inputs.flatten(1))) @ self.layer.weight)


class Raw(nn.Module):
    """A parameter of no layer."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.ones(16))
        self.head = nn.Linear(16, 3)

    def forward(self, inputs):
        return self.head(torch.tanh(inputs.flatten(1) + self.shift))


class Mixed(nn.Module):
    """Rows of a layer that are no samples."""

    def __init__(self):
        super().__init__()
        self.pixel = nn.Linear(1, 2)
        self.head = nn.Linear(32, 3)

    def forward(self, inputs):
        return self.head(torch.tanh(self.pixel(inputs.reshape(-1, 1))).reshape(len(inputs), -1))


class Overwriting(nn.Module):
    """A layer whose input is changed in place after it."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, inputs):
        values = torch.tanh(self.first(inputs.flatten(1)))
        seconds = self.second(values)
        return self.head(seconds + values.mul_(0.5))


def folded_of(module, count=3):
    torch.manual_seed(3)
    net = Network(module.to(F64).eval())
    return net, Folded.of(net, directions_of(net, count))


def test_all_known_layers_contract_to_what_dual_passes_give():
    _, folded = folded_of(Layers())
    inputs, labels = samples(5)
    assert can_contract(folded, inputs, labels)
    torch.testing.assert_close(Contraction(folded)(inputs, labels), passes(folded, inputs, labels))


def test_rows_are_taken_a_few_at_a_time_where_gradients_are_large(monkeypatch):
    monkeypatch.setattr("auditor.influence.contraction._NUMBERS", 100)
    _, folded = folded_of(Layers())
    inputs, labels = samples(5)
    torch.testing.assert_close(Contraction(folded)(inputs, labels), passes(folded, inputs, labels))


@pytest.mark.parametrize("module", [Tied, Raw, Mixed, Overwriting])
def test_networks_that_a_contraction_would_get_wrong_are_told_by_a_trial_and_take_dual_passes(module):
    net, folded = folded_of(module())
    inputs, labels = samples(5)
    assert not can_contract(folded, inputs, labels)
    many = [directions_of(net, 3)]
    torch.testing.assert_close(Derivatives(net, many)(inputs, labels), one_by_one(net, many, inputs, labels))


@pytest.mark.parametrize("module", [Tied, Raw, Mixed, Overwriting])
def test_a_trial_is_not_deceived_by_a_last_layer_of_zeros(module):
    made = module()
    nn.init.zeros_(made.head.weight)
    _, folded = folded_of(made)
    assert not can_contract(folded, *samples(5))


def test_contraction_agrees_with_backward_gradients_of_single_samples():
    """Compilers and kernels have dropped tangents in silence before: no forward mode has a part in this."""
    net = network("batch")
    many = directions_of(net, 3, chunks=0)
    inputs, labels = samples(5)
    found = Contraction(Folded.of(net, many))(inputs, labels)
    leaves = {name: value.clone().requires_grad_() for name, value in many.point.parameters.items()}
    losses = functional.cross_entropy(net.evaluate(leaves, many.point.buffers, inputs), labels, reduction="none")
    for index, loss in enumerate(losses):
        gradients = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
        expected = sum(
            many.parameters[name].flatten(1) @ gradient.flatten()
            for name, gradient in zip(leaves, gradients, strict=True)
        )
        torch.testing.assert_close(found[index], expected)


@pytest.mark.parametrize("name", sorted(FACTORIES.keys() - {"vit"}))
def test_built_in_networks_contract(name):
    net = Network(build_model(name, {}, (1, 12, 12), 3, 0))
    folded = Folded.of(net, directions_of(net, 2, shape=(1, 12, 12)))
    inputs, labels = torch.randn(4, 1, 12, 12), torch.tensor([0, 1, 2, 0])
    assert can_contract(folded, inputs, labels)
    found, expected = Contraction(folded)(inputs, labels), passes(folded, inputs, labels)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_vision_transformers_tokens_and_attention_take_dual_passes_from_the_first_state_on():
    net = Network(build_model("vit", {}, (1, 8, 8), 3, 0, F64))
    many = directions_of(net, 2, shape=(1, 8, 8))
    inputs, labels = torch.randn(4, 1, 8, 8, dtype=F64), torch.tensor([0, 1, 2, 0])
    assert not can_contract(Folded.of(net, many), inputs, labels)
    torch.testing.assert_close(Derivatives(net, [many])(inputs, labels), one_by_one(net, [many], inputs, labels))


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU takes a C++ compiler")
def test_a_compiled_pass_agrees_with_backward_gradients_whatever_the_size_of_the_batch():
    net = network("batch")
    many = [directions_of(net, 1), directions_of(net, 1, parameters=moved_by_a_tenth(net))]
    along = Derivatives(net, many, compile=True)
    inputs, labels = samples(6)
    found = along(inputs, labels)
    assert along.remark is None
    torch.testing.assert_close(found, one_by_one(net, many, inputs, labels))
    torch.testing.assert_close(along(inputs[:4], labels[:4]), found[:4])
    point = many[0].point
    leaves = {name: value.clone().requires_grad_() for name, value in point.parameters.items()}
    statistics = {name: value.clone().requires_grad_() for name, value in point.statistics.items()}
    logits = sample_logits(net, Point(leaves, point.buffers, statistics), inputs)
    for row, loss in enumerate(functional.cross_entropy(logits, labels, reduction="none")):
        gradients = torch.autograd.grad(loss, [*leaves.values(), *statistics.values()], retain_graph=True)
        tangents = [*many[0].parameters.values(), *many[0].statistics.values()]
        backward = sum((gradient * tangent[0]).sum() for gradient, tangent in zip(gradients, tangents, strict=True))
        assert float(found[row, 0]) == pytest.approx(float(backward), rel=1e-9)


def test_a_compiler_that_drops_tangents_is_found_out_and_one_that_fails_is_done_without(monkeypatch):
    net = network("batch")
    many = [directions_of(net, 1)]
    inputs, labels = samples(6)
    expected = one_by_one(net, many, inputs, labels)

    def forgetful(pass_, **_):
        return lambda values, tangent, *rest: pass_(
            values, {name: value * ("bias" not in name) for name, value in tangent.items()}, *rest
        )

    def broken(pass_, **_):
        raise RuntimeError("no compiler")

    for compiler, said in ((forgetful, "other numbers"), (broken, "could not be compiled (RuntimeError)")):
        monkeypatch.setattr(torch, "compile", compiler)
        along = Derivatives(net, many, compile=True)
        torch.testing.assert_close(along(inputs, labels), expected)
        assert said in along.remark


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_in_fewer_bits_derivatives_are_those_in_full_but_for_rounding(norm, count):
    net = network(norm)
    many = [directions_of(net, count), directions_of(net, count, parameters=moved_by_a_tenth(net))]
    inputs, labels = samples(20)
    expected = Derivatives(net, many)(inputs, labels)
    for dtype in (torch.float32, torch.bfloat16):
        found = Derivatives(net, many, dtype=dtype)(inputs, labels)
        assert found.dtype == torch.float64
        off = (found - expected).abs().max() / expected.abs().max()
        # Not zero: with 64 bits, nothing would have been asked for.
        assert 0 < off < 10 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", sorted(FACTORIES))
def test_every_model_can_be_scored_in_bfloat16(name):
    torch.manual_seed(0)
    model = build_model(name, {}, (1, 12, 12), 3, 0)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith("bn3.weight"):  # fifty layers of random weights magnify rounding, as trained ones do not
                value.mul_(0.1)
    net = Network(model)
    many = [directions_of(net, 1, shape=(1, 12, 12))]
    inputs, labels = torch.randn(16, 1, 12, 12), torch.arange(16) % 3
    expected = Derivatives(net, many)(inputs, labels)
    found = Derivatives(net, many, dtype=torch.bfloat16)(inputs, labels)
    assert (found - expected).norm() < 0.3 * expected.norm()


@pytest.mark.parametrize("count", [1, 3])
def test_a_first_batch_for_which_there_is_no_memory_leaves_everything_for_a_smaller_one(count):
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 3)

        def forward(self, inputs):
            if len(inputs) > 4:
                raise torch.OutOfMemoryError("no room")
            return self.layer(inputs.flatten(1))

    torch.manual_seed(0)
    net = Network(Small().to(F64))
    many, (inputs, labels) = [directions_of(net, count)], samples(4)
    along = Derivatives(net, many)
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            along(*samples(8))
    torch.testing.assert_close(along(inputs, labels), one_by_one(net, many, inputs, labels))
