"""Which samples to train without, so that predicted effects can be compared with real ones."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from auditor import counters

Kind = Literal["none", "one", "subset", "harmful", "helpful", "random", "samples", "verdicts", "fold"]


@dataclass(frozen=True)
class Removal:
    """One retraining: everything as recorded, the loss of these rows left out."""

    kind: Kind
    """`none`: the recorded training itself; `one`: a single sample; `subset`: a random share of all samples;
    `harmful`, `helpful`: the samples called most so, together; `random`: drawn by the seed; `samples`: named ones;
    `verdicts`: those that reviewers decided on; `fold`: a part of all samples, each of which is in one part."""
    rows: tuple[int, ...]
    """Ascending."""
    share: float = 0.0
    """Of the training rows; 0 for none and one."""
    chooses: bool = False
    """Whether it belongs to the half that chooses methods and settings; the other half judges them."""
    relabelled: tuple[tuple[int, int], ...] = ()
    """Rows that stay with another class, and that class; ascending."""

    @property
    def key(self) -> str:
        """Names the retraining by what is left out or changed, so that it is never done twice."""
        # −1 is no row: what stands before it cannot be taken for what stands behind it.
        changed = [-1, *np.array(self.relabelled).ravel()] if self.relabelled else []
        return hashlib.blake2b(np.array([*self.rows, *changed], dtype="<i4").tobytes(), digest_size=12).hexdigest()


def share_count(share: float, rows: int) -> int:
    """⌈share x rows⌉ in decimal arithmetic: 7 % of 100 rows are 7, not 8."""
    return math.ceil(Decimal(repr(share)) * rows)


def plan_removals(
    influence: NDArray[np.float64] | None,
    rows: int,
    ones: int,
    subsets: int,
    shares: Sequence[float],
    harmful: float,
    seed: int,
) -> list[Removal]:
    """The retrainings of a verification. More of a kind begin with the same ones, so that none is wasted.

    Args:
        influence: The score to look for harmful and helpful samples with, [rows]; None for random ones only.
        rows: Training rows.
        ones: How many single samples: most harmful, most helpful and random ones in turn.
        subsets: How many random subsets of each share.
        shares: Shares of the training rows to leave out.
        harmful: Share of the training rows to leave out together, most harmful first; only harmful ones are.
        seed: Of the audit.

    Returns:
        The recorded training first, then the harmful, the single ones, the subsets.
    """
    planned = [Removal("none", ())]
    if influence is not None and harmful and (worst := most("harmful", influence, harmful)).rows:
        planned.append(worst)
    # Triples of one harmful, one helpful and one random sample go to the two halves in turn.
    for index, row in enumerate(_singles(influence, rows, min(ones, rows), seed)):
        planned.append(Removal("one", (row,), chooses=(index // 3) % 2 == 0))
    for share in shares:
        size = min(share_count(share, rows), rows - 1)
        for index in range(subsets):
            drawn = counters.permutation("verify.subset", rows, seed, index, round(1e6 * share))[:size]
            planned.append(Removal("subset", _ascending(drawn), share, chooses=index % 2 == 0))
    return planned


def most(side: Literal["harmful", "helpful"], influence: NDArray[np.float64], share: float) -> Removal:
    """The samples that are called most harmful or most helpful, together.

    Args:
        side: Which.
        influence: [rows].
        share: Of the rows, at most: samples on the other side of zero are never among them.

    Returns:
        A removal, possibly of no rows.
    """
    signed = influence if side == "harmful" else -influence
    order = np.argsort(signed, kind="stable")[: share_count(share, len(influence))]
    chosen = order[signed[order] < 0]
    return Removal(side, _ascending(chosen), len(chosen) / len(influence))


def at_random(rows: int, share: float, seed: int) -> Removal:
    """A random share of all samples: the control for the most harmful and the most helpful ones.

    Args:
        rows: Training rows.
        share: Of them.
        seed: Of the audit; larger shares hold smaller ones.
    """
    chosen = counters.permutation("verify.random", rows, seed)[: share_count(share, rows)]
    return Removal("random", _ascending(chosen), len(chosen) / rows)


def _singles(influence: NDArray[np.float64] | None, rows: int, count: int, seed: int) -> list[int]:
    drawn = counters.permutation("verify.one", rows, seed)
    queues = [iter(drawn)]
    if influence is not None:
        order = np.argsort(influence, kind="stable")
        queues = [iter(order), iter(order[::-1]), iter(drawn)]
    chosen: dict[int, None] = {}
    turn = 0
    while len(chosen) < count:
        row = next(int(row) for row in queues[turn % len(queues)] if int(row) not in chosen)
        chosen[row] = None
        turn += 1
    return list(chosen)


def _ascending(rows: NDArray[np.integer]) -> tuple[int, ...]:
    return tuple(sorted(int(row) for row in rows))
