"""Exact replay as a Ray Train job."""

from __future__ import annotations

from auditor.config import Config
from auditor.data import Dataset
from auditor.distributed.loop import new_model
from auditor.distributed.partial_sweep import PartialSweeps
from auditor.distributed.replay_files import Replay
from auditor.distributed.worker import replay_worker
from auditor.distributed.workers import run_on_workers
from auditor.errors import InputError
from auditor.sam import Network
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader


def replay_on_ray(config: Config, run: RunFolder) -> Replay:
    """Differentiate f, the loss of the query, through the recorded training; an earlier result is left alone.

    A sweep that was interrupted goes on from the last segment that it finished.

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
    manifest = TrajectoryReader(run).manifest
    done = manifest.steps - PartialSweeps(config, run, manifest).first_step()
    steps = round(config.replay.horizon * manifest.steps)
    run_on_workers(config, run, replay_worker, "replay", steps, min(done, steps))
    found = Replay.read(run)
    assert found is not None, "the first worker writes it before it returns"  # noqa: S101
    return found


def check_replay(config: Config, run: RunFolder, stage: str = "replay") -> None:
    """Refuse what replay, or another stage that differentiates f, would get wrong.

    Raises:
        InputError: The model has BatchNorm and is evaluated with running statistics.
    """
    network = Network(new_model(config, Dataset.load(run)))
    if network.norms and config.evaluation.statistics == "running":
        raise InputError(
            f"evaluation.statistics is running, which {stage} cannot differentiate in a model with BatchNorm: "
            "precise can be"
        )
