"""What is computed once before all samples are scored: losses along training, directions, exposures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.config import Config
from auditor.distributed.row_scores import read_row_scores
from auditor.distributed.trained_run import TrainedRun
from auditor.influence import Direction, Point, effective_steps, evaluate, gif_direction, nearest_checkpoints
from auditor.methods import base
from auditor.storage import RunFolder

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class ScoringInputs:
    """Everything a scoring actor needs beside the samples. All tensors on the CPU."""

    final: Point
    """θ_T with its statistics."""
    directions: tuple[Direction, ...]
    """What per-sample gradients are multiplied with."""
    weights: dict[str, NDArray[np.float64]]
    """W [rows, directions] by score column: the column is Σ_d W[k, d] ⟨∇l_k(θ_d), v_d⟩."""
    known: dict[str, NDArray[np.float64]]
    """[rows] by score column: what whole-training computations and the ledger have given already."""
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
    trained = TrainedRun(config, run, device)
    methods = config.score.methods
    directions: tuple[Direction, ...] = ()
    weights = {}
    if "gif" in methods:
        directions, weights["gif"] = _gif(trained)
    known = {name: values for name, values in read_row_scores(run).items() if base(name) in methods}
    if "aum" in methods:
        known["aum"] = trained.reader.area_under_margin()
    return ScoringInputs(
        final=trained.point(trained.manifest.steps).to(_CPU),
        directions=directions,
        weights=weights,
        known=known,
        evaluation=_evaluation(trained),
    )


def _evaluation(trained: TrainedRun) -> dict[str, Any]:
    """Validation loss and accuracy at every checkpoint, test loss and accuracy at the last."""
    validation = trained.chunks("validation")
    curve = []
    for step in trained.manifest.checkpoints:
        measured = evaluate(trained.network, trained.point(step), validation)
        curve.append(
            {
                "step": step,
                "epoch": step / trained.manifest.steps_per_epoch,
                "validation_loss": measured.loss,
                "validation_accuracy": measured.accuracy,
            }
        )
    tested = evaluate(trained.network, trained.point(trained.manifest.steps), trained.chunks("test"))
    return {
        "statistics": trained.config.evaluation.statistics,
        "checkpoints": curve,
        "validation_loss": curve[-1]["validation_loss"],
        "validation_accuracy": curve[-1]["validation_accuracy"],
        "test_loss": tested.loss,
        "test_accuracy": tested.accuracy,
    }


def _gif(trained: TrainedRun) -> tuple[tuple[Direction, ...], NDArray[np.float64]]:
    """A direction for each checkpoint that is used, and W [rows, checkpoints]."""
    manifest, reader = trained.manifest, trained.reader
    chosen = _evenly(np.array(manifest.checkpoints), trained.config.score.checkpoints)
    gradient = trained.validation_gradient()
    directions = []
    for step in chosen.tolist():
        state = reader.state(step).to(trained.device)
        # No step follows the final state; the batch before it gives its ε.
        batches = trained.micro_batches(min(step, manifest.steps - 1))
        direction = gif_direction(
            trained.network, trained.precise, state, batches, manifest.micro_batches, trained.perturbation, gradient
        )
        directions.append(direction.to(_CPU))
    optimizer = manifest.optimizer
    weights = effective_steps(
        reader.learning_rates(), optimizer["momentum"], optimizer["weight_decay"], optimizer["nesterov"]
    )
    intervals = nearest_checkpoints(chosen, manifest.steps)
    return tuple(directions), reader.exposures(weights / manifest.batch_size, intervals, len(chosen))


def _evenly(steps: NDArray[np.integer], count: int | None) -> NDArray[np.integer]:
    """`count` of the checkpoints, evenly spread, first and last included where there is room for both."""
    if count is None or count >= len(steps):
        return steps
    if count == 1:
        return steps[-1:]
    chosen: NDArray[np.integer] = steps[np.unique(np.linspace(0, len(steps) - 1, count).round().astype(int))]
    return chosen
