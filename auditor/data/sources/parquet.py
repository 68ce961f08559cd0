"""An audit table in Parquet: one file or a folder of files, on any filesystem pyarrow knows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs

from auditor.data.labels import plain_labels
from auditor.data.sources.base import BATCH_ROWS, Index
from auditor.data.sources.columns import concatenated, decoded, feature_column, image_column, strings
from auditor.data.sources.roles import Roles, assign_roles
from auditor.data.splits import SPLITS, SplitName
from auditor.errors import InputError
from auditor.sections.data import Columns, ParquetSource
from auditor.storage import resolve

_INDEX_ROWS = 65536


@dataclass(frozen=True)
class _File:
    filesystem: fs.FileSystem
    path: str
    name: str  # as the user would write it
    where: str  # key and name, for messages
    rows: int
    schema: pa.Schema


class ParquetTables:
    """Files of a folder are read in the order of their names; hidden ones are left alone."""

    def __init__(self, source: ParquetSource, columns: Columns) -> None:
        self._paths: dict[SplitName, str] = {
            split: path for split in SPLITS if (path := getattr(source, split)) is not None
        }
        self._columns = columns
        self._files = cache(self._open)
        self._roles = cache(self._assign)

    def tables(self) -> tuple[SplitName, ...]:
        """One for each path given."""
        return tuple(self._paths)

    def where(self, table: SplitName) -> str:
        """Key and path."""
        return f"data.source.{table} {self._paths[table]}"

    def class_names(self) -> list[str] | None:
        """From the training table's metadata: this project's ``class_names``, or the Hugging Face convention."""
        roles = self._roles("train")
        metadata = self._files("train")[0].schema.metadata or {}
        names = _json(metadata.get(b"class_names"))
        features = _dig(_json(metadata.get(b"huggingface")), "info", "features")
        for column in (roles.label, roles.true_label):
            names = names or _dig(features, column, "names")
        return [str(name) for name in names] if isinstance(names, list) and names else None

    def count(self, table: SplitName) -> int:
        """From the files' footers."""
        return sum(file.rows for file in self._files(table))

    def index(self, table: SplitName) -> Index:
        """Reads the id and label columns only."""
        files, roles = self._files(table), self._roles(table)
        names = [roles.sample_id, roles.label, *([roles.true_label] if roles.true_label else [])]
        names = list(dict.fromkeys(names))
        everything = np.arange(self.count(table))
        read = [batch for _, batch in self._read(files, names, everything, _INDEX_ROWS)]
        schema = pa.unify_schemas([file.schema for file in files], promote_options="permissive")
        columns = {
            name: concatenated([batch.column(name) for batch in read], schema.field(name).type) for name in names
        }

        def labels(name: str) -> pa.Array:
            return plain_labels(columns[name], f"{self.where(table)} column {name}")

        return Index(
            ["" if value is None else value for value in strings(columns[roles.sample_id]).to_pylist()],
            labels(roles.label),
            labels(roles.true_label) if roles.true_label else None,
        )

    def batches(self, table: SplitName, rows: NDArray[np.int64]) -> Iterator[pa.Table]:
        """Row groups without a wanted row are not read."""
        roles = self._roles(table)
        names = [roles.sample_id, roles.content, *(field.name for field in roles.carried.values())]
        for file, batch in self._read(self._files(table), list(dict.fromkeys(names)), rows, BATCH_ROWS):
            with _explaining(file.where):
                shaped = _shape(roles, file, batch)
            yield shaped

    def warnings(self) -> list[str]:
        """Columns that had to be renamed or stand in for others."""
        return [f"{self.where(table)}: {note}" for table in self._paths for note in self._roles(table).notes]

    def _open(self, table: SplitName) -> list[_File]:
        given = self._paths[table]
        filesystem, root = resolve(given)
        files = []
        with _explaining(self.where(table)):
            paths = _find(filesystem, root, self.where(table))
        for path in paths:
            name = _name(given, root, path)
            where = f"data.source.{table} {name}"
            with _explaining(where), pq.ParquetFile(path, filesystem=filesystem) as parquet:
                rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
            files.append(_File(filesystem, path, name, where, rows, schema))
        return files

    def _assign(self, table: SplitName) -> Roles:
        files = self._files(table)
        with _explaining(self.where(table)):
            return assign_roles([(file.where, file.schema) for file in files], self._columns, table == "train")

    def _read(
        self, files: list[_File], names: list[str], rows: NDArray[np.int64], size: int
    ) -> Iterator[tuple[_File, pa.RecordBatch]]:
        start = 0
        for file in files:
            present = [name for name in names if name in file.schema.names]
            with _explaining(file.where), pq.ParquetFile(file.path, filesystem=file.filesystem) as parquet:
                for group in range(parquet.num_row_groups):
                    stop = start + parquet.metadata.row_group(group).num_rows
                    if not len(_between(rows, start, stop)):
                        start = stop
                        continue
                    for batch in parquet.iter_batches(size, row_groups=[group], columns=present):
                        inside = _between(rows, start, start + batch.num_rows) - start
                        start += batch.num_rows
                        # Texts may be no texts at all, which shows only when they are decoded.
                        batch.validate(full=True)
                        if len(inside):
                            yield file, batch.take(pa.array(inside))


def _shape(roles: Roles, file: _File, batch: pa.RecordBatch) -> pa.Table:
    content = batch.column(roles.content)
    table = {"sample_id": strings(batch.column(roles.sample_id))}
    if roles.has_images:
        table["image"] = image_column(content, file.name)
    else:
        table["features"] = feature_column(content)
    for name, field in roles.carried.items():
        present = field.name in batch.schema.names
        column = decoded(batch.column(field.name)) if present else pa.nulls(batch.num_rows)
        table[name] = column.cast(field.type)
    return pa.table(table)


def _between(rows: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
    return rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)]


@contextmanager
def _explaining(where: str) -> Iterator[None]:
    try:
        yield
    # Names of columns may be no text.
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{where}: cannot be read as Parquet ({' '.join(str(error).split())})") from error


def _find(filesystem: fs.FileSystem, root: str, where: str) -> list[str]:
    info = filesystem.get_file_info(root)
    if info.type == fs.FileType.NotFound:
        raise InputError(f"{where}: does not exist")
    if info.type == fs.FileType.File:
        return [root]
    below = root.rstrip("/") + "/"
    paths = sorted(
        found.path
        for found in filesystem.get_file_info(fs.FileSelector(root, recursive=True))
        if found.type == fs.FileType.File
        and found.path.endswith(".parquet")
        and not any(part.startswith((".", "_")) for part in found.path.removeprefix(below).split("/"))
    )
    if not paths:
        raise InputError(f"{where}: the folder holds no .parquet file")
    return paths


def _name(given: str, root: str, path: str) -> str:
    if "://" not in given:
        return path
    address, separator, query = given.partition("?")
    return address.rstrip("/") + path.removeprefix(root.rstrip("/")) + separator + query


def _json(text: bytes | None) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:  # metadata of another tool that happens to have the same name
        return None


def _dig(tree: Any, *keys: str | None) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree
