"""What an export holds, or would hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from auditor.data.splits import SplitName
from auditor.review.cleaning import ClassCount


@dataclass(frozen=True)
class Export:
    """What an export holds, or would hold."""

    folder: str | None
    """Where it was written; None for a dry run."""
    rows: dict[SplitName, int]
    """In the export."""
    removed: int
    relabelled: int
    kept: int
    """Rows that a reviewer has confirmed as they are."""
    classes: dict[str, ClassCount]
    """Training rows, in label order."""
    unapplied: tuple[str, ...]
    """Samples whose verdict cannot be applied: gone, or relabelled since."""
    set_aside: int
    """Rows that the audit could not use, which are not in the export."""
    fingerprint: str | None = None
    """What an audit of the export will find; None for a dry run."""

    def to_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {**asdict(self), "classes": {n: {**asdict(c), "after": c.after} for n, c in self.classes.items()}}
