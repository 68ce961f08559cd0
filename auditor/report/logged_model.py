"""A model in MLflow: an exported program, or the address of its checkpoint where it cannot be exported."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from auditor.report.masking import mask
from auditor.report.tracking_store import clip

if TYPE_CHECKING:
    import torch
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

AUDITED = "audited-model"
"""The name of the model that an audit trained."""
CHECKPOINT = "auditor.checkpoint"
EXTERNAL = "mlflow.model.isExternal"

log = logging.getLogger("auditor")


def log_model(
    client: MlflowClient,
    run_id: str,
    name: str,
    model: torch.nn.Module,
    example_input: torch.Tensor,
    checkpoint_uri: str,
    tags: Mapping[str, str] | None = None,
) -> LoggedModel:
    """Log a model as an exported program, which loads without its class and without pickle, once for its checkpoint.

    A model that torch.export cannot trace is logged by its checkpoint's address alone.

    Args:
        client: The tracking store.
        run_id: The run that it came from.
        name: What the model is called there.
        model: In the state to log.
        example_input: One or more inputs, [b, ...].
        checkpoint_uri: Path or URI of the sharded checkpoint of the same state.
        tags: More about it.

    Returns:
        The model, ready.
    """
    from mlflow.entities import LoggedModelOutput

    from auditor.report.packaging import NotExportableError, save_model

    tags = {**(tags or {}), CHECKPOINT: mask(checkpoint_uri)}
    for known in logged_models(client, run_id):
        if known.status == "READY" and tags.items() <= known.tags.items():
            return known
    experiment = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(experiment, name=name, source_run_id=run_id, tags=tags)
    try:
        with tempfile.TemporaryDirectory() as folder:
            try:
                save_model(model, example_input, Path(folder) / "model", logged.model_id)
                client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
            except NotExportableError as error:
                log.warning("MLflow gets the model's checkpoint address alone: %s", error)
                client.set_logged_model_tags(
                    logged.model_id, {EXTERNAL: "true", "auditor.not_exported": clip(str(error), 500)}
                )
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    ready = client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
    return ready


def logged_models(client: MlflowClient, run_id: str) -> list[LoggedModel]:
    """The models that came from a run."""
    outputs = client.get_run(run_id).outputs
    return [client.get_logged_model(output.model_id) for output in outputs.model_outputs] if outputs else []
