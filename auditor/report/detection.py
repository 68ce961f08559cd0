"""How well each score finds wrong labels, where the truth was kept aside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from auditor.fidelity.removals import share_count
from auditor.report.ranking import Ranking, harm_order

SHARES = (0.01, 0.05, 0.1, 0.2, 0.4)
"""Shares of the ranking at which `found` is given."""


@dataclass(frozen=True)
class Detection:
    """Quality of one ranking as a search for wrong labels."""

    auroc: float
    """Probability that a wrong label ranks before a right one."""
    average_precision: float
    """Area under the precision-recall curve."""
    found: dict[str, float]
    """Share of all wrong labels that stand among the first share of the ranking."""
    curve: NDArray[np.float64]
    """The same at every length 0..n of the list, [n + 1]."""


def detect(ranking: Ranking) -> dict[str, Detection]:
    """Judge every method, and the priority fused from them, over the samples whose truth is known.

    Args:
        ranking: The ranked table.

    Returns:
        One entry each; none when the truth is unknown, or when all labels are right or all wrong, which leaves
        nothing to find.
    """
    if ranking.truth is None or ranking.wrong is None:
        return {}
    known = ranking.truth >= 0
    wrong = ranking.wrong[known]
    if wrong.all() or not wrong.any():
        return {}
    sample_ids = ranking.table["sample_id"].filter(pa.array(known))
    return {order: judge(ranking.harm(order)[known], wrong, sample_ids) for order in ranking.orders}


def judge(harm: NDArray[np.float64], wrong: NDArray[np.bool_], sample_ids: pa.Array | pa.ChunkedArray) -> Detection:
    """Judge one ranking.

    Args:
        harm: [n], larger is more suspicious.
        wrong: [n], which labels are wrong; both kinds occur.
        sample_ids: [n], break ties in the ranking.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    curve = found_curve(wrong[harm_order(harm, sample_ids)])
    return Detection(
        auroc=float(roc_auc_score(wrong, harm)),
        average_precision=float(average_precision_score(wrong, harm)),
        found={str(share): float(curve[share_count(share, len(wrong))]) for share in SHARES},
        curve=curve,
    )


def found_curve(wrong_in_order: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Share of all wrong labels among the first k of a ranking, for k = 0..n.

    Args:
        wrong_in_order: [n], the first of the ranking first; at least one is wrong.

    Returns:
        [n + 1], from 0 to 1.
    """
    found = np.concatenate([[0], np.cumsum(wrong_in_order)])
    return np.asarray(found / found[-1], dtype=np.float64)
