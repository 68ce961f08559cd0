"""What an audit hands over to its MLflow run; what it found stands in its run folder anyway."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from auditor.config import Config
from auditor.errors import InputError, StageError
from auditor.report.masking import mask
from auditor.stages import Stages
from auditor.storage import RunFolder
from auditor.trajectory.manifest import checkpoint_folder

if TYPE_CHECKING:
    from auditor.fidelity.edit import Edit
    from auditor.fidelity.edit_files import Asked
    from auditor.report.tracking import Tracking

log = logging.getLogger("auditor")


def is_logged(config: Config, folder: RunFolder) -> bool:
    """Whether the report is there and stands in the configured tracking store."""
    if "track" not in Stages(folder) or not folder.exists("report/report.html"):
        return False
    return bool(folder.read_json("mlflow.json")["tracking_uri"] == mask(config.mlflow.tracking_uri))


def log_also(config: Config, folder: RunFolder, stage: str, numbers: dict[str, Any], files: str | None = None) -> None:
    """Log more to the audit's MLflow run, where it has one; why it cannot be done is said and does no harm.

    Args:
        config: The audit.
        folder: Its run folder.
        stage: What it comes from.
        numbers: Metrics, nested.
        files: A folder of the run folder to log as artifacts.
    """
    if not is_logged(config, folder):
        return
    from auditor.report.additions import log_more

    try:
        log_more(config, folder, numbers, files)
    except (InputError, StageError) as error:
        log.warning("%s: not in MLflow: %s (the same command tries again)", stage, error)


def log_model(config: Config, folder: RunFolder, tracking: Tracking) -> None:
    """Hand MLflow the trained network, its running statistics replaced by the ones it was evaluated with."""
    import torch

    from auditor.distributed.trained_run import TrainedRun

    trained = TrainedRun(config, folder, torch.device("cpu"))
    example, _ = next(iter(trained.chunks("validation")))
    tracking.log_model(trained.model(), example, folder.address(checkpoint_folder(trained.manifest.steps)))


def log_edited(config: Config, folder: RunFolder, found: Edit, asked: Asked) -> None:
    """Make edited weights versions of a registered model, where the audit stands in MLflow; as harmless as `log_also`.

    Args:
        config: The audit.
        folder: Its run folder, with the weights.
        found: What the edit did.
        asked: What it was asked for.
    """
    if not is_logged(config, folder):
        return
    try:
        _log_versions(config, folder, found, asked)
    except (InputError, StageError) as error:
        log.warning("edit: no version in MLflow: %s (the same command tries again)", error)


def _log_versions(config: Config, folder: RunFolder, found: Edit, asked: Asked) -> None:
    import torch

    from auditor.distributed.trained_run import TrainedRun
    from auditor.fidelity.edit_files import RECORDED, RETRAIN, weights_folder
    from auditor.report.versions import log_versions
    from auditor.trajectory.checkpoint import load_state

    trained = TrainedRun(config, folder, torch.device("cpu"))
    example, _ = next(iter(trained.chunks("validation")))
    folders = {name: weights_folder(found.key, name) for name in found.methods if name not in (RECORDED, RETRAIN)}
    edited = (
        (name, trained.model(load_state(folder, weights)), folder.full(weights)) for name, weights in folders.items()
    )
    versions = log_versions(config, folder, found, asked.methods, edited, example)
    for name, version in versions.items():
        log.info("edit: %s is version %d of MLflow's registered model", name, version)
