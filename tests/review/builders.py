"""Audits that are ranked and known to MLflow, without training, and reviewers who answer through MLflow's client."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from mlflow import MlflowClient
from mlflow.entities import AssessmentSource, Feedback
from mlflow.tracing.client import TracingClient

from auditor.config import Config, parse_config
from auditor.data import prepare
from auditor.report.ranking import rank_samples
from auditor.report.tracking import Tracking
from auditor.review.answers import open_queue
from auditor.review.items import item_id
from auditor.storage import RunFolder
from tests.report.builders import Audit


def audited(
    path: Path, uri: str, audit: Audit | None = None, experiment: str | None = None, **overrides: Any
) -> tuple[Config, RunFolder]:
    """A run folder with a ranking, known to MLflow."""
    audit = audit or Audit()
    _, run = audit.write(path)
    mlflow = {"tracking_uri": uri, "experiment": experiment or f"{path.parent.name} {path.name}"}
    config = audit.config(path, mlflow=mlflow, **overrides)
    ranked(config, run)
    with Tracking(config, run):
        pass
    return config, run


def prepared(path: Path, uri: str, source: dict[str, Any], **data: Any) -> tuple[Config, RunFolder]:
    """A run folder whose rows are really prepared from a source, its ranking made up, known to MLflow."""
    raw = {"run": str(path), "data": {"source": source, **data}, "score": {"methods": ["gif", "loss"]}}
    raw |= {"report": {"rank_by": "gif", "flagged": 0.2}, "review": {"queue": 10}}
    raw["train"] = {"batch_size": 8, "micro_batch_size": 8}
    experiment = f"{path.parent.name} {path.name}"
    config = parse_config({**raw, "mlflow": {"tracking_uri": uri, "experiment": experiment}})
    run = RunFolder(path)
    prepare(config, run)
    write_scores(config, run)
    with Tracking(config, run):
        pass
    return config, run


def write_scores(config: Config, run: RunFolder, helpful: Collection[str] = ()) -> None:
    """Scores of every training row that depend on its id alone, but for helpful ones, and the ranking by them."""
    train = run.read_table("dataset/train", ["sample_id", "label"])
    drawn = np.array([int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32 for name in _ids(train)])
    drawn[[name in helpful for name in _ids(train)]] = 1.0
    classes = len(run.read_json("dataset.json")["class_names"])
    scores = {"gif": drawn - 0.5, "loss": (1 - drawn).astype(np.float32)}
    suggested = (train["label"].to_numpy() + 1) % classes
    scores |= {"suggested_label": suggested.astype(np.int32), "suggested_probability": drawn.astype(np.float32)}
    run.write_table("scores/0.parquet", pa.table({"sample_id": train["sample_id"], "label": train["label"], **scores}))
    ranked(config, run)


def _ids(table: pa.Table) -> list[str]:
    return list(table["sample_id"].to_pylist())


def ranked(config: Config, run: RunFolder) -> None:
    """What a report holds that a review reads; figures would only take time."""
    run.write_table("report/ranked.parquet", rank_samples(config, run).table)


def answer(config: Config, run: RunFolder, sample_id: str, name: str, value: Any, **more: Any) -> None:
    """What MLflow's review pane does when a person answers a question."""
    _, run_id = open_queue(config, run)
    who = AssessmentSource(source_type=more.pop("kind", "HUMAN"), source_id=more.pop("by", "ada"))
    given = Feedback(name=name, value=value, source=who, rationale=more.pop("comment", None), **more)
    client = TracingClient(config.mlflow.tracking_uri)
    client.log_assessment(item_id(run_id, sample_id), given)


def in_queue(config: Config, run: RunFolder) -> list[Any]:
    """Items of the audit's queue, read without this project's code, with their traces."""
    run_id = run.read_json("mlflow.json")["run_id"]
    experiment_id = run.read_json("mlflow.json")["experiment_id"]
    client = TracingClient(config.mlflow.tracking_uri)
    queue = client._get_review_queue_by_name(experiment_id, f"flagged by run {run_id[:8]}")
    items = client._list_review_queue_items(queue.queue_id)
    traces = MlflowClient(config.mlflow.tracking_uri).search_traces(locations=[experiment_id], max_results=500)
    traces = {trace.info.trace_id: trace for trace in traces}
    assert {item.item_id for item in items} <= traces.keys()
    return sorted((traces[item.item_id] for item in items), key=lambda trace: -trace.info.request_time)
