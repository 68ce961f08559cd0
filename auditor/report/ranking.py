"""The ranked table: every training sample, the most harmful first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from auditor.config import Config
from auditor.errors import StageError
from auditor.fidelity import Fidelity
from auditor.fidelity.choice import standing_columns
from auditor.fidelity.removals import share_count
from auditor.methods import AUTO, base, harm, in_order, is_score
from auditor.report.priority import PRIORITY, disagreement, priority
from auditor.storage import RunFolder

OWN_COLUMNS = (
    "rank",
    "sample_id",
    "label",
    "suggested_label",
    "suggested_probability",
    "harm",
    PRIORITY,
    "flagged",
    "true_label",
)


@dataclass(frozen=True)
class Ranking:
    """The ranked table and what figures and gallery need beside it; entry i of every array is rank i + 1."""

    table: pa.Table
    """OWN_COLUMNS with the scores before true_label, then the carried columns."""
    rows: NDArray[np.int32]
    """Row of the sample in dataset/train."""
    given: NDArray[np.int32]
    """Class index of the label as audited."""
    suggested: NDArray[np.int32]
    """Class index of the suggested label."""
    truth: NDArray[np.int32] | None
    """Class index of the true label, -1 where unknown; None when the audit has no truth at all."""
    class_names: tuple[str, ...]
    methods: tuple[str, ...]
    """Score columns in the table."""
    standing: dict[str, str]
    """Column of scores/ that stands for each method: its own, or the variant that retrainings chose."""
    rank_by: str
    """The method that orders it; what `auto` has become."""
    carried: tuple[str, ...]
    """Names in the table of the columns carried through from the source."""

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """Which samples are flagged."""
        return np.asarray(self.table["flagged"], dtype=bool)

    @property
    def wrong(self) -> NDArray[np.bool_] | None:
        """Which labels are known to be wrong; None when the audit has no truth."""
        return None if self.truth is None else (self.truth >= 0) & (self.truth != self.given)

    @property
    def orders(self) -> tuple[str, ...]:
        """All that samples can be ordered by: the methods, and their fusion into one priority."""
        return (*self.methods, PRIORITY)

    def harm(self, order: str) -> NDArray[np.float64]:
        """Harm by one method, or the priority, in the order of the table."""
        values = np.asarray(self.table[order], dtype=np.float64)
        return values if order == PRIORITY else harm(order, values)


def harm_order(values: NDArray[np.float64], sample_ids: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """Indices that sort by falling harm; ties by sample_id, so the order depends on nothing else."""
    table = pa.table({"harm": values, "sample_id": sample_ids})
    order = pc.sort_indices(table, sort_keys=[("harm", "descending"), ("sample_id", "ascending")])
    return np.asarray(order, dtype=np.int64)


def rank_samples(config: Config, run: RunFolder) -> Ranking:
    """Rank the training samples of a run folder by `config.report.rank_by`; images are not read.

    `auto` is the method that agrees best with the run's retrainings; see `auditor.fidelity`.

    A sample is flagged when it is among the first ⌈report.flagged x rows⌉ and its harm is positive: removing it is
    predicted to help, its label is out-voted (margin, aum, aum_late, aum_perturbed; self_confidence or out_of_sample
    below a half), or, by loss, ekfac_self and random, which have no zero to cross, it comes first.

    Args:
        config: The audit.
        run: Its folder, with dataset.json, dataset/train and scores.

    Raises:
        StageError: A sample has no score, two scores, or one that is not finite, or scores belong to other data.
    """
    described = run.read_json("dataset.json")
    carried = [str(name) for name in described.get("carried", [])]
    wanted = ["row", "sample_id", "label", *(["true_label"] if described["true_labels"] else []), *carried]
    train = run.read_table("dataset/train", columns=wanted)
    scores = _read_scores(run)
    columns_there = in_order(scores.column_names)
    scores = _aligned(scores, train, columns_there, f"{run}/scores")
    standing = standing_columns(columns_there, Fidelity.read(run))
    if config.report.rank_by not in standing:
        raise StageError(f"{run}/scores: have no column {config.report.rank_by}")
    rank_by = base(standing[config.report.rank_by])
    standing.pop(AUTO)
    methods = tuple(standing)

    values = harm(rank_by, np.asarray(scores[standing[rank_by]], dtype=np.float64))
    order = harm_order(values, train["sample_id"])
    train, scores, values = train.take(order), scores.take(order), values[order]

    names = tuple(str(name) for name in described["class_names"])
    given, suggested = _class_indices(train["label"]), _class_indices(scores["suggested_label"])
    truth = _class_indices(train["true_label"]) if described["true_labels"] else None
    count = len(train)
    by_method = {method: np.asarray(scores[column], dtype=np.float64) for method, column in standing.items()}
    disagreeing = disagreement(given, suggested, np.asarray(scores["suggested_probability"]))
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "rank": pa.array(np.arange(1, count + 1, dtype=np.int32)),
        "sample_id": train["sample_id"],
        "label": _named(given, names),
        "suggested_label": _named(suggested, names),
        "suggested_probability": scores["suggested_probability"],
        "harm": pa.array(values),
        PRIORITY: pa.array(priority(rank_by, by_method, disagreeing)),
        "flagged": pa.array((np.arange(count) < share_count(config.report.flagged, count)) & (values > 0)),
        **{method: scores[column] for method, column in standing.items()},
    }
    if truth is not None:
        columns["true_label"] = _named(truth, names)
    kept = []
    for name in carried:
        kept.append(_free_name(name, columns))
        columns[kept[-1]] = train[name]
    return Ranking(
        table=pa.table(columns),
        rows=np.asarray(train["row"], dtype=np.int32),
        given=given,
        suggested=suggested,
        truth=truth,
        class_names=names,
        methods=methods,
        standing=standing,
        rank_by=rank_by,
        carried=tuple(kept),
    )


def _read_scores(run: RunFolder) -> pa.Table:
    if not any(name.endswith(".parquet") for name in run.names("scores")):
        raise StageError(f"{run}/scores: holds no scores; score first")
    scores = run.read_table("scores")
    for name in ("sample_id", "label", "suggested_label", "suggested_probability"):
        if name not in scores.column_names:
            raise StageError(f"{run}/scores: have no column {name}")
    return scores


def _aligned(scores: pa.Table, train: pa.Table, methods: tuple[str, ...], where: str) -> pa.Table:
    """Scores in the order of the training rows, each row exactly once and every number finite."""
    counts = scores["sample_id"].value_counts()
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        raise StageError(f"{where}: sample {repeated[0]['values'].as_py()!r} has {repeated[0]['counts']} scores")
    positions = pc.index_in(train["sample_id"], value_set=scores["sample_id"])
    if positions.null_count:
        lost = train["sample_id"].filter(pc.is_null(positions))
        raise StageError(f"{where}: no score for sample {lost[0].as_py()!r} (and {len(lost) - 1} others)")
    if len(scores) > len(train):
        strange = pc.invert(pc.is_in(scores["sample_id"], value_set=train["sample_id"]))
        raise StageError(f"{where}: sample {scores['sample_id'].filter(strange)[0].as_py()!r} is no training sample")
    scores = scores.take(positions)
    moved = pc.not_equal(scores["label"], train["label"])
    if pc.any(moved).as_py():
        sample_id = train["sample_id"].filter(moved)[0].as_py()
        raise StageError(f"{where}: sample {sample_id!r} was scored with another label than dataset/train holds")
    for name in (*methods, "suggested_label", "suggested_probability"):
        bad = pc.invert(pc.fill_null(pc.is_finite(scores[name]), False))
        if pc.any(bad).as_py():
            first = scores.filter(bad)
            sample_id, value = first["sample_id"][0].as_py(), first[name][0].as_py()
            raise StageError(f"{where}: {name} of sample {sample_id!r} is {value}")
    return scores


def _class_indices(column: pa.ChunkedArray) -> NDArray[np.int32]:
    return np.asarray(pc.fill_null(column, -1), dtype=np.int32)


def _named(indices: NDArray[np.int32], names: tuple[str, ...]) -> pa.Array:
    return pa.array(names, pa.string()).take(pa.array(indices, mask=indices < 0))


def _free_name(name: str, taken: dict[str, pa.Array | pa.ChunkedArray]) -> str:
    # A score of that name that this audit does not have would be taken for one that it has.
    while name in taken or name in OWN_COLUMNS or is_score(name):
        name = f"source_{name}"
    return name
