"""GIF at every step as a task of the workers."""

from __future__ import annotations

from collections.abc import Callable

import torch

from auditor.config import Config
from auditor.distributed.every_step import gif_at_every_step
from auditor.distributed.row_scores import write_row_scores
from auditor.distributed.task import Task
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader, group

GIF_STEP_FILE = "gif_step/influence.parquet"


def _work(config: Config, run: RunFolder, device: torch.device, progress: Callable[[int], None]) -> str | None:
    found = gif_at_every_step(config, run, device, progress)
    if isinstance(found, str):
        return found
    if group.rank() == 0:
        write_row_scores(run, "gif_step", {"gif_step": found})
    return None


def _extent(config: Config, run: RunFolder) -> tuple[int, int]:
    del config
    return 0, TrajectoryReader(run).manifest.steps


GIF_STEP = Task(_work, _extent, lambda run: run.exists(GIF_STEP_FILE))
"""Leaves the influence of every row in gif_step/influence.parquet."""
