"""Exact replay as a Ray Train job, and what it leaves in the run folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from auditor.config import Config
from auditor.data import Dataset
from auditor.distributed.loop import new_model
from auditor.distributed.sweep import Sweep
from auditor.distributed.worker import replay_worker
from auditor.distributed.workers import run_on_workers
from auditor.errors import InputError
from auditor.sam import Network
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader

INFLUENCE_FILE = "replay/influence.parquet"
REPLAY_FILE = "replay/replay.json"


@dataclass(frozen=True)
class Replay:
    """`replay/replay.json`: how well the replay went."""

    first_step: int
    """The first step that was swept."""
    predictability: float
    """‖λ_0‖ / ‖λ_T‖: growth of the cotangent on its way back."""
    drift: dict[str, float]
    """By recorded checkpoint: relative difference of the parameters that replay came to."""

    @classmethod
    def read(cls, run: RunFolder) -> Replay | None:
        """What an earlier replay wrote; None when there is none."""
        if not run.exists(REPLAY_FILE):
            return None
        raw = run.read_json(REPLAY_FILE)
        return cls(raw["first_step"], raw["predictability"], raw["drift"])


def replay_on_ray(config: Config, run: RunFolder) -> Replay:
    """Differentiate the validation loss through the recorded training; an earlier result is left alone.

    Args:
        config: The audit.
        run: Its run folder, training complete.

    Returns:
        How well it went; the influence of every row is in replay/influence.parquet.

    Raises:
        InputError: The model has BatchNorm and is evaluated with running statistics, which are no function of θ.
        StageError: Training has not ended, or replay drifted from the recorded checkpoints.
    """
    check_replay(config, run)
    if (found := Replay.read(run)) is not None:
        return found
    steps = TrajectoryReader(run).manifest.steps
    run_on_workers(config, run, replay_worker, "replay", round(config.replay.horizon * steps), 0)
    found = Replay.read(run)
    assert found is not None, "the first worker writes it before it returns"  # noqa: S101
    return found


def check_replay(config: Config, run: RunFolder) -> None:
    """Refuse what replay would get wrong.

    Raises:
        InputError: The model has BatchNorm and is evaluated with running statistics.
    """
    network = Network(new_model(config, Dataset.load(run)))
    if network.norms and config.evaluation.statistics == "running":
        raise InputError(
            "evaluation.statistics is running, which replay cannot differentiate in a model with BatchNorm: "
            "precise can be"
        )


def write_replay(run: RunFolder, sweep: Sweep) -> None:
    """Keep what a sweep found; replay.json last, since it declares the rest complete."""
    rows = pa.array(np.arange(len(sweep.influence)), pa.int32())
    run.write_table(INFLUENCE_FILE, pa.table({"row": rows, "influence": sweep.influence}))
    found = Replay(sweep.first_step, sweep.predictability, {str(step): value for step, value in sweep.drift.items()})
    run.write_json(REPLAY_FILE, asdict(found))


def read_influence(run: RunFolder) -> NDArray[np.float64]:
    """Influence of every training row by replay, [rows]."""
    return np.asarray(run.read_table(INFLUENCE_FILE)["influence"].to_numpy())
