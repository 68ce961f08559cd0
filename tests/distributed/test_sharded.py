"""Training with sharded parameters in real process groups, held against whole parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from auditor.config import _OF_THE_WHOLE, parse_config
from auditor.data import prepare
from auditor.distributed.division import divide
from auditor.distributed.loop import run_training
from auditor.distributed.scoring_inputs import prepare_scoring
from auditor.distributed.sweep import sweep
from auditor.errors import InputError
from auditor.model_check import check_model
from auditor.sam import VARIANTS
from auditor.sam.sharded import blocks, why_not_sharded
from auditor.storage import RunFolder
from auditor.trajectory import Manifest, TrajectoryReader
from tests.distributed.builders import config, equal_states, in_processes, train_here

CPU = torch.device("cpu")
TRAIN = {"epochs": 3, "batch_size": 16, "micro_batch_size": 8, "checkpoints": 4, "precision": "float64"}
CHANGES = {
    "data": {
        "source": {"kind": "digits"},
        "limit": {"train": 50, "validation": 30, "test": 20},
        "label_noise": 0.1,
        "augmentation": {"crop_padding": 1},
    },
    "model": {"name": "mlp", "args": {"hidden": [7, 5]}},
    "resources": {"train_workers": 2},
}
KINDS = {
    "sam": {},
    "three-workers": {},
    "gsam-nesterov": {"perturbation": {"name": "gsam"}, "optimizer": {"nesterov": True}},
    "asam": {"perturbation": {"name": "asam"}},
    "adamw-friendly-sam": {
        "perturbation": {"name": "friendly_sam"},
        "optimizer": {"name": "adamw", "learning_rate": 0.01},
    },
    "look-sam": {"perturbation": {"name": "look_sam", "period": 3}},
    "momentum-sam": {"perturbation": {"name": "momentum_sam"}},
    "obf": {"perturbation": {"name": "obf"}},
    "p-3": {"perturbation": {"name": "sam", "p": 3.0}},
    "batch-norm": {"model": "batch-norm"},
    "frozen-batch-norm": {"model": "frozen-batch-norm"},
}


MODELS = {
    "batch-norm": {"model": {"name": "small_cnn", "args": {"widths": [4, 6]}}},
    "frozen-batch-norm": {"model": {"name": "small_cnn", "args": {"widths": [4, 6]}, "frozen": ["1.*"]}},
}


def audit_of(path, sharded, model=None, **train):
    resources = {**CHANGES["resources"], "sharded": sharded}
    return config(path, **{**CHANGES, **MODELS.get(model, {}), "resources": resources, "train": {**TRAIN, **train}})


def _train(rank, audit):
    torch.set_num_threads(1)
    failure = run_training(audit, RunFolder(audit.run), CPU)
    assert failure is None, failure


def trained_by(workers, audit):
    prepare(audit, RunFolder(audit.run))
    in_processes(_train, workers, audit)
    return RunFolder(audit.run)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    audit = audit_of(tmp_path_factory.mktemp("sharded") / "run", True)
    trained_by(2, audit)
    return audit


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    audit = audit_of(tmp_path_factory.mktemp("whole") / "run", False)
    train_here(audit)
    return audit


def assert_same_training(one, other):
    mine, theirs = TrajectoryReader(one), TrajectoryReader(other)
    for step in theirs.manifest.checkpoints:
        state = mine.state(step)
        for part, tensors in theirs.state(step).parts():
            for name, value in tensors.items():
                torch.testing.assert_close(getattr(state, part)[name], value, rtol=1e-9, atol=1e-11)
    ledgers = [pa.concat_tables(reader.batches()).drop_columns(["rank"]) for reader in (mine, theirs)]
    exact = ["step", "epoch", "micro_batch", "samples", "lr", "rho"]
    assert ledgers[0].select(exact) == ledgers[1].select(exact)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(ledgers[0][name].to_numpy(), ledgers[1][name].to_numpy(), rtol=1e-9)
    for name in ("loss", "margin", "loss_perturbed", "margin_perturbed"):
        np.testing.assert_allclose(mine.mean_signal(name), theirs.mean_signal(name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_is_that_of_whole_parameters_up_to_rounding(kind, tmp_path):
    alone = audit_of(tmp_path / "whole", False, **KINDS[kind])
    train_here(alone)
    workers = 3 if kind == "three-workers" else 2
    run = trained_by(workers, audit_of(tmp_path / "sharded", True, **KINDS[kind]))
    assert_same_training(run, RunFolder(alone.run))


def test_every_worker_writes_its_part_of_each_checkpoint_and_its_own_micro_batches(sharded):
    run = RunFolder(sharded.run)
    reader = TrajectoryReader(run)
    folder = Path(sharded.run) / "trajectory/checkpoints" / f"step-{reader.manifest.steps:08d}"
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    assert len(sizes) == 2
    assert max(sizes) < 1.5 * min(sizes)
    batches = pa.concat_tables(reader.batches())
    assert batches["rank"].to_pylist() == batches["micro_batch"].to_pylist()


def test_replay_and_gif_work_from_its_checkpoints(sharded, whole):
    influence = [sweep(audit, RunFolder(audit.run), CPU).influence for audit in (sharded, whole)]
    np.testing.assert_allclose(*influence, rtol=1e-6, atol=1e-10)
    inputs = [prepare_scoring(audit, RunFolder(audit.run), CPU) for audit in (sharded, whole)]
    np.testing.assert_allclose(inputs[0].weights["gif"], inputs[1].weights["gif"])
    for mine, theirs in zip(inputs[0].directions, inputs[1].directions, strict=True):
        for name, value in theirs.point.parameters.items():
            torch.testing.assert_close(mine.point.parameters[name], value, rtol=1e-8, atol=1e-10)


def test_a_training_cut_off_after_a_checkpoint_ends_bit_for_bit_as_one_that_was_not(sharded, tmp_path):
    audit = audit_of(tmp_path / "cut", True)
    prepare(audit, RunFolder(audit.run))
    with pytest.raises(Exception, match="cut off"):
        in_processes(_cut_off, 2, audit)
    run = RunFolder(audit.run)
    assert not Manifest.read(run).complete
    in_processes(_train, 2, audit)
    mine, theirs = TrajectoryReader(run), TrajectoryReader(RunFolder(sharded.run))
    assert equal_states(mine.state(mine.manifest.steps), theirs.state(theirs.manifest.steps))


def _cut_off(rank, audit):
    def stop(step):
        if step == 5:
            raise RuntimeError("cut off")

    torch.set_num_threads(1)
    run_training(audit, RunFolder(audit.run), CPU, stop)


def test_two_workers_hold_half_each_of_what_training_keeps(tmp_path):
    in_processes(_hold, 2, str(tmp_path))
    held = [int((tmp_path / str(rank)).read_text()) for rank in range(2)]
    parameters = sum(value.numel() for value in wide().parameters())
    assert parameters > 4_000_000
    assert sum(held) == parameters
    assert max(held) < 0.51 * parameters


def wide():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 10))


def _hold(rank, folder):
    division = divide(wide(), 2, 8, CPU, sharded=True)
    held = sum(value.to_local().numel() for value in division.network.parameters().values())
    (Path(folder) / str(rank)).write_text(str(held))


def test_large_modules_are_gathered_by_themselves_and_attention_as_a_whole():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(1024, 8)
            self.layers = nn.ModuleList([nn.Linear(1024, 1024), nn.Linear(10, 10)])

    model = Pair()
    assert blocks(model) == [model.layers[0]]
    sequence = wide()
    assert blocks(sequence) == [sequence[2]]


def test_networks_that_need_a_whole_micro_batch_are_refused_by_the_layers_name():
    class Own(nn.BatchNorm2d):
        pass

    assert why_not_sharded(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))) is None
    norm = nn.Sequential(nn.Conv2d(1, 4, 3), Own(4))
    assert "1 is Own, a BatchNorm of its own kind" in why_not_sharded(norm)
    for parameter in norm[1].parameters():
        parameter.requires_grad_(False)
    assert why_not_sharded(norm) is None
    assert "0 drops out" in why_not_sharded(nn.Sequential(nn.Dropout(0.1)))
    assert why_not_sharded(nn.Sequential(nn.Dropout(0.0), nn.MultiheadAttention(8, 2))) is None
    assert "0 drops out" in why_not_sharded(nn.Sequential(nn.MultiheadAttention(8, 2, dropout=0.1)))


def test_every_variant_is_tried_or_refused():
    tried = {kind.get("perturbation", {}).get("name", "sam") for kind in KINDS.values()}
    assert tried | set(_OF_THE_WHOLE) == set(VARIANTS)


def test_weights_that_are_tied_are_gathered_with_what_is_around_both():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.alone = (nn.Linear(1024, 1024) for _ in range(3))
            self.second.weight = self.first.weight

    model = Tied()
    assert blocks(model) == [model.alone]


class Hidden(nn.Module):
    """A layer whose doing in training no name tells."""

    def __init__(self, num_classes: int, what: str) -> None:
        super().__init__()
        self.linear, self.what = nn.Linear(64, num_classes), what

    def forward(self, inputs):
        logits = self.linear(inputs.flatten(1))
        if self.training and self.what == "random":
            return nn.functional.dropout(logits, 0.1)
        return logits - logits.mean(0) if self.training and self.what == "mixing" else logits


@pytest.mark.parametrize(
    ("what", "message"),
    [("random", "training draws random numbers"), ("mixing", "samples of a micro-batch act on each other"), ("", None)],
)
def test_what_only_a_trial_can_tell_is_refused_before_any_worker_starts(what, message):
    model = {"name": "tests.distributed.test_sharded:Hidden", "args": {"what": what}}
    audit = config("x", **{**CHANGES, "model": model, "resources": {"sharded": True}})
    if message is None:
        check_model(audit, (1, 8, 8), 10)
        return
    with pytest.raises(InputError, match=f"resources.sharded does not go with model.name 'tests.*': {message}"):
        check_model(audit, (1, 8, 8), 10)


def test_what_cannot_be_sharded_is_refused_before_training():
    model = {"name": "mlp", "args": {"hidden": [7], "dropout": 0.1}}
    audit = config("x", **{**CHANGES, "model": model, "resources": {"sharded": True}})
    with pytest.raises(InputError, match=r"resources\.sharded does not go with model\.name 'mlp': .* drops out"):
        check_model(audit, (64,), 10)
    raw = {"run": "x", "data": {"source": {"kind": "digits"}}}
    with pytest.raises(InputError, match=r"resources\.sharded does not go with train\.perturbation esam"):
        parse_config({**raw, "train": {"perturbation": {"name": "esam"}}, "resources": {"sharded": True}})
    with pytest.raises(InputError, match=r"the 4 workers of resources\.train_workers share out every micro-batch"):
        parse_config({**raw, "train": {"micro_batch_size": 2}, "resources": {"sharded": True, "train_workers": 4}})
