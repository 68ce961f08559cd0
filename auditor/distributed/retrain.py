"""Masked retrainings on a pool of Ray actors, each result kept as soon as it is there."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray
from ray.util import ActorPool
from torch.nn.functional import cross_entropy

from auditor.config import Config, parse_config
from auditor.distributed.cluster import is_own_cluster
from auditor.distributed.computing import set_up
from auditor.distributed.retraining import Retraining
from auditor.distributed.room import places, worker_resources
from auditor.distributed.rows import reserved
from auditor.distributed.trained_run import TrainedRun
from auditor.errors import StageError
from auditor.fidelity import Removal
from auditor.fidelity.verification import is_done, losses_file, result_file
from auditor.influence import Point, evaluate, sample_logits
from auditor.progress import Progress
from auditor.storage import RunFolder


def retrain_on_ray(config: Config, run: RunFolder, removals: Sequence[Removal], stage: str = "verify") -> None:
    """Run the recorded training again without chosen samples, many at a time on the connected Ray cluster.

    Args:
        config: The audit.
        run: Its run folder, training complete; gets one file a retraining, and those that are there are left alone.
        removals: What to leave out.
        stage: What it is called on the terminal.

    Raises:
        StageError: Actors died more often than `resources.max_failures`, or a retraining failed.
    """
    missing = {removal.key: removal for removal in removals if not is_done(run, removal)}
    if not missing:
        return

    def keep(removal: Removal, answer: tuple[dict[str, Any], NDArray[np.float32]]) -> None:
        found, losses = answer
        run.write_table(losses_file(removal), pa.table({"loss": losses}))
        run.write_json(result_file(removal), found)  # last: it says that the retraining is done

    over_retrainers(config, run, list(missing.values()), "without", keep, stage, len(removals))


def over_retrainers(
    config: Config,
    run: RunFolder,
    removals: Sequence[Removal],
    question: str,
    keep: Callable[[Removal, Any], None],
    stage: str,
    total: int,
) -> None:
    """Ask a pool of retrainers about each of some removals, and keep each answer as soon as it is there.

    Args:
        config: The audit.
        run: Its run folder, training complete.
        removals: What to leave out; at least one.
        question: The method of `Retrainer` that is asked.
        keep: Told each removal and what the method returned.
        stage: What it is called on the terminal.
        total: How many there are with those that were done before.

    Raises:
        StageError: Actors died more often than `resources.max_failures`, or a retraining failed.
    """
    actor: Any = ray.remote(
        **reserved(config),
        max_restarts=config.resources.max_failures,
        max_task_retries=config.resources.max_failures,
    )(Retrainer)
    count = min(_places(config), len(removals))
    pool = ActorPool([actor.remote(config.model_dump(mode="json"), run.uri) for _ in range(count)])
    try:
        with Progress(stage, total, "retrainings", total - len(removals)) as bar:
            for removal, answer in pool.map_unordered(
                lambda one, removal: one.answer.remote(question, removal), list(removals)
            ):
                keep(removal, answer)
                bar.advance(1)
    except ray.exceptions.RayError as error:
        raise StageError(f"{stage} gave up: {str(error).strip().splitlines()[-1]}") from error


class Retrainer:
    """An actor that trains again and again, each time without some samples.

    Args:
        settings: The configuration, as plain values.
        uri: The run folder.
    """

    def __init__(self, settings: dict[str, Any], uri: str) -> None:
        config = parse_config(settings)
        set_up(config.resources.cpus_per_worker)
        device = torch.device("cuda" if config.resources.gpus_per_worker else "cpu")
        self.trained = TrainedRun(config, RunFolder(uri), device)

    def answer(self, question: str, removal: Removal) -> tuple[Removal, Any]:
        """What one of the methods below says of a removal, the removal beside it."""
        return removal, getattr(self, question)(removal)

    def without(self, removal: Removal) -> tuple[dict[str, Any], NDArray[np.float32]]:
        """Train with rows masked or relabelled; returns what the removal's file will hold, all validation losses."""
        began = time.monotonic()
        point = self._trained_without(removal)
        measured = evaluate(self.trained.network, point, self.trained.query)
        found = {
            "rows": list(removal.rows),
            **({"relabelled": removal.relabelled} if removal.relabelled else {}),
            "loss": measured.loss if math.isfinite(measured.loss) else None,
            "accuracy": measured.accuracy,
            "test_accuracy": evaluate(self.trained.network, point, self.trained.chunks("test")).accuracy,
            "seconds": round(time.monotonic() - began, 3),
        }
        return found, self.trained.validation_losses(point)

    def confidence(self, removal: Removal) -> NDArray[np.float64]:
        """Train with rows masked; returns the probability that each of them has its given label, [rows]."""
        point = self._trained_without(removal)
        chunks = self.trained.chunks("train", np.array(removal.rows))
        with torch.no_grad():
            losses = [
                cross_entropy(sample_logits(self.trained.network, point, inputs).double(), labels, reduction="none")
                for inputs, labels in chunks
            ]
        return np.asarray(torch.cat(losses).neg().exp().cpu().numpy())

    def _trained_without(self, removal: Removal) -> Point:
        """The end of the recorded training, run again with rows masked or relabelled."""
        weights = np.ones(self.trained.manifest.rows)
        weights[list(removal.rows)] = 0.0
        rows, classes = [row for row, _ in removal.relabelled], [label for _, label in removal.relabelled]
        labels = self.trained.train.labels
        given = labels[rows].clone()
        labels[rows] = torch.tensor(classes, dtype=labels.dtype)
        try:
            state = Retraining(self.trained, weights).run()
        finally:
            labels[rows] = given
        return Point.at(self.trained.precise, state.parameters, state.buffers)


def _places(config: Config) -> int:
    """Retrainings at a time."""
    if config.resources.retrainers is not None:
        return config.resources.retrainers
    if is_own_cluster(config.resources):
        # A cluster of our own counts more CPUs than there are: see `cluster`.
        return max(1, (os.cpu_count() or 1) // config.resources.cpus_per_worker)
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max(1, places(worker_resources(config.resources), machines))
