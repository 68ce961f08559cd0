"""What is computed once before all samples are scored: losses along training, directions, exposures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from auditor import counters
from auditor.config import Config
from auditor.data import query_name
from auditor.distributed.rounding import fewer_bits
from auditor.distributed.row_scores import read_row_scores
from auditor.distributed.trained_run import TrainedRun
from auditor.influence import (
    Directions,
    Point,
    evaluate,
    nearest_checkpoints,
    perturbed_parameters,
    random_projection,
    trak_tangent,
)
from auditor.methods import base
from auditor.sam import Tensors
from auditor.storage import RunFolder

_CPU = torch.device("cpu")
_ABLATION = (3, 5, 10)
"""Checkpoints of GIF in the paper's ablation (figure 12)."""

_Sums = tuple[Sequence[Directions], dict[str, NDArray[np.float64]]]
"""Directions and, by score column, W [rows, directions]."""


@dataclass(frozen=True)
class ScoringInputs:
    """Everything a scoring actor needs beside the samples. All tensors on the CPU."""

    final: Point
    """θ_T with its statistics."""
    directions: tuple[Directions, ...]
    """What per-sample gradients are multiplied with."""
    weights: dict[str, NDArray[np.float64]]
    """W [rows, directions] by score column: the column is Σ_d W[k, d] ⟨∇l_k(θ_d), v_d⟩."""
    known: dict[str, NDArray[np.float64]]
    """[rows] by score column: what whole-training computations and the ledger have given already."""
    evaluation: dict[str, Any]
    """Contents of evaluation.json."""
    dtype: torch.dtype | None = None
    """Of the numbers that passes over samples compute with; None for that of the parameters."""


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
    sums = [of(trained) for name, of in _SUMS.items() if name in methods]
    known = {name: values for name, values in read_row_scores(run).items() if base(name) in methods}
    known |= {name: of(trained) for name, of in _RECORDED.items() if name in methods}
    directions = [some for directions, _ in sums for some in directions]
    weights = _side_by_side(sums)

    def scores(rows: NDArray[np.integer], derivatives: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {column: (each[rows] * derivatives).sum(axis=1) for column, each in weights.items()}

    dtype, lost = fewer_bits(trained, directions, scores)
    return ScoringInputs(
        final=trained.final.to(_CPU),
        directions=tuple(some.to(_CPU) for some in directions),
        weights=weights,
        known=known,
        evaluation=_evaluation(trained) | {"rounding": {column: asdict(each) for column, each in lost.items()}},
        dtype=dtype,
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
    tested = evaluate(trained.network, trained.final, trained.chunks("test"))
    return {
        "statistics": trained.config.evaluation.statistics,
        "query": query_name(trained.config.query),
        "query_loss": trained.query_loss(trained.final),
        "checkpoints": curve,
        "validation_loss": curve[-1]["validation_loss"],
        "validation_accuracy": curve[-1]["validation_accuracy"],
        "test_loss": tested.loss,
        "test_accuracy": tested.accuracy,
    }


def _gif(trained: TrainedRun) -> _Sums:
    """A direction for each checkpoint that is used, and W [rows, checkpoints]; for an ablation, W of fewer as well."""
    chosen = used_checkpoints(trained)
    directions = gif_directions(trained, chosen, [trained.validation_gradient()])
    sizes = trained.step_sizes()
    weights = {"gif": exposures(trained, sizes, chosen)}
    for count in _ABLATION if trained.config.score.ablation else ():
        if count <= len(chosen):
            fewer = _evenly(chosen, count)
            weights[f"gif@{count}"] = np.zeros_like(weights["gif"])
            weights[f"gif@{count}"][:, np.searchsorted(chosen, fewer)] = exposures(trained, sizes, fewer)
    return directions, weights


def gif_directions(
    trained: TrainedRun, checkpoints: NDArray[np.integer], gradients: Sequence[Tensors]
) -> list[Directions]:
    """Directions of GIF: each gradient of f(θ_T) at θ_c + ε_c of each checkpoint."""
    directions = []
    for step in checkpoints.tolist():
        perturbed, buffers = perturbed_at(trained, step)
        scales = trained.scales_at(step)
        scaled = gradients if scales is None else [scaled_by(scales, gradient) for gradient in gradients]
        directions.append(Directions.along(trained.precise, perturbed, buffers, scaled))
    return directions


def scaled_by(scales: Tensors, tensors: Tensors) -> Tensors:
    """Tensors times scales, entry by entry."""
    return {name: scales[name] * value for name, value in tensors.items()}


def perturbed_at(trained: TrainedRun, step: int) -> tuple[Tensors, Tensors]:
    """θ_c + ε_c and the buffers of a checkpoint."""
    state = trained.state(step)
    # No step follows the final state; the batch before it gives its ε.
    batches = trained.micro_batches(min(step, trained.manifest.steps - 1))
    total = trained.manifest.micro_batches
    return perturbed_parameters(trained.network, state, batches, total, trained.perturbation), state.buffers


def _tracin(trained: TrainedRun) -> _Sums:
    """∇f at each checkpoint that is used, and W [rows, checkpoints] from the learning rate as it was."""
    chosen = used_checkpoints(trained)
    directions = []
    for step in chosen.tolist():
        point = trained.point(step)
        gradient = trained.validation_gradient(point)
        directions.append(Directions.along(trained.precise, point.parameters, point.buffers, [gradient]))
    sizes = trained.reader.learning_rates() / trained.manifest.batch_size
    return directions, {"tracin": exposures(trained, sizes, chosen)}


def _trak(trained: TrainedRun) -> _Sums:
    """One direction at the end of training; every sample counts alike."""
    config, point = trained.config, trained.final
    seed = counters.seed_of("trak", config.seed)
    projection = random_projection(point.parameters, config.score.trak_dimensions, seed)
    tangent = trak_tangent(
        trained.network, trained.precise, point, trained.chunks("train"), trained.validation_gradient(), projection
    )
    direction = Directions.along(trained.precise, point.parameters, point.buffers, [tangent])
    return [direction], {"trak": np.ones((trained.manifest.rows, 1))}


def _confidence(trained: TrainedRun) -> NDArray[np.float64]:
    return trained.reader.mean_signal("loss", lambda losses: np.exp(-losses))


def _late_margin(trained: TrainedRun) -> NDArray[np.float64]:
    epochs = trained.manifest.epochs
    # Two epochs see every row, one may not.
    return trained.reader.mean_signal("margin", since=epochs // 2 if epochs > 2 else 0)


_SUMS: Mapping[str, Callable[[TrainedRun], _Sums]] = {"gif": _gif, "tracin": _tracin, "trak": _trak}
"""Methods that are sums of directional derivatives."""

_RECORDED: Mapping[str, Callable[[TrainedRun], NDArray[np.float64]]] = {
    "aum": lambda trained: trained.reader.mean_signal("margin"),
    "aum_late": _late_margin,
    "aum_perturbed": lambda trained: trained.reader.mean_signal("margin_perturbed"),
    "self_confidence": _confidence,
    "random": lambda trained: counters.uniform("random", trained.config.seed, np.arange(trained.manifest.rows)),
}
"""Detectors [rows] that the ledger or the seed has given already."""


def _side_by_side(sums: Sequence[_Sums]) -> dict[str, NDArray[np.float64]]:
    """W of every column over the directions of all methods together, 0 for those of other methods."""
    total = sum(len(some) for directions, _ in sums for some in directions)
    wide, first = {}, 0
    for directions, weights in sums:
        for column, narrow in weights.items():
            wide[column] = np.zeros((len(narrow), total))
            wide[column][:, first : first + narrow.shape[1]] = narrow
        first += sum(len(some) for some in directions)
    return wide


def used_checkpoints(trained: TrainedRun) -> NDArray[np.integer]:
    """The checkpoint steps that `score.checkpoints` leaves."""
    return _evenly(np.array(trained.manifest.checkpoints), trained.config.score.checkpoints)


def exposures(trained: TrainedRun, sizes: NDArray[np.float64], checkpoints: NDArray[np.integer]) -> NDArray[np.float64]:
    """W [rows, checkpoints]: step sizes summed over the steps that used a sample, each at its nearest checkpoint."""
    intervals = nearest_checkpoints(checkpoints, trained.manifest.steps)
    return trained.reader.exposures(sizes, intervals, len(checkpoints))


def _evenly(steps: NDArray[np.integer], count: int | None) -> NDArray[np.integer]:
    """`count` of the checkpoints, evenly spread, first and last included where there is room for both."""
    if count is None or count >= len(steps):
        return steps
    if count == 1:
        return steps[-1:]
    chosen: NDArray[np.integer] = steps[np.unique(np.linspace(0, len(steps) - 1, count).round().astype(int))]
    return chosen
