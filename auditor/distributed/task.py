"""What a task is: a computation over a whole run that all training workers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from auditor.config import Config
from auditor.storage import RunFolder

Work = Callable[[Config, RunFolder, torch.device, Callable[[int], None]], str | None]
"""(audit, its run folder, this worker's device, told the units done on the first rank) → None when the result is in the
run folder, or in one sentence why there is none. Collective."""


def _nothing(config: Config, run: RunFolder) -> None:
    del config, run


@dataclass(frozen=True)
class Task:
    """One task; its name is its key in `auditor.distributed.tasks.TASKS`."""

    work: Work
    extent: Callable[[Config, RunFolder], tuple[int, int]]
    """Units done before, and units of the whole work: for showing progress."""
    finished: Callable[[RunFolder], bool]
    """Whether its result is in the run folder."""
    check: Callable[[Config, RunFolder], None] = _nothing
    """Refuses, with an InputError, what would go wrong; needs the prepared dataset alone."""
    unit: str = "steps"
