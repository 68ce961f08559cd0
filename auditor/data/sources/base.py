"""What every source of rows offers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from auditor.data.splits import SplitName

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""Type of an image column: the Hugging Face convention."""

BATCH_ROWS = 256
"""Rows that a source holds in memory at once."""


@dataclass(frozen=True)
class Index:
    """The small columns of a whole table, row by row."""

    sample_ids: list[str]
    """Empty where the source has none."""
    labels: pa.Array
    """int64 or string, null where missing."""
    true_labels: pa.Array | None
    """The truth in the same form, where the source knows it."""


class Source(Protocol):
    """Tables of rows; each split of its own is a table, and the training table always exists.

    Every method raises InputError naming the configuration's key, and the file where there is one, when what the
    user named cannot be read.
    """

    def tables(self) -> tuple[SplitName, ...]:
        """The splits that the source has of its own, ``train`` first."""
        ...

    def where(self, table: SplitName, /) -> str:
        """The table's name in messages: key and path."""
        ...

    def class_names(self) -> list[str] | None:
        """Class names in label order, where the source declares them."""
        ...

    def count(self, table: SplitName, /) -> int:
        """Rows of a table, as cheaply as possible."""
        ...

    def index(self, table: SplitName, /) -> Index:
        """Ids and labels of all rows of a table."""
        ...

    def batches(self, table: SplitName, rows: NDArray[np.int64], /) -> Iterator[pa.Table]:
        """Stream rows of a table.

        Args:
            table: Which table.
            rows: Ascending positions in the table.

        Yields:
            Exactly these rows in this order, at most BATCH_ROWS at a time: ``sample_id`` string, ``image``
            struct{bytes, path} or ``features`` list<float32>, and the carried columns, unchanged.
        """
        ...

    def warnings(self) -> list[str]:
        """What the user should know, so far."""
        ...


def image_array(encoded: list[bytes | None], paths: list[str | None]) -> pa.StructArray:
    """An image column from bytes and paths."""
    return pa.StructArray.from_arrays(
        [pa.array(encoded, IMAGE.field("bytes").type), pa.array(paths, IMAGE.field("path").type)],
        fields=list(IMAGE),
    )


def chunks(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Cut rows into pieces of at most BATCH_ROWS."""
    for start in range(0, len(rows), BATCH_ROWS):
        yield rows[start : start + BATCH_ROWS]
