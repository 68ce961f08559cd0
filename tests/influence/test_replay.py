from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from auditor.influence import Point, PreciseStatistics, evaluate, query_gradient
from auditor.influence.replay import Cotangent, micro_batch_pullback, step_pullback
from auditor.sam import SGD, VARIANTS, AdamW, MicroBatch, Network, Past, State, make_perturbation, prepared, sam_step
from auditor.sam.perturbation import sample_losses
from tests.influence.networks import F64, network, samples, tangent
from tests.influence.test_hif import PERTURBATIONS

ROWS, BATCH, STEPS = 12, 8, 5
CHECKED = (0, 3, 7, 11)


def keep_and_return(kept, value):
    kept.append(value)
    return value


class Training:
    """A whole training in float64, with a weight for every sample."""

    def __init__(
        self, norm="batch", perturbation=None, momentum=0.9, weight_decay=1e-2, nesterov=False, micro=2, adamw=None
    ):
        self.net: Network = network(norm)
        self.inputs, self.labels = samples(ROWS, seed=3)
        self.query = samples(10, seed=4)
        self.perturbation = perturbation or make_perturbation("sam", 0.1)
        rates = (0.1, 0.2, 0.15, 0.1, 0.05)
        self.optimizers = [SGD(rate, momentum, weight_decay, nesterov) for rate in rates]
        if adamw is not None:
            self.optimizers = [
                AdamW(0.1 * rate, step, weight_decay=weight_decay, **adamw) for step, rate in enumerate(rates)
            ]
        self.name = "sgd" if adamw is None else "adamw"
        order = np.random.default_rng(0)
        self.batches = [np.split(order.permutation(ROWS)[:BATCH], micro) for _ in range(STEPS)]
        self.precise = PreciseStatistics(self.net, [self.inputs[:6], self.inputs[6:]])

    def micro_batches(self, step, weights):
        return [
            MicroBatch(self.inputs[rows], self.labels[rows], weights[rows], 10 * step + index)
            for index, rows in enumerate(self.batches[step])
        ]

    def states(self, weights):
        states = [prepared(State.initial(self.net), self.perturbation, {"name": self.name})]
        for step in range(STEPS):
            batches = self.micro_batches(step, weights)
            after, _, _ = sam_step(
                self.net, states[-1], batches, len(batches), self.perturbation.at(step), self.optimizers[step]
            )
            states.append(after)
        return states

    def f(self, weights):
        last = self.states(weights)[-1]
        return evaluate(self.net, Point.at(self.precise, last.parameters, last.buffers), [self.query]).loss

    def weight_gradient(self, share=None):
        """∂f/∂w [rows] by replay; `share` deals the micro-batches out to two workers."""
        weights = torch.ones(ROWS, dtype=F64)
        states = self.states(weights)
        point = Point.at(self.precise, states[-1].parameters, states[-1].buffers)
        cotangent = Cotangent.final(query_gradient(self.net, self.precise, point, [self.query]), states[-1])
        total = torch.zeros(ROWS, dtype=F64)
        for step in reversed(range(STEPS)):
            batches = self.micro_batches(step, weights)
            pull = partial(
                step_pullback,
                self.net,
                states[step],
                states[step + 1],
                total=len(batches),
                perturbation=self.perturbation.at(step),
                optimizer=self.optimizers[step],
                cotangent=cotangent,
            )
            if share is None:
                cotangent, found = pull(batches)
            else:
                sums = []
                keep = partial(keep_and_return, sums)
                parts = [pull(part, all_reduce=keep)[1] for part in share(batches)]
                summed = {name: sum(own[name] for own in sums) for name in sums[0]}
                cotangent, _ = pull([], all_reduce=lambda _, summed=summed: summed)
                found = [weight for part in parts for weight in part]
            for rows, weight in zip(self.batches[step], found, strict=True):
                total[rows] += weight
        return total

    def numeric(self, sample, by=1e-5):
        ahead, behind = (torch.ones(ROWS, dtype=F64) for _ in range(2))
        ahead[sample] += by
        behind[sample] -= by
        return (self.f(ahead) - self.f(behind)) / (2 * by)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"norm": "group"},
        {"norm": "none", "momentum": 0.0, "weight_decay": 0.0, "micro": 1},
        {"norm": "none", "nesterov": True},
        {"nesterov": True, "micro": 4},
        {"perturbation": make_perturbation("sam", 0.0)},
        {"perturbation": make_perturbation("sam", 0.1, p=3.0)},
        {"perturbation": make_perturbation("asam", 0.3)},
        {"perturbation": make_perturbation("asam", 0.3, eta=0.1), "norm": "none", "nesterov": True},
        {"perturbation": make_perturbation("gsam", 0.1, alpha=0.4)},
        {"perturbation": make_perturbation("gsam", 0.1, alpha=0.4), "norm": "none", "micro": 4},
        {"perturbation": make_perturbation("sparse_sam", 0.1, density=0.3)},
        {"perturbation": make_perturbation("obf", 0.1, gamma=0.8, threshold=0.3)},
        {"perturbation": make_perturbation("obf", 0.2, threshold=0.0), "norm": "none", "micro": 4},
        {"perturbation": make_perturbation("friendly_sam", 0.1, sigma=0.7, decay=0.6)},
        {"perturbation": make_perturbation("friendly_sam", 0.1), "norm": "none", "micro": 4, "nesterov": True},
        {"perturbation": make_perturbation("reweighted_sam", 0.1, temperature=0.2)},
        {"perturbation": make_perturbation("esam", 0.1, beta=0.5, gamma=0.75)},
        {"perturbation": make_perturbation("look_sam", 0.1, period=2)},
        {"perturbation": make_perturbation("look_sam", 0.1, period=3), "norm": "none", "micro": 4},
        {"perturbation": make_perturbation("momentum_sam", 0.1, momentum=0.7)},
        {"adamw": {}},
        {"adamw": {"epsilon": 1e-3, "beta1": 0.8, "beta2": 0.9}, "norm": "group", "micro": 4},
        {"adamw": {}, "perturbation": make_perturbation("friendly_sam", 0.1), "norm": "none"},
        {"adamw": {}, "perturbation": make_perturbation("look_sam", 0.1, period=2), "norm": "none"},
    ],
    ids=[
        "batch-norm",
        "group-norm",
        "plain-sgd",
        "nesterov",
        "small-micro-batches",
        "rho-0",
        "p-3",
        "asam",
        "asam-nesterov",
        "gsam",
        "gsam-small-micro-batches",
        "sparse-sam",
        "obf",
        "obf-small-micro-batches",
        "friendly-sam",
        "friendly-sam-small-micro-batches",
        "reweighted-sam",
        "esam",
        "look-sam",
        "look-sam-small-micro-batches",
        "momentum-sam",
        "adamw",
        "adamw-small-micro-batches",
        "adamw-friendly-sam",
        "adamw-look-sam",
    ],
)
def test_weight_gradient_equals_finite_differences_of_whole_trainings(settings):
    training = Training(**settings)
    found = training.weight_gradient()
    for sample in CHECKED:
        assert float(found[sample]) == pytest.approx(training.numeric(sample), rel=1e-5, abs=1e-10)


@pytest.mark.parametrize("name", [*VARIANTS, *(name for name in PERTURBATIONS if name.startswith("weighed"))])
def test_pullback_equals_torchs_own_derivative_of_the_direction_with_batch_norm_in_training_mode(name):
    """One graph over both passes, ascent and descent, differentiated by torch's own rules."""
    net, perturbation = network("batch"), PERTURBATIONS.get(name) or make_perturbation(name, 0.1)
    parameters, (inputs, labels) = net.parameters(), samples(8)
    state = prepared(State.initial(net), perturbation, {"name": "sgd"})
    kept = {key: torch.linspace(-1, 2, value.numel(), dtype=F64).view_as(value) for key, value in state.memory.items()}
    state, memory = replace(state, memory=kept), {key: value.clone().requires_grad_() for key, value in kept.items()}
    toward = tangent(parameters)
    weights = torch.linspace(0.5, 1.5, 8, dtype=F64).requires_grad_()
    leaves = {key: value.requires_grad_() for key, value in parameters.items()}

    def losses_at(at, loss_of=sample_losses):
        return loss_of(net.train(at, net.buffers(), inputs, 0)[0], labels)

    def gradient(at, own, loss_of=sample_losses):
        # Another name for the same values: weights that depend on them are constants in this gradient.
        at = {key: value.view_as(value) for key, value in at.items()}
        found = torch.autograd.grad((own * losses_at(at, loss_of)).mean(), list(at.values()), create_graph=True)
        return dict(zip(at, found, strict=True))

    ascended = weights
    if perturbation.reweighting is not None:
        probe = perturbation.reweighting.probe(leaves, 0)
        ascended = perturbation.reweighting.weights(weights, losses_at(leaves), losses_at(probe))
    past = Past(memory, 0)
    first = gradient(leaves, ascended, perturbation.ascent_loss) if perturbation.ascends_gradient else {}
    epsilon = perturbation.ascent(leaves, first, past)
    perturbed = {key: leaves[key] + epsilon[key] for key in leaves}
    chosen = weights
    if perturbation.descent_weights is not None:
        chosen = perturbation.descent_weights(weights, losses_at(perturbed), losses_at(leaves))
    second = gradient(perturbed, chosen)
    direction, left = perturbation.descent(first, second, past), perturbation.remember(first, second, past)
    toward_left = tangent(left, seed=9) if left else {}
    product = sum((direction[key] * toward[key]).sum() for key in leaves)
    product = product + sum((left[key] * toward_left[key]).sum() for key in left)
    expected = torch.autograd.grad(
        product, [*leaves.values(), weights, *memory.values()], allow_unused=True, materialize_grads=True
    )
    expected_weights = expected[len(leaves)]

    batch = MicroBatch(inputs, labels, weights.detach(), 0)
    found = micro_batch_pullback(net, state, batch, perturbation, toward, toward_left)
    for key, value in zip(leaves, expected[: len(leaves)], strict=True):
        torch.testing.assert_close(found.direct[key] + found.through[key], value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.direct_weights + found.through_weights, expected_weights, rtol=1e-9, atol=1e-13)
    for key, value in zip(memory, expected[len(leaves) + 1 :], strict=True):
        torch.testing.assert_close(found.memory[key], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
def test_two_workers_find_the_same_gradient_as_one(name):
    training = Training(micro=4, perturbation=make_perturbation(name, 0.1))
    apart = training.weight_gradient(share=lambda batches: (batches[:3], batches[3:]))
    torch.testing.assert_close(apart, training.weight_gradient(), rtol=1e-10, atol=1e-14)
