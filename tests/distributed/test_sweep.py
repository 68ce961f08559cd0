from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch.multiprocessing import ProcessRaisedException

from auditor.data import prepare
from auditor.distributed.loop import run_training
from auditor.distributed.partial_sweep import PartialSweeps
from auditor.distributed.retraining import Retraining
from auditor.distributed.sweep import Sweep, sweep
from auditor.distributed.trained_run import TrainedRun
from auditor.influence import Point, evaluate
from auditor.influence.replay import step_pullback
from auditor.storage import RunFolder
from auditor.trajectory.checkpoint import load_checkpoint, save_checkpoint
from tests.distributed.builders import config, in_processes, train_in_processes

CPU = torch.device("cpu")
CHANGES = {
    "data": {
        "source": {"kind": "digits"},
        "limit": {"train": 50, "validation": 40, "test": 20},
        "label_noise": 0.1,
        "augmentation": {"crop_padding": 1},
    },
    "model": {"name": "small_cnn", "args": {"widths": [4]}},
    "train": {
        "epochs": 3,
        "batch_size": 16,
        "micro_batch_size": 8,
        "checkpoints": 3,
        "precision": "float64",
        "optimizer": {"learning_rate": 0.1, "warmup_epochs": 1},
    },
    "evaluation": {"statistics_rows": 32, "batch_size": 16},
}


def also(**train):
    return {**CHANGES, "train": {**CHANGES["train"], **train}}


ADAMW = {"name": "adamw", "learning_rate": 0.01, "warmup_epochs": 1}
OTHERS = {
    "adamw": also(optimizer=ADAMW),
    "friendly-sam": also(perturbation={"name": "friendly_sam"}),
    "look-sam-adamw": also(perturbation={"name": "look_sam", "period": 3}, optimizer=ADAMW),
    "momentum-sam": also(perturbation={"name": "momentum_sam"}),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    audit = config(path, **CHANGES)
    prepare(audit, RunFolder(path))
    assert run_training(audit, RunFolder(path), CPU) is None
    return audit


def f_with_weight(audit, row, weight):
    """Validation loss after training again with another weight for one row."""
    run = TrainedRun(audit, RunFolder(audit.run), CPU)
    weights = np.ones(run.manifest.rows)
    weights[row] = weight
    state = Retraining(run, weights).run()
    point = Point.at(run.precise, state.parameters, state.buffers)
    return evaluate(run.network, point, run.chunks("validation")).loss


@pytest.mark.parametrize("row", [0, 17, 49])
def test_influence_equals_finite_differences_of_whole_recorded_trainings(trained, row):
    found = sweep(trained, RunFolder(trained.run), CPU)
    assert isinstance(found, Sweep)
    numeric = (f_with_weight(trained, row, 1 + 1e-5) - f_with_weight(trained, row, 1 - 1e-5)) / 2e-5
    assert found.influence[row] == pytest.approx(-numeric, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", OTHERS)
def test_influence_goes_through_what_optimizer_and_variant_keep_from_step_to_step(name, tmp_path):
    audit = config(tmp_path / "run", **OTHERS[name])
    run = RunFolder(audit.run)
    prepare(audit, run)
    assert run_training(audit, run, CPU) is None
    found = sweep(audit, run, CPU)
    assert isinstance(found, Sweep)
    for row in (0, 17, 49):
        numeric = (f_with_weight(audit, row, 1 + 1e-5) - f_with_weight(audit, row, 1 - 1e-5)) / 2e-5
        assert found.influence[row] == pytest.approx(-numeric, rel=1e-4, abs=1e-9)


def test_a_shorter_horizon_is_what_a_sweep_of_that_length_finds(trained):
    run = RunFolder(trained.run)
    whole = sweep(trained, run, CPU)
    assert set(whole.shorter) == {0.75, 0.5, 0.25, 0.1}
    for horizon in (0.75, 0.5):
        settings = trained.replay.model_copy(update={"horizon": horizon})
        short = sweep(trained.model_copy(update={"replay": settings}), run, CPU)
        np.testing.assert_array_equal(whole.shorter[horizon], short.influence)
        assert max(short.shorter) < horizon


@pytest.mark.parametrize(
    "perturbation",
    [
        {"name": "asam", "rho": 0.3},
        {"name": "gsam", "alpha": 0.4},
        {"name": "sparse_sam", "density": 0.3},
        {"name": "obf", "gamma": 0.8},
    ],
)
def test_a_variant_of_sam_is_differentiated_from_its_record(tmp_path, perturbation):
    changes = {**CHANGES, "train": {**CHANGES["train"], "perturbation": perturbation}}
    audit = config(tmp_path, **changes)
    run = RunFolder(tmp_path)
    prepare(audit, run)
    assert run_training(audit, run, CPU) is None
    found = sweep(audit, run, CPU)
    assert found.drift == {4: 0.0, 9: 0.0}
    numeric = (f_with_weight(audit, 17, 1 + 1e-5) - f_with_weight(audit, 17, 1 - 1e-5)) / 2e-5
    assert found.influence[17] == pytest.approx(-numeric, rel=1e-5, abs=1e-9)


def test_states_computed_again_equal_the_recorded_ones_bit_for_bit(trained):
    found = sweep(trained, RunFolder(trained.run), CPU)
    assert found.drift == {4: 0.0, 9: 0.0}
    assert found.predictability > 0


@pytest.fixture(scope="module")
def in_two_precisions(tmp_path_factory):
    """The same training in 32 bits and in mixed precision."""
    found = []
    for precision in ("float32", "bfloat16"):
        path = tmp_path_factory.mktemp(precision)
        audit = config(path, **also(precision=precision, micro_batch_size=4))
        prepare(audit, RunFolder(path))
        assert run_training(audit, RunFolder(path), CPU) is None
        found.append(audit)
    return found


def test_a_training_in_mixed_precision_is_computed_again_bit_for_bit_and_differentiated_in_full(
    in_two_precisions, monkeypatch
):
    computed_in = []

    def watched(network, *rest):
        computed_in.append(network.autocast)
        return step_pullback(network, *rest)

    monkeypatch.setattr("auditor.distributed.sweep.step_pullback", watched)
    full, mixed = (sweep(audit, RunFolder(audit.run), CPU) for audit in in_two_precisions)
    assert computed_in == [None] * 18
    assert mixed.drift == {4: 0.0, 9: 0.0}
    off = np.linalg.norm(mixed.influence - full.influence) / np.linalg.norm(full.influence)
    # Not zero: the two trainings differ.
    assert 0 < off < 0.05


def test_any_number_of_workers_replays_a_training_in_mixed_precision(in_two_precisions, tmp_path):
    """Three of them add up four micro-batches in another order than one."""
    audit = in_two_precisions[1]
    in_processes(_sweep_rank, 3, audit, str(tmp_path))
    alone = sweep(audit, RunFolder(audit.run), CPU).influence
    for rank in range(3):
        found = np.load(tmp_path / f"{rank}.npy")
        assert np.linalg.norm(found - alone) < 0.01 * np.linalg.norm(alone)


def test_memory_for_a_single_state_changes_nothing(trained):
    tight = trained.model_copy(update={"replay": trained.replay.model_copy(update={"memory_gib": 1e-9})})
    run = RunFolder(trained.run)
    np.testing.assert_array_equal(sweep(tight, run, CPU).influence, sweep(trained, run, CPU).influence)


def test_a_horizon_leaves_out_the_beginning(trained):
    run = RunFolder(trained.run)
    half = trained.model_copy(update={"replay": trained.replay.model_copy(update={"horizon": 1 / 3})})
    short = sweep(half, run, CPU)
    assert short.first_step == 6
    late = {row for step in range(6, 9) for row in TrainedRun(trained, run, CPU).reader.step_samples(step).tolist()}
    assert {int(row) for row in np.flatnonzero(short.influence)} <= late
    assert np.count_nonzero(short.influence) > 0


def _sweep_rank(rank, audit, folder):
    found = sweep(audit, RunFolder(audit.run), CPU)
    np.save(f"{folder}/{rank}.npy", found.influence)


def test_any_number_of_workers_finds_the_same_influence(trained, tmp_path):
    in_processes(_sweep_rank, 2, trained, str(tmp_path))
    alone = sweep(trained, RunFolder(trained.run), CPU).influence
    for rank in range(2):
        np.testing.assert_allclose(np.load(tmp_path / f"{rank}.npy"), alone, rtol=1e-7, atol=1e-12)


def test_a_ledger_that_does_not_lead_to_its_checkpoints_is_refused(tmp_path):
    audit = config(tmp_path, **CHANGES)
    run = RunFolder(tmp_path)
    prepare(audit, run)
    train_in_processes(audit, 1)
    tampered = load_checkpoint(run, 9)
    for value in tampered.parameters.values():
        value.add_(0.01)
    run.remove("trajectory/checkpoints/step-00000009")
    save_checkpoint(run, 9, tampered)
    assert "replay stopped at step 9: training run again differs" in sweep(audit, run, CPU)


@pytest.fixture
def own(trained, tmp_path):
    """A copy of the trained run that a test may leave something in."""
    shutil.copytree(trained.run, tmp_path / "own")
    return trained.model_copy(update={"run": str(tmp_path / "own")})


class InterruptedSweepError(Exception):
    pass


def interrupted_sweep(audit, steps):
    """A sweep that ends in the middle, after that many steps."""

    def progress(swept):
        if swept == steps:
            raise InterruptedSweepError

    sweep(audit, RunFolder(audit.run), CPU, progress, resumable=True)


def kept_until(audit):
    """The first step that is swept in what is kept."""
    run = RunFolder(audit.run)
    return PartialSweeps(audit, run, TrainedRun(audit, run, CPU).manifest).first_step()


def assert_same(found, expected):
    """Bit for bit."""
    np.testing.assert_array_equal(found.influence, expected.influence)
    assert found.shorter.keys() == expected.shorter.keys()
    for horizon, influence in expected.shorter.items():
        np.testing.assert_array_equal(found.shorter[horizon], influence)
    assert (found.drift, found.predictability) == (expected.drift, expected.predictability)
    assert found.first_step == expected.first_step


@pytest.mark.parametrize("horizon", [1.0, 0.8])
def test_an_interrupted_sweep_goes_on_after_its_last_segment_and_ends_bit_for_bit_the_same(own, horizon):
    own = own.model_copy(update={"replay": own.replay.model_copy(update={"horizon": horizon})})
    run = RunFolder(own.run)
    undisturbed = sweep(own, run, CPU)
    with pytest.raises(InterruptedSweepError):
        interrupted_sweep(own, 6)
    assert kept_until(own) == 4
    told = []
    assert_same(sweep(own, run, CPU, told.append, resumable=True), undisturbed)
    assert told == list(range(6, 9 - undisturbed.first_step + 1))
    # All is swept: only the result is still to be written.
    assert_same(sweep(own, run, CPU, told.append, resumable=True), undisturbed)
    assert told[-1] == 9 - undisturbed.first_step
    assert told.count(told[-1]) == 1


def test_a_sweep_interrupted_before_its_first_segment_is_done_begins_again(own):
    with pytest.raises(InterruptedSweepError):
        interrupted_sweep(own, 3)
    told = []
    assert_same(sweep(own, RunFolder(own.run), CPU, told.append, resumable=True), sweep(own, RunFolder(own.run), CPU))
    assert told == list(range(1, 10))


def test_what_another_horizon_has_kept_is_ignored_and_removed(own):
    with pytest.raises(InterruptedSweepError):
        interrupted_sweep(own, 6)
    shorter = own.model_copy(update={"replay": own.replay.model_copy(update={"horizon": 0.8})})
    told = []
    assert_same(
        sweep(shorter, RunFolder(own.run), CPU, told.append, resumable=True), sweep(shorter, RunFolder(own.run), CPU)
    )
    assert told == list(range(1, 8))
    assert (kept_until(own), kept_until(shorter)) == (9, 0)


def _interrupted_rank(rank, audit):
    interrupted_sweep(audit, 7)


def test_another_number_of_workers_goes_on_from_what_is_kept(own):
    with pytest.raises(ProcessRaisedException):
        in_processes(_interrupted_rank, 2, own)
    assert kept_until(own) == 4
    told = []
    found = sweep(own, RunFolder(own.run), CPU, told.append, resumable=True)
    alone = sweep(own, RunFolder(own.run), CPU)
    np.testing.assert_allclose(found.influence, alone.influence, rtol=1e-7, atol=1e-12)
    for horizon, influence in alone.shorter.items():
        np.testing.assert_allclose(found.shorter[horizon], influence, rtol=1e-7, atol=1e-12)
    assert told == [6, 7, 8, 9]
