"""What an audit computes on Ray: each part once, and on one cluster for all that is missing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.config import Config
from auditor.data import Dataset
from auditor.initial_weights import settle_weights
from auditor.stages import Stages
from auditor.storage import RunFolder
from auditor.trajectory import Manifest, TrajectoryReader

if TYPE_CHECKING:
    from auditor.fidelity import Removal

log = logging.getLogger("auditor")


@dataclass(frozen=True)
class Computation:
    """The part of an audit that needs workers."""

    config: Config
    folder: RunFolder
    verbose: bool
    """Show what Ray and its workers log."""

    @property
    def stages(self) -> Stages:
        """What has ended, and how long it took."""
        return Stages(self.folder)

    @property
    def manifest(self) -> Manifest:
        """Of the training, which has ended."""
        return TrajectoryReader(self.folder).manifest

    @property
    def scored(self) -> bool:
        """Whether every training sample has its scores."""
        return self.folder.exists("scores")

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of the workers that scores and report need beside training."""
        from auditor.distributed.tasks import tasks_of

        return tasks_of(self.config)

    def ray(self) -> AbstractContextManager[None]:
        """The cluster, for the length of a block; the same one where a block around it has it already."""
        from auditor.distributed.cluster import cluster

        return cluster(self.config.resources, self.verbose)

    def ray_to_score(self) -> AbstractContextManager[None]:
        """One cluster for all that scoring still needs, and for what follows; none where all is scored.

        What would go wrong is said before it starts.

        Raises:
            InputError: A method that is asked for cannot be computed.
            StageError: Training has not ended.
        """
        if self.scored:
            return nullcontext()
        from auditor.distributed.tasks import unfinished

        TrajectoryReader(self.folder)
        unfinished(self.config, self.folder, self.tasks)
        return self.ray()

    def on_workers(self, *tasks: str) -> None:
        """Let the training workers compute what is not there yet of some tasks, and say what came of each.

        Raises:
            InputError: A task cannot be done with this configuration.
            StageError: A task could not end.
        """
        from auditor.distributed.outcomes import idle_workers, say
        from auditor.distributed.tasks import unfinished

        missing = unfinished(self.config, self.folder, tasks)
        for task in tasks:
            if task not in missing:
                say(task, self.folder)
        if "train" in missing:
            initial = settle_weights(self.config, self.folder)
            for sentence in initial.sentences if initial is not None else ():
                log.info("train: %s", sentence)
            if idle := idle_workers(self.config):
                log.warning("train: %s", idle)
        elif "train" in tasks and "train" not in self.stages:
            # Workers can outlive a killed command and end training without it.
            self.stages.record("train", self.manifest.seconds)
        if missing:
            from auditor.distributed.workers import run_on_workers

            with self.ray():
                run_on_workers(self.config, self.folder, missing, self._ended)

    def score(self) -> int:
        """Score every training sample, what scores need from the workers being there; returns how many there are.

        Raises:
            StageError: A score is not finite, or actors died too often.
        """
        if not self.scored:
            from auditor.distributed.score import score_on_ray

            with self.ray():
                self._predict_out_of_sample()
                with self.stages.timed("score"):
                    score_on_ray(self.config, self.folder)
        rows = Dataset.load(self.folder).splits["train"].rows
        log.info("score: %s samples by %s", f"{rows:,}", ", ".join(self.config.score.methods))
        return rows

    def retrain(self, removals: Sequence[Removal], stage: str) -> None:
        """Train again with each removal, unless that is done.

        Args:
            removals: What to leave out or relabel.
            stage: What it is called on the terminal and in the stages.

        Raises:
            StageError: Retraining gave up.
        """
        from auditor.fidelity.verification import is_done

        if not all(is_done(self.folder, removal) for removal in removals):
            from auditor.distributed.retrain import retrain_on_ray

            with self.ray(), self.stages.timed(stage):
                retrain_on_ray(self.config, self.folder, removals, stage)

    def _predict_out_of_sample(self) -> None:
        from auditor.distributed.out_of_sample import OUT_OF_SAMPLE, OUT_OF_SAMPLE_FILE, out_of_sample_on_ray

        if OUT_OF_SAMPLE in self.config.score.methods and not self.folder.exists(OUT_OF_SAMPLE_FILE):
            with self.stages.timed(OUT_OF_SAMPLE):
                out_of_sample_on_ray(self.config, self.folder)
            log.info("out_of_sample: every label judged by one of %d retrainings", self.config.score.folds)

    def _ended(self, task: str, seconds: float) -> None:
        from auditor.distributed.outcomes import say

        self.stages.record(task, seconds)
        say(task, self.folder)
