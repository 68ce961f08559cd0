"""The review stage: what people have decided so far, read back from MLflow and from CSV."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from auditor.config import Config
from auditor.report.tracking_store import connect, explained
from auditor.review.answers import from_answers, open_queue
from auditor.review.csv_verdicts import news, read_csv
from auditor.review.evidence import Ranked
from auditor.review.mlflow_queue import Entry
from auditor.review.predecessor import carry_over, earlier_verdicts, predecessor
from auditor.review.verdicts import (
    ACTED,
    DECIDED,
    WORDS,
    Verdict,
    Word,
    current,
    disagreements,
    merged,
    read_verdicts,
    with_evidence,
    write_verdicts,
)
from auditor.storage import RunFolder


@dataclass(frozen=True)
class Review:
    """Where the review of an audit stands."""

    counts: dict[Word, int]
    """Samples by the verdict that counts for them."""
    items: int
    """In MLflow's queue."""
    open: int
    """Items that nobody has decided on or put aside."""
    decided: int
    """Flagged samples with keep, relabel or remove."""
    precision: float | None
    """Share of those with relabel or remove: how often flagging a sample was right; None before the first."""
    added: int
    """Verdicts that were new this time."""
    disagreements: tuple[str, ...]
    """Samples on which reviewers disagree; the newest verdict counts."""
    carried_out: int
    """Samples whose verdict stands in the table already: removed, or relabelled, by an export."""
    unapplied: tuple[str, ...]
    """Samples with another verdict that are no longer in the table, or have another label there than the one judged."""
    incomplete: tuple[str, ...]
    """Samples whose newest verdict is a relabel without a class of this audit; it does not count."""

    def to_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def metrics(self) -> dict[str, float]:
        """The numbers under the names that they have in MLflow."""
        numbers: dict[str, float] = {f"review.{word}": count for word, count in self.counts.items()}
        numbers |= {"review.open": self.open, "review.decided": self.decided}
        numbers["review.disagreements"] = len(self.disagreements)
        return numbers if self.precision is None else {**numbers, "review.precision": self.precision}


def review(config: Config, run: RunFolder, csv: str | Path | None = None) -> Review:
    """Read verdicts back into `review/verdicts.parquet` and log where the review stands.

    Args:
        config: The audit.
        run: Its folder, reported and logged to MLflow.
        csv: A file of further verdicts.

    Raises:
        InputError: The CSV, `review.predecessor` or the tracking store is unusable.
        StageError: The run has no report or is not in the tracking store, or MLflow went away.
    """
    ranked = Ranked.read(run)
    class_names = run.read_json("dataset.json")["class_names"]
    before = predecessor(config, run)
    given: list[Verdict] = []
    known = read_verdicts(run)
    if csv is not None:
        # Before anything else is touched: a file with one bad row changes nothing.
        sample_ids = set(ranked.table["sample_id"].to_pylist())
        now = datetime.fromtimestamp(round(time.time(), 3), UTC)
        given += news(read_csv(csv, sample_ids, class_names, now, ranked.table.column_names), known)
    if before is not None:
        carry_over(run, earlier_verdicts(config, before))
        known = read_verdicts(run)
    queue, run_id = open_queue(config, run)
    entries = queue.entries()
    given += from_answers(entries, class_names)
    evidence = ranked.evidence(sorted({verdict.sample_id for verdict in given}))
    # What was noted when a verdict was read first stays.
    history = merged(with_evidence(given, evidence), known)
    if history != known:
        write_verdicts(run, history)
    found = standing(ranked, history, entries, len(history) - len(known))
    _log(config, run_id, found, len(history))
    return found


def standing(ranked: Ranked, history: Sequence[Verdict], entries: Sequence[Entry], added: int) -> Review:
    """Where a review stands.

    Args:
        ranked: The audit's ranked table.
        history: All verdicts, the oldest first.
        entries: MLflow's queue.
        added: Verdicts in the history that are new.
    """
    newest = current(history)
    lines = dict(zip(newest, ranked.lines(list(newest)), strict=True))
    held = {
        sample_id: verdict
        for sample_id, verdict in newest.items()
        if (line := lines[sample_id]) is not None and verdict.holds(line["label"])
    }
    decided = [
        verdict.verdict
        for sample_id, verdict in held.items()
        if verdict.verdict in DECIDED and (lines[sample_id] or {})["flagged"]
    ]
    counts = Counter(verdict.verdict for verdict in held.values())
    last = {verdict.sample_id: verdict for verdict in history}
    labels = {sample_id: None if line is None else line["label"] for sample_id, line in lines.items()}
    done = {sample_id for sample_id, verdict in newest.items() if verdict.carried_out(labels[sample_id])}
    closed = done | {sample_id for sample_id, verdict in held.items() if verdict.verdict in DECIDED}
    return Review(
        counts={word: counts[word] for word in WORDS},
        items=len(entries),
        open=sum(not entry.declined and entry.sample_id not in closed for entry in entries),
        decided=len(decided),
        precision=sum(word in ACTED for word in decided) / len(decided) if decided else None,
        added=added,
        disagreements=tuple(name for name in disagreements(history) if name in held),
        carried_out=len(done),
        unapplied=tuple(sorted(newest.keys() - held.keys() - done)),
        incomplete=tuple(sorted(sample_id for sample_id, verdict in last.items() if not verdict.complete)),
    )


def sentences(found: Review) -> list[str]:
    """Where a review stands, in words."""
    words = ", ".join(f"{count} {word}" for word, count in found.counts.items())
    lines = [f"Verdicts: {words}; {found.added} of them new." if found.added else f"Verdicts: {words}; none new."]
    if found.carried_out:
        lines.append(f"{found.carried_out} earlier verdicts are carried out in this table.")
    lines.append(f"{found.open} of {found.items} samples in the queue are open.")
    if found.precision is not None:
        right = round(found.precision * found.decided)
        lines.append(f"{right} of {found.decided} decided flags were right ({found.precision:.0%}).")
    for names, text in (
        (found.disagreements, "reviewers disagree; the newest verdict counts"),
        (
            found.unapplied,
            "the sample is gone or has another label than the one judged; the verdict is kept, not applied",
        ),
        (found.incomplete, "relabel without a class of this audit; it does not count"),
    ):
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            lines.append(f"{len(names)} with a problem: {text} ({shown}).")
    return lines


def _log(config: Config, run_id: str, found: Review, step: int) -> None:
    from mlflow.entities import Metric

    uri = config.mlflow.tracking_uri
    client = connect(uri)
    now = int(1000 * time.time())
    with explained(uri):
        metrics = [Metric(name, float(value), now, step) for name, value in found.metrics().items()]
        client.log_batch(run_id, metrics=metrics)
