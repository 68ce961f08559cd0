from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from auditor.influence import Point, PreciseStatistics, fold, sample_logits, with_running
from auditor.sam import Network, State
from tests.influence.networks import F64, inner, moved, network, samples, tangent


def make(norm="batch", chunks=2):
    net = network(norm)
    precise = PreciseStatistics(net, [samples(6, seed=10 + chunk)[0] for chunk in range(chunks)])
    return net, precise, State.initial(net)


def test_one_chunk_evaluated_with_its_own_statistics_is_training_mode():
    net, precise, state = make(chunks=1)
    point = Point.at(precise, state.parameters, state.buffers)
    trained, _ = net.train(state.parameters, state.buffers, precise.chunks[0], seed=0)
    torch.testing.assert_close(sample_logits(net, point, precise.chunks[0]), trained)


def test_folding_equals_a_module_that_holds_the_statistics():
    net, precise, state = make()
    statistics = precise.value(state.parameters, state.buffers)
    inputs, _ = samples(5)
    folded = net.evaluate(fold(net, state.parameters, state.buffers, statistics), {}, inputs)
    held = with_running(state.buffers, statistics)
    net.model.eval()
    torch.testing.assert_close(folded, functional_call(net.model, {**held, **state.parameters}, (inputs,)))


def test_pushforward_matches_finite_differences():
    _, precise, state = make()
    direction = tangent(state.parameters)
    value, derivative = precise.pushforward(state.parameters, state.buffers, direction)
    ahead = precise.value(moved(state.parameters, direction, 1e-6), state.buffers)
    behind = precise.value(moved(state.parameters, direction, -1e-6), state.buffers)
    for name, found in derivative.items():
        torch.testing.assert_close(found, (ahead[name] - behind[name]) / 2e-6, rtol=1e-6, atol=1e-8)
    assert value.keys() == precise.value(state.parameters, state.buffers).keys()


def test_pullback_is_the_transpose_of_the_pushforward():
    _, precise, state = make()
    direction = tangent(state.parameters)
    value, derivative = precise.pushforward(state.parameters, state.buffers, direction)
    cotangent = tangent(value, seed=3)
    back = precise.pullback(state.parameters, state.buffers, cotangent)
    assert inner(back, direction) == pytest.approx(inner(cotangent, derivative), rel=1e-12)


def test_statistics_do_not_depend_on_the_running_ones_nor_move_them():
    _, precise, state = make()
    first = precise.value(state.parameters, state.buffers)
    other = {name: value + 3 if "running" in name else value for name, value in state.buffers.items()}
    kept = {name: value.clone() for name, value in other.items()}
    second = precise.value(state.parameters, other)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(other[name], kept[name]) for name in kept)


def test_networks_without_batch_norm_have_no_statistics():
    _, precise, state = make("group")
    assert precise.value(state.parameters, state.buffers) == {}
    value, derivative = precise.pushforward(state.parameters, state.buffers, tangent(state.parameters))
    assert value == derivative == {}


def test_dropout_stays_off():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.BatchNorm1d(16), nn.Linear(16, 3)).to(F64)
    net = Network(model)
    inputs, _ = samples(8)
    statistics = PreciseStatistics(net, [inputs]).value(net.parameters(), net.buffers())
    torch.testing.assert_close(statistics["2.mean"], inputs.flatten(1).mean(0))


def test_batch_norm_without_weights_is_refused_by_name():
    net = Network(nn.Sequential(nn.BatchNorm1d(5, affine=False), nn.Linear(5, 3)))
    with pytest.raises(ValueError, match="layer 0 has no weight"):
        PreciseStatistics(net, [torch.zeros(2, 5)])
    PreciseStatistics(net, ())  # running statistics need nothing to fold into


def partly_frozen(*patterns):
    net = network()
    for name, value in net.model.named_parameters():
        value.requires_grad_(not name.startswith(patterns))
    net = Network(net.model)
    return net, PreciseStatistics(net, [samples(6, seed=10)[0], samples(6, seed=11)[0]]), State.initial(net)


def test_a_frozen_layer_has_no_precise_statistics_and_is_evaluated_with_its_running_ones():
    net, precise, state = partly_frozen("1.")
    held = {name: value + 0.5 if name.startswith("1.running") else value for name, value in state.buffers.items()}
    statistics = precise.value(state.parameters, held)
    assert set(statistics) == {"5.mean", "5.var"}
    inputs, _ = samples(5)
    expected = functional_call(net.model.eval(), {**with_running(held, statistics), **state.parameters}, (inputs,))
    torch.testing.assert_close(sample_logits(net, Point.at(precise, state.parameters, held), inputs), expected)


@pytest.mark.parametrize("frozen", [("0.",), ("0.", "1.", "4.")])
def test_statistics_behind_frozen_layers_alone_are_constants(frozen):
    """Their derivatives are zeros, whichever way they are taken."""
    _, precise, state = partly_frozen(*frozen)
    direction = tangent(state.parameters)
    value, derivative = precise.pushforward(state.parameters, state.buffers, direction)
    constant = {name for name, moving in derivative.items() if not moving.any()}
    assert constant == ({"1.mean", "1.var"} if frozen == ("0.",) else set(value))
    cotangent = tangent(value, seed=3)
    back = precise.pullback(state.parameters, state.buffers, cotangent)
    assert inner(back, direction) == pytest.approx(inner(cotangent, derivative), rel=1e-12)
