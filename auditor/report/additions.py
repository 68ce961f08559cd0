"""What an audit learns after its end, in its MLflow run: that run stays as it ended, whatever becomes of this."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pyarrow import fs

from auditor.config import Config
from auditor.errors import StageError
from auditor.report.tracking_store import connect, explained, flat_metrics, log_folder
from auditor.storage import RunFolder

if TYPE_CHECKING:
    from mlflow import MlflowClient


def log_more(config: Config, run: RunFolder, numbers: Mapping[str, Any], folder: str | None = None) -> None:
    """Add metrics, and the files of a folder, to the MLflow run of an audit.

    Args:
        config: The audit.
        run: Its run folder, logged to the configured tracking store.
        numbers: Nested; what is no number is left out.
        folder: Within the run folder; among the artifacts it has the same name.

    Raises:
        InputError: The tracking store cannot be opened.
        StageError: The MLflow run was deleted, or MLflow does not answer or refuses.
    """
    from mlflow.entities import Metric

    client, run_id = open_logged(config, run)
    now = int(1000 * time.time())
    metrics = [Metric(name, value, now, 0) for name, value in flat_metrics(numbers).items()]
    with explained(config.mlflow.tracking_uri):
        client.log_batch(run_id, metrics=metrics)
        if folder is not None:
            upload(client, run_id, run, folder, folder)


def open_logged(config: Config, run: RunFolder) -> tuple[MlflowClient, str]:
    """A client of the tracking store, and the id of an audit's MLflow run in it.

    Args:
        config: The audit.
        run: Its run folder, logged to the configured tracking store.

    Raises:
        InputError: The tracking store cannot be opened.
        StageError: The MLflow run was deleted, or MLflow does not answer.
    """
    uri, run_id = config.mlflow.tracking_uri, str(run.read_json("mlflow.json")["run_id"])
    client = connect(uri)
    with explained(uri):
        known = client.get_run(run_id)
    if known.info.lifecycle_stage != "active":
        raise StageError(f"{run}: its MLflow run {run_id} was deleted there; restore it")
    return client, run_id


def upload(client: MlflowClient, run_id: str, run: RunFolder, name: str, below: str | None = None) -> None:
    """Log the files of a folder within a run folder as artifacts.

    Args:
        client: The tracking store.
        run_id: The MLflow run.
        run: The run folder, on whatever filesystem.
        name: Of the folder.
        below: Folder among the artifacts; their top by default.

    Raises:
        StageError: The artifact store cannot be written.
    """
    if run.local is not None:
        log_folder(client, run_id, str(run.local / name), below)
        return
    with tempfile.TemporaryDirectory() as folder:
        fs.copy_files(run.full(name), folder, run.filesystem, fs.LocalFileSystem())
        log_folder(client, run_id, folder, below)
