"""What influence loses when scoring computes in fewer bits: tried on some samples, before all are scored that way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from auditor import counters
from auditor.distributed.remarks import remark
from auditor.distributed.trained_run import Chunks, TrainedRun
from auditor.fidelity.agreement import spearman
from auditor.influence import Derivatives, Directions

_ROWS = 256
"""Samples that are tried."""
_AT_ONCE = 32
"""Of them: few, since nothing halves a batch for which this device has no memory."""
_RANK = 0.99
"""The least rank correlation that is good enough: above that of almost any score with real retrainings."""


InfluenceOf = Callable[[NDArray[np.integer], NDArray[np.float64]], Mapping[str, NDArray[np.float64]]]
"""(rows [r], derivatives [r, directions]) → influence [r] by score."""


@dataclass(frozen=True)
class Rounding:
    """Influence in fewer bits beside the same in full, of the same samples."""

    rows: int
    largest: float
    """The largest difference, as a share of the largest influence."""
    typical: float
    """The root mean square difference, as a share of the root mean square influence."""
    rank: float
    """Rank correlation of the two."""

    @classmethod
    def between(cls, found: NDArray[np.float64], expected: NDArray[np.float64]) -> Rounding:
        """Of influence in fewer bits, [rows], and in full, [rows]."""
        off = found - expected
        with np.errstate(divide="ignore", invalid="ignore"):
            largest = float(np.abs(off).max() / np.abs(expected).max())
            typical = float(np.sqrt(np.mean(off**2) / np.mean(expected**2)))
        return cls(len(expected), largest, typical, float(spearman(found, expected)))

    @classmethod
    def worst(cls, some: Iterable[Rounding]) -> Rounding:
        """The worst of each number over several scores of the same samples."""
        found = list(some)
        return cls(
            max(each.rows for each in found),
            max(each.largest for each in found),
            max(each.typical for each in found),
            min(each.rank for each in found),
        )

    @property
    def good_enough(self) -> bool:
        """Whether the ranking survives; not so where a number is not finite."""
        return self.rank >= _RANK


def fewer_bits(
    trained: TrainedRun, directions: Sequence[Directions], influence_of: InfluenceOf
) -> tuple[torch.dtype | None, dict[str, Rounding]]:
    """Whether `score.precision` will do, tried on some samples; where it will not, a remark says why.

    Args:
        trained: The training.
        directions: Those of the passes over samples, on their device.
        influence_of: What is made of their derivatives.

    Returns:
        The type that passes over samples compute with, None for that of the parameters, and what it costs by score.
    """
    precision = trained.config.score.precision
    if precision is None or not directions:
        return None, {}
    dtype: torch.dtype = getattr(torch, precision)
    rows = np.sort(counters.permutation("rounding", trained.manifest.rows, trained.config.seed)[:_ROWS])
    expected = _derivatives(trained, Derivatives(trained.network, directions), rows)
    try:
        found = _derivatives(trained, Derivatives(trained.network, directions, dtype=dtype), rows)
    except (RuntimeError, TypeError) as error:  # a network of one's own may insist on a type
        why = f"the network cannot compute in {precision} ({str(error).splitlines()[0]})"
    else:
        lost = {
            name: Rounding.between(few, full)
            for (name, few), full in zip(
                influence_of(rows, found).items(), influence_of(rows, expected).values(), strict=True
            )
        }
        worst = min(lost, key=lambda name: (lost[name].good_enough, lost[name].rank))
        if lost[worst].good_enough:
            return dtype, lost
        why = f"{precision} changes ranks ({worst}: rank correlation {lost[worst].rank:.3f} over {len(rows)} samples)"
    remark(trained.run, f"{why}; influence is computed with the parameters' own")
    return None, {}


def _derivatives(trained: TrainedRun, along: Derivatives, rows: NDArray[np.integer]) -> NDArray[np.float64]:
    """Derivatives of some training rows, [rows, directions]."""
    chunks = Chunks(trained.train, _AT_ONCE, trained.device, rows)
    return np.asarray(torch.cat([along(*chunk).cpu() for chunk in chunks]).numpy())
