"""SAM training as a Ray Train job, resumed from the last complete checkpoint."""

from __future__ import annotations

from auditor.config import Config
from auditor.data import Dataset
from auditor.distributed.loop import training_manifest
from auditor.distributed.worker import train_worker
from auditor.distributed.workers import run_on_workers
from auditor.errors import InputError, StageError
from auditor.storage import RunFolder
from auditor.trajectory import Manifest


def train_on_ray(config: Config, run: RunFolder) -> Manifest:
    """Train on the connected Ray cluster, from the last complete checkpoint if there is one.

    Args:
        config: The audit.
        run: Its run folder, dataset prepared.

    Returns:
        The complete manifest.

    Raises:
        InputError: The folder holds the trajectory of another training.
        StageError: The loss was not finite, or workers died more often than `resources.max_failures`.
    """
    planned = training_manifest(config, Dataset.load(run))
    found = Manifest.read(run)
    if found is not None and not found.same_training(planned):
        raise InputError(f"{run}: holds the trajectory of another training")
    if found is not None and found.complete:
        return found
    done = found.checkpoints[-1] if found is not None and found.checkpoints else 0
    run_on_workers(config, run, train_worker, "train", planned.steps, done)
    manifest = Manifest.read(run)
    if manifest is None or not manifest.complete:
        raise StageError(f"{run}: training ended without a complete ledger")
    return manifest
