"""Which row goes where, which rows stay, which labels are flipped: functions of (seed, sample_id), not of position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from auditor.counters import hash_uniform

SplitName: TypeAlias = Literal["train", "validation", "test"]

SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
"""In the order in which they are always named and written."""


def assign_splits(
    sample_ids: Sequence[str], shares: Mapping[SplitName, float], seed: int
) -> dict[SplitName, NDArray[np.int64]]:
    """Cut one table into splits.

    Args:
        sample_ids: One id a row.
        shares: Share of rows for each split besides training, summing to less than 1.
        seed: The configuration's seed.

    Returns:
        Ascending positions of the rows of each named split, and of ``train``, which gets the rest.
    """
    drawn = hash_uniform("split", seed, sample_ids)
    parts: dict[SplitName, NDArray[np.int64]] = {}
    start = 0.0
    for split, share in shares.items():
        parts[split] = np.flatnonzero((drawn >= start) & (drawn < start + share))
        start += share
    return {"train": np.flatnonzero(drawn >= start), **parts}


def limit_rows(sample_ids: Sequence[str], limit: int | None, seed: int) -> NDArray[np.int64]:
    """Ascending positions of the rows to keep: the `limit` smallest hashes, or all rows without a limit."""
    if limit is None or limit >= len(sample_ids):
        return np.arange(len(sample_ids))
    order = np.argsort(hash_uniform("limit", seed, sample_ids), kind="stable")
    return np.sort(order[:limit])


def flip_labels(
    sample_ids: Sequence[str], labels: NDArray[np.int32], share: float, seed: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Seeded label noise: exactly round(share * n) rows get another class, uniform over the other classes that occur.

    Args:
        sample_ids: n ids, which decide who is flipped and to what.
        labels: int32 [n], of at least two classes.
        share: Share of rows to flip.
        seed: The configuration's seed.

    Returns:
        The labels after the flips, and which rows were flipped, bool [n].
    """
    flipped = np.zeros(len(labels), dtype=np.bool_)
    order = np.argsort(hash_uniform("label_noise", seed, sample_ids), kind="stable")
    flipped[order[: round(share * len(labels))]] = True
    classes, place = np.unique(labels, return_inverse=True)
    steps = 1 + np.floor(hash_uniform("label_noise_class", seed, sample_ids) * (len(classes) - 1)).astype(np.int64)
    noisy = classes[(place + steps) % len(classes)]
    return np.where(flipped, noisy, labels).astype(np.int32), flipped
