"""Correlation and slope of predicted against measured effects, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from auditor import counters

_RESAMPLES = 2000
FEWEST = 4
"""Points below which no statistic is given: three always lie near some line."""

Measure = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
"""(predicted [..., n], measured [..., n]) → [...]; NaN where one of them is constant."""


@dataclass(frozen=True)
class Statistic:
    """A number and how sure it is."""

    value: float
    low: float
    """Lower end of the 95 % bootstrap interval over the retrainings."""
    high: float
    """Upper end."""


def pearson(predicted: NDArray[np.float64], measured: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear correlation along the last axis."""
    x, y = _centred(predicted), _centred(measured)
    scale = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return _ratio((x * y).sum(-1), scale)


def spearman(predicted: NDArray[np.float64], measured: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank correlation along the last axis; ties share their mean rank."""
    from scipy.stats import rankdata

    return pearson(rankdata(predicted, axis=-1), rankdata(measured, axis=-1))


def slope(predicted: NDArray[np.float64], measured: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least-squares slope of measured on predicted, along the last axis; 1 where predicted sizes are right."""
    x, y = _centred(predicted), _centred(measured)
    scale = (x**2).sum(-1)
    return _ratio((x * y).sum(-1), scale)


def resamples(count: int) -> NDArray[np.intp]:
    """Indices [resamples, count] of a bootstrap: equal for equal counts, so that two methods are compared in pairs."""
    generator = np.random.Generator(np.random.Philox(counters.seed_of("bootstrap", count)))
    return generator.integers(0, count, (_RESAMPLES, count))


def statistic(measure: Measure, predicted: NDArray[np.float64], measured: NDArray[np.float64]) -> Statistic | None:
    """A measure of agreement with its interval (percentile bootstrap over the pairs).

    Args:
        measure: `pearson`, `spearman` or `slope`.
        predicted: [n].
        measured: [n].

    Returns:
        None for fewer than four pairs, or where one side is constant.
    """
    if len(predicted) < FEWEST:
        return None
    value = float(measure(predicted, measured))
    if not np.isfinite(value):
        return None
    chosen = resamples(len(predicted))
    spread = measure(predicted[chosen], measured[chosen])
    low, high = np.nanpercentile(spread, [2.5, 97.5])
    return Statistic(value, float(low), float(high))


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN where there is nothing below."""
    return np.asarray(np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0), dtype=np.float64)


def _centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    centred: NDArray[np.float64] = values - values.mean(-1, keepdims=True)
    # The mean of equal numbers can differ from them by rounding, which would pass for variation.
    centred[np.broadcast_to(values.max(-1, keepdims=True) == values.min(-1, keepdims=True), values.shape)] = 0.0
    return centred
