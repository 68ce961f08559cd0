from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.data import prepare
from auditor.distributed.replay import check_replay, replay_on_ray
from auditor.distributed.replay_files import Replay
from auditor.distributed.row_scores import read_row_scores
from auditor.distributed.sweep import sweep
from auditor.errors import InputError, StageError
from auditor.storage import RunFolder
from tests.distributed.builders import config, train_in_processes

SMALL = {"train": {"epochs": 2, "batch_size": 32, "micro_batch_size": 8, "checkpoints": 3}}


@pytest.mark.ray
def test_two_ray_workers_leave_the_influence_that_one_process_finds(tmp_path, ray_cluster):
    audit = config(tmp_path, resources={"train_workers": 2}, **SMALL)
    run = RunFolder(tmp_path)
    prepare(audit, run)
    with pytest.raises(StageError, match="train first"):
        replay_on_ray(audit, run)
    train_in_processes(audit, 2)

    found = replay_on_ray(audit, run)
    assert found.drift == {"12": 0.0, "6": 0.0}
    assert Replay.read(run) == found
    alone = sweep(audit, run, torch.device("cpu"))
    influence = read_row_scores(run)["replay"]
    np.testing.assert_allclose(influence, alone.influence, rtol=1e-2, atol=1e-3 * np.abs(influence).max())
    assert found.predictability == pytest.approx(alone.predictability, rel=1e-3)
    assert not [name for name in run.names("", hidden=True) if name.startswith(".")]

    # What is there is left alone: nothing is swept again.
    before = (tmp_path / "replay/influence.parquet").stat().st_mtime_ns
    assert replay_on_ray(audit, run) == found
    assert (tmp_path / "replay/influence.parquet").stat().st_mtime_ns == before


def test_running_statistics_are_refused_where_they_would_spoil_the_derivative(tmp_path):
    audit = config(tmp_path, evaluation={"statistics": "running"}, **SMALL)
    prepare(audit, RunFolder(tmp_path))
    with pytest.raises(InputError, match=r"evaluation\.statistics is running"):
        check_replay(audit, RunFolder(tmp_path))
    without = config(tmp_path, evaluation={"statistics": "running"}, model={"name": "mlp"}, **SMALL)
    check_replay(without, RunFolder(tmp_path))
