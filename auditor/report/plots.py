"""The drawings: each fills one matplotlib figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from auditor.methods import METHODS, base
from auditor.report.curves import TrainingCurves
from auditor.report.detection import Detection
from auditor.report.palette import BLUE, FAINT, ORANGE, PURPLE, RED, TEAL, colour
from auditor.report.ranking import Ranking

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def training(figure: Figure, curves: TrainingCurves) -> None:
    """Loss, accuracy and learning rate over epochs."""
    loss, accuracy, rate = figure.subplots(1, 3, width_ratios=[4, 4, 3])

    def line(axes: Axes, name: str, label: str, color: str, style: str = "-", marker: str = "") -> None:
        if name in curves.curves:
            at, values = curves.curves[name]
            axes.plot(at / curves.steps_per_epoch, values, style, marker=marker, markersize=4, color=color, label=label)

    if "train_loss" in curves.curves:
        at, values = curves.curves["train_loss"]
        loss.plot(at / curves.steps_per_epoch, values, color=BLUE, alpha=0.3, linewidth=0.8)
    line(loss, "epoch_loss", "training, at θ", BLUE)
    line(loss, "epoch_loss_perturbed", "training, at θ + ε", PURPLE, "--")
    line(loss, "validation_loss", "validation", ORANGE, marker="o")
    line(accuracy, "epoch_accuracy", "training, at θ", BLUE)
    line(accuracy, "epoch_accuracy_perturbed", "training, at θ + ε", PURPLE, "--")
    line(accuracy, "validation_accuracy", "validation", ORANGE, marker="o")
    line(rate, "learning_rate", "learning rate", TEAL)
    for axes, title in ((loss, "Loss (nats)"), (accuracy, "Accuracy"), (rate, "Learning rate")):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", integer=True, nbins=6)
        if axes is not rate and axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")
    loss.set_ylim(bottom=0, top=_loss_ceiling(curves))
    accuracy.set_ylim(top=1.01)
    rate.set_ylim(bottom=0)


def _loss_ceiling(curves: TrainingCurves) -> float | None:
    """A few steps of huge loss must not flatten everything else."""
    values = [values for name, (_, values) in curves.curves.items() if "loss" in name]
    top = float(np.quantile(np.concatenate(values), 0.99)) if values else 0.0
    return 1.1 * top if np.isfinite(top) and top > 0 else None


PANELS = 5
"""Histograms side by side; more go into further rows."""


def scores(figure: Figure, ranking: Ranking) -> None:
    """One histogram a method, wrong labels apart where they are known."""
    wrong = ranking.wrong
    rows = -(-len(ranking.methods) // PANELS)
    columns = -(-len(ranking.methods) // rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    panels = grid.flat[: len(ranking.methods)]
    for axes in grid.flat[len(ranking.methods) :]:
        axes.set_visible(False)
    for axes, method in zip(panels, ranking.methods, strict=True):
        harm = ranking.harm(method)
        low, high = np.quantile(harm, [0.001, 0.999])
        harm = np.clip(harm, low, high)
        edges = np.linspace(low, high, 41) if high > low else np.array([low - 0.5, low + 0.5])
        if wrong is None:
            axes.hist(harm, bins=edges, color=colour(method))
        else:
            axes.hist(harm[~wrong], bins=edges, color=colour(method), alpha=0.75)
            axes.hist(
                harm[wrong], bins=edges, histtype="step", color=RED, linewidth=1.6, label="labels known to be wrong"
            )
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")
        axes.yaxis.set_minor_formatter(lambda _value, _position: "")
        axes.locator_params(axis="x", nbins=4)
        axes.set_title(f"harm by {method}" if METHODS[base(method)].predicts else f"suspicion by {method}")
    for axes in grid[:, 0]:
        axes.set_ylabel("samples")
    # Only now: a limit that is set holds for all panels, whatever is drawn into them later.
    panels[0].set_ylim(bottom=0.6)
    if wrong is not None and wrong.any():
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center")


def detection(figure: Figure, detection: dict[str, Detection]) -> None:
    """Share of wrong labels found against share of the ranking read."""
    axes = figure.subplots()
    for method, found in sorted(detection.items(), key=lambda item: -item[1].auroc):
        shares = np.linspace(0, 1, len(found.curve))
        keep = np.unique(np.linspace(0, len(shares) - 1, 2000).astype(int))
        label = f"{method}  (AUROC {found.auroc:.3f})"
        axes.plot(shares[keep], found.curve[keep], color=colour(method), label=label)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":", label="random order")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_title("Wrong labels found")
    axes.set_xlabel("share of the ranking that was read")
    axes.set_ylabel("share of wrong labels found")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(loc="lower right")


def retrainings(figure: Figure, effects: pa.Table, column: str) -> None:
    """Measured against predicted effects of leaving samples out: single ones, and random subsets by share."""
    kinds = np.asarray(effects["kind"].to_pylist())
    shares, measured = np.asarray(effects["share"]), np.asarray(effects["measured"])
    predicted = np.asarray(effects[column])
    groups = [("leaving out one sample", kinds == "one")]
    for share in np.unique(shares[kinds == "subset"]):
        groups.append((f"leaving out a random {share:.0%}", (kinds == "subset") & (shares == share)))
    groups = [(title, chosen) for title, chosen in groups if chosen.any()]
    for axes, (title, chosen) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        ends = np.array([min(predicted[chosen].min(), 0.0), max(predicted[chosen].max(), 0.0)])
        axes.plot(ends, ends, color=FAINT, linewidth=1, linestyle=":", label="as predicted")
        axes.scatter(predicted[chosen], measured[chosen], s=18, color=colour(column), alpha=0.8, linewidths=0)
        axes.axhline(0, color=FAINT, linewidth=0.6)
        axes.axvline(0, color=FAINT, linewidth=0.6)
        axes.set_title(title)
        axes.set_xlabel(f"change of the loss predicted by {column}")
        axes.set_ylabel("measured by retraining")
        axes.locator_params(nbins=5)
        axes.legend(loc="upper left")
