"""Ray Train runs the training loop on many workers and starts it again when one of them dies."""

from __future__ import annotations

import os
import threading
import time
import uuid
from typing import Any

import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from auditor.config import Config, parse_config
from auditor.data import Dataset
from auditor.distributed.loop import run_training, training_manifest
from auditor.errors import InputError, StageError
from auditor.progress import Progress
from auditor.storage import RunFolder
from auditor.trajectory import Manifest

_PROGRESS = "trajectory/.progress.json"
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
        _worker,
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
        with _Watch(run, planned.steps):
            result = trainer.fit()
    except Exception as error:
        raise StageError(f"training gave up: {_reason(error)}") from error
    finally:
        run.remove(_SCRATCH)
        run.remove(_PROGRESS)
    if result.return_value is not None:
        raise StageError(str(result.return_value))
    manifest = Manifest.read(run)
    if manifest is None or not manifest.complete:
        raise StageError(f"{run}: training ended without a complete ledger")
    return manifest


def worker_resources(config: Config) -> dict[str, float]:
    """Logical resources of one worker or actor."""
    resources = config.resources
    asked: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        asked["GPU"] = resources.gpus_per_worker
    return asked


def _worker(settings: dict[str, Any]) -> str | None:
    config = parse_config(settings["config"])
    run = RunFolder(settings["run"])
    torch.set_num_threads(config.resources.cpus_per_worker)
    interval = 0.5 if run.local else 10.0
    told = 0.0

    def progress(step: int) -> None:
        nonlocal told
        if time.monotonic() - told >= interval:
            told = time.monotonic()
            run.write_json(_PROGRESS, {"step": step})

    return run_training(config, run, get_device(), progress)


class _Watch:
    """Shows, from the driver, how far the first worker is."""

    def __init__(self, run: RunFolder, steps: int) -> None:
        self._run = run
        self._steps = steps
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _show(self) -> None:
        manifest = Manifest.read(self._run)
        before = manifest.checkpoints[-1] if manifest and manifest.checkpoints else 0
        with Progress("train", self._steps, "steps", before) as bar:
            while not self._stop.wait(0.5):
                bar.reach(self._step(before))
            manifest = Manifest.read(self._run)
            bar.reach(self._steps if manifest and manifest.complete else self._step(before))

    def _step(self, otherwise: int) -> int:
        try:
            return int(self._run.read_json(_PROGRESS)["step"])
        except (OSError, InputError):
            return otherwise


def _reason(error: BaseException) -> str:
    """The last line of the innermost error: the sentence a person needs."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
