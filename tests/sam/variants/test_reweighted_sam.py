from __future__ import annotations

import pytest
import torch

from auditor.sam import MicroBatch, State, make_perturbation
from auditor.sam.step import ascend, ascent_weighing, look, micro_batch_pass
from auditor.sam.variants.reweighted_sam import probe, weights
from tests.influence.networks import F64, inner, network, samples


def batch(given=None):
    inputs, labels = samples(8, seed=2)
    return MicroBatch(inputs, labels, torch.ones(8, dtype=F64) if given is None else given, 3)


def test_weights_by_hand():
    """Lengths (2, 2, 4) at λ ½: p in the proportions 1, 1, e."""
    losses = torch.tensor([1.0, 1.0, 1.0], dtype=F64)
    beside = torch.tensor([1.2, 0.8, 1.4], dtype=F64)
    found = weights(torch.ones(3, dtype=F64), losses, beside, temperature=0.5, delta=0.1)
    e = torch.e
    torch.testing.assert_close(found, 3 * torch.tensor([1.0, 1.0, e], dtype=F64) / (2 + e))


def test_a_masked_sample_takes_no_part():
    given = torch.tensor([1.0, 0.0, 1.0], dtype=F64)
    found = weights(given, torch.zeros(3, dtype=F64), torch.tensor([1.0, 9.0, 1.0], dtype=F64), 1.0, 1.0)
    torch.testing.assert_close(found, torch.tensor([1.5, 0.0, 1.5], dtype=F64))
    assert not bool(weights(0 * given, given, given, 1.0, 1.0).any())


def test_the_difference_is_the_slope_of_a_samples_loss_along_the_probe():
    net, one = network("none"), batch()
    parameters, buffers = net.parameters(), net.buffers()
    delta = 1e-6
    at = probe(parameters, one.seed, delta)
    direction = {name: (value - parameters[name]) / delta for name, value in at.items()}
    assert {round(float(sign), 6) for value in direction.values() for sign in value.flatten()} == {-1.0, 1.0}
    found = (look(net, at, buffers, one).losses - look(net, parameters, buffers, one).losses) / delta
    for row in range(8):
        alone = MicroBatch(one.inputs[row : row + 1], one.labels[row : row + 1], torch.ones(1, dtype=F64), 3)
        gradient = micro_batch_pass(net, parameters, buffers, alone).gradient
        assert float(found[row]) == pytest.approx(inner(gradient, direction), rel=1e-3, abs=1e-6)


def test_a_temperature_of_zero_is_sam():
    net, one = network("batch"), batch()
    state = State.initial(net)
    _, found = ascend(net, state, one, make_perturbation("reweighted_sam", 0.1, temperature=0.0))
    _, expected = ascend(net, state, one, make_perturbation("sam", 0.1))
    torch.testing.assert_close(found, expected)


def test_a_high_temperature_ascends_the_sample_of_the_longest_slope_alone():
    net, one = network("none"), batch()
    variant = make_perturbation("reweighted_sam", 0.1, temperature=1e4)
    weigh = ascent_weighing(net, net.parameters(), net.buffers(), one, variant)
    found = weigh(one.weights, look(net, net.parameters(), net.buffers(), one).losses)
    assert float(found.max()) == pytest.approx(8.0)
