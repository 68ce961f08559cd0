"""The tasks of training workers by name, in the order in which one needs what another leaves."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.config import Config
from auditor.distributed.edit import EDIT
from auditor.distributed.features import READ_FEATURES
from auditor.distributed.gif_step import GIF_STEP
from auditor.distributed.hif import SOLVE
from auditor.distributed.replay import REPLAY
from auditor.distributed.task import Task
from auditor.distributed.train import TRAIN
from auditor.methods import END_OF_TRAINING
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader

TASKS: dict[str, Task] = {
    "train": TRAIN,
    "replay": REPLAY,
    "gif_step": GIF_STEP,
    "hif": SOLVE,
    "features": READ_FEATURES,
    "edit": EDIT,
}


def tasks_of(config: Config) -> tuple[str, ...]:
    """The tasks that an audit needs beside training: those that leave row scores, and what the report shows."""
    wanted = {"hif" if method in END_OF_TRAINING else method for method in config.score.methods}
    if config.report.neighbours or config.report.harmed:
        wanted.add("features")
    return tuple(name for name in TASKS if name in wanted)


def unfinished(config: Config, run: RunFolder, names: Sequence[str]) -> list[str]:
    """Which of some tasks are still to do.

    Args:
        config: The audit.
        run: Its run folder, dataset prepared.
        names: Of TASKS.

    Returns:
        In the order of TASKS.

    Raises:
        InputError: One of them would go wrong: see its `check`.
        StageError: Training is not among them and has not ended.
    """
    chosen = [name for name in TASKS if name in names]
    for name in chosen:
        TASKS[name].check(config, run)
    missing = [name for name in chosen if not TASKS[name].finished(run)]
    if missing and "train" not in missing:
        TrajectoryReader(run)  # raises where training has not ended
    return missing
