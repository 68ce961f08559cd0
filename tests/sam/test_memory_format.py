from __future__ import annotations

import pytest
import torch
from torch import nn

from auditor.influence import Derivatives, Directions, PreciseStatistics, directional_derivatives
from auditor.models import build_model
from auditor.sam import MicroBatch, Network
from auditor.sam.memory_format import alike, bears_innermost, innermost
from auditor.sam.step import micro_batch_pass

SHAPE = (3, 6, 6)


class Reading(nn.Module):
    """A convolution, and a head that reads what it gave in a way of its own."""

    def __init__(self, read, channels=3, head=None):
        super().__init__()
        self.body, self.head = nn.Conv2d(channels, 4, 3, padding=1), nn.Linear(4 * 36, 3)
        self.read = read
        if head is not None:
            nn.init.constant_(self.head.weight, head)
            nn.init.constant_(self.head.bias, head)

    def forward(self, inputs):
        return self.head(self.read(self, self.body(inputs)))


def view(_, seen):
    return seen.view(len(seen), -1)


def view_in_training(module, seen):
    return seen.view(len(seen), -1) if module.training else seen.flatten(1)


def strided(_, seen):
    return seen.as_strided((len(seen), 4 * 36), (4 * 36, 1))


def contiguous_only(_, seen):
    assert seen.is_contiguous()
    return seen.flatten(1)


def flat(_, seen):
    return seen.flatten(1)


def images(rows=6, channels=3):
    return torch.randn(rows, channels, 6, 6, generator=torch.Generator().manual_seed(0))


def test_values_stay_and_only_images_and_kernels_move():
    moved = innermost(values := images())
    assert torch.equal(moved, values)
    assert moved.is_contiguous(memory_format=torch.channels_last)
    assert innermost(vector := torch.arange(3.0)) is vector


@pytest.mark.parametrize("name", ["small_cnn", "resnet", "resnet18", "resnet50", "whitened_cnn", "wide_resnet"])
def test_built_in_networks_bear_it(name):
    assert bears_innermost(build_model(name, {}, (3, 32, 32), 10, seed=0), (3, 32, 32))


@pytest.mark.parametrize("read", [view, view_in_training, strided, contiguous_only])
@pytest.mark.parametrize("head", [None, 0.0])
def test_a_network_that_reads_numbers_by_their_place_does_not(read, head):
    assert not bears_innermost(Reading(read, head=head), SHAPE)
    assert bears_innermost(Reading(flat, head=head), SHAPE)


@pytest.mark.parametrize("read", [view, view_in_training, contiguous_only])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("queries", [1, 2])
def test_such_a_network_is_trained_and_scored_as_its_numbers_come(read, channels, queries):
    """With one channel an image lies the same in both formats, a kernel of many outputs does not."""
    torch.manual_seed(0)
    network, inputs, labels = Network(Reading(read, channels)), images(channels=channels), torch.arange(6) % 3
    parameters, buffers = network.parameters(), network.buffers()
    batch = MicroBatch(inputs, labels, torch.ones(6), seed=0)
    assert micro_batch_pass(network, parameters, buffers, batch).logits.shape == (6, 3)
    precise = PreciseStatistics(network, ())
    directions = Directions.along(precise, parameters, buffers, [parameters] * queries)
    found = Derivatives(network, [directions])(inputs, labels)
    _, expected = directional_derivatives(network, directions[0], inputs, labels)
    torch.testing.assert_close(found, expected.double()[:, None].expand(-1, queries), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_the_trial_leaves_no_trace(training):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 3))
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    assert bears_innermost(model, SHAPE)
    assert torch.equal(torch.rand(2), expected)
    assert model.training == training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(value.is_contiguous() for value in model.state_dict().values())


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (4, 3), (4, 3, 5)])
@pytest.mark.parametrize("innermost", [False, True])
def test_values_stay_and_lie_in_memory_as_the_others_do(shape, innermost):
    values = torch.arange(torch.Size(shape).numel()).float().view(shape)
    like = torch.zeros(shape)
    if innermost and len(shape) == 4:
        like = like.contiguous(memory_format=torch.channels_last)
    for given in (values, values.transpose(0, 1).contiguous().transpose(0, 1)):
        found = alike(given, like)
        assert torch.equal(found, values)
        assert found.stride() == like.stride()
    assert alike(found, like) is found
