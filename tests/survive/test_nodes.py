"""A whole node is lost while its workers compute: nothing of the result is."""

from __future__ import annotations

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch

from auditor.data import prepare
from auditor.distributed.partial_sweep import PartialSweeps
from auditor.distributed.row_scores import read_row_scores
from auditor.distributed.score import score_on_ray
from auditor.distributed.tasks import TASKS
from auditor.distributed.workers import run_on_workers
from auditor.storage import RunFolder
from auditor.trajectory import Manifest, TrajectoryReader
from tests.distributed.builders import config, equal_states, in_processes

pytestmark = pytest.mark.ray

CNN = {"widths": [8]}
SLOW = {"name": "tests.distributed.builders:slow_cnn", "args": {**CNN, "seconds": 0.02}}
SETTINGS = {
    "train": {"epochs": 10, "batch_size": 32, "micro_batch_size": 8, "checkpoints": 9},
    "score": {"methods": ["replay", "gif", "loss"], "batch_size": 8},
    "resources": {"train_workers": 2, "score_actors": 2},
}


def audit(run, model=None):
    return config(run, **{**SETTINGS, "model": model or {"name": "small_cnn", "args": CNN}})


def _train_and_replay(rank, plain):
    for task in ("train", "replay"):
        assert TASKS[task].work(plain, RunFolder(plain.run), torch.device("cpu"), lambda _: None) is None


@pytest.fixture(scope="module")
def undisturbed(nodes, tmp_path_factory):
    """Trained and swept by as many processes that nobody looks after."""
    plain = audit(tmp_path_factory.mktemp("undisturbed"))
    run = RunFolder(plain.run)
    prepare(plain, run)
    in_processes(_train_and_replay, 2, plain)
    score_on_ray(plain, run)
    return run


@pytest.fixture(scope="module")
def disturbed(nodes, undisturbed, tmp_path_factory):
    """The same audit by a network that takes its time; the tests take it one stage further each."""
    slow = audit(tmp_path_factory.mktemp("disturbed"), SLOW)
    run = RunFolder(slow.run)
    prepare(slow, run)
    return slow, run


def test_a_node_lost_in_training_leaves_no_trace_in_weights_or_ledger(nodes, undisturbed, disturbed):
    slow, run = disturbed
    half = lambda: (found := Manifest.read(run)) is not None and len(found.checkpoints) >= 4  # noqa: E731
    loss = nodes.lose_one_with("RayTrainWorker", half)
    run_on_workers(slow, run, ["train"])
    loss.join(timeout=60)
    assert nodes.lost
    assert not any(map(psutil.pid_exists, nodes.lost))
    before, after = TrajectoryReader(undisturbed), TrajectoryReader(run)
    assert after.manifest.complete
    for checkpoint in after.manifest.checkpoints:
        assert equal_states(before.state(checkpoint), after.state(checkpoint))
    assert pa.concat_tables(after.batches()).equals(pa.concat_tables(before.batches()))


def test_a_node_lost_in_replay_changes_no_bit(nodes, undisturbed, disturbed):
    slow, run = disturbed
    steps = TrajectoryReader(run).manifest.steps
    sweeps = PartialSweeps(slow, run, TrajectoryReader(run).manifest)
    loss = nodes.lose_one_with("RayTrainWorker", lambda: sweeps.first_step() <= steps // 2)
    run_on_workers(slow, run, ["replay"])
    loss.join(timeout=60)
    assert nodes.lost
    expected, found = read_row_scores(undisturbed), read_row_scores(run)
    assert found.keys() == expected.keys()
    for column, values in expected.items():
        np.testing.assert_array_equal(found[column], values)


def test_a_node_lost_in_scoring_costs_no_sample_and_doubles_none(nodes, undisturbed, disturbed):
    slow, run = disturbed
    loss = nodes.lose_one_with("MapWorker", lambda: bool(run.names(".scores")))
    rows = score_on_ray(slow, run)
    loss.join(timeout=60)
    assert nodes.lost
    before, after = (folder.read_table("scores").sort_by("sample_id") for folder in (undisturbed, run))
    assert after.num_rows == len(set(after["sample_id"].to_pylist())) == rows
    assert after["sample_id"].equals(before["sample_id"])
    for column in ("replay", "gif", "loss"):
        np.testing.assert_allclose(after[column].to_numpy(), before[column].to_numpy(), rtol=1e-5, atol=1e-9)
