from __future__ import annotations

import shutil

import pytest
import torch

from auditor import Audit, Dataset, Samples, TrajectoryReader, TrajectoryRecorder, load_config, parse_config
from auditor.distributed.sweep import sweep
from auditor.model_check import check_model
from auditor.models import build_model
from docs.examples import own_loop as example
from tests.docs.conftest import DOCS


@pytest.mark.ray
def test_own_loop_ends_with_a_report(own_loop):
    run, said = own_loop
    ranked = run.read_table("report/ranked.parquet")
    assert ranked.num_rows == 192
    assert ranked["harm"].to_pylist() == sorted(ranked["harm"].to_pylist(), reverse=True)
    assert f"of 192 samples are flagged: {run}/report/report.html" in said
    assert run.exists("report/report.html")


@pytest.mark.ray
def test_own_loop_records_what_it_trains(own_loop):
    """Replay takes the recorded steps with the library's own SAM: any difference would be drift."""
    run, _ = own_loop
    found = sweep(load_config(run.full("config.yaml"), run=str(run)), run, torch.device("cpu"))
    assert not isinstance(found, str), found
    assert sorted(found.drift) == [6, 12, 18]
    assert max(found.drift.values()) < 1e-6
    assert found.influence.all()


@pytest.mark.ray
def test_own_loop_uses_every_row_once_an_epoch(own_loop):
    run, _ = own_loop
    reader = TrajectoryReader(run)
    for epoch in range(3):
        rows = sorted(row for step in range(6 * epoch, 6 * epoch + 6) for row in reader.step_samples(step).tolist())
        assert rows == list(range(192))


@pytest.mark.ray
def test_own_loop_goes_on_from_its_last_checkpoint(own_loop, tmp_path, monkeypatch):
    whole, _ = own_loop
    shutil.copytree(whole.full("dataset"), tmp_path / "dataset")
    shutil.copy(whole.full("dataset.json"), tmp_path)
    monkeypatch.setattr(example, "CONFIG", example.CONFIG.model_copy(update={"run": str(tmp_path)}))
    run = Audit(example.CONFIG).folder
    samples = Samples.load(run, "train", Dataset.load(run), cache_gib=1.0, dtype=torch.float32)

    class Stopped(TrajectoryRecorder):
        def record(self, **values):
            if values["step"] == 9:
                raise KeyboardInterrupt
            super().record(**values)

    def go(recorder):
        model = build_model("mlp", {"hidden": [32]}, (1, 8, 8), 10, example.CONFIG.seed)
        example.train(model, samples, recorder(run, example.describe_training(len(samples))))

    with pytest.raises(KeyboardInterrupt):
        go(Stopped)
    assert TrajectoryRecorder(run, example.describe_training(len(samples))).next_step == 6
    go(TrajectoryRecorder)
    resumed, undisturbed = (TrajectoryReader(folder).state(18) for folder in (run, whole))
    for part in ("parameters", "momentum"):
        for name, value in getattr(undisturbed, part).items():
            torch.testing.assert_close(getattr(resumed, part)[name], value, rtol=1e-5, atol=1e-6)


def test_own_model_can_be_audited():
    named = {"name": "docs.examples.own_model:patch_net", "args": {"width": 24}}
    raw = {"run": "unused", "data": {"source": {"kind": "digits"}}, "model": named}
    check_model(parse_config(raw), (1, 8, 8), 10)


def test_own_model_is_built_with_its_arguments():
    model = build_model("docs.examples.own_model:patch_net", {"width": 24, "depth": 3}, (3, 16, 16), 5, seed=1)
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 5)
    assert model.embed[0].out_channels == 24
    assert len(model.mix) == 3


@pytest.mark.parametrize("path", sorted((DOCS / "examples").rglob("*.yaml")), ids=lambda path: path.name)
def test_example_configurations_are_valid_and_write_where_git_ignores_it(path):
    assert load_config(path).run.startswith("runs/")
