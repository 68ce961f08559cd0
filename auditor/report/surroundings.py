"""What lies around a few samples: the training samples most like them, and the validation samples they harm most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from auditor.storage import RunFolder

if TYPE_CHECKING:
    from auditor.influence.head import Head

_FACTS = "features/features.json"
_BLOCK = 16_384
"""Samples whose features are held at a time."""


@dataclass(frozen=True)
class Surroundings:
    """Of samples in the order in which they were asked for."""

    neighbours: list[list[tuple[int, float]]]
    """(row in dataset/train, cosine similarity) of the nearest, the nearest first."""
    harmed: list[list[tuple[int, float]]]
    """(row in dataset/validation, fall of its loss without the sample, in nats), the most harmed first; none where the
    last layer is frozen."""


def surroundings(
    run: RunFolder, rows: NDArray[np.integer], neighbours: int, harmed: int, weight_decay: float
) -> Surroundings | None:
    """Look around some training samples; memory is theirs and a block's, however many others there are.

    Args:
        run: The run folder, with features/.
        rows: In dataset/train, each once.
        neighbours: Most training samples for each.
        harmed: Most validation samples for each.
        weight_decay: What stands beside the curvature.

    Returns:
        What was found; None where the run has no features.
    """
    head = read_head(run)
    if head is None:
        return None
    from auditor.influence.extremes import Extremes
    from auditor.influence.head import HeadCurvature

    labels = {split: _labels(run, split) for split in ("train", "validation")}
    own = np.zeros((len(rows), head.weight.shape[1]))
    place = {int(row): index for index, row in enumerate(rows)}
    curvature = HeadCurvature(head)
    for numbers, features in _blocks(run, "train"):
        curvature.add(features)
        for at in np.flatnonzero(np.isin(numbers, rows)):
            own[place[int(numbers[at])]] = features[at]
    near, hit = Extremes(len(rows), neighbours), Extremes(len(rows), harmed)
    unit = _unit(own)
    for numbers, features in _blocks(run, "train") if neighbours else ():
        similarity = _unit(features) @ unit.T
        # No sample is its own neighbour.
        similarity[numbers[:, None] == rows[None, :]] = -2.0
        near.add(numbers, similarity)
    influence = curvature.influence(weight_decay)
    # Through a layer that is frozen nothing has any influence.
    trained = run.read_json(_FACTS).get("trained", True)
    for numbers, features in _blocks(run, "validation") if harmed and trained else ():
        hit.add(numbers, influence(own, labels["train"][rows], features, labels["validation"][numbers]).T)
    return Surroundings(
        neighbours=[near.helpful(index) for index in range(len(rows))],
        harmed=[[(row, -value) for row, value in hit.harmful(index)] for index in range(len(rows))],
    )


def read_head(run: RunFolder) -> Head | None:
    """The last layer's weights at the end of training; None where the run has no features, or no such layer."""
    if not run.exists(_FACTS) or run.read_json(_FACTS)["head"] is None:
        return None
    from auditor.influence.head import Head

    table = run.read_table("features/head.parquet")
    bias = np.asarray(table["bias"].to_numpy())
    return Head(np.asarray(table["weight"].combine_chunks().flatten()).reshape(len(bias), -1), bias)


def _labels(run: RunFolder, split: str) -> NDArray[np.int32]:
    table = run.read_table(f"dataset/{split}", columns=["row", "label"]).sort_by("row")
    return np.asarray(table["label"].to_numpy())


def _blocks(run: RunFolder, split: str) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Row numbers [m] and features [m, features] of all samples of a split."""
    folder = f"features/{split}"
    for name in run.names(folder):
        with run.filesystem.open_input_file(run.full(f"{folder}/{name}")) as file:
            for batch in pq.ParquetFile(file).iter_batches(_BLOCK):
                flat = np.asarray(batch["features"].flatten())
                yield batch["row"].to_numpy().astype(np.int64), flat.reshape(len(batch), -1)


def _unit(features: NDArray[np.floating]) -> NDArray[np.float64]:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.where(norms > 0, norms, 1.0), dtype=np.float64)
