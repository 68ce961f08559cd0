from __future__ import annotations

import os
import signal
import threading
import time

import psutil
import pyarrow as pa
import pytest

from auditor.data import prepare
from auditor.distributed.workers import run_on_workers
from auditor.errors import InputError
from auditor.storage import RunFolder
from auditor.trajectory import Manifest, TrajectoryReader
from tests.distributed.builders import config, equal_states, ray_train_workers, train_in_processes

pytestmark = pytest.mark.ray

TRAIN = {"epochs": 40, "batch_size": 32, "micro_batch_size": 8, "checkpoints": 9}
RESOURCES = {"train_workers": 2}


def kill_one_worker_when_half_done(run, killed):
    while (manifest := Manifest.read(run)) is None or len(manifest.checkpoints) < 4:
        time.sleep(0.02)
    victim = ray_train_workers()[-1]
    os.kill(victim.pid, signal.SIGKILL)
    killed.append((victim.pid, manifest.checkpoints[-1]))


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_a_killed_worker_leaves_no_trace_in_weights_or_ledger(sharded, tmp_path, ray_cluster, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    settings = {"train": TRAIN, "resources": {**RESOURCES, "sharded": sharded}}
    whole = config(tmp_path / "whole", **settings)
    prepare(whole, RunFolder(whole.run))
    train_in_processes(whole, 2)

    disturbed = config(tmp_path / "disturbed", **settings)
    run = RunFolder(disturbed.run)
    prepare(disturbed, run)
    killed: list[tuple[int, int]] = []
    killer = threading.Thread(target=kill_one_worker_when_half_done, args=(run, killed), daemon=True)
    killer.start()
    run_on_workers(disturbed, run, ["train"])
    manifest = Manifest.read(run)
    killer.join(timeout=10)

    [(pid, step)] = killed
    assert not psutil.pid_exists(pid)
    assert 0 < step < manifest.steps
    assert manifest.complete
    before, after = TrajectoryReader(RunFolder(whole.run)), TrajectoryReader(run)
    for checkpoint in manifest.checkpoints:
        assert equal_states(before.state(checkpoint), after.state(checkpoint))
    assert pa.concat_tables(after.batches()).equals(pa.concat_tables(before.batches()))
    assert not [name for name in run.names("trajectory", hidden=True) if name.startswith(".")]

    # The folder is complete: a second call has nothing to do, and another training is refused.
    run_on_workers(disturbed, run, ["train"])
    assert Manifest.read(run) == manifest
    with pytest.raises(InputError, match="another training"):
        run_on_workers(config(run, **{**settings, "train": {**TRAIN, "epochs": 41}}), run, ["train"])
