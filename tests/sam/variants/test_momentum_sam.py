from __future__ import annotations

import torch

from auditor.sam import SGD, MicroBatch, State, make_perturbation, prepared, sam_step
from auditor.sam.perturbation import Past, global_norm
from auditor.sam.variants.momentum_sam import momentum_ascent
from tests.influence.networks import F64, network, samples


def test_perturbation_by_hand():
    parameters = {"w": torch.zeros(2, dtype=F64)}
    epsilon = momentum_ascent(parameters, {}, Past({"w": torch.tensor([3.0, -4.0], dtype=F64)}), rho=0.5)
    torch.testing.assert_close(epsilon["w"], torch.tensor([-0.3, 0.4], dtype=F64))


def test_it_ascends_against_sgds_own_momentum_where_weights_do_not_decay():
    """The authors' form, step by step: θ + ε lies at distance ρ against the way of the last step."""
    net, variant = network("none"), make_perturbation("momentum_sam", 0.1, momentum=0.8)
    state = prepared(State.initial(net), variant, {"name": "sgd"})
    for step in range(3):
        batch = MicroBatch(*samples(6, seed=step), torch.ones(6, dtype=F64), step)
        epsilon = variant.ascent(state.parameters, {}, Past(state.memory))
        for name, value in state.momentum.items():
            scale = 0.1 / global_norm(state.momentum.values()) if step else 0.0
            torch.testing.assert_close(epsilon[name], -scale * value)
        state, _, _ = sam_step(net, state, [batch], 1, variant, SGD(0.1, 0.8, 0.0))
        for name, value in state.momentum.items():
            torch.testing.assert_close(state.memory[name], value)
