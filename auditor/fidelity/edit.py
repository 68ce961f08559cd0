"""Edited weights beside a real retraining: do they classify, move and forget as if the samples had never been there?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from auditor.fidelity.edit_files import (
    EDITS,
    RECORDED,
    RETRAIN,
    Asked,
    Weights,
    read_outcome,
    read_removal,
    read_weights,
    weights_folder,
)
from auditor.sam import Tensors
from auditor.sam.perturbation import global_norm
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader
from auditor.trajectory.checkpoint import load_state

_RUINED = 2.0
"""Growth of the validation loss from which on an edit has left the region in which its approximation means anything."""


@dataclass(frozen=True)
class Measured:
    """What some weights do."""

    seconds: float
    """To find them; of the recorded training its own."""
    query_loss: float | None
    """The loss that influence is measured on, in nats; None where it is not finite."""
    validation_loss: float
    """In nats."""
    validation_accuracy: float
    test_accuracy: float
    removed_loss: float
    """Mean loss of the removed samples, in nats: low where they are remembered."""
    membership: float
    """Probability that a removed sample's loss is smaller than a test sample's (AUROC of the attack by loss, Yeom et
    al. 2018): near 1 where training on them shows; what was never seen has the value of `retrain`."""
    distance: float | None = None
    """‖θ − θ_retrain‖ / ‖θ_T − θ_retrain‖: 0 is a perfect edit, 1 no better than none; None without a comparison."""
    margin_difference: float | None = None
    """Mean |margin − margin of `retrain`| over the test samples, in logits; None without a comparison."""
    solved: dict[str, Any] | None = None
    """How a linear system was solved."""


@dataclass(frozen=True)
class Edit:
    """An edit, judged."""

    key: str
    """Names the samples; the weights are in `edits/<key>/<method>`."""
    kind: str
    """Why these samples; see `auditor.fidelity.removals.Kind`."""
    samples: int
    rows: int
    """Training samples in all."""
    methods: dict[str, Measured]
    """`recorded` first, `retrain` next where it was compared, then the edits."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def warnings(self) -> list[str]:
        """A sentence for every solve that did not reach its tolerance, and for weights that are of no use."""
        told = [
            f"{method}: {how['solver']} left a relative residual of {how['residual']:.2g} at damping "
            f"{how['damping']:g}: not converged"
            for method, measured in self.methods.items()
            # EK-FAC is an approximation by design; its residual says how good it is, and is in edit.json.
            if (how := measured.solved) is not None and not how["converged"] and how["solver"] != "ekfac"
        ]
        if (recorded := self.methods.get(RECORDED)) is not None:
            told += [
                f"{method}: the edit goes too far, validation loss rises from {recorded.validation_loss:.3g} to "
                f"{measured.validation_loss:.3g}: leave out fewer samples, or use replay"
                for method, measured in self.methods.items()
                if method != RETRAIN and measured.validation_loss > _RUINED * recorded.validation_loss
            ]
        return told


def judge_edit(run: RunFolder, asked: Asked) -> Edit:
    """Compare what was asked for; writes edits/<key>/edit.json.

    Args:
        run: The run folder.
        asked: What was asked for, all of it computed.
    """
    reader = TrajectoryReader(run)
    removal = read_removal(run, asked.key)
    order = [RECORDED, *([RETRAIN] if RETRAIN in asked.methods else [])]
    order += [name for name in asked.methods if name not in order]
    recorded = reader.state(reader.manifest.steps).parameters
    goal = load_state(run, weights_folder(asked.key, RETRAIN)).parameters if RETRAIN in order else None
    target = _margins(run, asked.key, RETRAIN) if goal is not None else None
    methods = {}
    for name in order:
        weights = read_weights(run, asked.key, name)
        if weights is None:
            raise LookupError(f"{run}: {name} was not computed")
        if name == RECORDED:
            weights = Weights(weights.settings, reader.manifest.seconds, weights.query_loss)
        compared = {}
        if goal is not None and target is not None and name != RETRAIN:
            at = recorded if name == RECORDED else load_state(run, weights_folder(asked.key, name)).parameters
            margins = _margins(run, asked.key, name)
            compared = {
                "distance": _apart(at, goal) / _apart(recorded, goal),
                "margin_difference": float(np.abs(margins - target).mean()),
            }
        methods[name] = _measured(run, asked.key, name, weights, compared)
    found = Edit(asked.key, removal.kind, len(removal.rows), reader.manifest.rows, methods)
    run.write_json(f"{EDITS}/{asked.key}/edit.json", found.to_json())
    return found


def membership(removed: NDArray[np.floating], unseen: NDArray[np.floating]) -> float:
    """P(loss of a removed sample < loss of an unseen one), ties half: the AUROC of the attack that looks at losses.

    Args:
        removed: Losses, [a].
        unseen: Losses, [b].
    """
    from scipy.stats import mannwhitneyu  # a second's import

    statistic = mannwhitneyu(unseen, removed).statistic
    return float(statistic / (len(removed) * len(unseen)))


def _measured(run: RunFolder, key: str, name: str, weights: Weights, compared: Mapping[str, float]) -> Measured:
    validation, test, removed = (read_outcome(run, key, name, split) for split in ("validation", "test", "removed"))
    return Measured(
        seconds=weights.seconds,
        query_loss=weights.query_loss,
        validation_loss=float(_column(validation, "loss").mean()),
        validation_accuracy=float((_column(validation, "margin") > 0).mean()),
        test_accuracy=float((_column(test, "margin") > 0).mean()),
        removed_loss=float(_column(removed, "loss").mean()),
        membership=membership(_column(removed, "loss"), _column(test, "loss")),
        solved=weights.solved,
        **compared,
    )


def _margins(run: RunFolder, key: str, name: str) -> NDArray[np.float64]:
    return _column(read_outcome(run, key, name, "test"), "margin")


def _column(table: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(table[name].to_numpy(), dtype=np.float64)


def _apart(left: Tensors, right: Tensors) -> float:
    return float(global_norm(value.double() - right[name].double() for name, value in left.items()))
