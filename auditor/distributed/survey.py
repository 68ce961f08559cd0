"""What is computed once before all samples are scored: losses along training, directions, exposures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor import counters
from auditor.config import Config
from auditor.data import Dataset, Samples
from auditor.distributed.loop import StepInputs, dtype_of, new_model
from auditor.influence import (
    Direction,
    Point,
    PreciseStatistics,
    effective_steps,
    evaluate,
    gif_direction,
    nearest_checkpoints,
    query_gradient,
)
from auditor.sam import Network, make_perturbation
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader


@dataclass(frozen=True)
class Survey:
    """Everything a scoring actor needs beside the samples. All tensors on the CPU."""

    final: Point
    """θ_T with its statistics."""
    directions: tuple[Direction, ...]
    """One a checkpoint that GIF uses; empty when GIF is not asked for."""
    exposures: NDArray[np.float64]
    """W [rows, directions]."""
    area_under_margin: NDArray[np.float64]
    """[rows]; NaN where the ledger holds no signals."""
    evaluation: dict[str, Any]
    """Contents of evaluation.json."""


def survey(config: Config, run: RunFolder, device: torch.device) -> Survey:
    """Evaluate every checkpoint and prepare what scoring needs.

    Args:
        config: The audit.
        run: Its run folder, training complete.
        device: Where to compute.

    Returns:
        The survey, on the CPU.

    Raises:
        StageError: Training has not ended.
    """
    reader = TrajectoryReader(run)
    dataset = Dataset.load(run)
    network = Network(new_model(config, dataset).to(device))
    train = Samples.load(run, "train", dataset, config.data.cache_gib, dtype_of(config))
    precise = precise_statistics(config, network, train, device)

    def split(name: str) -> list[tuple[Tensor, Tensor]]:
        samples = Samples.load(run, name, dataset, config.data.cache_gib, dtype_of(config))
        return list(_chunks(samples, config.evaluation.batch_size, device))

    validation, test = split("validation"), split("test")
    final = reader.state(reader.manifest.steps).to(device)
    point = Point.at(precise, final.parameters, final.buffers)
    curve = []
    for step in reader.manifest.checkpoints:
        state = reader.state(step).to(device)
        measured = evaluate(network, Point.at(precise, state.parameters, state.buffers), validation)
        curve.append(
            {
                "step": step,
                "epoch": step / reader.manifest.steps_per_epoch,
                "validation_loss": measured.loss,
                "validation_accuracy": measured.accuracy,
            }
        )
    tested = evaluate(network, point, test)
    evaluation = {
        "statistics": config.evaluation.statistics,
        "checkpoints": curve,
        "validation_loss": curve[-1]["validation_loss"],
        "validation_accuracy": curve[-1]["validation_accuracy"],
        "test_loss": tested.loss,
        "test_accuracy": tested.accuracy,
    }

    directions: list[Direction] = []
    exposures = np.zeros((len(train), 0))
    if "gif" in config.score.methods:
        chosen = _evenly(np.array(reader.manifest.checkpoints), config.score.checkpoints)
        gradient = query_gradient(network, precise, point, validation)
        inputs = StepInputs(config, train, device)
        perturbation = make_perturbation(**reader.manifest.perturbation)
        for step in chosen.tolist():
            recorded = min(step, reader.manifest.steps - 1)
            epoch = recorded // reader.manifest.steps_per_epoch
            rows = np.split(reader.step_samples(recorded), reader.manifest.micro_batches)
            batches = [inputs.micro_batch(recorded, epoch, index, part) for index, part in enumerate(rows)]
            state = reader.state(step).to(device)
            direction = gif_direction(network, precise, state, batches, perturbation, gradient)
            directions.append(direction.to(torch.device("cpu")))
        optimizer = reader.manifest.optimizer
        weights = effective_steps(
            reader.learning_rates(), optimizer["momentum"], optimizer["weight_decay"], optimizer["nesterov"]
        )
        intervals = nearest_checkpoints(chosen, reader.manifest.steps)
        exposures = reader.exposures(weights / reader.manifest.batch_size, intervals, len(chosen))
    return Survey(
        final=point.to(torch.device("cpu")),
        directions=tuple(directions),
        exposures=exposures,
        area_under_margin=reader.area_under_margin(),
        evaluation=evaluation,
    )


def precise_statistics(config: Config, network: Network, train: Samples, device: torch.device) -> PreciseStatistics:
    """S(θ) over rows drawn by a counter, in chunks of one size; over none for running statistics."""
    if config.evaluation.statistics == "running" or not network.norms:
        return PreciseStatistics(network, ())
    count = min(config.evaluation.statistics_rows, len(train))
    rows = np.sort(counters.permutation("statistics", len(train), config.seed)[:count])
    size = min(config.evaluation.batch_size, count)
    parts = np.split(rows[: count - count % size], count // size)
    return PreciseStatistics(network, [train.inputs(part).to(device) for part in parts])


def _chunks(samples: Samples, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for first in range(0, len(samples), size):
        rows = np.arange(first, min(first + size, len(samples)))
        yield samples.inputs(rows).to(device), samples.labels[rows].to(device)


def _evenly(steps: NDArray[np.integer], count: int | None) -> NDArray[np.integer]:
    """`count` of the checkpoints, evenly spread, first and last included where there is room for both."""
    if count is None or count >= len(steps):
        return steps
    if count == 1:
        return steps[-1:]
    return steps[np.unique(np.linspace(0, len(steps) - 1, count).round().astype(int))]
