"""One pass over the content of a source's tables: what can be used, of what shape, with what mean and spread."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from auditor.data.inspection import Facts, Fault, Moments, inspect_features, inspect_images
from auditor.data.parts import Part, merge_rows, set_aside
from auditor.data.quarantine import Quarantine
from auditor.data.sources import Source
from auditor.data.splits import SplitName
from auditor.errors import InputError
from auditor.progress import Progress


class Survey:
    """Looks at tables, the training table first, and remembers what holds for all of it.

    Nothing of a row is kept but its shape and a hash of its content.
    """

    def __init__(self, source: Source, quarantine: Quarantine, size: tuple[int, int] | None) -> None:
        self._source = source
        self._quarantine = quarantine
        self._size = size
        self._moments = Moments()
        self.columns: tuple[str, ...] = ()
        """Of the training table."""
        self.content: tuple[int, ...] = ()
        """Shape of the first training row: (height, width) or (features,)."""
        self.first = ""
        """Its sample_id."""
        self.grayscale = True
        """Whether all training images are."""

    @property
    def is_image(self) -> bool:
        """Whether rows are images, not features."""
        return "image" in self.columns

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) or (features,)."""
        return (1 if self.grayscale else 3, *self.content) if self.is_image else self.content

    @property
    def mean(self) -> NDArray[np.float64]:
        """By channel on the scale 0..1, or by feature."""
        return self._moments.mean[: self.input_shape[0]] / self._scale

    @property
    def std(self) -> NDArray[np.float64]:
        """The same; 1 where training rows are constant, so that it can divide."""
        std = self._moments.std[: self.input_shape[0]]
        return np.where(std > 0, std / self._scale, 1.0)

    def look(self, table: SplitName, parts: Iterable[Part]) -> None:
        """Decode the rows of a table that are still in, those of all its parts in one pass.

        Args:
            table: Which table.
            parts: Its parts; their shapes and digests are filled in, unusable rows are set aside.

        Raises:
            InputError: The source cannot be read, or mixes images and features.
        """
        mine = [part for part in parts if part.table == table]
        rows, owners, places = merge_rows(mine)
        for part in mine:
            part.shapes = [()] * len(part.rows)
            part.digests = np.zeros(len(part.rows), np.uint64)
        done = 0
        with Progress(f"checking {table}", len(rows), "rows") as bar:
            for batch in self._source.batches(table, rows):
                found = self._inspect(table, batch)
                for result in found:
                    self._take_in(mine[owners[done]], int(places[done]), result)
                    done += 1
                bar.advance(len(found))

    def wrong_shape(self, part: Part, place: int) -> None:
        """Set a row aside whose shape differs from the first training row's."""
        shape, expected = part.shapes[place], self.content
        if self.is_image:
            detail = f"{shape[0]}x{shape[1]}, training row {self.first} is {expected[0]}x{expected[1]}"
            set_aside(self._quarantine, part, place, "image_size", f"{detail}; data.image_size resizes all to one size")
        else:
            detail = f"{shape[0]} features, training row {self.first} has {expected[0]}"
            set_aside(self._quarantine, part, place, "nan_features", detail)

    @property
    def _scale(self) -> int:
        return 255 if self.is_image else 1

    def _inspect(self, table: SplitName, batch: pa.Table) -> list[Facts | Fault]:
        is_image = "image" in batch.column_names
        if not self.columns:
            self.columns = tuple(batch.column_names)
        elif is_image != self.is_image:
            raise InputError(f"{self._source.where(table)}: images and features cannot be mixed")
        if is_image:
            return inspect_images(batch["image"].to_pylist(), self._size)
        return inspect_features(batch["features"])

    def _take_in(self, part: Part, place: int, result: Facts | Fault) -> None:
        if isinstance(result, Fault):
            set_aside(self._quarantine, part, place, result.kind, result.detail)
            return
        part.shapes[place] = result.shape
        part.digests[place] = result.digest
        if part.split != "train":
            return
        if not self.content:
            self.content, self.first = result.shape, part.sample_ids[place]
        if result.shape != self.content:
            self.wrong_shape(part, place)
            return
        self.grayscale = self.grayscale and result.grayscale
        self._moments.add(result)
