"""What each Ray Train worker is told to do. Imports come late: Ray's controller loads this module as well."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auditor.config import Config
    from auditor.storage import RunFolder

PROGRESS_FILE = ".progress.json"


def train_worker(settings: dict[str, Any]) -> str | None:
    """Run the training loop on this worker.

    Args:
        settings: `config`, the configuration as plain values, and `run`, the run folder.

    Returns:
        None at the end of training, or why it could not go on.
    """
    from ray.train.torch import get_device

    from auditor.distributed.loop import run_training

    config, run = _open(settings)
    return run_training(config, run, get_device(), _progress(run))


def replay_worker(settings: dict[str, Any]) -> str | None:
    """Sweep the recorded training backwards on this worker; the first one keeps the result.

    Args:
        settings: As for `train_worker`.

    Returns:
        None at the end, or why the result would be wrong.
    """
    from ray.train import get_context
    from ray.train.torch import get_device

    from auditor.distributed.replay_files import write_replay
    from auditor.distributed.sweep import sweep

    config, run = _open(settings)
    found = sweep(config, run, get_device(), _progress(run), resumable=True)
    if isinstance(found, str):
        return found
    if get_context().get_world_rank() == 0:
        write_replay(run, found)
    return None


def gif_step_worker(settings: dict[str, Any]) -> str | None:
    """Take the recorded steps again on this worker for GIF at every step; the first one keeps the result.

    Args:
        settings: As for `train_worker`.

    Returns:
        None at the end, or why the result would be wrong.
    """
    from ray.train import get_context
    from ray.train.torch import get_device

    from auditor.distributed.every_step import gif_at_every_step
    from auditor.distributed.row_scores import write_row_scores

    config, run = _open(settings)
    found = gif_at_every_step(config, run, get_device(), _progress(run))
    if isinstance(found, str):
        return found
    if get_context().get_world_rank() == 0:
        write_row_scores(run, "gif_step", {"gif_step": found})
    return None


def hif_worker(settings: dict[str, Any]) -> str | None:
    """Solve for the influence of every row on this worker; the first one decides and keeps the result.

    Args:
        settings: As for `train_worker`.

    Returns:
        None at the end, or why there is no sound result.
    """
    from ray.train.torch import get_device

    from auditor.distributed.hif_files import write_hif
    from auditor.distributed.implicit import Implicit, implicit_influence

    config, run = _open(settings)
    found = implicit_influence(config, run, get_device(), _progress(run))
    if isinstance(found, Implicit):
        write_hif(run, found)
        return None
    return found


def _open(settings: dict[str, Any]) -> tuple[Config, RunFolder]:
    import torch

    from auditor.config import parse_config
    from auditor.storage import RunFolder

    config = parse_config(settings["config"])
    torch.set_num_threads(config.resources.cpus_per_worker)
    return config, RunFolder(settings["run"])


def _progress(run: RunFolder) -> Callable[[int], None]:
    """Tells the driver, through the run folder, how many steps are done: now and then, so that it costs nothing."""
    interval = 0.5 if run.local else 10.0
    told = 0.0

    def progress(step: int) -> None:
        nonlocal told
        if time.monotonic() - told >= interval:
            told = time.monotonic()
            with suppress(OSError):  # nobody's training ends because a bar could not be drawn
                run.write_json(PROGRESS_FILE, {"step": step})

    return progress
