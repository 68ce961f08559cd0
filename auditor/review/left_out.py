"""Which training samples an edit leaves out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from auditor.config import Config
from auditor.errors import InputError, StageError
from auditor.fidelity import Fidelity
from auditor.fidelity.choice import standing_columns
from auditor.fidelity.predictions import predicted_effects
from auditor.fidelity.removals import Removal, at_random, most
from auditor.fidelity.verification import trusted_column
from auditor.methods import AUTO, METHODS
from auditor.review.check import planned_check
from auditor.storage import RunFolder


def left_out(config: Config, run: RunFolder, sample_ids: Sequence[str] | None = None) -> Removal:
    """The samples that `edit.remove` means.

    Args:
        config: The audit.
        run: Its run folder, trained; scored where samples are chosen by harm, reviewed where verdicts choose.
        sample_ids: These instead.

    Raises:
        InputError: There is no such sample, none is left out, or all are.
        StageError: The scores that should choose are not there.
    """
    wanted = config.edit.remove if sample_ids is None else list(sample_ids)
    rows = int(run.read_json("dataset.json")["splits"]["train"]["rows"])
    if isinstance(wanted, list):
        removal = _named(run, wanted, rows)
    elif wanted == "random":
        removal = at_random(rows, config.edit.share, config.seed)
    elif wanted == "verdicts":
        removal = planned_check(run)[1]
    else:
        removal = most(wanted, _influence(config, run), config.edit.share)
    if not removal.rows:
        raise InputError(f"edit.remove is {wanted}: no training sample is predicted to be {wanted}")
    if len(removal.rows) == rows:
        raise InputError(f"edit would leave out all {rows:,} training samples")
    return removal


def _named(run: RunFolder, sample_ids: Sequence[str], rows: int) -> Removal:
    train = run.read_table("dataset/train", columns=["row", "sample_id"])
    places = dict(zip(train["sample_id"].to_pylist(), train["row"].to_pylist(), strict=True))
    if unknown := [name for name in sample_ids if name not in places]:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise InputError(f"edit: {unknown[0]}{more} is no training sample of {run}")
    chosen = sorted({places[name] for name in sample_ids})
    return Removal("samples", tuple(chosen), len(chosen) / rows)


def _influence(config: Config, run: RunFolder) -> NDArray[np.float64]:
    if not run.exists("scores"):
        raise StageError(f"{run}: holds no scores, which say what is harmful; score first")
    predicted = predicted_effects(run)
    column = trusted_column(run, predicted)
    ranks = config.report.rank_by
    if ranks != AUTO and METHODS[ranks].predicts:
        column = standing_columns(list(predicted), Fidelity.read(run)).get(ranks, column)
    if column is None:
        raise StageError(f"{run}: no score predicts what removing a sample does; score by gif, hif_fast or replay")
    return predicted[column]
