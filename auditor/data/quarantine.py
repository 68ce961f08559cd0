"""Rows that cannot be used: named, counted, and too many of them stop the audit before any training."""

from __future__ import annotations

from collections import Counter
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from auditor.data.splits import SplitName
from auditor.errors import InputError

Kind: TypeAlias = Literal[
    "missing_sample_id",
    "duplicate_sample_id",
    "unknown_label",
    "corrupt_image",
    "nan_features",
    "image_size",
    "validation_in_training",
    "empty_class",
]
"""Why a row was set aside; a row is counted once, for the first of these that holds. `empty_class` counts classes."""

_SHOWN = 3


class SetAside(BaseModel):
    """One row, or one class, that the audit does without."""

    model_config = ConfigDict(frozen=True)

    split: SplitName
    sample_id: str | None
    row: int | None
    """Position in the source's table, from 0; None for a class."""
    kind: Kind
    detail: str

    @property
    def name(self) -> str:
        """How an error message calls it."""
        if self.row is None:
            return self.detail
        return f"{self.sample_id or f'row {self.row}'} ({self.kind}: {self.detail})"


class Quarantine(BaseModel):
    """What was set aside, and how much may be."""

    limit: float
    """Largest share of a split's rows, or of the classes."""
    counts: dict[Kind, int] = {}
    rows: list[SetAside] = []

    def add(self, split: SplitName, sample_id: str | None, row: int | None, kind: Kind, detail: str) -> None:
        """Set a row or a class aside."""
        self.rows.append(SetAside(split=split, sample_id=sample_id, row=row, kind=kind, detail=detail))
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def check_rows(self, split: SplitName, total: int, where: str) -> None:
        """Stop when more of a split's rows were set aside than the limit allows.

        Args:
            split: The split.
            total: Its rows, those set aside included.
            where: Its table, for the message.

        Raises:
            InputError: With the counts by kind and the first offenders.
        """
        aside = [entry for entry in self.rows if entry.split == split and entry.kind != "empty_class"]
        if aside and len(aside) / total > self.limit:
            raise InputError(f"{where}: {len(aside)} of {total} {split} rows cannot be used {self._why(aside)}")

    def check_classes(self, total: int, where: str) -> None:
        """Stop when more of the classes have no training row than the limit allows.

        Raises:
            InputError: Naming the first of them.
        """
        aside = [entry for entry in self.rows if entry.kind == "empty_class"]
        if aside and len(aside) / total > self.limit:
            raise InputError(f"{where}: {len(aside)} of {total} classes have no training row {self._why(aside)}")

    def _why(self, aside: list[SetAside]) -> str:
        counts = ", ".join(f"{count} {kind}" for kind, count in Counter(entry.kind for entry in aside).items())
        first = "; ".join(entry.name for entry in aside[:_SHOWN])
        return f"({counts}), more than data.max_quarantined {self.limit:g} allows; first: {first}"
