"""Which score column stands for a method, and for `auto`."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.fidelity.fidelity import Fidelity
from auditor.methods import AUTO, METHODS, base, in_order


def standing_columns(columns: Sequence[str], fidelity: Fidelity | None) -> dict[str, str]:
    """The column that stands for each method, and for `auto`.

    Args:
        columns: Score columns that are there.
        fidelity: What retrainings chose; without it the plain column of a method stands for it, and for `auto` the
            first method that predicts anything, or else the first one.

    Returns:
        Column by method, in the order of METHODS, `auto` last.
    """
    standing: dict[str, str] = {}
    for column in in_order(columns):
        standing.setdefault(base(column), column)
    predicting = [column for method, column in standing.items() if METHODS[method].predicts]
    standing[AUTO] = (predicting or list(standing.values()))[0]
    if fidelity is not None:
        standing |= {method: column for method, column in fidelity.chosen.items() if column in columns}
    return standing
