"""A torchvision dataset by its class name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from auditor.data.decode import encode_png
from auditor.data.sources.base import Index, chunks, image_array
from auditor.data.splits import SPLITS, SplitName
from auditor.errors import InputError
from auditor.sections.data import TorchvisionSource

# Where torchvision's datasets keep what they list: there is no common attribute.
_FILES = ("samples", "imgs", "_samples", "_image_files", "_images")
_TARGETS = ("targets", "labels", "_labels", "y")


class _Dataset(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[object, object]: ...


class Torchvision:
    """Datasets that list files give paths (the sample_id is the path below their root); others give PNG images.

    As with folders, ids of validation and test rows begin with the split's name.
    """

    def __init__(self, source: TorchvisionSource) -> None:
        self._name = source.dataset
        self._arguments: dict[SplitName, dict[str, Any]] = {
            split: arguments for split in SPLITS if (arguments := getattr(source, split)) is not None
        }
        self._open = cache(self._make)
        self._index = cache(self._make_index)

    def tables(self) -> tuple[SplitName, ...]:
        """One for each set of arguments given."""
        return tuple(self._arguments)

    def where(self, table: SplitName) -> str:
        """Key and class name."""
        return f"data.source.{table} ({self._name})"

    def class_names(self) -> list[str] | None:
        """The dataset's ``classes``; of several names for one class the first."""
        names = getattr(self._open("train"), "classes", None)
        if not isinstance(names, Sequence) or isinstance(names, str) or not names:
            return None
        return [str(name[0]) if isinstance(name, tuple) else str(name) for name in names]

    def count(self, table: SplitName) -> int:
        """The dataset's length."""
        return len(self._open(table))

    def index(self, table: SplitName) -> Index:
        """Targets are read from the dataset's list of them, or one by one where it has none."""
        return self._index(table)

    def batches(self, table: SplitName, rows: NDArray[np.int64]) -> Iterator[pa.Table]:
        """Paths where the dataset lists files, PNG images otherwise."""
        dataset, index = self._open(table), self._index(table)
        files = _files(dataset)
        for piece in chunks(rows):
            sample_ids = [index.sample_ids[row] for row in piece]
            if files is not None:
                images = image_array([None] * len(piece), [str(Path(files[row]).absolute()) for row in piece])
            else:
                images = image_array([self._png(table, dataset, index, int(row)) for row in piece], [None] * len(piece))
            yield pa.table({"sample_id": sample_ids, "image": images})

    def warnings(self) -> list[str]:
        """None."""
        return []

    def _make(self, table: SplitName) -> _Dataset:
        from torchvision import datasets  # a second's import that only this source needs

        factory = getattr(datasets, self._name, None)
        if not (isinstance(factory, type) and issubclass(factory, datasets.VisionDataset)):
            close = difflib.get_close_matches(self._name, datasets.__all__, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InputError(f"data.source.dataset is {self._name!r}: torchvision has no such dataset{hint}")
        arguments = self._arguments[table]
        try:
            return cast(_Dataset, factory(**arguments))
        except Exception as error:  # each dataset raises its own types for arguments and for missing files
            raise InputError(
                f"{self.where(table)}: cannot be opened with the arguments {arguments} ({' '.join(str(error).split())})"
            ) from error

    def _make_index(self, table: SplitName) -> Index:
        dataset = self._open(table)
        files = _files(dataset)
        if files is None:
            sample_ids = [f"{table}-{row:06d}" for row in range(len(dataset))]
        else:
            prefix = "" if table == "train" else f"{table}/"
            root = str(getattr(dataset, "root", os.path.commonpath(files)))
            sample_ids = [prefix + Path(os.path.relpath(file, root)).as_posix() for file in files]
        targets = _targets(dataset)
        if targets is None:
            targets = [_target(self._item(table, dataset, row)[1], self.where(table)) for row in range(len(dataset))]
        return Index(sample_ids, pa.array(targets, pa.int64()), None)

    def _png(self, table: SplitName, dataset: _Dataset, index: Index, row: int) -> bytes:
        image, target = self._item(table, dataset, row)
        if not isinstance(image, Image.Image):
            raise InputError(f"{self.where(table)}: row {row} is no image but {type(image).__name__}")
        if _target(target, self.where(table)) != index.labels[row].as_py():
            raise InputError(f"{self.where(table)}: the label of row {row} changed while it was read")
        return encode_png(image)

    def _item(self, table: SplitName, dataset: _Dataset, row: int) -> tuple[object, object]:
        try:
            image, target = dataset[row]
        except Exception as error:  # whatever the dataset's own code raises
            raise InputError(f"{self.where(table)}: row {row} cannot be read ({error})") from error
        return image, target


def _files(dataset: _Dataset) -> list[str] | None:
    for name in _FILES:
        listed = getattr(dataset, name, None)
        if isinstance(listed, list) and listed and len(listed) == len(dataset):
            first = [entry[0] if isinstance(entry, tuple) else entry for entry in listed]
            if all(isinstance(file, str | Path) for file in first):
                return [str(file) for file in first]
    return None


def _targets(dataset: _Dataset) -> list[int] | None:
    if getattr(dataset, "target_transform", None) is not None:
        return None
    pairs = [getattr(dataset, name, None) for name in _FILES]
    beside = [[entry[1] for entry in listed] for listed in pairs if isinstance(listed, list) and _is_pairs(listed)]
    for listed in [*(getattr(dataset, name, None) for name in _TARGETS), *beside]:
        values = np.asarray(listed) if listed is not None else np.empty(0)
        if values.shape == (len(dataset),) and np.issubdtype(values.dtype, np.integer):
            return [int(value) for value in values]
    return None


def _is_pairs(listed: list[object]) -> bool:
    return bool(listed) and all(isinstance(entry, tuple) and len(entry) == 2 for entry in listed)


def _target(target: object, where: str) -> int:
    if isinstance(target, tuple | list | dict | str) or target is None:
        raise InputError(f"{where}: labels are {type(target).__name__}, expected one class index an image")
    try:
        return int(cast(int, target))
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: labels are {type(target).__name__}, expected one class index an image") from error
