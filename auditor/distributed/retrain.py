"""Masked retrainings on a pool of Ray actors, each result kept as soon as it is there."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray
from ray.util import ActorPool

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
from auditor.influence import Point, evaluate
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
    actor: Any = ray.remote(
        **reserved(config),
        max_restarts=config.resources.max_failures,
        max_task_retries=config.resources.max_failures,
    )(Retrainer)
    count = min(_places(config), len(missing))
    pool = ActorPool([actor.remote(config.model_dump(mode="json"), run.uri) for _ in range(count)])
    try:
        with Progress(stage, len(removals), "retrainings", len(removals) - len(missing)) as bar:
            done = pool.map_unordered(lambda one, removal: one.without.remote(removal), list(missing.values()))
            for removal, found, losses in done:
                run.write_table(losses_file(removal), pa.table({"loss": losses}))
                run.write_json(result_file(removal), found)  # last: it says that the retraining is done
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

    def without(self, removal: Removal) -> tuple[Removal, dict[str, Any], NDArray[np.float32]]:
        """Train with rows masked or relabelled; returns the removal, what its file will hold, all validation losses."""
        began = time.monotonic()
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
        point = Point.at(self.trained.precise, state.parameters, state.buffers)
        measured = evaluate(self.trained.network, point, self.trained.query)
        found = {
            "rows": list(removal.rows),
            **({"relabelled": removal.relabelled} if removal.relabelled else {}),
            "loss": measured.loss if math.isfinite(measured.loss) else None,
            "accuracy": measured.accuracy,
            "seconds": round(time.monotonic() - began, 3),
        }
        return removal, found, self.trained.validation_losses(point)


def _places(config: Config) -> int:
    """Retrainings at a time."""
    if config.resources.retrainers is not None:
        return config.resources.retrainers
    if is_own_cluster(config.resources):
        # A cluster of our own counts more CPUs than there are: see `cluster`.
        return max(1, (os.cpu_count() or 1) // config.resources.cpus_per_worker)
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max(1, places(worker_resources(config.resources), machines))
