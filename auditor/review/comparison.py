"""Two audits compared: which flags are new, which are done with, and how far the ranking moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from auditor.errors import InputError
from auditor.report.changes import Changes
from auditor.report.masking import mask
from auditor.review.evidence import RANKED_FILE, Ranked
from auditor.review.items import settled
from auditor.review.verdicts import DECIDED, Verdict, current, read_verdicts
from auditor.storage import RunFolder


@dataclass(frozen=True)
class Comparison:
    """The changes and, by name, the samples behind their numbers, in sorted order."""

    changes: Changes
    new: tuple[str, ...]
    persistent: tuple[str, ...]
    reflagged: tuple[str, ...]
    resolved: tuple[str, ...]
    settled: dict[str, str]
    """Verdict by sample."""


def compare(before: RunFolder, after: RunFolder) -> Comparison:
    """Compare two audits by their reports; verdicts are those known to the earlier one.

    Args:
        before: Run folder of the earlier audit.
        after: Run folder of the later one.

    Raises:
        InputError: One is no run folder with a report.
    """
    for run in (before, after):
        if not run.exists(RANKED_FILE):
            raise InputError(f"{mask(str(run))}: is no run folder with a report")
    return compared(mask(str(before)), Ranked.read(before), Ranked.read(after), current(read_verdicts(before)))


def changes_since(before: RunFolder, earlier: Sequence[Verdict], ranked: pa.Table) -> Changes:
    """What changed since the audit before.

    Args:
        before: Its run folder, reported.
        earlier: What was decided there, as `merged` orders it.
        ranked: This audit's ranked table.
    """
    return compared(mask(str(before)), Ranked.read(before), Ranked(ranked), current(earlier)).changes


def compared(name: str, before: Ranked, after: Ranked, verdicts: dict[str, Verdict]) -> Comparison:
    """Compare two ranked tables.

    Args:
        name: Of the earlier audit.
        before: Its ranked table.
        after: The later one's.
        verdicts: What counts for each sample, as the earlier audit knows it.
    """
    then = {line["sample_id"] for line in before.flagged()}
    now = {line["sample_id"] for line in after.flagged()}
    decided = {sample_id: verdict for sample_id, verdict in verdicts.items() if verdict.verdict in DECIDED}
    evidence = after.evidence(list(decided))
    again = {
        sample_id
        for sample_id, verdict in decided.items()
        if sample_id in now and not settled(evidence[sample_id], verdict, len(now))
    }
    standing = {sample_id: verdict.verdict for sample_id, verdict in decided.items() if sample_id not in again}
    undecided = now - decided.keys()
    counts = Counter(standing.values())
    common, spearman, move = _drift(before.table, after.table)
    lists = {
        "new": tuple(sorted(undecided - then)),
        "persistent": tuple(sorted(undecided & then)),
        "reflagged": tuple(sorted(again)),
        "resolved": tuple(sorted(then - now)),
    }
    changes = Changes(
        predecessor=name,
        common=common,
        **{key: len(samples) for key, samples in lists.items()},
        settled={word: counts[word] for word in DECIDED},
        harm_spearman=spearman,
        median_rank_move=move,
    )
    return Comparison(changes, **lists, settled=dict(sorted(standing.items())))


def _drift(before: pa.Table, after: pa.Table) -> tuple[int, float | None, float | None]:
    """Samples in both tables, the rank correlation of their harm, and the median move as a share of them."""
    from scipy.stats import rankdata, spearmanr

    positions = pc.index_in(after["sample_id"], value_set=before["sample_id"].combine_chunks())
    both = positions.is_valid()
    count = int(pc.sum(both).as_py() or 0)
    if count < 2:
        return count, None, None
    old = np.asarray(before["harm"].take(positions.drop_null()), dtype=np.float64)
    new = np.asarray(after["harm"].filter(both), dtype=np.float64)
    move = float(np.median(np.abs(rankdata(old) - rankdata(new))) / count)
    varied = np.ptp(old) > 0 and np.ptp(new) > 0
    return count, float(spearmanr(old, new).statistic) if varied else None, move
