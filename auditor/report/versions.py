"""Edited weights in MLflow: versions of a registered model, each with the audited model as its parent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from auditor.config import Config
from auditor.fidelity.edit import Edit
from auditor.report import logged_model
from auditor.report.additions import open_logged
from auditor.report.tracking_store import explained, flat_metrics
from auditor.storage import RunFolder

if TYPE_CHECKING:
    import torch
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

    Module = torch.nn.Module

_MODEL = "auditor.model"


def log_versions(
    config: Config,
    run: RunFolder,
    found: Edit,
    settings: Mapping[str, Mapping[str, object]],
    edited: Iterator[tuple[str, Module, str]],
    example_input: torch.Tensor,
) -> dict[str, int]:
    """Log every edited model as a new version; one that is there already is left as it is.

    Args:
        config: The audit.
        run: Its run folder, logged to the configured tracking store with its model.
        found: The edit.
        settings: What decided each method's weights.
        edited: Method, model and the address of its checkpoint, one after another.
        example_input: One or more inputs, [b, ...].

    Returns:
        The version of each method's model.

    Raises:
        InputError: The tracking store cannot be opened.
        StageError: The MLflow run was deleted, or MLflow does not answer or refuses.
    """
    from mlflow.entities import Metric

    uri = config.mlflow.tracking_uri
    client, run_id = open_logged(config, run)
    name = config.mlflow.registered_model or config.mlflow.experiment
    versions = {}
    with explained(uri):
        parent = next(
            model for model in logged_model.logged_models(client, run_id) if model.name == logged_model.AUDITED
        )
        _make(client, name)
        tags = {"auditor.run_folder": run.uri}
        before = _version(client, name, run_id, parent, tags, "The model that was audited.")
        for method, model, address in edited:
            tags = {
                "auditor.parent": f"models:/{name}/{before}",
                "auditor.edit": found.key,
                "auditor.method": method,
                "auditor.settings": json.dumps(settings[method], sort_keys=True),
                "auditor.removed": f"{found.samples} samples ({found.kind})",
            }
            logged = logged_model.log_model(client, run_id, "edited-model", model, example_input, address, tags)
            if not logged.metrics:
                metrics = flat_metrics(
                    {"edit": {k: v for k, v in vars(found.methods[method]).items() if k != "solved"}}
                )
                client.log_batch(
                    run_id,
                    metrics=[
                        Metric(key, value, logged.last_updated_timestamp, 0, model_id=logged.model_id)
                        for key, value in metrics.items()
                    ],
                )
            text = f"Version {before} without {found.samples} of its {found.rows} training samples, by {method}."
            versions[method] = _version(client, name, run_id, logged, tags, text)
    return versions


def _make(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description="Audited models and their edits, by auditor.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version(
    client: MlflowClient, name: str, run_id: str, model: LoggedModel, tags: Mapping[str, str], text: str
) -> int:
    """The version of a model, made where there is none."""
    quoted = name.replace("'", "''")
    for known in client.search_model_versions(f"name='{quoted}'"):
        if known.tags.get(_MODEL) == model.model_id:
            return int(known.version)
    made = client.create_model_version(
        name,
        source=f"models:/{model.model_id}",
        run_id=run_id,
        tags={**tags, _MODEL: model.model_id},
        description=text,
        model_id=model.model_id,
    )
    return int(made.version)
