"""The rows of each split while they are being checked."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from auditor.config import Config
from auditor.data.labels import discover_classes, encode_labels
from auditor.data.quarantine import Kind, Quarantine
from auditor.data.sources import Index, Source
from auditor.data.splits import SPLITS, SplitName, assign_splits, limit_rows
from auditor.errors import InputError


@dataclass
class Part:
    """One split; arrays and lists have one entry a row."""

    split: SplitName
    table: SplitName
    """Which of the source's tables the rows come from."""
    rows: NDArray[np.int64]
    """Ascending positions in that table."""
    sample_ids: list[str]
    raw_labels: pa.Array
    labels: NDArray[np.int32]
    """-1 where unknown."""
    true_labels: NDArray[np.int32] | None
    """-1 where unknown; None where the source does not know the truth."""
    kept: NDArray[np.bool_]
    """Rows that are not set aside."""
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    """Of decoded rows."""
    digests: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    """Of decoded rows."""

    @property
    def kept_ids(self) -> list[str]:
        """Ids of the rows that are in, in order."""
        return [self.sample_ids[place] for place in np.flatnonzero(self.kept)]

    @property
    def kept_labels(self) -> NDArray[np.int32]:
        """Labels of the rows that are in, in order."""
        return self.labels[self.kept]


def split_shares(config: Config, source: Source) -> dict[SplitName, float]:
    """Shares of the training table for the splits that the source lacks.

    Raises:
        InputError: They leave nothing for training.
    """
    own = source.tables()
    shares: dict[SplitName, float] = {
        split: getattr(config.data.split, split) for split in SPLITS[1:] if split not in own
    }
    if sum(shares.values()) >= 1:
        raise InputError(f"data.split: {' and '.join(shares)} leave no rows for training")
    return shares


def choose_parts(config: Config, source: Source) -> tuple[list[str], dict[SplitName, Part]]:
    """Decide from ids and labels alone which rows make which split, and what the classes are.

    Args:
        config: The audit.
        source: Its rows.

    Returns:
        Class names in label order, and the three splits.

    Raises:
        InputError: The classes cannot be told, or the source cannot be read.
    """
    shares = split_shares(config, source)
    indices = {table: source.index(table) for table in source.tables()}
    assigned = assign_splits(indices["train"].sample_ids, shares, config.seed)
    names = _declared_classes(config, source) or _found_classes(config, source, indices, assigned["train"])
    if len(names) < 2:
        raise InputError(f"{source.where('train')}: an audit needs labels of at least two classes, there are {names}")
    parts: dict[SplitName, Part] = {}
    for split in SPLITS:
        home: SplitName = "train" if split in assigned else split
        index = indices[home]
        rows = assigned.get(split, np.arange(len(index.sample_ids)))
        ids = [index.sample_ids[row] for row in rows]
        rows = rows[limit_rows(ids, getattr(config.data.limit, split), config.seed)]
        parts[split] = _part(split, home, rows, index, names)
    return names, parts


def set_aside(quarantine: Quarantine, part: Part, place: int, kind: Kind, detail: str) -> None:
    """Take one row out of a part and name it in the quarantine."""
    part.kept[place] = False
    quarantine.add(part.split, part.sample_ids[place] or None, int(part.rows[place]), kind, detail)


def merge_rows(parts: list[Part]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The rows that are in, of several parts of one table, in the table's order.

    Returns:
        For each row its position in the table, which part it belongs to, and its place in that part.
    """
    rows = np.concatenate([part.rows[part.kept] for part in parts])
    owners = np.concatenate([np.full(int(part.kept.sum()), owner) for owner, part in enumerate(parts)])
    places = np.concatenate([np.flatnonzero(part.kept) for part in parts])
    order = np.argsort(rows, kind="stable")
    return rows[order], owners[order], places[order]


def _declared_classes(config: Config, source: Source) -> list[str] | None:
    names = config.data.class_names or source.class_names()
    if names is not None and len(set(names)) < len(names):
        where = "data.class_names" if config.data.class_names else source.where("train")
        repeated = next(name for place, name in enumerate(names) if name in names[:place])
        raise InputError(f"{where}: the class name {repeated!r} is given twice")
    return names


def _found_classes(
    config: Config, source: Source, indices: dict[SplitName, Index], training: NDArray[np.int64]
) -> list[str]:
    labels = indices["train"].labels.take(pa.array(training))
    for table, index in indices.items():
        if pa.types.is_string(index.labels.type) != pa.types.is_string(labels.type):
            raise InputError(
                f"{source.where(table)}: labels are {index.labels.type} and those of training {labels.type}; "
                "declare data.class_names, so that both have a meaning"
            )
    return discover_classes(labels, source.where("train"), config.data.max_quarantined)


def _part(split: SplitName, table: SplitName, rows: NDArray[np.int64], index: Index, names: list[str]) -> Part:
    chosen = pa.array(rows)
    raw = index.labels.take(chosen)
    return Part(
        split=split,
        table=table,
        rows=rows,
        sample_ids=[index.sample_ids[row] for row in rows],
        raw_labels=raw,
        labels=encode_labels(raw, names),
        true_labels=None if index.true_labels is None else encode_labels(index.true_labels.take(chosen), names),
        kept=np.ones(len(rows), np.bool_),
    )
