from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient

from auditor.config import load_config
from auditor.data import prepare
from auditor.data.dataset import Dataset
from auditor.errors import InputError
from auditor.review.export import _next, export
from auditor.review.review import review
from auditor.storage import RunFolder
from tests.docs.pages import ROOT, tables
from tests.report.builders import png
from tests.review.builders import prepared

DIGITS = {"kind": "digits"}
LIMIT = {"train": 120, "validation": 20, "test": 20}


def decide(config, run, path, *rows):
    path.write_text("sample_id,verdict,new_label,comment,reviewer\n" + "".join(f"{','.join(row)}\n" for row in rows))
    return review(config, run, path)


def audited_again(folder, tmp_path):
    config = load_config(f"{folder}/audit.yaml", run=str(tmp_path / "next"))
    run = RunFolder(config.run)
    return config, prepare(config, run), run


@pytest.fixture
def digits(tmp_path, uri):
    config, run = prepared(tmp_path / "run", uri, DIGITS, limit=LIMIT, label_noise=0.1)
    first, second, third = run.read_table("report/ranked.parquet").slice(0, 3).to_pylist()
    new = str((int(second["label"]) + 3) % 10)
    rows = [(first["sample_id"], "remove", "", "blur", "ada"), (second["sample_id"], "relabel", new, "", "bob")]
    decide(config, run, tmp_path / "v.csv", *rows, (third["sample_id"], "keep", "", "", "ada"))
    return config, run, (first, second, third), new


def test_the_exported_rows_can_be_audited_again(digits, tmp_path):
    config, run, (first, second, third), new = digits
    done = export(config, run, str(tmp_path / "out"))
    assert (done.removed, done.relabelled, done.kept) == (1, 1, 1)
    assert done.rows == {"train": 119, "validation": 20, "test": 20}
    table = pq.read_table(tmp_path / "out" / "train.parquet")
    found = {line["sample_id"]: line for line in table.to_pylist()}
    assert first["sample_id"] not in found
    moved = found[second["sample_id"]]
    assert (moved["label"], moved["original_label"]) == (int(new), int(second["label"]))
    assert (moved["verdict"], moved["reviewer"]) == ("relabel", "bob")
    assert moved["audit_run"] == run.read_json("mlflow.json")["run_id"]
    assert found[third["sample_id"]]["verdict"] == "keep"
    assert sum(line["verdict"] is not None for line in found.values()) == 2
    before = Dataset.load(run)
    following, dataset, again = audited_again(tmp_path / "out", tmp_path)
    assert dataset.fingerprint == done.fingerprint != before.fingerprint
    assert (dataset.flipped, dataset.class_names, dataset.true_labels) == (0, before.class_names, True)
    assert {split: facts.rows for split, facts in dataset.splits.items()} == done.rows
    assert dataset.splits["train"].class_counts == tuple(count.after for count in done.classes.values())
    assert set(dataset.carried) == {"original_label", "audit_run", "verdict", "reviewer"}
    assert following.review.predecessor == run.uri
    old = {line["sample_id"]: line for line in run.read_table("dataset/train").to_pylist()}
    for line in again.read_table("dataset/train").to_pylist():
        assert line["image"] == old[line["sample_id"]]["image"]
        assert line["true_label"] == old[line["sample_id"]]["true_label"]


def test_mlflow_knows_where_an_export_came_from(digits, tmp_path):
    config, run, _, _ = digits
    done = export(config, run, str(tmp_path / "out"))
    logged = run.read_json("mlflow.json")
    client = MlflowClient(config.mlflow.tracking_uri)
    where = f"tags.`auditor.audit_run` = '{logged['run_id']}'"
    (made,) = client.search_runs([logged["experiment_id"]], where)
    assert made.info.status == "FINISHED"
    assert made.data.tags["mlflow.parentRunId"] == logged["run_id"]
    assert made.data.metrics == {"export.removed": 1, "export.relabelled": 1, "export.kept": 1, "export.rows": 119}
    inputs = {
        {tag.key: tag.value for tag in item.tags}["mlflow.data.context"]: item.dataset
        for item in made.inputs.dataset_inputs
    }
    assert inputs["training"].digest == Dataset.load(run).fingerprint[:36]
    assert inputs["export"].digest == done.fingerprint[:36]
    assert json.loads(inputs["export"].source) == {"uri": str(tmp_path / "out")}
    assert client.get_run(logged["run_id"]).data.tags["auditor.exported_to"] == str(tmp_path / "out")
    record = RunFolder(tmp_path / "out").read_json("export.json")
    assert record["audit_run"] == logged["run_id"]
    assert record["audited"] == Dataset.load(run).fingerprint
    assert {"format_version", *tables(ROOT / "docs" / "formats.md")["export.json"]} == set(record)


def test_a_dry_run_counts_and_writes_nothing(digits, tmp_path):
    config, run, (first, second, _), new = digits
    planned = export(config, run, None)
    assert (planned.folder, planned.fingerprint) == (None, None)
    assert planned.classes[first["label"]].removed == 1
    assert planned.classes[second["label"]].lost == planned.classes[new].gained == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "v.csv"]
    done = export(config, run, str(tmp_path / "out"))
    assert (done.classes, done.rows) == (planned.classes, planned.rows)


def test_an_export_is_written_over_an_earlier_one_alone(digits, tmp_path):
    config, run, _, _ = digits
    out = tmp_path / "out"
    export(config, run, str(out))
    (out / "train.parquet").write_bytes(b"old")
    export(config, run, f"{out}/")
    assert pq.read_metadata(out / "train.parquet").num_rows == 119
    assert sorted(path.name for path in out.iterdir()) == [
        "audit.yaml",
        "export.json",
        "test.parquet",
        "train.parquet",
        "validation.parquet",
    ]
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"--to .*other: is not empty and holds no earlier export"):
        export(config, run, str(other))
    following = load_config(f"{out}/audit.yaml", run=str(run))
    with pytest.raises(InputError, match=r"--to .*out: holds the rows of this very audit"):
        export(following, run, str(out))


@pytest.mark.parametrize("left", [{".export"}, {".export", "train.parquet"}, {".export", "export.json"}])
def test_an_export_that_was_killed_leaves_its_folder_to_the_next_one(digits, tmp_path, left):
    """What a kill leaves between any two of its moves: the mark alone, rows without a record, or both marks."""
    config, run, _, _ = digits
    out = tmp_path / "out"
    (out / ".export").mkdir(parents=True)
    (out / ".export" / "stale.csv").write_text("old")
    for name in left - {".export"}:
        (out / name).write_text("{}")
    export(config, run, str(out))
    assert sorted(path.name for path in out.iterdir()) == [
        "audit.yaml",
        "export.json",
        "test.parquet",
        "train.parquet",
        "validation.parquet",
    ]


@pytest.mark.parametrize("broken", ["write_json", "write_bytes", "replace"])
def test_at_no_moment_is_an_exports_folder_without_a_mark(digits, tmp_path, monkeypatch, broken):
    config, run, _, _ = digits
    out = tmp_path / "out"
    export(config, run, str(out))
    original = getattr(RunFolder, broken)

    def stop(self, *arguments):
        if self.uri == RunFolder(out).uri:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, broken, stop)
        with pytest.raises(KeyboardInterrupt):
            export(config, run, str(out))
    assert {".export", "export.json"} & {path.name for path in out.iterdir()}
    export(config, run, str(out))
    assert pq.read_metadata(out / "train.parquet").num_rows == 119


def test_without_a_verdict_there_is_nothing_to_export(tmp_path, uri):
    config, run = prepared(tmp_path / "run", uri, DIGITS, limit=LIMIT)
    with pytest.raises(InputError, match="has no verdict to apply; auditor review reads them"):
        export(config, run, None)


def test_a_parquet_source_gets_its_own_columns_back(tmp_path, uri):
    random = np.random.default_rng(0)
    rows = {"key": [f"k{row}" for row in range(90)], "pixels": [random.normal(size=4).tolist() for _ in range(90)]}
    rows |= {"animal": [("cat", "dog", "cow")[row % 3] for row in range(90)], "label": list(range(90))}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    columns = {"sample_id": "key", "features": "pixels", "label": "animal"}
    source = {"kind": "parquet", "train": str(tmp_path / "rows.parquet")}
    config, run = prepared(tmp_path / "run", uri, source, columns=columns)
    first = run.read_table("report/ranked.parquet").slice(0, 1).to_pylist()[0]
    decide(config, run, tmp_path / "v.csv", (first["sample_id"], "relabel", first["suggested_label"], "", ""))
    export(config, run, str(tmp_path / "out"))
    table = pq.read_table(tmp_path / "out" / "train.parquet")
    assert table.column_names == [
        "key",
        "pixels",
        "animal",
        "original_label",
        "source_label",
        "audit_run",
        "verdict",
        "reviewer",
    ]
    (moved,) = (line for line in table.to_pylist() if line["verdict"])
    assert (moved["animal"], moved["original_label"]) == (first["suggested_label"], first["label"])
    _, dataset, _ = audited_again(tmp_path / "out", tmp_path)
    assert dataset.class_names == Dataset.load(run).class_names
    assert dataset.fingerprint == RunFolder(tmp_path / "out").read_json("export.json")["fingerprint"]


def test_a_folder_of_class_folders_gets_a_list_of_paths_and_keeps_its_images(tmp_path, uri):
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(30):
            pixels = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            (tmp_path / "photos" / name / f"{number}.png").write_bytes(png(pixels))
    there = sorted(path for path in (tmp_path / "photos").rglob("*"))
    source = {"kind": "folder", "train": str(tmp_path / "photos")}
    config, run = prepared(tmp_path / "run", uri, source)
    first, second = run.read_table("report/ranked.parquet").slice(0, 2).to_pylist()
    rows = [(first["sample_id"], "remove", "", "", ""), (second["sample_id"], "relabel", "dog", "", "ada")]
    if second["label"] == "dog":
        rows[1] = (second["sample_id"], "relabel", "cat", "", "ada")
    decide(config, run, tmp_path / "v.csv", *rows)
    done = export(config, run, str(tmp_path / "out"))
    with (tmp_path / "out" / "train.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert list(listed[0]) == ["sample_id", "path", "label", "original_label", "audit_run", "verdict", "reviewer"]
    assert len(listed) == done.rows["train"]
    assert first["sample_id"] not in {line["sample_id"] for line in listed}
    (moved,) = (line for line in listed if line["verdict"])
    assert moved["path"] == str(tmp_path / "photos" / second["sample_id"])
    assert (moved["label"], moved["original_label"]) == (rows[1][2], second["label"])
    with (tmp_path / "out" / "validation.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == done.rows["validation"]
    assert sorted((tmp_path / "photos").rglob("*")) == there
    table = pq.read_table(tmp_path / "out" / "train.parquet")
    assert table["image"].combine_chunks().field("bytes").null_count == len(table)
    _, dataset, _ = audited_again(tmp_path / "out", tmp_path)
    assert dataset.fingerprint == done.fingerprint


def test_the_next_configuration_holds_no_credentials(digits):
    config, run, *_ = digits
    address = "s3://key:hidden@bucket/{}?region=us-east-1"
    found = _next(config, RunFolder(address.format("run")), RunFolder(address.format("out")), Dataset.load(run))
    assert "hidden" not in yaml.safe_dump(found)
    assert found["review"]["predecessor"] == "s3://***@bucket/run?region=us-east-1"
