from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from auditor.data import prepare
from auditor.distributed.loop import run_training
from auditor.distributed.partial_sweep import PARTIAL, PartialSweeps
from auditor.distributed.replay import check_replay
from auditor.distributed.replay_files import Replay
from auditor.distributed.row_scores import read_row_scores
from auditor.distributed.sweep import sweep
from auditor.distributed.workers import run_on_workers
from auditor.errors import InputError, StageError
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader
from tests.distributed.builders import config, in_processes, ray_train_workers

SMALL = {"train": {"epochs": 2, "batch_size": 32, "micro_batch_size": 8, "checkpoints": 3}}


@pytest.mark.ray
def test_two_ray_workers_leave_the_influence_that_one_process_finds(computed):
    with pytest.raises(StageError, match="train first"):
        run_on_workers(computed.untrained, RunFolder(computed.untrained.run), ["replay"])
    audit, run = computed.audit, computed.run
    found = Replay.read(run)
    assert found.drift == {"6": 0.0, "3": 0.0}
    alone = sweep(audit, run, torch.device("cpu"))
    influence = read_row_scores(run)["replay"]
    np.testing.assert_allclose(influence, alone.influence, rtol=1e-6, atol=1e-9 * np.abs(influence).max())
    assert found.predictability == pytest.approx(alone.predictability, rel=1e-6)
    assert not [name for name in run.names("", hidden=True) if name.startswith(".")]

    # What is there is left alone: nothing is swept again.
    before = (run.local / "replay/influence.parquet").stat().st_mtime_ns
    run_on_workers(audit, run, ["replay"])
    assert (run.local / "replay/influence.parquet").stat().st_mtime_ns == before


CNN = {"widths": [8]}
TRAIN = {"epochs": 4, "batch_size": 32, "micro_batch_size": 8, "checkpoints": 5}


def _train_and_sweep(rank, audit, folder):
    run, cpu = RunFolder(audit.run), torch.device("cpu")
    assert run_training(audit, run, cpu) is None
    found = sweep(audit, run, cpu)
    shorter = {f"replay@{horizon:g}": influence for horizon, influence in found.shorter.items()}
    np.savez(f"{folder}/{rank}.npz", **{"replay": found.influence, **shorter})


def _kill_one_worker_in_the_middle(sweeps, killed):
    while (first_step := sweeps.first_step()) > 12:
        time.sleep(0.01)
    workers = ray_train_workers()
    os.kill(workers[-1].pid, signal.SIGKILL)
    killed.append((first_step, {worker.pid for worker in workers}))


@pytest.mark.ray
def test_a_killed_worker_changes_no_bit_and_no_finished_segment_is_swept_again(tmp_path, ray_cluster, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    passes = tmp_path / "passes"
    run = RunFolder(tmp_path / "run")
    counted = {
        "name": "tests.distributed.builders:counted_cnn",
        "args": {**CNN, "seconds": 0.01, "passes": str(passes)},
    }
    plain = config(run, train=TRAIN, model={"name": "small_cnn", "args": CNN})
    prepare(plain, run)
    in_processes(_train_and_sweep, 2, plain, str(tmp_path))

    audit = config(run, train=TRAIN, model=counted, resources={"train_workers": 2})
    killed: list[tuple[int, set[int]]] = []
    sweeps = PartialSweeps(audit, run, TrajectoryReader(run).manifest)
    killer = threading.Thread(target=_kill_one_worker_in_the_middle, args=(sweeps, killed), daemon=True)
    killer.start()
    run_on_workers(audit, run, ["replay"])
    found = Replay.read(run)
    killer.join(timeout=10)

    [(first_step, workers)] = killed
    influence = read_row_scores(run)
    with np.load(tmp_path / "0.npz") as undisturbed:
        assert influence.keys() == set(undisturbed)
        for column in undisturbed:
            np.testing.assert_array_equal(influence[column], undisturbed[column])
    assert found.drift == {"24": 0.0, "18": 0.0, "12": 0.0, "6": 0.0}
    # A step is 4 micro-batches of two passes forward and two backward.
    later = [pid for pid in map(int, passes.read_text().split()) if pid not in workers]
    assert len(later) / 16 in range(6, first_step + 1, 6)
    assert not run.exists(PARTIAL)
    assert not [name for name in run.names("", hidden=True) if name.startswith(".")]


def test_running_statistics_are_refused_where_they_would_spoil_the_derivative(tmp_path):
    audit = config(tmp_path, evaluation={"statistics": "running"}, **SMALL)
    prepare(audit, RunFolder(tmp_path))
    with pytest.raises(InputError, match=r"evaluation\.statistics is running"):
        check_replay(audit, RunFolder(tmp_path))
    without = config(tmp_path, evaluation={"statistics": "running"}, model={"name": "mlp"}, **SMALL)
    check_replay(without, RunFolder(tmp_path))
    # Those of frozen layers follow no parameters.
    model = {"name": "small_cnn", "args": {"widths": [4, 4]}, "frozen": ["1.*", "5.*"]}
    check_replay(config(tmp_path, evaluation={"statistics": "running"}, model=model, **SMALL), RunFolder(tmp_path))
