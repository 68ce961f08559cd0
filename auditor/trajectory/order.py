"""Which samples a step uses: a function of (seed, epoch, step) alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from auditor import counters
from auditor.trajectory.manifest import Manifest


def epoch_order(rows: int, batch_size: int, seed: int, epoch: int) -> NDArray[np.int32]:
    """The rows of one epoch in their order: whole batches, each row at most once.

    The rows that do not fill a last batch sit out. Turns are taken along a fixed permutation, so over training
    every row is used equally often, give or take one, and all are used within two epochs.

    Args:
        rows: n, training rows.
        batch_size: b, at most n.
        seed: The audit's seed.
        epoch: 0, 1, …

    Returns:
        [b · ⌊n / b⌋]
    """
    left_over = rows % batch_size
    order = counters.permutation("order", rows, seed, epoch)
    if left_over == 0:
        return order
    turns = counters.permutation("turns", rows, seed)
    sitting_out = np.zeros(rows, dtype=bool)
    sitting_out[turns[np.arange(epoch * left_over, (epoch + 1) * left_over) % rows]] = True
    return order[~sitting_out[order]]


def steps_from(manifest: Manifest, first_step: int) -> Iterator[tuple[int, int, list[NDArray[np.int32]]]]:
    """The steps of a training from one on.

    Args:
        manifest: The training.
        first_step: Where to begin.

    Yields:
        (step, epoch, micro-batches), each micro-batch the row indices [m].
    """
    order = np.empty(0, np.int32)
    of_epoch = -1
    for step in range(first_step, manifest.steps):
        epoch, position = divmod(step, manifest.steps_per_epoch)
        if epoch != of_epoch:
            order = epoch_order(manifest.rows, manifest.batch_size, manifest.seed, epoch)
            of_epoch = epoch
        batch = order[position * manifest.batch_size : (position + 1) * manifest.batch_size]
        yield step, epoch, np.split(batch, manifest.micro_batches)
