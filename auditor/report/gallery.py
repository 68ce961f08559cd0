"""The samples that the report shows: only their rows are read from the training table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.methods import METHODS
from auditor.report.inputs import inputs_of
from auditor.report.priority import PRIORITY
from auditor.report.ranking import Ranking, harm_order
from auditor.report.thumbnails import Thumbnail, sparkline, thumbnail
from auditor.storage import RunFolder

OPEN = "open"
"""Shown as verdict of a sample on which nobody has decided."""

_VERDICTS = "review/verdicts.parquet"
_SHOWN_VALUES = 8
_LONGEST_TEXT = 120


@dataclass(frozen=True)
class Card:
    """One sample as the report shows it; every text is raw and escaped where it is written."""

    rank: int
    sample_id: str
    given: int
    """Class index of the label as audited."""
    label: str
    suggested: int
    suggested_label: str
    suggested_probability: float
    harm: float
    priority: float
    flagged: bool
    verdict: str
    ranks: tuple[int, ...]
    """Among all training samples, by each order of the gallery."""
    scores: tuple[float, ...]
    """By each method, as they are in the table."""
    true_label: str | None
    thumbnail: Thumbnail | None
    bars: str
    """Feature values as an SVG path in a box 100 wide and 40 high; empty for images."""
    values: tuple[float, ...]
    """The first feature values."""
    features: int
    """How many features there are; 0 for images."""
    carried: tuple[tuple[str, str], ...]
    """Columns carried through from the source."""

    @property
    def agrees(self) -> bool:
        """Whether the model would give the given label."""
        return self.given == self.suggested


@dataclass(frozen=True)
class Gallery:
    """The samples of a report and what they can be ordered by."""

    cards: tuple[Card, ...]
    """The most harmful first."""
    methods: tuple[str, ...]
    rank_by: str
    """The method that orders the report."""
    class_names: tuple[str, ...]

    @property
    def orders(self) -> tuple[str, ...]:
        """The methods and the priority."""
        return (*self.methods, PRIORITY)

    @property
    def predicts(self) -> bool:
        """Whether harm is a predicted effect of removal."""
        return METHODS[self.rank_by].predicts


def gallery(ranking: Ranking, run: RunFolder, count: int) -> Gallery:
    """The samples that come first by harm or by priority.

    Args:
        ranking: The ranked table.
        run: The run folder, for images or features, and for the verdicts where there are any.
        count: Most samples.
    """
    ranks = {order: _ranks(ranking, order) for order in ranking.orders}
    better = np.minimum(np.arange(1, len(ranking.rows) + 1), ranks[PRIORITY])
    chosen = np.sort(np.argsort(better, kind="stable")[:count])
    inputs = inputs_of(run, "train", ranking.rows[chosen].tolist())
    verdicts = _verdicts(run)
    cards = (
        _card(ranking, line, place, [int(by_order[place]) for by_order in ranks.values()], inputs, verdicts)
        for line, place in zip(ranking.table.take(chosen).to_pylist(), chosen.tolist(), strict=True)
    )
    return Gallery(tuple(cards), ranking.methods, ranking.rank_by, ranking.class_names)


def _card(
    ranking: Ranking,
    line: dict[str, Any],
    place: int,
    ranks: list[int],
    inputs: dict[int, dict[str, Any]],
    verdicts: dict[str, str],
) -> Card:
    seen = inputs[int(ranking.rows[place])]
    features = np.asarray(seen.get("features") or [], dtype=np.float64)
    return Card(
        rank=line["rank"],
        sample_id=line["sample_id"],
        given=int(ranking.given[place]),
        label=line["label"],
        suggested=int(ranking.suggested[place]),
        suggested_label=line["suggested_label"],
        suggested_probability=line["suggested_probability"],
        harm=line["harm"],
        priority=line[PRIORITY],
        flagged=line["flagged"],
        verdict=verdicts.get(line["sample_id"], OPEN),
        ranks=tuple(ranks),
        scores=tuple(line[method] for method in ranking.methods),
        true_label=line.get("true_label"),
        thumbnail=thumbnail(seen.get("image") or {}),
        bars=sparkline(features) if len(features) else "",
        values=tuple(features[:_SHOWN_VALUES].tolist()),
        features=len(features),
        carried=tuple((name, _text(line[name])) for name in ranking.carried if line[name] is not None),
    )


def _ranks(ranking: Ranking, order: str) -> NDArray[np.int64]:
    """Rank of every sample by one order, from 1; ties as in the table itself."""
    ranks = np.empty(len(ranking.rows), dtype=np.int64)
    ranks[harm_order(ranking.harm(order), ranking.table["sample_id"])] = np.arange(1, len(ranks) + 1)
    return ranks


def _verdicts(run: RunFolder) -> dict[str, str]:
    """The verdict that counts for each sample; none where nothing was reviewed."""
    if not run.exists(_VERDICTS):
        return {}
    table = run.read_table(_VERDICTS, columns=["sample_id", "verdict", "current"])
    table = table.filter(table["current"])
    return dict(zip(table["sample_id"].to_pylist(), table["verdict"].to_pylist(), strict=True))


def _text(value: object) -> str:
    text = f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"
