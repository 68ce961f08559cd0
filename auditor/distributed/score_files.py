"""Score files on their way: how many rows they hold so far, and which of them a later attempt can keep."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from auditor.storage import RunFolder


class ScoreFiles:
    """The Parquet files of a folder that is being written.

    Args:
        run: The run folder.
        folder: Within it.
    """

    def __init__(self, run: RunFolder, folder: str) -> None:
        self._run = run
        self._folder = folder
        self._counted: dict[str, int] = {}

    def rows(self) -> int:
        """Rows of the files that are there; each file is opened once."""
        for name in self._run.names(self._folder):
            if name not in self._counted:
                self._counted[name] = pq.read_metadata(self._full(name), filesystem=self._run.filesystem).num_rows
        return sum(self._counted.values())

    def keep(self, columns: Sequence[str]) -> set[str]:
        """Remove what a later attempt cannot use.

        Args:
            columns: What a file has to hold, in this order.

        Returns:
            The sample ids that the files left hold. Files that were being written when their process died are no
            Parquet files, or were left with other columns by another release; both are removed.
        """
        kept: set[str] = set()
        for name in self._run.names(self._folder, hidden=True):
            found = self._sample_ids(name, columns)
            if found is None or not kept.isdisjoint(found):
                self._run.remove(f"{self._folder}/{name}")
            else:
                kept |= found
        return kept

    def _sample_ids(self, name: str, columns: Sequence[str]) -> set[str] | None:
        try:
            if pq.read_schema(self._full(name), filesystem=self._run.filesystem).names != list(columns):
                return None
            return set(self._run.read_table(f"{self._folder}/{name}", ["sample_id"])["sample_id"].to_pylist())
        except pa.ArrowException:
            return None

    def _full(self, name: str) -> str:
        return self._run.full(f"{self._folder}/{name}")
