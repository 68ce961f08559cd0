from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from auditor.influence import (
    Derivatives,
    Directions,
    Point,
    PreciseStatistics,
    effective_steps,
    evaluate,
    perturbed_parameters,
    query_gradient,
    sample_logits,
)
from auditor.sam import SGD, MicroBatch, State, make_perturbation, sam_step
from tests.influence.networks import F64, inner, network, samples

ROWS, BATCH = 12, 6


class Training:
    """A whole training small enough to repeat without each of its samples."""

    def __init__(self, norm, rate, rho, steps, flipped=None, variant="sam"):
        self.net = network(norm)
        self.inputs, self.labels = samples(ROWS, seed=3)
        # Labels that can be learned, so that a wrong one is wrong.
        self.labels = (self.inputs.mean(dim=(1, 2, 3)) * 6).round().long().clamp(-1, 1) + 1
        self.query = (self.inputs * 0.9, self.labels.clone())
        if flipped is not None:
            self.labels[flipped] = (self.labels[flipped] + 1) % 3
        self.settings = SGD(rate, 0.9, 1e-3)
        self.perturbation = make_perturbation(variant, rho)
        order = np.random.default_rng(0)
        self.batches = [order.permutation(ROWS)[:BATCH] for _ in range(steps)]
        self.precise = PreciseStatistics(self.net, [self.inputs])

    def batch(self, step, without=None):
        rows = torch.as_tensor(self.batches[step])
        weights = torch.tensor([0.0 if row == without else 1.0 for row in self.batches[step]], dtype=F64)
        return MicroBatch(self.inputs[rows], self.labels[rows], weights, step)

    def run(self, without=None):
        states = [State.initial(self.net)]
        for step in range(len(self.batches)):
            after, _, _ = sam_step(
                self.net, states[-1], [self.batch(step, without)], 1, self.perturbation, self.settings
            )
            states.append(after)
        return states

    def loss(self, state):
        return evaluate(self.net, Point.at(self.precise, state.parameters, state.buffers), [self.query]).loss

    def direction(self, step, state, gradient):
        perturbed = perturbed_parameters(self.net, state, [self.batch(step)], 1, self.perturbation)
        return Directions.along(self.precise, perturbed, state.buffers, [gradient])

    def gif(self):
        """One checkpoint a step."""
        states = self.run()
        last = Point.at(self.precise, states[-1].parameters, states[-1].buffers)
        gradient = query_gradient(self.net, self.precise, last, [self.query])
        steps = effective_steps(np.full(len(self.batches), self.settings.learning_rate), 0.9, 1e-3)
        directions, exposures = [], torch.zeros(ROWS, len(self.batches), dtype=F64)
        for step, state in enumerate(states[:-1]):
            directions.append(self.direction(step, state, gradient))
            exposures[self.batches[step], step] = steps[step] / BATCH
        scores = (exposures * Derivatives(self.net, directions)(self.inputs, self.labels)).sum(1)
        return scores, states, gradient, steps


@pytest.mark.parametrize(("norm", "variant"), [("group", "sam"), ("batch", "sam"), ("batch", "obf")])
def test_scores_equal_the_sum_of_gradient_products_by_brute_force(norm, variant):
    training = Training(norm, rate=0.1, rho=0.1, steps=3, variant=variant)
    scores, states, gradient, steps = training.gif()
    expected = np.zeros(ROWS)
    for step, state in enumerate(states[:-1]):
        one = training.batch(step)
        leaves = {name: value.clone().requires_grad_() for name, value in state.parameters.items()}
        logits, _ = training.net.train(leaves, state.buffers, one.inputs, 0)
        ascended = training.perturbation.ascent_loss(logits, one.labels).mean()
        first = torch.autograd.grad(ascended, list(leaves.values()))
        norm_of = torch.sqrt(sum((value**2).sum() for value in first))
        for sample in training.batches[step]:
            at = {
                name: (value + 0.1 * grad / norm_of).requires_grad_()
                for (name, value), grad in zip(state.parameters.items(), first, strict=True)
            }
            # Statistics as a function of the same leaves: the whole derivative of the sample's loss.
            statistics = {}
            if training.net.norms:
                statistics = training.precise._of_chunk(at, state.buffers, training.inputs)
            logits = sample_logits(
                training.net, Point(at, state.buffers, statistics), training.inputs[sample : sample + 1]
            )
            loss = cross_entropy(logits, training.labels[sample : sample + 1])
            found = dict(zip(at, torch.autograd.grad(loss, list(at.values())), strict=True))
            expected[sample] += steps[step] / BATCH * inner(gradient, found)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-9, atol=1e-14)


def test_small_steps_predict_real_masked_retraining_in_sign_and_size():
    training = Training("none", rate=1e-3, rho=1e-4, steps=6)
    scores, states, *_ = training.gif()
    whole = training.loss(states[-1])
    measured = np.array([training.loss(training.run(without=sample)[-1]) - whole for sample in range(ROWS)])
    np.testing.assert_allclose(scores.numpy(), measured, rtol=0.05, atol=0.02 * np.abs(measured).max())


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_flipped_label_placed_by_hand_is_the_most_harmful(norm):
    scores, *_ = Training(norm, rate=0.05, rho=0.05, steps=20, flipped=4).gif()
    assert int(scores.argmin()) == 4
    assert scores[4] < 0


def test_samples_that_no_step_used_have_no_influence():
    training = Training("group", rate=0.1, rho=0.1, steps=1)
    scores, *_ = training.gif()
    unused = sorted(set(range(ROWS)) - set(training.batches[0].tolist()))
    assert torch.equal(scores[unused], torch.zeros(len(unused), dtype=F64))


def test_one_batch_or_many_give_the_same_scores():
    training = Training("batch", rate=0.1, rho=0.1, steps=3)
    scores, states, gradient, steps = training.gif()
    directions = [training.direction(step, state, gradient) for step, state in enumerate(states[:-1])]
    exposures = torch.zeros(ROWS, 3, dtype=F64)
    for step in range(3):
        exposures[training.batches[step], step] = steps[step] / BATCH
    along = Derivatives(training.net, directions)
    parts = [
        (exposures[rows] * along(training.inputs[rows], training.labels[rows])).sum(1)
        for rows in (slice(0, 5), slice(5, ROWS))
    ]
    torch.testing.assert_close(torch.cat(parts), scores)
