from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from auditor.models import build_model
from auditor.sam import SGD, MicroBatch, Network, State, make_perturbation, sam_step, sgd_step
from auditor.sam.step import margin

F64 = torch.float64


def batch(size, shape=(5,), classes=3, seed=0, weights=None):
    generator = torch.Generator().manual_seed(seed)
    return MicroBatch(
        inputs=torch.randn(size, *shape, generator=generator, dtype=F64),
        labels=torch.randint(classes, (size,), generator=generator),
        weights=torch.ones(size, dtype=F64) if weights is None else weights,
        seed=seed,
    )


def mlp_network(**args):
    return Network(build_model("mlp", {"hidden": [4], **args}, (5,), 3, seed=1, dtype=F64))


def reference_sam(model, optimizer, batches, rho):
    """SAM as commonly written, with modules and torch.optim.SGD, on the mean of micro-batches."""
    gradients = None
    for one in batches:
        model.zero_grad()
        cross_entropy(model(one.inputs), one.labels).backward()
        grads = [parameter.grad.clone() for parameter in model.parameters()]
        norm = torch.sqrt(sum((grad**2).sum() for grad in grads))
        with torch.no_grad():
            for parameter, grad in zip(model.parameters(), grads, strict=True):
                parameter.add_(rho * grad / norm)
        model.zero_grad()
        cross_entropy(model(one.inputs), one.labels).backward()
        with torch.no_grad():
            for parameter, grad in zip(model.parameters(), grads, strict=True):
                parameter.sub_(rho * grad / norm)
        found = [parameter.grad.clone() / len(batches) for parameter in model.parameters()]
        gradients = found if gradients is None else [a + b for a, b in zip(gradients, found, strict=True)]
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_equal_sam_around_torch_optim_sgd(nesterov, weight_decay):
    network = mlp_network()
    model = build_model("mlp", {"hidden": [4]}, (5,), 3, seed=1, dtype=F64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, weight_decay=weight_decay, nesterov=nesterov)
    state = State.initial(network)
    for step in range(4):
        batches = [batch(6, seed=2 * step), batch(6, seed=2 * step + 1)]
        settings = SGD(0.3, 0.9, weight_decay, nesterov)
        state, _, _ = sam_step(network, state, batches, 2, make_perturbation("sam", 0.2), settings)
        reference_sam(model, optimizer, batches, 0.2)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(state.parameters[name], parameter.detach(), rtol=1e-12, atol=1e-13)


def test_rho_zero_is_plain_sgd():
    network = mlp_network()
    state, one = State.initial(network), batch(6)
    settings = SGD(0.1, 0.0, 0.0)
    after, _, [result] = sam_step(network, state, [one], 1, make_perturbation("sam", 0.0), settings)
    torch.testing.assert_close(result.losses, result.losses_perturbed, rtol=0, atol=0)
    leaves = {name: value.clone().requires_grad_() for name, value in state.parameters.items()}
    loss = cross_entropy(network.evaluate(leaves, {}, one.inputs), one.labels)
    for name, gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
        torch.testing.assert_close(after.parameters[name], state.parameters[name] - 0.1 * gradient)


def test_state_before_the_step_is_not_changed():
    network = Network(build_model("small_cnn", {"widths": [4]}, (1, 4, 4), 3, seed=0, dtype=F64))
    state = State.initial(network)
    before = copy.deepcopy(state)
    one = batch(8, (1, 4, 4))
    sam_step(network, state, [one], 1, make_perturbation("sam", 0.1), SGD(0.1, 0.9, 1e-3))
    for part in ("parameters", "momentum", "buffers"):
        for name, value in getattr(state, part).items():
            assert torch.equal(value, getattr(before, part)[name])


def test_masked_sample_leaves_no_trace_in_the_gradient_without_batch_norm():
    network = mlp_network()
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=F64)
    masked = batch(4, weights=weights)
    changed = MicroBatch(
        torch.where(weights[:, None] == 0, 100.0, masked.inputs), masked.labels, masked.weights, masked.seed
    )
    settings, perturbation = SGD(0.1, 0.0, 0.0), make_perturbation("sam", 0.1)
    first, _, _ = sam_step(network, State.initial(network), [masked], 1, perturbation, settings)
    second, _, _ = sam_step(network, State.initial(network), [changed], 1, perturbation, settings)
    for name in first.parameters:
        assert torch.equal(first.parameters[name], second.parameters[name])


def test_any_split_of_micro_batches_over_workers_gives_the_same_step():
    network = Network(build_model("small_cnn", {"widths": [4]}, (1, 4, 4), 3, seed=0, dtype=F64))
    state = State.initial(network)
    batches = [batch(8, (1, 4, 4), seed=seed) for seed in range(4)]
    settings, perturbation = SGD(0.1, 0.9, 1e-3), make_perturbation("sam", 0.1)
    together, _, _ = sam_step(network, state, batches, 4, perturbation, settings)

    shares = []
    for mine in (batches[:3], batches[3:]):  # unequal on purpose
        sam_step(network, state, mine, 4, perturbation, settings, lambda sums: shares.append(sums) or sums)
    summed = {name: shares[0][name] + shares[1][name] for name in shares[0]}
    apart, _, _ = sam_step(network, state, [], 4, perturbation, settings, lambda _: summed)
    for part in ("parameters", "momentum", "buffers"):
        for name, value in getattr(together, part).items():
            torch.testing.assert_close(getattr(apart, part)[name], value)


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_running_statistics_move_once_a_step_by_the_mean_of_the_first_passes(momentum):
    model = nn.Sequential(nn.BatchNorm1d(5, momentum=momentum), nn.Linear(5, 3)).to(F64)
    network = Network(model)
    state = State.initial(network)
    settings = SGD(0.1, 0.0, 0.0)
    expected_mean, expected_var = torch.zeros(5, dtype=F64), torch.ones(5, dtype=F64)
    for step in range(3):
        batches = [batch(8, seed=10 * step), batch(8, seed=10 * step + 1)]
        state, _, _ = sam_step(network, state, batches, 2, make_perturbation("sam", 0.1), settings)
        factor = 1 / (step + 1) if momentum is None else momentum
        mean = torch.stack([one.inputs.mean(0) for one in batches]).mean(0)
        var = torch.stack([one.inputs.var(0) for one in batches]).mean(0)
        expected_mean = (1 - factor) * expected_mean + factor * mean
        expected_var = (1 - factor) * expected_var + factor * var
    torch.testing.assert_close(state.buffers["0.running_mean"], expected_mean)
    torch.testing.assert_close(state.buffers["0.running_var"], expected_var)
    assert int(state.buffers["0.num_batches_tracked"]) == 3


def test_dropout_depends_on_the_micro_batch_alone_and_is_shared_by_both_passes():
    network = mlp_network(dropout=0.5)
    state, settings = State.initial(network), SGD(0.1, 0.0, 0.0)
    runs = []
    for _ in range(2):
        torch.rand(3)  # the global generator is somewhere else each time
        runs.append(sam_step(network, state, [batch(6)], 1, make_perturbation("sam", 0.0), settings))
    for name in state.parameters:
        assert torch.equal(runs[0][0].parameters[name], runs[1][0].parameters[name])
    [result] = runs[0][2]
    assert torch.equal(result.losses, result.losses_perturbed)


def test_frozen_parameters_stay():
    model = build_model("mlp", {"hidden": [4]}, (5,), 3, seed=1, dtype=F64)
    model[1].weight.requires_grad_(False)
    network = Network(model)
    state = State.initial(network)
    assert "1.weight" not in state.parameters
    after, _, _ = sam_step(network, state, [batch(6)], 1, make_perturbation("sam", 0.1), SGD(0.1, 0.9, 0.1))
    assert torch.equal(after.buffers["1.weight"], model[1].weight)


def test_sgd_step_by_hand():
    state = State({"w": torch.tensor([2.0])}, {"w": torch.tensor([1.0])}, {})
    after = sgd_step(state, {"w": torch.tensor([3.0])}, SGD(0.1, 0.5, 0.25))
    assert after.momentum["w"].item() == pytest.approx(0.5 * 1 + 3 + 0.25 * 2)
    assert after.parameters["w"].item() == pytest.approx(2 - 0.1 * 4.0)


def test_margin_is_negative_where_another_class_is_preferred():
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 5.0]])
    assert margin(logits, torch.tensor([0, 1])).tolist() == [2.0, -3.0]


def test_parameters_are_in_the_order_of_their_names_as_a_checkpoint_gives_them_back():
    names = list(State.initial(mlp_network(hidden=[4] * 6)).parameters)
    assert names == sorted(names)
    assert "11.weight" in names
