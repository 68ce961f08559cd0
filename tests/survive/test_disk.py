"""A run folder's disk runs full and is made larger: what was done stays, and the same call ends the audit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pyarrow as pa
import pytest

from auditor.data import prepare
from auditor.distributed.cluster import cluster
from auditor.distributed.workers import run_on_workers
from auditor.errors import StageError
from auditor.storage import RunFolder
from auditor.trajectory import Manifest, TrajectoryReader
from tests.distributed.builders import config, equal_states, train_here

pytestmark = pytest.mark.ray
TRAIN = {"epochs": 20, "batch_size": 32, "micro_batch_size": 8, "checkpoints": 12}


def mounted(*arguments) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own that holds the snapshot and a few checkpoints."""
    folder = tmp_path / "small"
    folder.mkdir()
    if not mounted("-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)):
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_stops_training_in_a_sentence_and_room_lets_it_end_as_if_nothing_had_happened(
    small_disk: Path, tmp_path
):
    network = {"name": "small_cnn", "args": {"widths": [32, 32]}}
    whole = train_here(config(tmp_path / "whole", train=TRAIN, model=network))
    audit = config(small_disk / "run", train=TRAIN, model=network, resources={"max_failures": 0})
    run = RunFolder(audit.run)
    prepare(audit, run)
    with cluster(audit.resources):
        with pytest.raises(StageError, match=r"train gave up: .*No space left on device"):
            run_on_workers(audit, run, ["train"])
        left = Manifest.read(run)
        assert left is not None
        assert 0 < len(left.checkpoints) < len(left.checkpoint_steps)
        assert mounted("-o", "remount,size=64m", str(small_disk))
        run_on_workers(audit, run, ["train"])
    before, after = TrajectoryReader(whole), TrajectoryReader(run)
    for checkpoint in after.manifest.checkpoints:
        assert equal_states(before.state(checkpoint), after.state(checkpoint))
    assert pa.concat_tables(after.batches()).equals(pa.concat_tables(before.batches()))
    assert not [name for name in run.names("trajectory", hidden=True) if name.startswith(".")]
