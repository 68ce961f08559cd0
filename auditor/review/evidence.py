"""What an audit holds against its samples: what a reviewer judges by, and what may change under a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from auditor.errors import StageError
from auditor.report.priority import PRIORITY
from auditor.storage import RunFolder

RANKED_FILE = "report/ranked.parquet"
RANK_FACTOR = 4
"""A sample whose rank has fallen to this part of what it was is far more suspicious than when it was judged."""


@dataclass(frozen=True)
class Evidence:
    """What was known of one sample."""

    label: str
    """As audited."""
    suggested_label: str
    rank: int
    """By harm, from 1."""

    def differs(self, now: Evidence, flagged: int) -> bool:
        """Whether there is a reason to look at the sample again.

        Args:
            now: The same of a later audit.
            flagged: How many samples that audit flags. Among as many the reviewer saw a suspect already, and ranks
                close up there when others are removed or relabelled.

        Returns:
            True when the label or the suggested label is another one, or the rank, not among the flagged then, is a
            quarter of what it was or less.
        """
        labels = (self.label, self.suggested_label) != (now.label, now.suggested_label)
        return labels or (self.rank > flagged and RANK_FACTOR * now.rank <= self.rank)


class Ranked:
    """The ranked table of a report, looked up by sample_id.

    Args:
        table: At least sample_id, rank, label, suggested_label, harm, priority, flagged; see `auditor.report.ranking`.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def read(cls, run: RunFolder) -> Ranked:
        """Read `report/ranked.parquet`.

        Raises:
            StageError: The run has no report.
        """
        if not run.exists(RANKED_FILE):
            raise StageError(f"{run}: holds no report; report first")
        return cls(run.read_table(RANKED_FILE))

    def lines(self, sample_ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """The rows of some samples, in their order; None for a sample that is not in the table."""
        wanted = pa.array(sample_ids, pa.string())
        positions = pc.index_in(wanted, value_set=self.table["sample_id"].combine_chunks())
        found = iter(self.table.take(positions.drop_null()).to_pylist())
        return [next(found) if known else None for known in positions.is_valid().to_pylist()]

    def evidence(self, sample_ids: Sequence[str]) -> dict[str, Evidence]:
        """What is known of some samples; those that are not in the table are left out."""
        return {
            line["sample_id"]: Evidence(line["label"], line["suggested_label"], line["rank"])
            for line in self.lines(sample_ids)
            if line is not None
        }

    def flagged(self) -> list[dict[str, Any]]:
        """The rows of all flagged samples, the most harmful first."""
        return list(self.table.filter(self.table["flagged"]).to_pylist())

    def to_look_at(self) -> list[dict[str, Any]]:
        """The rows of all flagged samples by falling priority, in which harm and doubt about the label are fused."""
        return sorted(self.flagged(), key=lambda line: (-line[PRIORITY], line["rank"]))
