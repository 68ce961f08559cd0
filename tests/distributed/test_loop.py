from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

from auditor.data import prepare
from auditor.distributed.loop import run_training, training_manifest
from auditor.errors import InputError
from auditor.storage import RunFolder
from auditor.trajectory import Manifest, TrajectoryReader
from tests.distributed.builders import config, equal_states, train_in_processes

CPU = torch.device("cpu")


def trained(path, world_size=1, **changes):
    audit = config(path, **changes)
    run = RunFolder(path)
    prepare(audit, run)
    if world_size == 1:
        assert run_training(audit, run, CPU) is None
    else:
        train_in_processes(audit, world_size)
    return TrajectoryReader(run)


def ledger(reader):
    return pa.concat_tables(reader.batches())


def signals(reader):
    return pa.concat_tables(reader.signals()).sort_by([("epoch", "ascending"), ("sample", "ascending")])


@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_workers_trains_the_same_model_and_writes_the_same_ledger(tmp_path, world_size):
    """m is a setting of the objective, BatchNorm and dropout included; 3 workers share 4 micro-batches unevenly."""
    changes = {"data": {**config(tmp_path).data.model_dump(mode="json"), "augmentation": {"crop_padding": 1}}}
    alone = trained(tmp_path / "one", **changes)
    together = trained(tmp_path / "many", world_size, **changes)
    first, second = alone.state(alone.manifest.steps), together.state(together.manifest.steps)
    for part in ("parameters", "momentum", "buffers"):
        for name, value in getattr(first, part).items():
            torch.testing.assert_close(getattr(second, part)[name], value, rtol=1e-4, atol=1e-5)
    one, many = ledger(alone), ledger(together)
    assert set(many["rank"].to_pylist()) == set(range(world_size))
    for exact in ("step", "epoch", "micro_batch", "samples", "lr", "rho"):
        assert one[exact].equals(many[exact])
    for rounded in ("grad_norm", "loss"):
        np.testing.assert_allclose(one[rounded].to_numpy(), many[rounded].to_numpy(), rtol=1e-3)
    np.testing.assert_allclose(signals(alone)["margin"].to_numpy(), signals(together)["margin"].to_numpy(), atol=1e-3)


def test_equal_configurations_train_bit_for_bit_the_same(tmp_path):
    first, second = trained(tmp_path / "a", 2), trained(tmp_path / "b", 2)
    assert equal_states(first.state(first.manifest.steps), second.state(second.manifest.steps))
    assert ledger(first).equals(ledger(second))
    assert signals(first).equals(signals(second))


def test_another_seed_of_training_is_another_training_on_the_same_splits_and_labels(tmp_path):
    train = config(tmp_path).train.model_dump(mode="json")
    augmented = {"data": {**config(tmp_path).data.model_dump(mode="json"), "augmentation": {"crop_padding": 1}}}
    first = trained(tmp_path / "a", **augmented)
    same = trained(tmp_path / "b", train={**train, "seed": 0}, **augmented)
    other = trained(tmp_path / "c", train={**train, "seed": 7}, **augmented)
    assert equal_states(first.state(18), same.state(18))
    assert not equal_states(first.state(0), other.state(0))
    assert ledger(first)["samples"] != ledger(other)["samples"]
    datasets = [RunFolder(tmp_path / name).read_json("dataset.json") for name in "ac"]
    assert datasets[0] == datasets[1]


def test_training_goes_on_from_the_last_checkpoint_on_another_number_of_workers(tmp_path):
    whole = trained(tmp_path / "whole")
    audit = config(tmp_path / "part")
    run = RunFolder(tmp_path / "part")
    prepare(audit, run)

    class StopError(Exception):
        pass

    def until(step):
        if step == 10:
            raise StopError

    with pytest.raises(StopError):
        run_training(audit, run, CPU, until)
    done = Manifest.read(run)
    assert done.checkpoints == (0, 6)
    assert done.status == "running"
    train_in_processes(audit, 2)
    after = TrajectoryReader(run)
    assert (
        ledger(after)
        .drop_columns(["rank", "loss", "grad_norm"])
        .equals(ledger(whole).drop_columns(["rank", "loss", "grad_norm"]))
    )
    torch.testing.assert_close(after.state(18).parameters, whole.state(18).parameters, rtol=1e-4, atol=1e-5)


def test_training_learns(tmp_path):
    train = {"epochs": 30, "batch_size": 32, "micro_batch_size": 16, "checkpoints": 2}
    reader = trained(tmp_path, train=train, model={"name": "mlp"})
    losses = ledger(reader)["loss"].to_numpy()
    assert losses[-10:].mean() < 0.5 * losses[:10].mean()


def test_a_loss_that_is_not_finite_stops_every_worker_with_the_step(tmp_path):
    wild = {"train": {"epochs": 3, "batch_size": 32, "micro_batch_size": 8, "optimizer": {"learning_rate": 1e12}}}
    audit = config(tmp_path, model={"name": "small_cnn", "args": {"widths": [8], "norm": "none"}}, **wild)
    run = RunFolder(tmp_path)
    prepare(audit, run)
    failure = run_training(audit, run, CPU)
    assert "training stopped at step" in failure
    assert Manifest.read(run).status == "running"


def test_one_epoch_that_would_leave_rows_out_is_refused(tmp_path):
    audit = config(tmp_path, train={"epochs": 1, "batch_size": 32, "micro_batch_size": 8})
    dataset = prepare(audit, RunFolder(tmp_path))
    with pytest.raises(InputError, match=r"train\.epochs is 1.*8 of them would never be used"):
        training_manifest(audit, dataset)


def test_checkpoints_are_as_many_as_asked_for_the_initial_state_among_them(tmp_path):
    reader = trained(tmp_path)
    assert reader.manifest.checkpoints == (0, 6, 12, 18)
    assert not equal_states(reader.state(0), reader.state(6))
    assert dataclasses.asdict(reader.manifest)["steps"] == 18
