"""A folder of class folders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import fs

from auditor.data.sources.base import Index, chunks, image_array
from auditor.data.splits import SPLITS, SplitName
from auditor.errors import InputError
from auditor.sections.data import FolderSource
from auditor.storage import resolve

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm")
"""Files that count as images, whatever the case of the suffix; anything else is left out with a warning."""


@dataclass(frozen=True)
class _Listing:
    classes: list[str]
    names: list[str]  # image paths below the folder, sorted by class and name
    paths: list[str]  # the same as absolute paths or URIs
    ignored: list[str]


class Folder:
    """Images stay where they are: only their paths are kept.

    A sample's id is its path below the training folder. Rows of a validation or test folder are named
    ``validation/…`` and ``test/…``, because ``cat/1.jpg`` may well exist in both without being the same image.
    """

    def __init__(self, source: FolderSource) -> None:
        self._folders: dict[SplitName, str] = {
            split: folder for split in SPLITS if (folder := getattr(source, split)) is not None
        }
        self._list = cache(self._scan)

    def tables(self) -> tuple[SplitName, ...]:
        """One for each folder given."""
        return tuple(self._folders)

    def where(self, table: SplitName) -> str:
        """Key and folder."""
        return f"data.source.{table} {self._folders[table]}"

    def class_names(self) -> list[str] | None:
        """The class folders of the training folder, sorted."""
        return self._list("train").classes

    def count(self, table: SplitName) -> int:
        """Image files by their suffix."""
        return len(self._list(table).names)

    def index(self, table: SplitName) -> Index:
        """The first folder of the path is the label."""
        names = self._list(table).names
        return Index(self._sample_ids(table), pa.array([name.split("/", 1)[0] for name in names], pa.string()), None)

    def batches(self, table: SplitName, rows: NDArray[np.int64]) -> Iterator[pa.Table]:
        """Paths without bytes."""
        listing, sample_ids = self._list(table), self._sample_ids(table)
        for piece in chunks(rows):
            images = image_array([None] * len(piece), [listing.paths[row] for row in piece])
            yield pa.table({"sample_id": [sample_ids[row] for row in piece], "image": images})

    def warnings(self) -> list[str]:
        """Files that are no images, counted."""
        return [
            f"{self.where(table)}: {len(ignored)} files are not images in a class folder and were ignored, such as "
            f"{ignored[0]}"
            for table in self._folders
            if (ignored := self._list(table).ignored)
        ]

    def _sample_ids(self, table: SplitName) -> list[str]:
        prefix = "" if table == "train" else f"{table}/"
        return [prefix + name for name in self._list(table).names]

    def _scan(self, table: SplitName) -> _Listing:
        folder = self._folders[table]
        filesystem, root = resolve(folder)
        root = root.rstrip("/")
        try:
            infos = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
        except OSError as error:
            raise InputError(f"{self.where(table)}: is not a folder that can be read ({error})") from error
        below = {info.path[len(root) + 1 :]: info.type for info in infos}
        classes = sorted(
            name for name, kind in below.items() if kind == fs.FileType.Directory and "/" not in name and name[0] != "."
        )
        if not classes:
            raise InputError(f"{self.where(table)}: holds no class folders")
        files = sorted(
            (name for name, kind in below.items() if kind == fs.FileType.File), key=lambda name: name.split("/", 1)
        )
        known = set(classes)
        names = [
            name for name in files if "/" in name and name.split("/", 1)[0] in known and name.lower().endswith(SUFFIXES)
        ]
        chosen = set(names)
        paths = [_address(folder, root, name) for name in names]
        return _Listing(classes, names, paths, [name for name in files if name not in chosen])


def _address(folder: str, root: str, name: str) -> str:
    if "://" not in folder:
        return f"{root}/{name}"
    address, separator, query = folder.partition("?")
    return f"{address.rstrip('/')}/{quote(name)}{separator}{query}"
