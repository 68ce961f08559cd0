from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from auditor.sam import AdamW, MicroBatch, Network, State, adamw_step, make_perturbation, prepared, sam_step
from auditor.sam.adamw import direction_between, preconditioner
from tests.influence.networks import F64, network, samples


def begun(net: Network) -> State:
    return prepared(State.initial(net), make_perturbation("sam", 0.0), {"name": "adamw"})


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_steps_equal_torch_optim_adamw(weight_decay):
    net, model = network("none"), network("none").model
    optimizer = torch.optim.AdamW(model.parameters(), 0.03, (0.8, 0.95), 1e-6, weight_decay)
    state = begun(net)
    for step in range(4):
        inputs, labels = samples(6, seed=step)
        batch = MicroBatch(inputs, labels, torch.ones(6, dtype=F64), 0)
        settings = AdamW(0.03, step, 0.8, 0.95, 1e-6, weight_decay)
        state, _, _ = sam_step(net, state, [batch], 1, make_perturbation("sam", 0.0), settings)
        optimizer.zero_grad()
        cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(state.parameters[name], parameter.detach(), rtol=1e-10, atol=1e-13)


def test_a_step_by_hand():
    """m = 0.1 · 2, v = 0.01 · 4, both unbiased to 2 and 4: the step is η 2 / (2 + 1) beside the decay."""
    one = {"w": torch.tensor([3.0], dtype=F64)}
    still = {"w": torch.zeros(1, dtype=F64)}
    after = adamw_step(
        State(one, still, {}, still), {"w": torch.tensor([2.0], dtype=F64)}, AdamW(0.3, 0, 0.9, 0.99, 1.0, 0.5)
    )
    assert float(after.parameters["w"]) == pytest.approx(3 * (1 - 0.3 * 0.5) - 0.3 * 2 / 3)


def test_a_parameter_that_never_has_a_gradient_does_not_spoil_the_derivative():
    def end(gradient):
        state = State({"w": torch.ones(2, dtype=F64)}, still, {}, still)
        for step in range(2):
            state = adamw_step(state, {"w": gradient}, AdamW(0.1, step))
        return state.parameters["w"]

    still = {"w": torch.zeros(2, dtype=F64)}
    jacobian = torch.autograd.functional.jacobian(end, torch.tensor([0.0, 0.5], dtype=F64))
    assert bool(jacobian.isfinite().all())


def test_the_direction_is_found_again_between_two_states():
    state, direction = begun(network("none")), {}
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        direction = {
            name: torch.randn(value.shape, generator=generator, dtype=F64) for name, value in state.parameters.items()
        }
        before, settings = state, AdamW(0.1, step)
        state = adamw_step(state, direction, settings)
    for name, value in direction_between(before, state, settings).items():
        torch.testing.assert_close(value, direction[name], rtol=1e-12, atol=1e-13)


def test_the_preconditioner_scales_the_first_moment_as_a_step_does():
    one, still = {"w": torch.tensor([0.0], dtype=F64)}, {"w": torch.zeros(1, dtype=F64)}
    settings = AdamW(0.3, 0, 0.9, 0.99, 0.1, 0.0)
    after = adamw_step(State(one, still, {}, still), {"w": torch.tensor([2.0], dtype=F64)}, settings)
    scale = float(preconditioner(after.second, settings)["w"])
    assert float(after.parameters["w"]) == pytest.approx(-0.3 * 2 * scale)
