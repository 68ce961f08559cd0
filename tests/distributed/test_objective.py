from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.distributed.objective import Objective
from auditor.distributed.trained_run import TrainedRun
from auditor.influence.hif import System, flatten
from auditor.storage import RunFolder
from tests.distributed.builders import config, in_processes, train_here

CPU = torch.device("cpu")
SMALL = {
    "data": {
        "source": {"kind": "digits"},
        "limit": {"train": 50, "validation": 20, "test": 20},
        "augmentation": {"crop_padding": 1},
    },
    "model": {"name": "small_cnn", "args": {"widths": [4]}},
    "train": {"epochs": 2, "batch_size": 16, "micro_batch_size": 8, "checkpoints": 2, "precision": "float64"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    audit = config(tmp_path_factory.mktemp("run"), **SMALL)
    train_here(audit)
    return audit


def direction(objective):
    vector = flatten(objective.parameters)
    return torch.cos(torch.arange(len(vector), dtype=vector.dtype))


def test_every_row_stands_in_one_micro_batch_of_nearly_the_trained_size(trained):
    objective = Objective(TrainedRun(trained, RunFolder(trained.run), CPU))
    parts = [(rows, share, batch) for rows, share, batch in objective._mine(objective._all)]
    assert sorted(np.concatenate([rows for rows, _, _ in parts]).tolist()) == list(range(50))
    assert {len(rows) for rows, _, _ in parts} == {8, 9}
    assert sum(share for _, share, _ in parts) == pytest.approx(1.0)


def test_products_over_some_rows_still_give_every_row_its_influence(trained):
    run = TrainedRun(trained, RunFolder(trained.run), CPU)
    some, every = Objective(run, rows=16), Objective(run)
    assert some.rows_in_products == 16
    vector = direction(every)
    assert not torch.allclose(some.product(System.HELD, vector), every.product(System.HELD, vector))
    np.testing.assert_array_equal(some.row_products(System.FULL, vector)[0], every.row_products(System.FULL, vector)[0])
    assert every.row_products(System.FULL, vector)[1].all()


@pytest.mark.parametrize("system", System)
def test_forward_and_transposed_products_are_each_others_transpose(trained, system):
    objective = Objective(TrainedRun(trained, RunFolder(trained.run), CPU))
    left, right = direction(objective), direction(objective).roll(7)
    forward, back = objective.forward_product(system, right), objective.product(system, left)
    assert float(left @ forward) == pytest.approx(float(back @ right), rel=1e-8)


def test_adamws_decay_stands_in_products_as_the_gradient_of_what_it_pulls_toward(trained, tmp_path):
    """λ (√v̂ + ε) θ in the place of SGD's λ θ."""
    optimizer = {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1}
    audit = config(tmp_path / "run", **{**SMALL, "train": {**SMALL["train"], "optimizer": optimizer}})
    train_here(audit)
    run = TrainedRun(audit, RunFolder(audit.run), CPU)
    second = run.reader.state(run.manifest.steps).second
    root = flatten({name: (value / (1 - 0.999**run.manifest.steps)).sqrt() + 1e-8 for name, value in second.items()})
    objective = Objective(run)
    vector = direction(objective)
    for product in (objective.product, objective.forward_product):
        with_decay = product(System.PLAIN, vector)
        objective._decay, kept = None, objective._decay
        torch.testing.assert_close(with_decay - product(System.PLAIN, vector), 0.1 * root * vector)
        objective._decay = kept
    assert run.decay == 0.0
    assert TrainedRun(trained, RunFolder(trained.run), CPU).decay == 5e-4


@pytest.mark.parametrize("system", System)
def test_the_effect_of_some_weights_is_the_sum_of_their_rows(trained, system):
    objective = Objective(TrainedRun(trained, RunFolder(trained.run), CPU))
    vector = direction(objective)
    held, through = objective.row_products(system, vector)
    weights = torch.zeros(50, dtype=torch.float64)
    weights[[3, 20, 41]] = torch.tensor([1.0, 1.0, -0.5], dtype=torch.float64)
    found = float(vector @ objective.weights_effect(system, weights, held=True))
    assert found == pytest.approx(weights.numpy() @ held, rel=1e-8)
    found = float(vector @ objective.weights_effect(system, weights, held=False))
    # Gauss-Newton's rows are those of the fast form, whose weights have no part through epsilon.
    if system is not System.HELD_GAUSS_NEWTON and system is not System.HELD:
        assert found == pytest.approx(weights.numpy() @ (held + through), rel=1e-8)


def _share(rank, audit, folder):
    objective = Objective(TrainedRun(audit, RunFolder(audit.run), CPU))
    if rank:
        objective.serve()
        return
    vector = direction(objective)
    found = {system.name: objective.product(system, vector).numpy() for system in System}
    found["forward"] = objective.forward_product(System.FULL, vector).numpy()
    found["effect"] = objective.weights_effect(System.FULL, torch.linspace(0, 1, 50), held=False).numpy()
    found["held"], found["through"] = objective.row_products(System.FULL, vector)
    objective.release()
    np.savez(f"{folder}/found.npz", **found)


def test_two_workers_find_the_same_products_as_one(trained, tmp_path):
    in_processes(_share, 2, trained, str(tmp_path))
    together = np.load(tmp_path / "found.npz")
    objective = Objective(TrainedRun(trained, RunFolder(trained.run), CPU))
    vector = direction(objective)
    for system in System:
        np.testing.assert_allclose(together[system.name], objective.product(system, vector), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(
        together["forward"], objective.forward_product(System.FULL, vector), rtol=1e-9, atol=1e-13
    )
    effect = objective.weights_effect(System.FULL, torch.linspace(0, 1, 50), held=False)
    np.testing.assert_allclose(together["effect"], effect, rtol=1e-9, atol=1e-13)
    held, through = objective.row_products(System.FULL, vector)
    np.testing.assert_allclose(together["held"], held, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(together["through"], through, rtol=1e-9, atol=1e-13)
