"""The run folder: every file of an audit, on a local path or any filesystem pyarrow knows, never seen half written."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from auditor.errors import InputError

FORMAT_VERSION = 1
"""Version of every file this release writes; a newer one is refused by name."""
_S3_ATTEMPTS = 20
"""Times that a request is made; the pauses between them grow to 20 s, so that they cover some five minutes."""
_OBJECT_STORES = ("s3", "gcs", "abfs")
"""Where a file is there once it is written whole, a folder is the beginning of names, and nothing can be renamed."""


def resolve(uri: str | Path) -> tuple[fs.FileSystem, str]:
    """Split a path or URI into a filesystem and a path on it; local paths become absolute.

    Raises:
        InputError: The URI's scheme is unknown or the URI cannot be parsed.
    """
    filesystem, path = _open(str(uri))
    return _patient(filesystem), path


def reach(uri: str | Path) -> None:
    """Find out in seconds, not in the minutes of patience, that nobody answers at a store; a busy one is no error.

    Raises:
        InputError: As `resolve`.
        OSError: Nobody answers, or access is denied.
    """
    filesystem, path = _open(str(uri))
    try:
        filesystem.get_file_info(path)
    except OSError as error:
        if "HTTP status 5" not in str(error) and "SLOW_DOWN" not in str(error):
            raise


def _open(text: str) -> tuple[fs.FileSystem, str]:
    if "://" not in text:
        return fs.LocalFileSystem(), str(Path(text).expanduser().absolute())
    try:
        filesystem, path = fs.FileSystem.from_uri(text)
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{text}: is no path or URI that can be opened ({error})") from error
    return filesystem, path


class _PatientS3(fs.S3FileSystem):  # type: ignore[misc]
    """S3 that is asked again for minutes when it is busy or away; copies in other processes are as patient."""

    def __init__(self, **options: Any) -> None:
        super().__init__(retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_S3_ATTEMPTS), **options)

    def __reduce__(self) -> tuple[Any, ...]:
        _, (options,) = super().__reduce__()
        return _patient_s3, (options,)


def _patient_s3(options: dict[str, Any]) -> _PatientS3:
    return _PatientS3(**options)


def _patient(filesystem: fs.FileSystem) -> fs.FileSystem:
    """The same filesystem, with more tries where pyarrow gives up after three."""
    if not isinstance(filesystem, fs.S3FileSystem):
        return filesystem
    _, (options,) = filesystem.__reduce__()
    return _PatientS3(**options)


class RunFolder:
    """Reads and writes files of one run by their relative names.

    Writing goes to a hidden name first and is then moved into place, so a reader sees a whole file or none. An object
    store shows whole files only, so there they are written in place.
    """

    def __init__(self, uri: str | Path) -> None:
        self.filesystem, self.path = resolve(uri)
        self.uri = str(uri) if "://" in str(uri) else self.path

    def __reduce__(self) -> tuple[type[RunFolder], tuple[str]]:
        return RunFolder, (self.uri,)

    def __str__(self) -> str:
        return self.uri

    @property
    def local(self) -> Path | None:
        """The folder as a local path, or None on an object store."""
        return Path(self.path) if isinstance(self.filesystem, fs.LocalFileSystem) else None

    def address(self, name: str) -> str:
        """The path or URI of a file, for people and for other tools."""
        base, separator, options = self.uri.partition("?")
        return f"{base.rstrip('/')}/{name}{separator}{options}"

    def full(self, name: str) -> str:
        """The path of a file on its filesystem."""
        return f"{self.path}/{name}" if name else self.path

    def exists(self, name: str) -> bool:
        """Whether a file or folder of this name is there, and not on its way."""
        there = [info.type != fs.FileType.NotFound for info in self.filesystem.get_file_info(self._with_sign(name))]
        return there == [True] or there == [True, False]

    def names(self, folder: str, hidden: bool = False) -> list[str]:
        """Sorted names of the files and folders directly in a folder; empty when it does not exist."""
        selector = fs.FileSelector(self.full(folder), allow_not_found=True)
        found = (info.base_name for info in self.filesystem.get_file_info(selector))
        return sorted(name for name in found if hidden or not name.startswith("."))

    def read_bytes(self, name: str) -> bytes:
        """A file's contents."""
        with self.filesystem.open_input_stream(self.full(name)) as stream:
            return bytes(stream.read())

    def write_bytes(self, name: str, contents: bytes | pa.Buffer) -> None:
        """Write a file and move it into place."""
        if self._is_object_store:
            with self.filesystem.open_output_stream(self.full(name)) as stream:
                stream.write(contents)
            return
        hidden = self._aside(name)
        with self.filesystem.open_output_stream(hidden) as stream:
            stream.write(contents)
        self.filesystem.move(hidden, self.full(name))

    def read_json(self, name: str) -> Any:
        """A JSON file's value.

        Raises:
            InputError: The file is of a newer format than this release knows, or is not JSON.
        """
        try:
            value = json.loads(self.read_bytes(name))
        except ValueError as error:
            raise InputError(f"{self.full(name)}: is not JSON ({error})") from error
        version = value.get("format_version", FORMAT_VERSION) if isinstance(value, dict) else FORMAT_VERSION
        if version > FORMAT_VERSION:
            raise InputError(
                f"{self.full(name)}: has format version {version}, this release reads up to {FORMAT_VERSION}"
            )
        return value

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write a mapping as JSON, with the format version."""
        text = json.dumps({"format_version": FORMAT_VERSION, **value}, indent=2, ensure_ascii=False, allow_nan=False)
        self.write_bytes(name, (text + "\n").encode())

    def write_table(self, name: str, table: pa.Table, **options: Any) -> None:
        """Write one Parquet file and move it into place."""
        stamped = {b"auditor.format_version": str(FORMAT_VERSION).encode(), **(table.schema.metadata or {})}
        stamped_table, settings = table.replace_schema_metadata(stamped), {"compression": "zstd", **options}
        if self._is_object_store:
            # In one piece: a writer that fails half way would close its stream, and the store would show what it has.
            whole = pa.BufferOutputStream()
            pq.write_table(stamped_table, whole, **settings)
            self.write_bytes(name, whole.getvalue())
            return
        hidden = self._aside(name)
        pq.write_table(stamped_table, hidden, filesystem=self.filesystem, **settings)
        self.filesystem.move(hidden, self.full(name))

    def read_table(self, names: str | Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """Read one Parquet file, several in the given order, or all of a folder in the order of their names.

        Raises:
            InputError: A file is of a newer format than this release knows.
        """
        if isinstance(names, str):
            folder = not names.endswith(".parquet")
            names = [f"{names}/{name}" for name in self.names(names)] if folder else [names]
        tables = [self._table(name, columns) for name in names]
        return pa.concat_tables(tables, promote_options="default")

    def make(self, folder: str) -> str:
        """Create a folder, its parents included, and return its full path."""
        self.filesystem.create_dir(self.full(folder), recursive=True)
        return self.full(folder)

    def remove(self, name: str) -> None:
        """Remove a file or a folder; nothing happens when it does not exist."""
        info = self.filesystem.get_file_info(self.full(name))
        if info.type == fs.FileType.Directory:
            self.filesystem.delete_dir(self.full(name))
        elif info.type == fs.FileType.File:
            self.filesystem.delete_file(self.full(name))

    def replace(self, source: str, target: str) -> None:
        """Move a finished file or folder into place, whatever stood there before.

        On an object store this takes a copy of each file, and until the last of them the target does not exist.
        """
        if not self._is_object_store:
            self.remove(target)
            self.filesystem.move(self.full(source), self.full(target))
            return
        _, sign = self._with_sign(target)
        with self.filesystem.open_output_stream(sign):
            pass
        self.remove(target)
        start = self.full(source)
        files = [info for info in self._below(start) if info.type == fs.FileType.File]
        for info in files:
            self.filesystem.copy_file(info.path, self.full(target) + info.path.removeprefix(start))
        self.filesystem.delete_file(sign)
        self.remove(source)

    def upload(self, local: Path, folder: str, names: Iterable[str]) -> None:
        """Copy files of a local folder into a folder of the run."""
        self.make(folder)
        for name in names:
            with (
                (local / name).open("rb") as source,
                self.filesystem.open_output_stream(self.full(f"{folder}/{name}")) as target,
            ):
                shutil.copyfileobj(source, target, 1 << 20)

    @property
    def _is_object_store(self) -> bool:
        return self.filesystem.type_name in _OBJECT_STORES

    def _with_sign(self, name: str) -> list[str]:
        """A file or folder and, on an object store, the sign that stands beside it while it is on its way."""
        folder, _, base = name.rpartition("/")
        sign = self.full(f"{folder}/.{base}.on-its-way".lstrip("/"))
        return [self.full(name), sign] if self._is_object_store and name else [self.full(name)]

    def _below(self, path: str) -> list[fs.FileInfo]:
        """A file itself, or all that is below a folder."""
        info = self.filesystem.get_file_info(path)
        if info.type != fs.FileType.Directory:
            return [info]
        return list(self.filesystem.get_file_info(fs.FileSelector(path, recursive=True)))

    def _table(self, name: str, columns: Sequence[str] | None) -> pa.Table:
        with self.filesystem.open_input_file(self.full(name)) as file:
            # Before anything else is asked of it: a newer format may lack the columns.
            metadata = pq.read_schema(file).metadata or {}
            version = int(metadata.get(b"auditor.format_version", FORMAT_VERSION))
            if version > FORMAT_VERSION:
                raise InputError(
                    f"{self.full(name)}: has format version {version}, this release reads up to {FORMAT_VERSION}"
                )
            return pq.read_table(file, columns=columns, partitioning=None)

    def _aside(self, name: str) -> str:
        folder, _, base = name.rpartition("/")
        self.make(folder)
        return self.full(f"{folder}/.{base}.{os.getpid()}-{uuid.uuid4().hex[:8]}".lstrip("/"))
