from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from auditor.influence import Point, PreciseStatistics, evaluate, query_gradient, sample_logits
from auditor.sam import State
from tests.influence.networks import inner, moved, network, samples, tangent


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_gradient_matches_finite_differences_through_the_statistics(norm):
    net = network(norm)
    state = State.initial(net)
    precise = PreciseStatistics(net, [samples(6, seed=10)[0], samples(6, seed=11)[0]])
    chunks = [samples(5, seed=1), samples(3, seed=2)]

    def f(parameters):
        return evaluate(net, Point.at(precise, parameters, state.buffers), chunks).loss

    gradient = query_gradient(net, precise, Point.at(precise, state.parameters, state.buffers), chunks)
    direction = tangent(state.parameters)
    numeric = (f(moved(state.parameters, direction, 1e-6)) - f(moved(state.parameters, direction, -1e-6))) / 2e-6
    assert inner(gradient, direction) == pytest.approx(numeric, rel=1e-6)


def test_chunks_of_any_size_give_the_same_means():
    net = network()
    state = State.initial(net)
    point = Point.at(PreciseStatistics(net, [samples(6, seed=10)[0]]), state.parameters, state.buffers)
    inputs, labels = samples(9)
    whole = evaluate(net, point, [(inputs, labels)])
    parts = evaluate(net, point, [(inputs[:2], labels[:2]), (inputs[2:], labels[2:])])
    assert parts.loss == pytest.approx(whole.loss)
    assert parts.accuracy == whole.accuracy
    logits = sample_logits(net, point, inputs)
    assert whole.loss == pytest.approx(float(cross_entropy(logits, labels)))
    assert whole.accuracy == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    assert torch.is_tensor(logits)
