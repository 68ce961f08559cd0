from __future__ import annotations

import pytest
import torch
from torch import nn

from auditor.influence.passes import micro_batch_hessian
from auditor.models import build_model
from auditor.sam import SGD, MicroBatch, Network, State, make_perturbation, sam_step
from auditor.sam.step import micro_batch_pass

F64 = torch.float64


def moved_norms(*frozen):
    """A network whose running statistics are not those it begins with."""
    model = build_model("small_cnn", {"widths": [3, 4]}, (1, 4, 4), 3, seed=1, dtype=F64, frozen=frozen)
    generator = torch.Generator().manual_seed(2)
    for name, value in model.named_buffers():
        if "running" in name:
            value.add_(torch.rand(value.shape, generator=generator, dtype=F64))
    return Network(model)


def batch(size=6):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(size, 1, 4, 4, generator=generator, dtype=F64)
    return MicroBatch(inputs, torch.arange(size) % 3, torch.ones(size, dtype=F64), seed=0)


def test_a_frozen_batch_norm_normalises_in_training_as_it_does_in_evaluation_and_moves_nothing():
    network, given = moved_norms("1.*", "5.*"), batch()
    state = State.initial(network)
    trained, moved = network.train(state.parameters, state.buffers, given.inputs, seed=0)
    assert torch.equal(trained, network.evaluate(state.parameters, state.buffers, given.inputs))
    assert moved == {}
    after, _, _ = sam_step(network, state, [given], 1, make_perturbation("sam", 0.1), SGD(0.1, 0.9, 0.1))
    assert after.buffers.keys() == state.buffers.keys()
    assert all(torch.equal(after.buffers[name], value) for name, value in state.buffers.items())


def test_the_layers_beside_it_go_on_as_they_did():
    frozen, free, given = moved_norms("1.*"), moved_norms(), batch()
    assert list(frozen.norms) == ["5"]
    state, other = State.initial(frozen), State.initial(free)
    _, moved = frozen.train(state.parameters, state.buffers, given.inputs, seed=0)
    assert set(moved) == {"5.running_mean", "5.running_var"}
    # With the statistics of this batch at hand, the frozen layer is the free one.
    body = free.model[0](given.inputs).detach()
    held = {**state.buffers, "1.running_mean": body.mean((0, 2, 3)), "1.running_var": body.var((0, 2, 3), correction=0)}
    logits, moved = frozen.train(state.parameters, held, given.inputs, seed=0)
    expected, free_moved = free.train(other.parameters, other.buffers, given.inputs, seed=0)
    torch.testing.assert_close(logits, expected)
    for name, value in moved.items():
        torch.testing.assert_close(value, free_moved[name])


def test_a_layer_with_anything_to_train_or_nothing_to_normalise_with_is_not_frozen():
    half = nn.BatchNorm1d(3)
    half.weight.requires_grad_(False)
    bare, without = nn.BatchNorm1d(3, affine=False), nn.BatchNorm1d(3, track_running_stats=False).requires_grad_(False)
    model = nn.Sequential(half, bare, without, nn.BatchNorm1d(3).requires_grad_(False))
    assert list(Network(model).norms) == ["0", "1", "2"]


def test_training_above_a_frozen_body_is_training_on_what_it_gives():
    """SAM with weight decay and momentum sees the last layer alone, ε included."""
    whole, given = moved_norms("0.*", "1.*", "4.*", "5.*"), batch()
    head = Network(nn.Sequential(nn.Linear(4, 3, dtype=F64)))
    features = MicroBatch(whole.model.eval()[:-1](given.inputs).detach(), given.labels, given.weights, seed=0)
    state = State.initial(whole)
    names = {"10.weight": "0.weight", "10.bias": "0.bias"}
    assert list(state.parameters) == sorted(names)
    above = State(
        {names[name]: value for name, value in state.parameters.items()},
        {names[name]: value for name, value in state.momentum.items()},
        {},
    )
    settings, perturbation = SGD(0.3, 0.9, 0.1), make_perturbation("sam", 0.2)
    for _ in range(3):
        state, loss, _ = sam_step(whole, state, [given], 1, perturbation, settings)
        above, expected, _ = sam_step(head, above, [features], 1, perturbation, settings)
        torch.testing.assert_close(loss, expected)
    for name, value in state.parameters.items():
        torch.testing.assert_close(value, above.parameters[names[name]])


def images(size=6, dtype=torch.float32):
    return torch.randn(6, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("name", ["small_cnn", "resnet", "resnet18", "wide_resnet"])
def test_images_are_laid_out_for_the_convolutions_of_a_network_and_the_numbers_stay(name):
    args = {"small_cnn": {"widths": [3, 4]}, "resnet": {"widths": [3, 4]}, "resnet18": {"small_images": True}}
    model = build_model(name, args.get(name, {"depth": 10, "width": 1}), (3, 32, 32), 3, seed=1)
    network, inputs = Network(model), images(32)
    quick = network.quick(inputs)
    assert quick.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(quick, inputs)
    parameters, buffers = network.parameters(), network.buffers()
    given = MicroBatch(inputs, torch.arange(6) % 3, torch.ones(6), seed=0)
    found = (
        micro_batch_pass(network, parameters, buffers, given),
        *micro_batch_hessian(network, parameters, buffers, given, parameters),
    )
    network.innermost = lambda _: False
    expected = (
        micro_batch_pass(network, parameters, buffers, given),
        *micro_batch_hessian(network, parameters, buffers, given, parameters),
    )
    same(found[0].logits, expected[0].logits)
    same(found[2], expected[2])
    for pair in ((found[0].gradient, expected[0].gradient), (found[1], expected[1])):
        for key, value in pair[1].items():
            same(pair[0][key], value)
    for key, value in expected[0].statistics.items():
        same(found[0].statistics[key], value)


def same(found, expected):
    """Up to the rounding of 32 bits, whatever the order of the sums."""
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()) + 1e-6)


def test_nothing_is_laid_out_for_wide_numbers_group_norm_or_no_convolutions_and_buffers_stay():
    network = Network(build_model("small_cnn", {"widths": [3, 4]}, (3, 6, 6), 3, seed=1))
    assert network.quick(inputs := images(dtype=F64)) is inputs
    grouped = Network(build_model("resnet", {"widths": [4], "norm": "group"}, (3, 6, 6), 3, seed=1))
    assert grouped.quick(inputs := images()) is inputs
    dense = Network(nn.Sequential(nn.Flatten(), nn.Linear(108, 3)))
    assert dense.quick(inputs := images()) is inputs
    before = {name: value.clone() for name, value in network.buffers().items()}
    network.quick(images())
    assert all(torch.equal(before[name], value) for name, value in network.buffers().items())


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_training_in_bfloat16_is_training_in_full_but_for_rounding(norm):
    model = build_model("small_cnn", {"widths": [3, 4], "norm": norm}, (1, 4, 4), 3, seed=1)
    full, fewer = Network(model), Network(model, torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    given = MicroBatch(torch.randn(64, 1, 4, 4, generator=generator), torch.arange(64) % 3, torch.ones(64), seed=0)
    state = State.initial(full)
    expected, found = (micro_batch_pass(network, state.parameters, state.buffers, given) for network in (full, fewer))
    assert {value.dtype for value in (*found.gradient.values(), found.logits, found.losses)} == {torch.float32}
    assert found.statistics.keys() == expected.statistics.keys()
    for mine, theirs in (
        (found.gradient.values(), expected.gradient.values()),
        (found.statistics.values(), expected.statistics.values()),
        ([found.logits], [expected.logits]),
        ([found.losses], [expected.losses]),
    ):
        if mine:  # all together: a bias before a normalisation has next to no gradient of its own
            one, other = (torch.cat([value.flatten() for value in values]) for values in (mine, theirs))
            # Not zero: in 32 bits, nothing would have been gained.
            assert 0 < (one - other).norm() < 0.05 * other.norm()


def test_only_training_computes_in_fewer_bits():
    model = build_model("small_cnn", {"widths": [3, 4]}, (1, 4, 4), 3, seed=1)
    inputs = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    full, fewer = Network(model), Network(model, torch.bfloat16)
    at = full.parameters(), full.buffers(), inputs
    assert torch.equal(fewer.evaluate(*at), full.evaluate(*at))
    assert not torch.equal(fewer.train(*at, seed=0)[0], full.train(*at, seed=0)[0])
