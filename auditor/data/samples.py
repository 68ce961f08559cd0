"""Prepared rows as tensors: a map-style store for training, and the same numbers for a streamed batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.data.augmentation import augment
from auditor.data.dataset import Dataset
from auditor.data.decode import CorruptImageError, EncodedImage, decode_column, normalise
from auditor.data.inspection import feature_rows
from auditor.data.snapshot import snapshot_batches
from auditor.data.splits import SplitName
from auditor.errors import StageError
from auditor.sections.data import Augmentation
from auditor.storage import RunFolder

Rows: TypeAlias = "Sequence[EncodedImage | None] | NDArray[np.generic] | Sequence[NDArray[np.generic]]"
"""A column as numpy or plain Python hands it over: image structs as mappings, features as vectors or a matrix."""


class Samples:
    """One split in row order.

    Images are decoded once into one uint8 tensor when that fits into the cache; otherwise their encoded bytes or
    paths are kept and decoded at each use. Either way a row gives the same numbers. Features are always in memory.
    """

    def __init__(
        self,
        sample_ids: list[str],
        labels: Tensor,
        content: Tensor | pa.ChunkedArray,
        dataset: Dataset,
        dtype: torch.dtype,
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        self.sample_ids = sample_ids
        self.labels = labels
        """int64 [n]."""
        self._content = content
        self._dataset = dataset
        self._dtype = dtype
        self._augmentation = augmentation
        self._seed = seed

    @classmethod
    def load(
        cls,
        run: RunFolder,
        split: SplitName,
        dataset: Dataset,
        cache_gib: float,
        dtype: torch.dtype,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> Samples:
        """Read a split of the snapshot.

        Args:
            run: The run folder, prepared.
            split: Which split.
            dataset: Its view.
            cache_gib: Decode once if all pixels fit into this many GiB.
            dtype: Type of the inputs.
            augmentation: What `inputs` does when it is given an epoch; nothing by default.
            seed: Seed of the augmentation.

        Raises:
            StageError: An image that could be decoded when the dataset was prepared no longer can.
        """
        rows, shape = dataset.splits[split].rows, dataset.input_shape
        column = "image" if dataset.is_image else "features"
        cached = not dataset.is_image or rows * math.prod(shape) <= cache_gib * 2**30
        decoded = torch.empty((rows if cached else 0, *shape), dtype=torch.uint8 if dataset.is_image else torch.float32)
        sample_ids: list[str] = []
        labels: list[NDArray[np.int64]] = []
        encoded: list[pa.Array] = []
        for table in snapshot_batches(run, split, ["sample_id", column, "label"]):
            start = len(sample_ids)
            sample_ids += table["sample_id"].to_pylist()
            labels.append(table["label"].to_numpy().astype(np.int64))
            if not cached:
                encoded += table[column].chunks
            elif dataset.is_image:
                decoded[start : len(sample_ids)] = _decode(table[column].to_pylist(), dataset, sample_ids[start:])
            else:
                decoded[start : len(sample_ids)] = _matrix(table[column])
        return cls(
            sample_ids,
            torch.from_numpy(np.concatenate(labels)),
            decoded if cached else pa.chunked_array(encoded),
            dataset,
            dtype,
            augmentation or Augmentation(),
            seed,
        )

    def __len__(self) -> int:
        return len(self.sample_ids)

    def inputs(self, rows: NDArray[np.integer], epoch: int | None = None) -> Tensor:
        """What the network reads for some rows.

        Args:
            rows: m row indices, repeats allowed.
            epoch: Augment as this epoch draws it, where augmentation is configured; None never augments.

        Returns:
            Normalised [m, C, H, W] or [m, F], of the type asked for at loading.

        Raises:
            StageError: An image can no longer be decoded.
        """
        if isinstance(self._content, Tensor):
            values = self._content[torch.from_numpy(rows.astype(np.int64))]
        else:
            structs = [self._content[int(row)].as_py() for row in rows]
            values = _decode(structs, self._dataset, [self.sample_ids[row] for row in rows])
        if epoch is not None and self._dataset.is_image:
            values = augment(values, self._augmentation, self._seed, epoch, rows)
        return normalise(values, self._dataset.mean, self._dataset.std, self._dtype)


def inputs_of_batch(column: pa.Array | pa.ChunkedArray | Rows, dataset: Dataset, dtype: torch.dtype) -> Tensor:
    """The numbers of `Samples.inputs` without augmentation, for a batch that is streamed.

    Args:
        column: The snapshot's ``image`` or ``features`` column: a pyarrow array, or what a numpy or Python batch makes
            of it.
        dataset: The prepared dataset.
        dtype: Type of the result.

    Returns:
        Normalised [n, C, H, W] or [n, F].

    Raises:
        StageError: An image can no longer be decoded.
    """
    if dataset.is_image:
        structs = column.to_pylist() if isinstance(column, pa.Array | pa.ChunkedArray) else list(column)
        values = _decode(structs, dataset, None)
    else:
        values = _matrix(column)
    return normalise(values, dataset.mean, dataset.std, dtype)


def _matrix(column: pa.Array | pa.ChunkedArray | Rows) -> Tensor:
    """float32 [n, F] from a features column."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    vectors = feature_rows(column) if isinstance(column, pa.Array) else column
    return torch.from_numpy(np.stack([np.asarray(vector, dtype=np.float32) for vector in vectors]))


def _decode(structs: Sequence[EncodedImage | None], dataset: Dataset, sample_ids: Sequence[str] | None) -> Tensor:
    channels, height, width = dataset.input_shape
    try:
        return decode_column(structs, channels, (height, width), sample_ids)
    except CorruptImageError as error:
        raise StageError(f"{error}; it could be read when the dataset was prepared") from error
