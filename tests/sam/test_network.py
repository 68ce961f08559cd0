from __future__ import annotations

import torch
from torch import nn

from auditor.models import build_model
from auditor.sam import SGD, MicroBatch, Network, State, make_perturbation, sam_step

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
