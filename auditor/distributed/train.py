"""Ray Train runs the training loop on many workers and starts it again when one of them dies."""

from __future__ import annotations

import os
import uuid

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from auditor.config import Config
from auditor.data import Dataset
from auditor.distributed.cluster import worker_resources
from auditor.distributed.loop import training_manifest
from auditor.distributed.worker import PROGRESS_FILE, train_worker
from auditor.errors import InputError, StageError
from auditor.progress import Progress, Watch
from auditor.storage import RunFolder
from auditor.trajectory import Manifest

_SCRATCH = "trajectory/.ray-train"


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
    resources = config.resources
    # Ray Train looks at its workers every 2 s by default, which a short training notices.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"config": config.model_dump(mode="json"), "run": run.uri},
        torch_config=TorchConfig(backend="nccl" if resources.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=resources.train_workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=worker_resources(config),
        ),
        run_config=RunConfig(
            # Recovery is the manifest's: a name of its own for each attempt keeps Ray from resuming a dead one.
            name=uuid.uuid4().hex,
            storage_path=run.full(_SCRATCH),
            storage_filesystem=None if run.local else run.filesystem,
            failure_config=FailureConfig(max_failures=resources.max_failures),
        ),
    )
    try:
        before = found.checkpoints[-1] if found is not None and found.checkpoints else 0
        with Watch(Progress("train", planned.steps, "steps", before), lambda: _done(run), 0.5 if run.local else 10.0):
            result = trainer.fit()
    except Exception as error:
        raise StageError(f"training gave up: {_reason(error)}") from error
    finally:
        run.remove(_SCRATCH)
        run.remove(PROGRESS_FILE)
    if result.return_value is not None:
        raise StageError(str(result.return_value))
    manifest = Manifest.read(run)
    if manifest is None or not manifest.complete:
        raise StageError(f"{run}: training ended without a complete ledger")
    return manifest


def _done(run: RunFolder) -> int:
    manifest = Manifest.read(run)
    if manifest is not None and manifest.complete:
        return manifest.steps
    return int(run.read_json(PROGRESS_FILE)["step"])


def _reason(error: BaseException) -> str:
    """The last line of the innermost error: the sentence a person needs."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
