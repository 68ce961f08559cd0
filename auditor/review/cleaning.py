"""What verdicts do to a table: rows out, labels replaced, and where each change came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from auditor.review.evidence import Ranked
from auditor.review.verdicts import DECIDED, Verdict, current, read_verdicts
from auditor.storage import RunFolder

ORIGINAL_LABEL = "original_label"
LINEAGE = ("audit_run", "verdict", "reviewer")
"""Columns that say which audit's verdict by whom a row carries."""


@dataclass(frozen=True)
class ClassCount:
    """What becomes of the training rows of one class."""

    before: int
    removed: int
    lost: int
    """Relabelled to other classes."""
    gained: int
    """Relabelled from other classes."""

    @property
    def after(self) -> int:
        """Rows in the export."""
        return self.before - self.removed - self.lost + self.gained


def decisions(run: RunFolder) -> tuple[dict[str, Verdict], tuple[str, ...]]:
    """The verdicts of a run that can be applied, and the samples whose verdict cannot: gone, or relabelled since.

    Those that the table has carried out already are in neither.

    Raises:
        StageError: The run has no report.
    """
    newest = current(read_verdicts(run))
    lines = dict(zip(newest, Ranked.read(run).lines(list(newest)), strict=True))
    applied, left = {}, []
    for sample_id, verdict in newest.items():
        line = lines[sample_id]
        label = None if line is None else line["label"]
        if verdict.carried_out(label):
            continue
        if label is None or not verdict.holds(label):
            left.append(sample_id)
        elif verdict.verdict in DECIDED:
            applied[sample_id] = verdict
    return applied, tuple(sorted(left))


def count_classes(
    before: Sequence[int], class_names: Sequence[str], applied: Mapping[str, Verdict]
) -> dict[str, ClassCount]:
    """Rows of each class before and after, without reading the table.

    Args:
        before: Training rows of each class, in label order.
        class_names: In label order.
        applied: As `decisions` gives them.
    """
    judged = [(v.verdict, v.evidence.label, v.new_label) for v in applied.values() if v.evidence is not None]
    removed = Counter(label for word, label, _ in judged if word == "remove")
    moved = [(label, new) for word, label, new in judged if word == "relabel" and new != label]
    lost, gained = Counter(label for label, _ in moved), Counter(new for _, new in moved)
    return {
        name: ClassCount(rows, removed[name], lost[name], gained[name])
        for name, rows in zip(class_names, before, strict=True)
    }


def cleaned(
    table: pa.Table, applied: Mapping[str, Verdict], class_names: Sequence[str], audit_run: str, text: bool
) -> pa.Table:
    """Apply verdicts to rows of the training snapshot.

    Args:
        table: Rows as `auditor.data.snapshot` holds them.
        applied: As `decisions` gives them.
        class_names: In label order.
        audit_run: Names the audit in the lineage.
        text: Whether labels become names; otherwise they stay indices.

    Returns:
        The rows that stay, without `row`; behind `label` the original one where it was replaced, and at the end the
        lineage. What an earlier export noted of a row stays where this audit changed nothing.
    """
    sample_ids = table["sample_id"].to_pylist()
    verdicts = [applied.get(sample_id) for sample_id in sample_ids]
    index = {name: number for number, name in enumerate(class_names)}
    labels = table["label"].to_pylist()
    new = [
        index[v.new_label] if v is not None and v.verdict == "relabel" and v.new_label is not None else label
        for v, label in zip(verdicts, labels, strict=True)
    ]
    replaced = [old if old != now else None for old, now in zip(labels, new, strict=True)]
    noted: dict[str, list[str | None]] = {
        "audit_run": [audit_run if v else None for v in verdicts],
        "verdict": [v.verdict if v else None for v in verdicts],
        "reviewer": [v.reviewer if v else None for v in verdicts],
    }
    earlier = {ORIGINAL_LABEL, *LINEAGE} <= set(table.column_names)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for name in table.column_names:
        if name == "label":
            columns[name] = named(pa.array(new, pa.int32()), class_names, text)
            original = named(pa.array(replaced, pa.int32()), class_names, text)
            # The first label that a row ever had stays its original one.
            known = table[ORIGINAL_LABEL].cast(original.type) if earlier else None
            columns[ORIGINAL_LABEL] = original if known is None else pc.coalesce(known, original)
        elif name == "true_label":
            columns[name] = named(table[name], class_names, text)
        elif name in (ORIGINAL_LABEL, *LINEAGE):
            if not earlier:
                columns[f"source_{name}"] = table[name]
        elif name != "row":
            columns[name] = table[name]
    for name in LINEAGE:
        now = pa.array(noted[name], pa.string())
        columns[name] = pc.coalesce(now, table[name].cast(pa.string())) if earlier else now
    stays = pa.array([v is None or v.verdict != "remove" for v in verdicts], pa.bool_())
    return pa.table(columns).filter(stays)


def named(column: pa.Array | pa.ChunkedArray, class_names: Sequence[str], text: bool) -> pa.Array | pa.ChunkedArray:
    """Class indices as they are, or as names; null stays null."""
    if not text:
        return column
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.array(class_names, pa.string()).take(array)
