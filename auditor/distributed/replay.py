"""Exact replay as a task of the workers; one that is interrupted goes on from the last segment that it finished."""

from __future__ import annotations

from collections.abc import Callable

import torch

from auditor.config import Config
from auditor.data import Dataset
from auditor.distributed.loop import new_model
from auditor.distributed.partial_sweep import PartialSweeps
from auditor.distributed.replay_files import REPLAY_FILE, write_replay
from auditor.distributed.sweep import sweep
from auditor.distributed.task import Task
from auditor.errors import InputError
from auditor.sam import Network
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader, group


def check_replay(config: Config, run: RunFolder, stage: str = "replay") -> None:
    """Refuse what replay, or another stage that differentiates f, would get wrong.

    Raises:
        InputError: The model has BatchNorm and is evaluated with running statistics, which are no function of θ.
    """
    network = Network(new_model(config, Dataset.load(run)))
    if network.norms and config.evaluation.statistics == "running":
        raise InputError(
            f"evaluation.statistics is running, which {stage} cannot differentiate in a model with BatchNorm: "
            "precise can be"
        )


def _work(config: Config, run: RunFolder, device: torch.device, progress: Callable[[int], None]) -> str | None:
    found = sweep(config, run, device, progress, resumable=True)
    if isinstance(found, str):
        return found
    if group.rank() == 0:
        write_replay(run, found)
    return None


def _extent(config: Config, run: RunFolder) -> tuple[int, int]:
    manifest = TrajectoryReader(run).manifest
    steps = round(config.replay.horizon * manifest.steps)
    done = manifest.steps - PartialSweeps(config, run, manifest).first_step()
    return min(done, steps), steps


REPLAY = Task(_work, _extent, lambda run: run.exists(REPLAY_FILE), check_replay)
"""Leaves the influence of every row in replay/influence.parquet, and how well it went in replay/replay.json."""
