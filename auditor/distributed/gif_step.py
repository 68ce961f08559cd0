"""GIF at every step as a Ray Train job."""

from __future__ import annotations

from auditor.config import Config
from auditor.distributed.worker import gif_step_worker
from auditor.distributed.workers import run_on_workers
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader

GIF_STEP_FILE = "gif_step/influence.parquet"


def gif_step_on_ray(config: Config, run: RunFolder) -> None:
    """Leave the influence of every row in gif_step/influence.parquet; an earlier result is left alone.

    Args:
        config: The audit.
        run: Its run folder, training complete.

    Raises:
        StageError: Training has not ended, or training again drifted from the recorded checkpoints.
    """
    steps = TrajectoryReader(run).manifest.steps
    if not run.exists(GIF_STEP_FILE):
        run_on_workers(config, run, gif_step_worker, "gif_step", steps, 0)
