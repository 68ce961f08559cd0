from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.config import parse_config
from auditor.distributed.edit import edit, first_step
from auditor.distributed.implicit import implicit_influence
from auditor.distributed.retraining import Retraining
from auditor.distributed.scoring_inputs import prepare_scoring
from auditor.distributed.trained_run import TrainedRun
from auditor.fidelity.edit import judge_edit
from auditor.fidelity.edit_files import RECORDED, RETRAIN, Asked, ask, read_outcome, read_weights, weights_folder
from auditor.fidelity.removals import Removal
from auditor.influence import Derivatives
from auditor.methods import HIF
from auditor.storage import RunFolder
from auditor.trajectory.checkpoint import load_state
from tests.distributed.builders import config, equal_states, in_processes, train_here
from tests.distributed.test_implicit import CONVEX

CPU = torch.device("cpu")
REMOVED = Removal("samples", (3, 20, 41), 0.06)
DAMPING = 0.3
"""So little that the forms of HIF differ, and enough that a solve takes tens of products."""
SMALL = {
    "data": {
        "source": {"kind": "digits"},
        "limit": {"train": 50, "validation": 20, "test": 20},
        "augmentation": {"crop_padding": 1},
    },
    "model": {"name": "small_cnn", "args": {"widths": [4]}},
    "train": {"epochs": 4, "batch_size": 16, "micro_batch_size": 8, "checkpoints": 4, "precision": "float64"},
    "score": {"methods": [*HIF, "gif"]},
    "report": {"rank_by": "gif"},
    "hif": {"damping": DAMPING, "iterations": 400, "tolerance": 1e-8},
}


ADAMW = {**SMALL, "train": {**SMALL["train"], "optimizer": {"name": "adamw", "learning_rate": 0.01}}}


def editing(audit, **settings):
    return audit.model_copy(update={"edit": type(audit.edit)(**{"damping": DAMPING, **settings})})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    audit = config(tmp_path_factory.mktemp("run"), **SMALL)
    train_here(audit)
    return audit


@pytest.fixture(scope="module")
def by_adamw(tmp_path_factory):
    audit = config(tmp_path_factory.mktemp("adamw"), **ADAMW)
    train_here(audit)
    return audit


def edited(audit, removal=REMOVED, **settings):
    audit = editing(audit, **settings)
    run = RunFolder(audit.run)
    asked = ask(audit, run, removal)
    assert edit(audit, run, CPU) is None
    return run, asked


def sums_of_scores(audit) -> dict[str, float]:
    """Σ influence over the removed rows, by method."""
    run = RunFolder(audit.run)
    found = implicit_influence(audit, run, CPU)
    inputs, rows = prepare_scoring(audit, run, CPU), list(REMOVED.rows)
    samples = TrainedRun(audit, run, CPU)
    along = Derivatives(samples.network, inputs.directions)
    derivatives = along(samples.train.inputs(np.array(rows)), samples.train.labels[rows])
    sums = {method: float(values[rows].sum()) for method, values in found.influence.items()}
    return {**sums, "gif": float((inputs.weights["gif"][rows] * derivatives.numpy()).sum())}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_to_first_order_each_edit_does_what_its_scores_say(optimizer, request):
    trained = request.getfixturevalue("trained" if optimizer == "sgd" else "by_adamw")
    expected = sums_of_scores(trained)
    run, asked = edited(trained, methods=list(expected))
    here = TrainedRun(trained, run, CPU)
    gradient, recorded = here.validation_gradient(), here.reader.state(here.manifest.steps).parameters
    for method, value in expected.items():
        moved = load_state(run, weights_folder(asked.key, method)).parameters
        effect = sum(float(((moved[name] - recorded[name]) * gradient[name]).sum()) for name in recorded)
        assert effect == pytest.approx(value, rel=1e-4, abs=1e-10), method


def test_replay_over_all_of_training_is_the_masked_retraining(trained):
    run, asked = edited(trained, methods=["replay"], horizon=1.0, compare=True)
    weights = np.ones(50)
    weights[list(REMOVED.rows)] = 0.0
    retrained = Retraining(TrainedRun(trained, run, CPU), weights).run()
    assert equal_states(load_state(run, weights_folder(asked.key, "replay")), retrained)
    found = judge_edit(run, asked)
    assert found.methods["replay"].distance == 0.0
    assert found.methods["replay"].margin_difference == 0.0
    assert found.methods[RECORDED].distance == 1.0
    assert found.methods[RETRAIN].distance is None


def test_a_shorter_replay_starts_from_the_recorded_checkpoint_before(trained):
    reader = TrainedRun(trained, RunFolder(trained.run), CPU).reader
    steps, checkpoints = reader.manifest.steps, reader.manifest.checkpoints
    assert (steps, checkpoints) == (12, (0, 4, 8, 12))
    assert [first_step(reader, {"horizon": share}) for share in (1.0, 0.7, 2 / 3, 0.5, 1 / 3, 0.1)] == [
        0,
        0,
        4,
        4,
        8,
        8,
    ]
    run, asked = edited(trained, methods=["replay"], horizon=1 / 3)
    weights = np.ones(50)
    weights[list(REMOVED.rows)] = 0.0
    training = Retraining(TrainedRun(trained, run, CPU), weights)
    state = reader.state(8)
    for segment, recorded in reader.recorded_steps():
        for step in recorded if segment.first_step == 8 else []:
            state = training.forward(state, step)
    assert equal_states(load_state(run, weights_folder(asked.key, "replay")), state)


def test_what_is_there_is_left_alone_and_other_settings_are_computed_again(trained):
    run, asked = edited(trained, methods=["replay", "gif"], horizon=0.5)
    before = read_weights(run, asked.key, "gif")
    assert Asked.read(run).missing(run) == []
    asked = ask(editing(trained, methods=["replay", "gif"], horizon=1.0), run, REMOVED)
    assert asked.missing(run) == ["replay"]
    other = ask(editing(trained, methods=["gif"]), run, Removal("samples", (1,), 0.02))
    assert other.key != asked.key
    assert other.missing(run) == [RECORDED, "gif"]
    assert read_weights(run, asked.key, "gif") == before


def test_outcomes_hold_every_validation_test_and_removed_sample(trained):
    run, asked = edited(trained, methods=["gif"])
    here = TrainedRun(trained, run, CPU)
    final = here.point(here.manifest.steps)
    for split, count in (("validation", 20), ("test", 20), ("removed", 3)):
        table = read_outcome(run, asked.key, RECORDED, split)
        assert table.num_rows == count
    losses = read_outcome(run, asked.key, RECORDED, "validation")["loss"].to_numpy()
    np.testing.assert_allclose(losses, here.validation_losses(final), rtol=1e-6)
    assert read_outcome(run, asked.key, RECORDED, "removed")["row"].to_pylist() == [3, 20, 41]
    measured = judge_edit(run, asked).methods[RECORDED]
    assert measured.query_loss == pytest.approx(float(losses.mean()), rel=1e-5)


def test_where_training_is_convex_a_solve_goes_most_of_the_way_and_the_whole_derivative_furthest(tmp_path):
    audit = config(tmp_path, **CONVEX)
    train_here(audit)
    for row in (7, 50):
        one = Removal("one", (row,))
        run, asked = edited(audit, one, methods=["hif_full", "hif_fast", "influence"], damping=0.0, compare=True)
        distances = {name: measured.distance for name, measured in judge_edit(run, asked).methods.items()}
        assert distances["hif_full"] < distances["hif_fast"] < distances["influence"] < 0.5


def test_an_unsolvable_system_is_said_in_one_sentence(trained):
    audit = parse_config({**trained.model_dump(mode="json"), "hif": {"solver": "neumann"}})
    audit, run = editing(audit, methods=["hif_full"], damping=0.0), RunFolder(audit.run)
    asked = ask(audit, run, Removal("samples", (9,), 0.02))
    reason = edit(audit, run, CPU)
    assert reason is not None
    assert reason.startswith("edit: hif_full stopped: ")
    assert asked.missing(run) == ["hif_full"]


def _share(rank, audit):
    assert edit(audit, RunFolder(audit.run), CPU) is None


def test_two_workers_find_the_same_weights_as_one(tmp_path):
    methods = ["gif", "hif_full", "ekfac", "replay"]
    audit = config(tmp_path / "two", **SMALL)
    train_here(audit)
    run, asked = edited(audit, methods=methods, compare=True)
    alone = {name: load_state(run, weights_folder(asked.key, name)).parameters for name in [*methods, RETRAIN]}
    run.remove("edits")
    together = editing(audit, methods=methods, compare=True)
    ask(together, run, REMOVED)
    in_processes(_share, 2, together)
    for name, parameters in alone.items():
        for key, value in load_state(run, weights_folder(asked.key, name)).parameters.items():
            torch.testing.assert_close(value, parameters[key], rtol=1e-6, atol=1e-9)


@pytest.mark.ray
def test_ray_workers_edit_as_one_process_does(computed):
    audit, run = computed.audit, computed.run
    asked = Asked.read(run)
    assert (list(asked.methods), asked.missing(run)) == ([RECORDED, "gif", "replay"], [])
    found = {
        name: load_state(run, weights_folder(asked.key, name)).parameters for name in asked.methods if name != RECORDED
    }
    run.remove("edits")
    ask(audit, run, REMOVED)
    assert edit(audit, run, CPU) is None
    for name, parameters in found.items():
        for key, value in load_state(run, weights_folder(asked.key, name)).parameters.items():
            torch.testing.assert_close(value, parameters[key], rtol=1e-6, atol=1e-9)
