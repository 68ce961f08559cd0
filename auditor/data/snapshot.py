"""The audited rows as files: ``dataset/{train,validation,test}/part-*.parquet``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from auditor.data.splits import SplitName
from auditor.storage import FORMAT_VERSION, RunFolder

FOLDER = "dataset"
GROUP_ROWS = 1024
"""Rows a row group: what a reader holds at once."""
GROUP_BYTES = 512 << 20
"""A row group of huge images ends early at this size."""
FILE_GROUPS = 64
"""Row groups a file."""


class SnapshotWriter:
    """Collects tables of any length into row groups and files; each file is moved into place when it is complete.

    Use as a context manager: the last file is finished on a clean exit only.
    """

    def __init__(self, run: RunFolder, split: SplitName, class_names: Sequence[str]) -> None:
        self._run = run
        self._folder = f"{FOLDER}/{split}"
        self._metadata = {
            b"auditor.format_version": str(FORMAT_VERSION).encode(),
            b"class_names": json.dumps(list(class_names), ensure_ascii=False).encode(),
        }
        self._waiting: list[pa.Table] = []
        self._bytes = 0
        self._writer: pq.ParquetWriter | None = None
        self._groups = 0
        self._files = 0
        run.make(self._folder)

    def __enter__(self) -> SnapshotWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            if self._waiting:
                self._flush()
            self._finish_file()
        elif self._writer is not None:
            self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        if table.num_rows:
            self._waiting.append(table)
            self._bytes += table.nbytes
        while sum(waiting.num_rows for waiting in self._waiting) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        table = pa.concat_tables(self._waiting)
        group, rest = table.slice(0, GROUP_ROWS), table.slice(GROUP_ROWS)
        self._waiting = [rest] if rest.num_rows else []
        self._bytes = rest.nbytes
        if self._writer is None:
            schema = table.schema.with_metadata(self._metadata)
            # Encoded images neither repeat nor compress; building a dictionary of them only costs time.
            self._writer = pq.ParquetWriter(
                self._run.full(self._hidden),
                schema,
                filesystem=self._run.filesystem,
                compression="zstd",
                use_dictionary=[name for name in schema.names if name not in {"image", "features", "sample_id"}],
            )
        self._writer.write_table(group.replace_schema_metadata(self._metadata), row_group_size=GROUP_ROWS)
        self._groups += 1
        if self._groups == FILE_GROUPS:
            self._finish_file()

    def _finish_file(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        name = f"{self._folder}/part-{self._files:05d}.parquet"
        self._run.replace(self._hidden, name)
        self._files += 1
        self._groups = 0

    @property
    def _hidden(self) -> str:
        return f"{self._folder}/.part-{self._files:05d}.parquet"


def snapshot_batches(run: RunFolder, split: SplitName, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Stream a split of the snapshot in row order, one row group at a time.

    Args:
        run: The run folder.
        split: Which split.
        columns: Which columns; all of them by default.

    Yields:
        Tables of at most GROUP_ROWS rows.
    """
    folder = f"{FOLDER}/{split}"
    for name in run.names(folder):
        with pq.ParquetFile(run.full(f"{folder}/{name}"), filesystem=run.filesystem) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=columns)
