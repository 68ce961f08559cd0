from __future__ import annotations

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from auditor.audit import Audit
from auditor.data import prepare
from auditor.reuse import reuse_training, row_changes
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader
from auditor.trajectory.initial import read_initial
from tests.distributed.builders import config, equal_states, train_here

SMALL = {"epochs": 1, "batch_size": 50, "micro_batch_size": 50, "checkpoints": 2}


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    audit = config(tmp_path_factory.mktemp("before"), train=SMALL)
    run = train_here(audit)
    run.write_bytes("config.yaml", yaml.safe_dump(audit.model_dump(mode="json")).encode())
    return run


def after(tmp_path, **changes):
    audit = config(tmp_path / "after", **{"train": SMALL, **changes})
    run = RunFolder(audit.run)
    prepare(audit, run)
    return audit, run


def test_the_training_of_the_same_rows_and_settings_is_taken_over_whole(before, tmp_path):
    audit, run = after(
        tmp_path, resources={"train_workers": 2}, score={"methods": ["loss"]}, report={"rank_by": "loss"}
    )
    assert row_changes(before, run).sentence == "the same samples with the same labels"
    assert reuse_training(audit, before, run)
    old, new = TrajectoryReader(before), TrajectoryReader(run)
    assert new.manifest == old.manifest
    assert equal_states(old.state(4), new.state(4))
    assert not [name for name in run.names("", hidden=True) if name.startswith(".")]


@pytest.mark.parametrize(
    "changes",
    [{"train": {**SMALL, "epochs": 2}}, {"seed": 1}, {"model": {"name": "mlp"}}, {"train": {**SMALL, "seed": 5}}],
)
def test_other_settings_are_trained_again(before, tmp_path, changes):
    audit, run = after(tmp_path, **changes)
    assert not reuse_training(audit, before, run)
    assert not run.exists("trajectory")


def rewritten(run, split, change):
    """Replace the rows of a split, which all are in one file."""
    (name,) = run.names(f"dataset/{split}")
    path = run.local / "dataset" / split / name
    table = pq.read_table(path)
    pq.write_table(change(table), path)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_one_other_pixel_or_one_row_less_is_trained_again(before, tmp_path, split):
    audit, run = after(tmp_path)
    shutil.copytree(run.local, tmp_path / "less")
    rewritten(
        run,
        split,
        lambda table: table.set_column(
            2, "image", pa.array([table["image"][1].as_py()] * len(table), table["image"].type)
        ),
    )
    assert not reuse_training(audit, before, run)
    less = RunFolder(tmp_path / "less")
    rewritten(less, split, lambda table: table.slice(0, len(table) - 1))
    assert not reuse_training(audit, before, less)


def test_images_in_files_are_never_known_to_be_the_same(before, tmp_path):
    audit, run = after(tmp_path)

    def named(table):
        images = [{"bytes": None, "path": f"{row}.png"} for row in range(len(table))]
        return table.set_column(2, "image", pa.array(images, table["image"].type))

    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(before.local, copy.local, dirs_exist_ok=True)
    for folder in (copy, run):
        rewritten(folder, "train", named)
    assert not reuse_training(audit, copy, run)


def test_rows_are_counted_by_what_became_of_them(before, tmp_path):
    _, run = after(tmp_path)

    def changed(table):
        labels = table["label"].to_pylist()
        labels[0] = (labels[0] + 1) % 10
        ids = table["sample_id"].to_pylist()
        ids[3] = "new"
        table = table.set_column(table.column_names.index("label"), "label", pa.array(labels, pa.int32()))
        return table.set_column(1, "sample_id", pa.array(ids)).slice(0, len(table) - 2)

    rewritten(run, "train", changed)
    assert row_changes(before, run).sentence == "1 samples added, 3 gone, 1 with another label"


@pytest.mark.ray
def test_a_weekly_audit_of_the_same_rows_says_so_and_takes_the_training_over(tmp_path, caplog):
    mlflow = {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "experiment": "weekly"}
    model = {"name": "small_cnn", "args": {"widths": [8]}, "weights": "predecessor", "frozen": ["0.*", "1.*"]}
    settings = {
        "model": model,
        "train": {**SMALL, "reuse": True},
        "score": {"methods": ["gif", "loss"]},
        "mlflow": mlflow,
    }
    first, second = (Audit(config(tmp_path / week, **settings)) for week in ("week-1", "week-2"))
    first.run()
    with caplog.at_level("INFO", logger="auditor"):
        second.run()
    said = [record.getMessage() for record in caplog.records]
    assert f"data: since {tmp_path}/week-1 the same samples with the same labels" in said
    assert f"train: rows and settings are those of {tmp_path}/week-1, whose training is taken over" in said
    # What the first one started from comes along; no training is put on top of it.
    assert not [sentence for sentence in said if "starts from" in sentence]
    assert read_initial(first.folder) == read_initial(second.folder)
    assert read_initial(first.folder).source is None
    found = TrajectoryReader(first.folder)
    still = {name: found.state(0).buffers[name] for name in ("0.weight", "1.weight", "1.running_mean")}
    assert all(torch.equal(found.state(4).buffers[name], value) for name, value in still.items())
    left, right = (
        RunFolder(tmp_path / week).read_table("scores").sort_by("sample_id") for week in ("week-1", "week-2")
    )
    assert left.equals(right)
