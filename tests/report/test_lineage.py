from __future__ import annotations

import json

import pytest

from auditor.report.lineage import dataset_inputs
from auditor.storage import RunFolder
from tests.report.builders import Audit


def _inputs(path, source):
    config, run = Audit().write(path)
    config = Audit().config(path, data={"source": source})
    described = run.read_json("dataset.json")
    return described, [entry.to_dictionary() for entry in dataset_inputs(config, run, described)]


def test_digits_point_at_the_audited_snapshot(tmp_path):
    described, (train, validation) = _inputs(tmp_path, {"kind": "digits"})
    assert train["dataset"]["name"] == "scikit-learn digits (train)"
    assert train["dataset"]["digest"] == validation["dataset"]["digest"] == described["fingerprint"][:36]
    assert json.loads(train["dataset"]["source"]) == {"uri": f"{RunFolder(tmp_path)}/dataset/train"}
    assert json.loads(train["dataset"]["profile"])["num_rows"] == 40
    assert json.loads(validation["dataset"]["profile"])["num_rows"] == 12
    assert (train["tags"]["mlflow.data.context"], validation["tags"]["mlflow.data.context"]) == (
        "training",
        "validation",
    )


@pytest.mark.parametrize(
    ("source", "name", "kind", "uris"),
    [
        (
            {"kind": "parquet", "train": "s3://key:secret@lake/train.parquet", "validation": "s3://lake/validation/"},
            ("train.parquet", "validation"),
            "s3",
            ("s3://***@lake/train.parquet", "s3://lake/validation/"),
        ),
        ({"kind": "folder", "train": "/data/pets"}, ("pets", "pets"), "local", ("/data/pets", "/data/pets")),
    ],
)
def test_sources_with_an_address_keep_it_without_credentials(tmp_path, source, name, kind, uris):
    _, found = _inputs(tmp_path, source)
    for entry, split, expected, uri in zip(found, ("train", "validation"), name, uris, strict=True):
        assert entry["dataset"]["name"] == f"{expected} ({split})"
        assert entry["dataset"]["source_type"] == kind
        assert json.loads(entry["dataset"]["source"]) == {"uri": uri}
    assert "secret" not in str(found)


def test_torchvision_is_named_by_its_class(tmp_path):
    _, found = _inputs(tmp_path, {"kind": "torchvision", "dataset": "CIFAR10", "train": {"root": "/data"}})
    assert [entry["dataset"]["name"] for entry in found] == [
        "torchvision CIFAR10 (train)",
        "torchvision CIFAR10 (validation)",
    ]
