"""What each Ray Train worker is told to do. Imports come late: Ray's controller loads this module as well."""

from __future__ import annotations

import time
from typing import Any

PROGRESS_FILE = "trajectory/.progress.json"


def train_worker(settings: dict[str, Any]) -> str | None:
    """Run the training loop on this worker.

    Args:
        settings: `config`, the configuration as plain values, and `run`, the run folder.

    Returns:
        None at the end of training, or why it could not go on.
    """
    import torch
    from ray.train.torch import get_device

    from auditor.config import parse_config
    from auditor.distributed.loop import run_training
    from auditor.storage import RunFolder

    config = parse_config(settings["config"])
    run = RunFolder(settings["run"])
    torch.set_num_threads(config.resources.cpus_per_worker)
    interval = 0.5 if run.local else 10.0
    told = 0.0

    def progress(step: int) -> None:
        nonlocal told
        if time.monotonic() - told >= interval:
            told = time.monotonic()
            run.write_json(PROGRESS_FILE, {"step": step})

    return run_training(config, run, get_device(), progress)
