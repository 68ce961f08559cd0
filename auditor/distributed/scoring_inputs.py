"""What is computed once before all samples are scored: losses along training, directions, exposures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auditor import counters
from auditor.config import Config
from auditor.data import Dataset, Samples, SplitName
from auditor.distributed.loop import StepInputs, load_samples, new_model
from auditor.influence import (
    Direction,
    Point,
    PreciseStatistics,
    effective_steps,
    evaluate,
    gif_direction,
    nearest_checkpoints,
    query_gradient,
    with_running,
)
from auditor.sam import Network, make_perturbation
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader


@dataclass(frozen=True)
class ScoringInputs:
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


def prepare_scoring(config: Config, run: RunFolder, device: torch.device) -> ScoringInputs:
    """Evaluate every checkpoint and prepare what scoring needs.

    Args:
        config: The audit.
        run: Its run folder, training complete.
        device: Where to compute.

    Returns:
        What scoring needs, on the CPU.

    Raises:
        StageError: Training has not ended.
    """
    reader = TrajectoryReader(run)
    dataset = Dataset.load(run)
    network = Network(new_model(config, dataset).to(device))
    train = load_samples(config, run, dataset, "train")
    precise = precise_statistics(config, network, train, device)

    def split(name: SplitName) -> list[tuple[Tensor, Tensor]]:
        samples = load_samples(config, run, dataset, name)
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
    return ScoringInputs(
        final=point.to(torch.device("cpu")),
        directions=tuple(directions),
        exposures=exposures,
        area_under_margin=reader.area_under_margin(),
        evaluation=evaluation,
    )


def trained_model(config: Config, run: RunFolder) -> nn.Module:
    """The network at the end of training, in evaluation mode, with the statistics it was evaluated with."""
    reader, dataset = TrajectoryReader(run), Dataset.load(run)
    network = Network(new_model(config, dataset))
    precise = precise_statistics(config, network, load_samples(config, run, dataset, "train"), torch.device("cpu"))
    state = reader.state(reader.manifest.steps)
    buffers = with_running(state.buffers, precise.value(state.parameters, state.buffers))
    network.model.load_state_dict({**buffers, **state.parameters})
    return network.model.eval()


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
    chosen: NDArray[np.integer] = steps[np.unique(np.linspace(0, len(steps) - 1, count).round().astype(int))]
    return chosen
