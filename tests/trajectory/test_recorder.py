from __future__ import annotations

import os
import socket

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from auditor.errors import InputError
from auditor.sam import State
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader, TrajectoryRecorder
from auditor.trajectory.checkpoint import load_checkpoint, save_checkpoint
from auditor.trajectory.recorder import BATCH_SCHEMA, SIGNAL_SCHEMA
from tests.trajectory.builders import manifest, record, state


def ledger(run):
    return pa.concat_tables(TrajectoryReader(run).batches())


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.parquet")}


def test_every_step_and_micro_batch_is_in_the_ledger_exactly_once(tmp_path):
    plan = manifest()
    record(RunFolder(tmp_path), plan)
    table = ledger(RunFolder(tmp_path))
    assert table.schema.remove_metadata() == BATCH_SCHEMA
    expected = [(step, index) for step in range(plan.steps) for index in range(plan.micro_batches)]
    assert list(zip(table["step"].to_pylist(), table["micro_batch"].to_pylist(), strict=True)) == expected


def test_signals_have_one_row_a_sample_and_epoch(tmp_path):
    plan = manifest()
    record(RunFolder(tmp_path), plan)
    table = pa.concat_tables(TrajectoryReader(RunFolder(tmp_path)).signals())
    assert table.schema.remove_metadata() == SIGNAL_SCHEMA
    pairs = set(zip(table["epoch"].to_pylist(), table["sample"].to_pylist(), strict=True))
    assert len(pairs) == table.num_rows == plan.steps * plan.batch_size


@pytest.mark.parametrize("crash_at", [1, 3, 4, 6, 7])
def test_ledger_after_a_crash_equals_that_of_a_run_that_was_never_interrupted(tmp_path, crash_at):
    plan = manifest()
    record(RunFolder(tmp_path / "whole"), plan)
    broken = RunFolder(tmp_path / "broken")
    record(broken, plan, until=crash_at)
    # What a dying worker leaves behind: a half-written checkpoint and a segment no manifest names.
    (tmp_path / "broken/trajectory/checkpoints/.step-00000008").mkdir()
    broken.write_table("trajectory/batches/steps-00000004-00000008-rank-0007.parquet", BATCH_SCHEMA.empty_table())
    record(broken, plan)
    assert files(tmp_path / "broken") == files(tmp_path / "whole")
    assert not list((tmp_path / "broken/trajectory").rglob(".step*"))
    assert ledger(broken).equals(ledger(RunFolder(tmp_path / "whole")))


def test_manifest_never_names_what_is_not_complete(tmp_path):
    plan = manifest(checkpoints=3)
    run = RunFolder(tmp_path)
    recorder = record(run, plan, until=5)
    assert recorder.next_step == 4
    assert [segment.end_step for segment in recorder.manifest.segments] == [4]
    assert recorder.manifest.status == "running"


def test_another_training_in_the_same_folder_is_refused(tmp_path):
    record(RunFolder(tmp_path), manifest(), until=3)
    with pytest.raises(InputError, match="another training"):
        TrajectoryRecorder(RunFolder(tmp_path), manifest(seed=4))


SGD = {"momentum": 0.9, "weight_decay": 0.0, "nesterov": False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": SGD}, "the manifest's optimizer has no 'name'"),
        ({"optimizer": {"name": "sgd", "momentum": 0.9}}, "the manifest's optimizer has no 'weight_decay'"),
        ({"optimizer": {"name": "adamw"}}, "the manifest's optimizer has no 'beta1'"),
        ({"optimizer": {"name": "lion", **SGD}}, "the manifest's optimizer: optimizer 'lion' is not one of sgd, adamw"),
        ({"perturbation": {"name": "sam", "rho": 0.1, "q": 2}}, "the manifest's perturbation: .* 'q'"),
        ({"perturbation": {"name": "sam"}}, "the manifest's perturbation: .* 'rho'"),
    ],
)
def test_settings_that_nothing_could_be_computed_with_are_refused_before_training(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        TrajectoryRecorder(RunFolder(tmp_path), manifest(**changes))
    assert not list(tmp_path.iterdir())


def _one(recorder, step, index):
    recorder.record(
        step=step,
        epoch=0,
        micro_batch=index,
        samples=[0, 1],
        learning_rate=0.1,
        rho=0.05,
        grad_norm=1.0,
        loss=2.0,
    )


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        ([(0, 0), (0, 1), (1, 1)], "micro-batch 0 of step 1 was recorded never"),
        ([(0, 0), (0, 0), (0, 1), (1, 0), (1, 1)], "micro-batch 0 of step 0 was recorded twice"),
        ([(0, 0), (0, 1)], "2 micro-batches were recorded from step 0 to 2, 4 were expected"),
    ],
)
def test_a_ledger_with_holes_or_doubles_is_refused(tmp_path, recorded, message):
    recorder = TrajectoryRecorder(RunFolder(tmp_path), manifest(checkpoint_steps=(0, 2, 8)))
    recorder.checkpoint(0, state(0))
    for step, index in recorded:
        _one(recorder, step, index)
    with pytest.raises(InputError, match=message):
        recorder.checkpoint(2, state(2))


def test_checkpoints_come_in_their_planned_order(tmp_path):
    recorder = TrajectoryRecorder(RunFolder(tmp_path), manifest())
    with pytest.raises(InputError, match="checkpoint of step 4 was recorded, the next planned one is step 0"):
        recorder.checkpoint(4, state(4))


def test_tensors_of_any_layout_are_saved(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    odd = State({"a": shared.T, "b": shared}, {"a": shared.T, "b": shared}, {"c": shared[:, 1]})
    save_checkpoint(RunFolder(tmp_path), 0, odd)
    found = load_checkpoint(RunFolder(tmp_path), 0)
    assert torch.equal(found.parameters["a"], shared.T)
    assert torch.equal(found.buffers["c"], shared[:, 1])


def test_a_restored_state_is_the_state_that_was_saved(tmp_path):
    run = RunFolder(tmp_path)
    save_checkpoint(run, 5, state(5))
    found = load_checkpoint(run, 5)
    for part in ("parameters", "momentum", "buffers"):
        expected = getattr(state(5), part)
        assert getattr(found, part).keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(getattr(found, part)[name], value)
            assert getattr(found, part)[name].dtype == value.dtype


def test_checkpoints_hold_no_pickle(tmp_path):
    save_checkpoint(RunFolder(tmp_path), 0, state(0))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors"}


def test_ledger_stays_under_eight_bytes_a_sample_and_epoch(tmp_path):
    plan = manifest(rows=4096, epochs=4, batch_size=128, micro_batch_size=64, checkpoints=10)
    record(RunFolder(tmp_path), plan, signals=False)
    size = sum(path.stat().st_size for path in (tmp_path / "trajectory/batches").iterdir())
    assert size / (plan.steps * plan.batch_size) < 8


def _rank(rank, world_size, port, path):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    plan = manifest()
    recorder = TrajectoryRecorder(RunFolder(path), plan)
    recorder.restore()
    recorder.checkpoint(0, state(0))
    for step in range(plan.steps):
        rows = np.arange(2) + 2 * rank
        recorder.record(
            step=step, epoch=0, micro_batch=rank, samples=rows, learning_rate=0.1, rho=0.05, grad_norm=1.0, loss=2.0
        )
        if step + 1 in plan.checkpoint_steps:
            recorder.checkpoint(step + 1, state(step + 1))
    dist.destroy_process_group()


def test_each_rank_writes_its_own_shard_and_ledger_and_no_tensor_twice(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_rank, (2, port, str(tmp_path)), nprocs=2)
    run = RunFolder(tmp_path)
    shards = sorted((tmp_path / "trajectory/checkpoints/step-00000008").iterdir())
    assert len(shards) == 2
    from safetensors import safe_open

    names = []
    for shard in shards:
        with safe_open(shard, "pt") as opened:
            names += list(opened.keys())
    assert len(names) == len(set(names)) == 6
    assert torch.equal(load_checkpoint(run, 8).parameters["w"], state(8).parameters["w"])
    table = ledger(run)
    assert table["rank"].to_pylist() == [0, 1] * 8
    assert table["samples"].to_pylist()[:2] == [[0, 1], [2, 3]]
