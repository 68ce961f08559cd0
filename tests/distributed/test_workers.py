from __future__ import annotations

import pytest

from auditor.distributed.replay_files import Replay
from auditor.trajectory import Manifest

pytestmark = pytest.mark.ray


def test_tasks_share_one_start_of_the_workers_and_each_end_is_told_in_order(on_two_workers):
    run, told = on_two_workers.run, on_two_workers.told
    assert [task for task, _ in told] == ["train", "replay", "gif_step", "hif", "edit"]
    assert all(seconds >= 0 for _, seconds in told)
    assert told[0][1] >= Manifest.read(run).seconds
    assert Replay.read(run).drift == {"6": 0.0, "3": 0.0}
    assert run.exists("gif_step/influence.parquet")
    assert len(set(on_two_workers.passes)) == 2
    assert not [name for name in run.names("", hidden=True) if name.startswith(".")]
