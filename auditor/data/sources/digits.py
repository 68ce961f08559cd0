"""Scikit-learn's digits, which come with the library: 1,797 real grayscale images of 8x8 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from auditor.data.decode import encode_png
from auditor.data.sources.base import Index, chunks, image_array
from auditor.data.splits import SplitName


class Digits:
    """One table; intensities 0..16 become 0..255."""

    @cached_property
    def _loaded(self) -> tuple[list[bytes], NDArray[np.int64]]:
        from sklearn.datasets import load_digits  # a second's import that only this source needs

        bundle = load_digits()
        pixels = np.round(bundle.images * (255 / 16)).astype(np.uint8)
        return [encode_png(image) for image in pixels], bundle.target.astype(np.int64)

    @property
    def _sample_ids(self) -> list[str]:
        return [f"digits-{row:04d}" for row in range(len(self._loaded[0]))]

    def tables(self) -> tuple[SplitName, ...]:
        """Training only."""
        return ("train",)

    def where(self, _table: SplitName) -> str:
        """The source's name."""
        return "data.source digits"

    def class_names(self) -> list[str] | None:
        """The digits."""
        return [str(digit) for digit in range(10)]

    def count(self, _table: SplitName) -> int:
        """Always 1,797."""
        return len(self._loaded[0])

    def index(self, _table: SplitName) -> Index:
        """Ids are ``digits-0000`` onwards, in the library's fixed order."""
        return Index(self._sample_ids, pa.array(self._loaded[1]), None)

    def batches(self, _table: SplitName, rows: NDArray[np.int64]) -> Iterator[pa.Table]:
        """PNG images of mode L."""
        encoded, sample_ids = self._loaded[0], self._sample_ids
        for piece in chunks(rows):
            images = image_array([encoded[row] for row in piece], [None] * len(piece))
            yield pa.table({"sample_id": [sample_ids[row] for row in piece], "image": images})

    def warnings(self) -> list[str]:
        """None."""
        return []
