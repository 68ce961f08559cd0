"""What every score column predicts that removing a sample does to the query's loss."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from auditor.errors import StageError
from auditor.methods import METHODS, base, harm, in_order
from auditor.storage import RunFolder


def predicted_effects(run: RunFolder) -> dict[str, NDArray[np.float64]]:
    """Predicted rise of the loss when a row is left out, [rows] by score column, in the order of dataset/train.

    For a detector, which predicts nothing, it is −harm: what it would say if suspicion were harm.

    Args:
        run: The run folder, scored.

    Returns:
        Columns in the order of trust, variants behind their method.

    Raises:
        StageError: A training row has no score.
    """
    scores = run.read_table("scores")
    train = run.read_table("dataset/train", columns=["sample_id"])
    positions = pc.index_in(train["sample_id"], value_set=scores["sample_id"])
    if positions.null_count:
        raise StageError(f"{run}/scores: {positions.null_count} training samples have no score")
    scores = scores.take(positions)
    return {
        column: -harm(column, np.asarray(scores[column], dtype=np.float64)) for column in in_order(scores.column_names)
    }


def foremost(columns: dict[str, NDArray[np.float64]]) -> str | None:
    """The column to trust most before anything was verified; None when none predicts an effect."""
    return next((column for column in columns if METHODS[base(column)].predicts), None)
