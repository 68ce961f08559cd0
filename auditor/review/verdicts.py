"""Verdicts of reviewers, all that were ever given, and which of them count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, TypeAlias, get_args

import pyarrow as pa

from auditor.review.evidence import Evidence
from auditor.storage import RunFolder

Word: TypeAlias = Literal["keep", "relabel", "remove", "unsure"]
WORDS: tuple[Word, ...] = get_args(Word)
"""What a reviewer can decide."""
DECIDED: tuple[Word, ...] = ("keep", "relabel", "remove")
"""What settles a sample."""
ACTED: tuple[Word, ...] = ("relabel", "remove")
"""What says that flagging the sample was right."""

VERDICTS_FILE = "review/verdicts.parquet"
SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("verdict", pa.string()),
        ("new_label", pa.string()),
        ("comment", pa.string()),
        ("reviewer", pa.string()),
        ("time", pa.timestamp("ms", tz="UTC")),
        ("source", pa.string()),
        ("item_id", pa.string()),
        ("label", pa.string()),
        ("suggested_label", pa.string()),
        ("rank", pa.int32()),
        ("current", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Verdict:
    """What one reviewer decided about one sample at one time."""

    sample_id: str
    verdict: Word
    new_label: str | None
    """The right class, for `relabel`."""
    comment: str
    reviewer: str
    time: datetime
    """In UTC."""
    source: Literal["mlflow", "csv"]
    item_id: str | None = None
    """The item of MLflow's review queue."""
    evidence: Evidence | None = None
    """What the reviewer saw; None where the sample is not in the audit's table."""

    @property
    def complete(self) -> bool:
        """Whether it can be acted on: `relabel` needs a label."""
        return self.verdict != "relabel" or self.new_label is not None

    @property
    def says(self) -> tuple[str, str | None]:
        """What was decided, without who, when and why."""
        return self.verdict, self.new_label if self.verdict == "relabel" else None

    def holds(self, label: str) -> bool:
        """Whether it can be applied to a sample with this label: it was given about that very label."""
        return self.complete and self.evidence is not None and self.evidence.label == label

    def carried_out(self, label: str | None) -> bool:
        """Whether a table does what it says already, as an export leaves it.

        Args:
            label: The sample's there; None where the sample is gone.
        """
        if self.evidence is None:
            return False
        if self.verdict == "remove":
            return label is None
        return self.verdict == "relabel" and label == self.new_label != self.evidence.label


def merged(*histories: Iterable[Verdict]) -> list[Verdict]:
    """All verdicts of several histories, each once, the oldest first."""
    found = {(v.sample_id, v.source, v.item_id, v.reviewer, v.time): v for history in histories for v in history}
    return sorted(found.values(), key=lambda v: (v.time, v.sample_id, v.reviewer, v.item_id or ""))


def current(history: Sequence[Verdict]) -> dict[str, Verdict]:
    """The verdict that counts for each sample: the newest complete one.

    Args:
        history: As `merged` orders it.
    """
    return {verdict.sample_id: verdict for verdict in history if verdict.complete}


def disagreements(history: Sequence[Verdict]) -> list[str]:
    """Samples, in sorted order, on which the newest verdicts of two reviewers say different things.

    Args:
        history: As `merged` orders it.
    """
    newest = {(v.sample_id, v.reviewer): v.says for v in history if v.complete and v.verdict != "unsure"}
    said: dict[str, set[tuple[str, str | None]]] = {}
    for (sample_id, _), says in newest.items():
        said.setdefault(sample_id, set()).add(says)
    return sorted(sample_id for sample_id, different in said.items() if len(different) > 1)


def with_evidence(history: Iterable[Verdict], evidence: Mapping[str, Evidence]) -> list[Verdict]:
    """The same verdicts, with what their reviewers saw where it is known and was not noted yet."""
    return [replace(v, evidence=v.evidence or evidence.get(v.sample_id)) for v in history]


def read_verdicts(run: RunFolder) -> list[Verdict]:
    """The history in a run folder, the oldest first; empty where there is none.

    Raises:
        InputError: The file is of a newer format than this release knows.
    """
    if not run.exists(VERDICTS_FILE):
        return []
    return merged(
        Verdict(
            sample_id=line["sample_id"],
            verdict=line["verdict"],
            new_label=line["new_label"],
            comment=line["comment"],
            reviewer=line["reviewer"],
            time=line["time"].astimezone(UTC),
            source=line["source"],
            item_id=line["item_id"],
            evidence=None if line["label"] is None else Evidence(line["label"], line["suggested_label"], line["rank"]),
        )
        for line in run.read_table(VERDICTS_FILE).to_pylist()
    )


def write_verdicts(run: RunFolder, history: Sequence[Verdict]) -> None:
    """Write the history, as `merged` orders it, with a column that marks what is current."""
    counting = current(history)
    lines = [
        {
            **{name: getattr(v, name) for name in SCHEMA.names if hasattr(v, name)},
            "label": v.evidence and v.evidence.label,
            "suggested_label": v.evidence and v.evidence.suggested_label,
            "rank": v.evidence and v.evidence.rank,
            "current": counting.get(v.sample_id) is v,
        }
        for v in history
    ]
    run.write_table(VERDICTS_FILE, pa.Table.from_pylist(lines, SCHEMA))
