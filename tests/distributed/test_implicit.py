from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from auditor import counters
from auditor.config import parse_config
from auditor.data import prepare
from auditor.distributed.implicit import DAMPINGS, Implicit, implicit_influence
from auditor.distributed.loop import run_training
from auditor.distributed.retraining import Retraining
from auditor.distributed.trained_run import TrainedRun
from auditor.influence import Point, evaluate
from auditor.influence.ekfac import EKFAC
from auditor.methods import HIF
from auditor.storage import RunFolder
from tests.distributed.builders import config, in_processes, train_here

CPU = torch.device("cpu")
ROWS, FLIPPED = 100, 7
CONVEX = {
    "data": {
        "source": {"kind": "digits"},
        "limit": {"train": ROWS, "validation": 60, "test": 20},
    },
    "model": {"name": "mlp", "args": {"hidden": []}},
    "train": {
        "epochs": 150,
        "batch_size": ROWS,
        "micro_batch_size": ROWS,
        "checkpoints": 2,
        "precision": "float64",
        "optimizer": {
            "learning_rate": 0.2,
            "momentum": 0.8,
            "schedule": "constant",
            "warmup_epochs": 0,
            "weight_decay": 0.1,
        },
        "perturbation": {"rho": 0.2},
    },
    "score": {"methods": [*HIF, "loss"]},
    "report": {"rank_by": "hif_full"},
    "hif": {"damping": 0.0, "tolerance": 1e-9, "iterations": 300},
}
"""Multinomial logistic regression with weight decay, trained by full-batch SAM until it stands still."""


@pytest.fixture(scope="module")
def convex(tmp_path_factory):
    audit = config(tmp_path_factory.mktemp("convex"), **CONVEX)
    run = RunFolder(audit.run)
    prepare(audit, run)
    (path,) = Path(audit.run).glob("dataset/train/*.parquet")
    table = pq.read_table(path)
    labels = table["label"].to_numpy().copy()
    labels[FLIPPED] = (labels[FLIPPED] + 5) % 10
    place = table.schema.get_field_index("label")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(labels, pa.int32())), path)
    assert run_training(audit, run, CPU) is None
    return audit


def solved(audit) -> Implicit:
    found = implicit_influence(audit, RunFolder(audit.run), CPU)
    assert isinstance(found, Implicit), found
    return found


@pytest.fixture(scope="module")
def found(convex):
    return solved(convex)


@pytest.fixture(scope="module")
def f_with_weight(convex):
    """Validation loss after real training with another weight for one row, until it stands still again."""
    run = TrainedRun(convex, RunFolder(convex.run), CPU)
    steps = [step for _, steps in run.reader.recorded_steps() for step in steps][-80:]

    @cache
    def f(row, weight):
        weights = np.ones(ROWS)
        weights[row] = weight
        training, state = Retraining(run, weights), run.reader.state(run.manifest.steps)
        for step in steps:
            state = training.forward(state, step)
        point = Point.at(run.precise, state.parameters, state.buffers)
        return evaluate(run.network, point, run.chunks("validation")).loss

    return f


def test_hif_full_equals_finite_differences_of_real_trainings_at_a_minimum(found, f_with_weight):
    for row in (0, 11):
        numeric = (f_with_weight(row, 1 + 1e-3) - f_with_weight(row, 1 - 1e-3)) / 2e-3
        assert found.influence["hif_full"][row] == pytest.approx(-numeric, rel=1e-3)
    # What the others leave out is no rounding error.
    full = found.influence["hif_full"]
    for method in ("hif", "hif_fast", "influence", "ekfac"):
        assert np.linalg.norm(found.influence[method] - full) > 0.01 * np.linalg.norm(full)


def test_every_method_agrees_with_real_leave_one_out_on_a_convex_problem(found, f_with_weight):
    rows = range(3, ROWS, 14)
    real = [f_with_weight(row, 0.0) - f_with_weight(row, 1.0) for row in rows]
    agreement = {method: np.corrcoef(found.influence[method][list(rows)], real)[0, 1] for method in HIF}
    # Layers apart and a diagonal in each: even one layer's curvature is not EK-FAC's.
    assert agreement.pop("ekfac") > 0.5
    assert min(agreement.values()) > 0.95, agreement


def test_self_influence_is_the_predicted_rise_of_a_samples_own_loss_and_largest_for_the_flipped_label(convex, found):
    asked = convex.model_copy(update={"score": convex.score.model_copy(update={"methods": ["ekfac", "ekfac_self"]})})
    own = solved(asked).influence["ekfac_self"]
    run = TrainedRun(convex, RunFolder(convex.run), CPU)
    factors = EKFAC(run.model(), run.chunks("train"), counters.seed_of("ekfac", convex.seed))
    expected = [factors.self_influence(*chunk, 0.1) for chunk in run.chunks("train")]
    np.testing.assert_allclose(own, torch.cat(expected).numpy() / ROWS, rtol=1e-9)
    assert own.argmax() == FLIPPED


def test_a_label_flipped_by_hand_harms_under_every_method_and_in_truth(found, f_with_weight):
    assert f_with_weight(FLIPPED, 0.0) < f_with_weight(FLIPPED, 1.0)
    for method in HIF:
        assert found.influence[method][FLIPPED] < 0
        assert FLIPPED in np.argsort(found.influence[method])[:10]


def asking_for(audit, methods, **hif):
    """The same audit with other methods and settings of their solves."""
    raw = audit.model_dump(mode="json")
    return parse_config({**raw, "score": {"methods": methods}, "report": {"rank_by": methods[0]}, "hif": hif})


@pytest.mark.parametrize("solver", ["bicgstab", "neumann", "cg"])
def test_every_solver_finds_the_same_influence_where_the_problem_is_convex(convex, solver):
    methods, settings = ["hif_fast", "influence"], {"damping": 1.0, "tolerance": 1e-5, "iterations": 500}
    found = solved(asking_for(convex, methods, solver=solver, **settings))
    expected = solved(asking_for(convex, methods, **settings))
    for method in methods:
        assert found.columns[method].solver == solver
        assert found.columns[method].converged
        # The model is linear in its parameters: its Gauss-Newton matrix is the Hessian.
        np.testing.assert_allclose(found.influence[method], expected.influence[method], rtol=1e-2, atol=1e-6)


def test_a_grid_of_dampings_has_a_column_for_each_and_one_without_a_name(convex):
    settings = {"tolerance": 1e-7, "iterations": 100}
    grid = solved(asking_for(convex, ["hif_full", "ekfac"], **settings))
    assert set(grid.influence) == {
        method if damping == 0.01 else f"{method}@{damping:g}"
        for method in ("hif_full", "ekfac")
        for damping in DAMPINGS
    }
    for damping, column in [(0.01, "hif_full"), (0.3, "hif_full@0.3"), (0.3, "ekfac@0.3")]:
        method = column.partition("@")[0]
        alone = solved(asking_for(convex, [method], damping=damping, **settings))
        assert grid.columns[column].damping == damping
        np.testing.assert_allclose(grid.influence[column], alone.influence[method], rtol=1e-4, atol=1e-9)


def test_a_solve_that_is_stopped_too_early_says_so(convex):
    short = solved(asking_for(convex, ["hif_full", "hif_fast", "hif", "influence"], iterations=3, damping=0.0))
    for method in ("hif_full", "hif_fast", "hif", "influence"):
        assert not short.columns[method].converged
        assert short.columns[method].residual > 1e-3
        assert short.columns[method].iterations == 3


def test_a_validation_loss_without_gradient_is_no_influence(convex, monkeypatch):
    monkeypatch.setattr(
        TrainedRun,
        "validation_gradient",
        lambda self: {name: 0 * value for name, value in self.point(self.manifest.steps).parameters.items()},
    )
    assert "zero or not finite" in implicit_influence(convex, RunFolder(convex.run), CPU)


def _solve_rank(rank, audit, folder):
    result = implicit_influence(audit, RunFolder(audit.run), CPU)
    if rank:
        assert result is None
        return
    np.savez(f"{folder}/found.npz", **result.influence)


def test_any_number_of_workers_finds_the_same_influence(tmp_path):
    audit = config(
        tmp_path / "run",
        data={"source": {"kind": "digits"}, "limit": {"train": 50, "validation": 20, "test": 20}},
        model={"name": "small_cnn", "args": {"widths": [4]}},
        train={"epochs": 2, "batch_size": 16, "micro_batch_size": 8, "checkpoints": 2, "precision": "float64"},
        score={"methods": [*HIF]},
        report={"rank_by": "hif_full"},
        hif={"iterations": 6, "damping": 0.1},
    )
    train_here(audit)
    in_processes(_solve_rank, 2, audit, str(tmp_path))
    together, alone = np.load(tmp_path / "found.npz"), solved(audit).influence
    for column, values in alone.items():
        np.testing.assert_allclose(together[column], values, rtol=1e-6, atol=1e-12)
