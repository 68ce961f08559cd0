from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from auditor.influence import Point, PreciseStatistics, evaluate, query_gradient
from auditor.influence.replay import Cotangent, micro_batch_pullback, step_pullback
from auditor.sam import VARIANTS, MicroBatch, Network, State, StepSettings, make_perturbation, sam_step
from auditor.sam.perturbation import sample_losses
from tests.influence.networks import F64, network, samples, tangent

ROWS, BATCH, STEPS = 12, 8, 5
CHECKED = (0, 3, 7, 11)


def keep_and_return(kept, value):
    kept.append(value)
    return value


class Training:
    """A whole training in float64, with a weight for every sample."""

    def __init__(self, norm="batch", perturbation=None, momentum=0.9, weight_decay=1e-2, nesterov=False, micro=2):
        self.net: Network = network(norm)
        self.inputs, self.labels = samples(ROWS, seed=3)
        self.query = samples(10, seed=4)
        self.perturbation = perturbation or make_perturbation("sam", 0.1)
        self.settings = [StepSettings(rate, momentum, weight_decay, nesterov) for rate in (0.1, 0.2, 0.15, 0.1, 0.05)]
        order = np.random.default_rng(0)
        self.batches = [np.split(order.permutation(ROWS)[:BATCH], micro) for _ in range(STEPS)]
        self.precise = PreciseStatistics(self.net, [self.inputs[:6], self.inputs[6:]])

    def micro_batches(self, step, weights):
        return [
            MicroBatch(self.inputs[rows], self.labels[rows], weights[rows], 10 * step + index)
            for index, rows in enumerate(self.batches[step])
        ]

    def states(self, weights):
        states = [State.initial(self.net)]
        for step in range(STEPS):
            batches = self.micro_batches(step, weights)
            after, _, _ = sam_step(self.net, states[-1], batches, len(batches), self.perturbation, self.settings[step])
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
        cotangent = Cotangent.final(query_gradient(self.net, self.precise, point, [self.query]))
        total = torch.zeros(ROWS, dtype=F64)
        for step in reversed(range(STEPS)):
            batches = self.micro_batches(step, weights)
            pull = partial(
                step_pullback,
                self.net,
                states[step],
                total=len(batches),
                perturbation=self.perturbation,
                settings=self.settings[step],
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
    ],
)
def test_weight_gradient_equals_finite_differences_of_whole_trainings(settings):
    training = Training(**settings)
    found = training.weight_gradient()
    for sample in CHECKED:
        assert float(found[sample]) == pytest.approx(training.numeric(sample), rel=1e-5, abs=1e-10)


@pytest.mark.parametrize("name", VARIANTS)
def test_pullback_equals_torchs_own_derivative_of_the_direction_with_batch_norm_in_training_mode(name):
    """One graph over both passes, ascent and descent, differentiated by torch's own rules."""
    net, perturbation = network("batch"), make_perturbation(name, 0.1)
    parameters, (inputs, labels) = net.parameters(), samples(8)
    toward = tangent(parameters)
    weights = torch.linspace(0.5, 1.5, 8, dtype=F64).requires_grad_()
    leaves = {key: value.requires_grad_() for key, value in parameters.items()}

    def gradient(at, loss_of=sample_losses):
        losses = loss_of(net.train(at, net.buffers(), inputs, 0)[0], labels)
        found = torch.autograd.grad((weights * losses).mean(), list(at.values()), create_graph=True)
        return dict(zip(at, found, strict=True))

    first = gradient(leaves, perturbation.ascent_loss)
    epsilon = perturbation.ascent(leaves, first)
    direction = perturbation.descent(first, gradient({key: leaves[key] + epsilon[key] for key in leaves}))
    product = sum((direction[key] * toward[key]).sum() for key in leaves)
    *expected, expected_weights = torch.autograd.grad(product, [*leaves.values(), weights])

    batch = MicroBatch(inputs, labels, weights.detach(), 0)
    found = micro_batch_pullback(net, net.parameters(), net.buffers(), batch, perturbation, toward)
    for key, value in zip(leaves, expected, strict=True):
        torch.testing.assert_close(found.direct[key] + found.through[key], value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.direct_weights + found.through_weights, expected_weights, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", VARIANTS)
def test_two_workers_find_the_same_gradient_as_one(name):
    training = Training(micro=4, perturbation=make_perturbation(name, 0.1))
    apart = training.weight_gradient(share=lambda batches: (batches[:3], batches[3:]))
    torch.testing.assert_close(apart, training.weight_gradient(), rtol=1e-10, atol=1e-14)
