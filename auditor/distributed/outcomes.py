"""What came of a task of the workers, in a sentence on the terminal."""

from __future__ import annotations

import logging

from auditor.config import Config
from auditor.distributed.hif_files import Hif
from auditor.distributed.replay_files import Replay
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader

log = logging.getLogger("auditor")


def say(task: str, run: RunFolder) -> None:
    """Log what a finished task has found.

    Args:
        task: Of `auditor.distributed.tasks.TASKS`.
        run: The run folder.
    """
    match task:
        case "train":
            done = TrajectoryReader(run).manifest
            log.info(
                "train: %d steps of %d samples in %.1f s, %d checkpoints",
                done.steps,
                done.batch_size,
                done.seconds,
                len(done.checkpoints),
            )
        case "replay":
            replay = Replay.read(run)
            drift = max(replay.drift.values())
            log.info("replay: drift at most %.1e, the cotangent grew %.3g-fold", drift, replay.predictability)
        case "gif_step":
            log.info("gif_step: every step of training taken again")
        case "features":
            found = run.read_json("features/features.json")
            if found["head"] is None:
                log.info("features: the model has no linear layer at its end, so the report shows no neighbours")
            elif not found.get("trained", True):
                log.info("features: the last layer is frozen, so the report does not show what a sample harms")
        case "hif":
            hif = Hif.read(run)
            log.info("hif: solved for %s", ", ".join(dict.fromkeys((*hif.columns, *hif.seconds))))
            for warning in hif.warnings():
                log.warning("hif: %s", warning)


def idle_workers(config: Config) -> str | None:
    """A sentence where training workers would have nothing to do; None where all have."""
    micro_batches = config.train.batch_size // config.train.micro_batch_size
    workers = config.resources.train_workers
    if micro_batches >= workers:
        return None
    idle = workers - micro_batches
    return f"a step has {micro_batches} micro-batches, so {idle} of {workers} workers have nothing to do"
