from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from auditor.sam import SGD, VARIANTS, MicroBatch, Network, State, make_perturbation, prepared, sam_step
from auditor.sam.perturbation import global_norm
from auditor.sam.step import ascend, ascent_weighing, micro_batch_pass, sam_micro_batch
from tests.influence.networks import F64, network, samples


def begun(net, perturbation):
    """The initial state, its memory not empty where the variant has one."""
    state = prepared(State.initial(net), perturbation, {"name": "sgd"})
    memory = {
        key: torch.linspace(-1, 2, value.numel(), dtype=F64).view_as(value) for key, value in state.memory.items()
    }
    return replace(state, memory=memory)


def test_unknown_names_and_settings_are_refused():
    with pytest.raises(ValueError, match="'sharp' is not one of sam, asam, gsam, sparse_sam, obf, friendly_sam"):
        make_perturbation("sharp", 0.1)
    with pytest.raises(TypeError, match="alpha"):
        make_perturbation("sam", 0.1, alpha=0.1)


@pytest.mark.parametrize("name", VARIANTS)
def test_without_a_radius_every_variant_is_plain_sgd(name):
    net: Network = network()
    state, batch = State.initial(net), MicroBatch(*samples(6), torch.ones(6, dtype=F64), 0)
    after, _, _ = sam_step(net, state, [batch], 1, make_perturbation(name, 0.0), SGD(0.1, 0.0, 0.0))
    gradient = micro_batch_pass(net, state.parameters, state.buffers, batch).gradient
    for key, value in state.parameters.items():
        torch.testing.assert_close(after.parameters[key], value - 0.1 * gradient[key], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_recorded_is_the_cross_entropy_at_both_points_whatever_is_ascended(name):
    net: Network = network()
    parameters, buffers, perturbation = net.parameters(), net.buffers(), make_perturbation(name, 0.1)
    inputs, labels = samples(6)
    weights = torch.linspace(0.5, 1.5, 6, dtype=F64)
    batch = MicroBatch(inputs, labels, weights, 0)
    state = begun(net, perturbation)
    found = sam_micro_batch(net, state, batch, perturbation)
    losses = cross_entropy(net.train(parameters, buffers, inputs, 0)[0], labels, reduction="none")
    torch.testing.assert_close(found.losses, losses)
    torch.testing.assert_close(found.loss, (weights * losses).mean())
    weigh = ascent_weighing(net, parameters, buffers, batch, perturbation)
    ascended = micro_batch_pass(net, parameters, buffers, batch, perturbation.ascent_loss, weigh).gradient
    _, perturbed = ascend(net, state, batch, perturbation)
    logits, _ = net.train(perturbed, buffers, inputs, 0)
    torch.testing.assert_close(found.losses_perturbed, cross_entropy(logits, labels, reduction="none"))
    if perturbation.ascends_gradient:
        torch.testing.assert_close(found.grad_norm, global_norm(ascended.values()))


@pytest.mark.parametrize("name", VARIANTS)
def test_any_split_of_micro_batches_over_workers_gives_the_same_step(name):
    net: Network = network()
    perturbation, settings = make_perturbation(name, 0.1), SGD(0.1, 0.9, 1e-3)
    state = begun(net, perturbation)
    batches = [MicroBatch(*samples(6, seed), torch.ones(6, dtype=F64), seed) for seed in range(4)]
    together, _, _ = sam_step(net, state, batches, 4, perturbation, settings)
    shares = []
    for mine in (batches[:3], batches[3:]):
        sam_step(net, state, mine, 4, perturbation, settings, lambda sums: shares.append(sums) or sums)
    summed = {key: shares[0][key] + shares[1][key] for key in shares[0]}
    apart, _, _ = sam_step(net, state, [], 4, perturbation, settings, lambda _: summed)
    for part, tensors in together.parts():
        for key, value in tensors.items():
            torch.testing.assert_close(getattr(apart, part)[key], value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", VARIANTS)
def test_turns_come_round_after_a_period_and_no_sooner(name):
    perturbation = make_perturbation(name, 0.1)
    period = perturbation.period
    turns = [perturbation.at(step).perturbs for step in range(3 * period)]
    assert turns == 3 * turns[:period]
    assert all(turns != turns[shift:] + turns[:shift] for shift in range(1, period))
