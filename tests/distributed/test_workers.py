from __future__ import annotations

import pytest

from auditor.data import prepare
from auditor.distributed.replay_files import Replay
from auditor.distributed.workers import run_on_workers
from auditor.storage import RunFolder
from auditor.trajectory import Manifest
from tests.distributed.builders import config

pytestmark = pytest.mark.ray


def test_tasks_share_one_start_of_the_workers_and_each_end_is_told_in_order(tmp_path, ray_cluster):
    passes = tmp_path / "passes"
    audit = config(
        tmp_path / "run",
        model={
            "name": "tests.distributed.builders:counted_cnn",
            "args": {"widths": [8], "seconds": 0, "passes": str(passes)},
        },
        train={"epochs": 2, "batch_size": 32, "micro_batch_size": 8, "checkpoints": 3},
        resources={"train_workers": 2},
    )
    run = RunFolder(audit.run)
    prepare(audit, run)
    told = []
    run_on_workers(audit, run, ["gif_step", "replay", "train"], lambda task, seconds: told.append((task, seconds)))
    assert [task for task, _ in told] == ["train", "replay", "gif_step"]
    assert all(seconds >= 0 for _, seconds in told)
    assert told[0][1] >= Manifest.read(run).seconds
    assert Replay.read(run).drift == {"12": 0.0, "6": 0.0}
    assert run.exists("gif_step/influence.parquet")
    assert len(set(passes.read_text().split())) == 2
    assert not [name for name in run.names("", hidden=True) if name.startswith(".")]
