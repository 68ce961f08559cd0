"""A whole audit that has nothing on a disk: rows, run folder and MLflow's artifacts are on an S3 server."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient
from pyarrow import fs
from sklearn.datasets import load_digits

from auditor.storage import RunFolder, resolve
from auditor.trajectory import Manifest
from tests.distributed.builders import config, start_auditor
from tests.stores import BUCKET, SECRET

pytestmark = pytest.mark.ray

PLACE = f"s3://{BUCKET}/whole"
ROWS = 200
OWN_MODEL = """
import time
from torch import nn

def make(num_classes, input_shape):
    model = nn.Sequential(nn.Linear(input_shape[0], 16), nn.GELU(), nn.Linear(16, num_classes))
    model.register_forward_pre_hook(lambda *_: time.sleep(0.03) if model.training else None)
    return model
"""


@pytest.fixture
def desk(tmp_path, in_store):
    """A configuration whose rows are in the store, and an MLflow experiment whose artifacts go there."""
    digits = load_digits()
    chosen = np.random.default_rng(0).permutation(len(digits.target))
    for name, rows in {"train": chosen[:ROWS], "validation": chosen[200:260], "test": chosen[260:320]}.items():
        table = pa.table(
            {
                "sample_id": [f"digits-{row:04d}" for row in rows],
                "features": (digits.data[rows] / 16.0).astype(np.float32).tolist(),
                "label": digits.target[rows],
            }
        )
        filesystem, path = resolve(f"{PLACE}/rows/{name}.parquet")
        pq.write_table(table, path, filesystem=filesystem)
    raw = config(
        f"{PLACE}/run",
        data={
            "source": {
                "kind": "parquet",
                **{name: f"{PLACE}/rows/{name}.parquet" for name in ("train", "validation", "test")},
            }
        },
        model={"name": "own:make"},
        train={"epochs": 8, "batch_size": 32, "micro_batch_size": 16, "checkpoints": 7},
        score={"methods": ["gif", "loss"]},
        review={"queue": 5},
        mlflow={"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "experiment": "whole"},
    ).model_dump(mode="json")
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(raw))
    (tmp_path / "own.py").write_text(OWN_MODEL)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    client.create_experiment("whole", artifact_location=f"{PLACE}/artifacts")
    return tmp_path


def wait_for_checkpoints(run, count):
    deadline = time.monotonic() + 120
    while (found := Manifest.read(run)) is None or len(found.checkpoints) < count:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def everything(place) -> dict[str, fs.FileInfo]:
    filesystem, path = resolve(place)
    found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    return {info.path.removeprefix(f"{path}/"): info for info in found if info.type == fs.FileType.File}


def test_an_audit_in_a_store_survives_a_kill_and_a_spell_of_503_and_leaves_no_credentials(desk, store):
    run = RunFolder(f"{PLACE}/run")
    killed = start_auditor(desk, "run", "audit.yaml")
    try:
        wait_for_checkpoints(run, 3)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.communicate()
    before = Manifest.read(run)
    assert not before.complete
    first = everything(run.uri)

    audit = start_auditor(desk, "run", "audit.yaml")
    try:
        wait_for_checkpoints(run, len(before.checkpoints) + 1)
        refused = store.gate.refused
        store.gate.refuse(8)
        out, err = audit.communicate(timeout=280)
    finally:
        if audit.poll() is None:
            os.killpg(audit.pid, signal.SIGKILL)
    assert audit.returncode == 0, err
    assert store.gate.refused > refused
    assert f"Report: {PLACE}/run/report/report.html" in out

    files = everything(run.uri)
    kept = [name for name in first if name.startswith(f"trajectory/checkpoints/step-{before.checkpoints[1]:08d}")]
    assert kept
    assert all(files[name].mtime == first[name].mtime for name in kept)
    assert Manifest.read(run).complete
    scores = run.read_table("scores")
    assert len(set(scores["sample_id"].to_pylist())) == scores.num_rows == ROWS
    assert {"gif", "loss"} <= set(scores.column_names)
    # Nothing half done is left, and the empty scratch of Ray neither.
    assert not [name for name in files if "/." in f"/{name}"]

    client = MlflowClient(f"sqlite:///{desk}/mlflow.db")
    [logged] = client.search_runs(
        [client.get_experiment_by_name("whole").experiment_id], "attributes.status = 'FINISHED'"
    )
    artifacts = everything(f"{PLACE}/artifacts")
    assert f"{logged.info.run_id}/artifacts/report.html" in artifacts
    assert any(name.startswith("models/") for name in artifacts)

    filesystem, path = resolve(PLACE)
    for name in everything(PLACE):
        with filesystem.open_input_stream(f"{path}/{name}") as stream:
            assert SECRET.encode() not in stream.read(), name
    assert SECRET not in out + err
    assert SECRET.encode() not in (desk / "mlflow.db").read_bytes()
