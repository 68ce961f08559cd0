"""Training as curves, summed up from the ledger without holding it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from auditor.storage import RunFolder

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Steps and values."""


@dataclass(frozen=True)
class TrainingCurves:
    """Named curves over steps; a curve that was not recorded is absent."""

    curves: dict[str, Curve]
    """train_loss, learning_rate, grad_norm: a point a step or a bin of steps. epoch_accuracy, epoch_loss,
    epoch_loss_perturbed, epoch_accuracy_perturbed: a point an epoch. validation_loss, validation_accuracy: a point a
    checkpoint."""
    steps: int
    steps_per_epoch: int
    seconds: float
    """Training time."""


def training_curves(run: RunFolder, points: int = 500) -> TrainingCurves:
    """Read the curves of a run folder that holds trajectory/manifest.json and evaluation.json.

    Args:
        run: The run folder.
        points: Longest curve by steps; longer ones are means over bins of steps.
    """
    manifest = run.read_json("trajectory/manifest.json")
    steps, per_epoch = int(manifest["steps"]), int(manifest["steps_per_epoch"])
    checkpoints = run.read_json("evaluation.json").get("checkpoints", [])
    curves = {
        **_step_curves(run, manifest["segments"], steps, points),
        **_epoch_curves(run, manifest["segments"], int(manifest["epochs"]), per_epoch),
    }
    for name in ("validation_loss", "validation_accuracy"):
        known = [(entry["step"], entry[name]) for entry in checkpoints if entry.get(name) is not None]
        if known:
            at, values = zip(*known, strict=True)
            curves[name] = np.array(at, dtype=np.float64), np.array(values, dtype=np.float64)
    return TrainingCurves(curves, steps, per_epoch, float(manifest.get("seconds") or 0))


def _step_curves(run: RunFolder, segments: list[dict[str, list[str]]], steps: int, points: int) -> dict[str, Curve]:
    columns = {"train_loss": "loss", "learning_rate": "lr", "grad_norm": "grad_norm"}
    sums = {name: np.zeros(steps) for name in columns}
    counts = np.zeros(steps)
    for table in _tables(run, "batches", segments, ["step", *columns.values()]):
        at = table["step"].to_numpy()
        counts += np.bincount(at, minlength=steps)
        for name, column in columns.items():
            sums[name] += np.bincount(at, weights=table[column].to_numpy(), minlength=steps)
    seen = np.flatnonzero(counts)
    if not len(seen):
        return {}
    bins = np.array_split(seen, min(points, len(seen)))
    at = np.array([group[-1] + 1 for group in bins], dtype=np.float64)
    return {name: (at, np.array([np.mean(sums[name][b] / counts[b]) for b in bins])) for name in columns}


def _epoch_curves(
    run: RunFolder, segments: list[dict[str, list[str]]], epochs: int, per_epoch: int
) -> dict[str, Curve]:
    columns = ["epoch", "loss", "margin", "loss_perturbed", "margin_perturbed"]
    names = ("epoch_loss", "epoch_accuracy", "epoch_loss_perturbed", "epoch_accuracy_perturbed")
    sums = {name: np.zeros(epochs) for name in names}
    counts = np.zeros(epochs)
    for table in _tables(run, "signals", segments, columns):
        at = table["epoch"].to_numpy()
        counts += np.bincount(at, minlength=epochs)
        for name, column in zip(names, columns[1:], strict=True):
            values = table[column].to_numpy().astype(np.float64)
            # A positive margin is a correct prediction.
            weights = (values > 0).astype(np.float64) if "accuracy" in name else values
            sums[name] += np.bincount(at, weights=weights, minlength=epochs)
    seen = np.flatnonzero(counts)
    if not len(seen):
        return {}
    at_steps = np.asarray((seen + 1) * per_epoch, dtype=np.float64)
    return {name: (at_steps, np.asarray(sums[name][seen] / counts[seen], dtype=np.float64)) for name in names}


def _tables(run: RunFolder, kind: str, segments: list[dict[str, list[str]]], columns: list[str]) -> Iterator[pa.Table]:
    """One table a segment; the manifest names only files that are complete."""
    for segment in segments:
        if segment[kind]:
            yield run.read_table([f"trajectory/{kind}/{name}" for name in segment[kind]], columns=columns)
