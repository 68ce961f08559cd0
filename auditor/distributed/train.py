"""SAM training as a task of the workers, resumed from the last complete checkpoint."""

from __future__ import annotations

from auditor.config import Config
from auditor.data import Dataset
from auditor.distributed.loop import run_training, training_manifest
from auditor.distributed.task import Task
from auditor.errors import InputError
from auditor.storage import RunFolder
from auditor.trajectory import Manifest


def _check(config: Config, run: RunFolder) -> None:
    """Refuse a folder that holds the trajectory of another training."""
    planned, found = training_manifest(config, Dataset.load(run)), Manifest.read(run)
    if found is not None and not found.same_training(planned):
        raise InputError(f"{run}: holds the trajectory of another training")


def _extent(config: Config, run: RunFolder) -> tuple[int, int]:
    found = Manifest.read(run)
    done = found.checkpoints[-1] if found is not None and found.checkpoints else 0
    return done, training_manifest(config, Dataset.load(run)).steps


def _finished(run: RunFolder) -> bool:
    found = Manifest.read(run)
    return found is not None and found.complete


TRAIN = Task(run_training, _extent, _finished, _check)
"""Leaves trajectory/."""
