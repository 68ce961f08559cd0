from __future__ import annotations

import pytest
import torch

from auditor.sam import SGD, MicroBatch, Past, State, make_perturbation, prepared, sam_step
from auditor.sam.step import micro_batch_pass
from auditor.sam.variants.look_sam import looking_descent, sharpness
from tests.influence.networks import F64, inner, network, samples

GRADIENT = {"w": torch.tensor([3.0, 4.0], dtype=F64)}


def test_the_direction_in_between_by_hand():
    """‖g‖ / ‖s‖ = 5 / 2, so that α of 0.4 adds s once."""
    past = Past({"w": torch.tensor([0.0, 2.0], dtype=F64)})
    found = looking_descent(GRADIENT, {}, past, alpha=0.4)
    torch.testing.assert_close(found["w"], torch.tensor([3.0, 6.0], dtype=F64))


def test_what_is_kept_is_orthogonal_to_the_gradient_and_gives_back_sams_with_it():
    perturbed = {"w": torch.tensor([7.0, -1.0], dtype=F64)}
    kept = sharpness(GRADIENT, perturbed)
    assert inner(kept, GRADIENT) == pytest.approx(0, abs=1e-12)
    along = inner(perturbed, GRADIENT) / 25
    torch.testing.assert_close(kept["w"] + along * GRADIENT["w"], perturbed["w"])


def test_a_period_of_one_is_sam():
    net, settings = network("none"), SGD(0.1, 0.9, 1e-3)
    ends = []
    for variant in (make_perturbation("look_sam", 0.1, period=1), make_perturbation("sam", 0.1)):
        state = prepared(State.initial(net), variant, {"name": "sgd"})
        for step in range(3):
            batch = MicroBatch(*samples(6, seed=step), torch.ones(6, dtype=F64), step)
            state, _, _ = sam_step(net, state, [batch], 1, variant.at(step), settings)
        ends.append(state.parameters)
    torch.testing.assert_close(ends[0], ends[1])


def test_every_third_step_is_sams_and_those_in_between_add_what_it_kept():
    net, variant = network("none"), make_perturbation("look_sam", 0.1, alpha=0.5, period=3)
    state = prepared(State.initial(net), variant, {"name": "sgd"})
    for step in range(5):
        batch = MicroBatch(*samples(6, seed=step), torch.ones(6, dtype=F64), step)
        after, _, [result] = sam_step(net, state, [batch], 1, variant.at(step), SGD(1.0, 0.0, 0.0))
        moved = {name: value - after.parameters[name] for name, value in state.parameters.items()}
        gradient = micro_batch_pass(net, state.parameters, state.buffers, batch).gradient
        added = {name: value - gradient[name] for name, value in moved.items()}
        assert torch.equal(result.losses, result.losses_perturbed) == (step % 3 != 0)
        if step % 3:
            scale = 0.5 * (inner(gradient, gradient) / inner(state.memory, state.memory)) ** 0.5
            for name, value in added.items():
                torch.testing.assert_close(value, scale * state.memory[name])
                assert torch.equal(after.memory[name], state.memory[name])
        state = after
