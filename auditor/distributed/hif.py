"""SAM-HIF and its kin as a task of the workers."""

from __future__ import annotations

from collections.abc import Callable

import torch

from auditor.config import Config
from auditor.distributed.hif_files import HIF_FILE, write_hif
from auditor.distributed.implicit import Implicit, implicit_influence, passes
from auditor.distributed.replay import check_replay
from auditor.distributed.task import Task
from auditor.errors import InputError
from auditor.methods import END_OF_TRAINING
from auditor.storage import RunFolder


def check_hif(config: Config, run: RunFolder) -> None:
    """Refuse what would go wrong.

    Raises:
        InputError: No such method is asked for, or the model has BatchNorm and is evaluated with running statistics,
            which are no function of θ.
    """
    if not set(END_OF_TRAINING) & set(config.score.methods):
        raise InputError(f"score.methods names none of {', '.join(END_OF_TRAINING)}")
    check_replay(config, run, "hif")


def _work(config: Config, run: RunFolder, device: torch.device, progress: Callable[[int], None]) -> str | None:
    found = implicit_influence(config, run, device, progress)
    if isinstance(found, Implicit):
        write_hif(run, found)
        return None
    return found


def _extent(config: Config, run: RunFolder) -> tuple[int, int]:
    del run
    return 0, passes(config)


SOLVE = Task(_work, _extent, lambda run: run.exists(HIF_FILE), check_hif, unit="products")
"""Leaves the influence of every row in hif/influence.parquet, and how well it was solved for in hif/hif.json."""
