"""One order to look in, from two questions: does removing a sample help, and is its label wrong?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from auditor.methods import METHODS, harm

PRIORITY = "priority"
"""Its name wherever it stands beside methods."""


def percentile(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Where each value stands among all, from 0 (smallest) to 1 (largest), as (rank − ½) / n; equal values stand equal.

    >>> percentile(np.array([3.0, 1.0, 1.0, 8.0]))
    array([0.625, 0.25 , 0.25 , 0.875])
    """
    from scipy.stats import rankdata

    return np.asarray((rankdata(values) - 0.5) / len(values), dtype=np.float64)


def disagreement(
    given: NDArray[np.integer], suggested: NDArray[np.integer], probability: NDArray[np.floating]
) -> NDArray[np.float64]:
    """How much the model prefers another label: its probability where it does, minus that of the given one elsewhere.

    >>> disagreement(np.array([3, 3]), np.array([9, 3]), np.array([0.75, 0.5]))
    array([ 0.75, -0.5 ])
    """
    return np.where(given == suggested, -1.0, 1.0) * probability.astype(np.float64)


def doubt(scores: Mapping[str, NDArray[np.floating]], disagreeing: NDArray[np.float64]) -> NDArray[np.float64]:
    """How wrong the labels look: the mean percentile over the detectors among some scores and the disagreement.

    Args:
        scores: By method, each [n]; influences and the random control are passed over.
        disagreeing: [n], from `disagreement`.

    Returns:
        [n], from 0 to 1.
    """
    parts = [percentile(harm(method, scores[method])) for method in detectors(scores)]
    return np.asarray(np.mean([*parts, percentile(disagreeing)], axis=0), dtype=np.float64)


def detectors(methods: Iterable[str]) -> list[str]:
    """Those of some methods that say how wrong a label looks."""
    return [method for method in methods if not METHODS[method].predicts and method != "random"]


def priority(
    rank_by: str, scores: Mapping[str, NDArray[np.floating]], disagreeing: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Both questions as one percentile: that of 1 / (60 + rank by harm) + 1 / (60 + rank by doubt).

    This is reciprocal rank fusion (Cormack et al. 2009), 60 being its authors' constant. Where the method predicts no
    effect, nothing answers the first question and the doubt is all.

    Args:
        rank_by: The method that orders the report.
        scores: By method, each [n]; `rank_by` is among them.
        disagreeing: [n], from `disagreement`.

    Returns:
        [n], above 0 and below 1; larger is to be looked at sooner.
    """
    label = doubt(scores, disagreeing)
    if not METHODS[rank_by].predicts:
        return percentile(label)
    return percentile(_reciprocal(harm(rank_by, scores[rank_by])) + _reciprocal(label))


def _reciprocal(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (60 + rank), the largest value having rank 1 and equal values the mean of their ranks."""
    from scipy.stats import rankdata

    return np.asarray(1 / (60 + rankdata(-values)), dtype=np.float64)
