"""The samples that the report shows: only their rows are read from the training table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from auditor.methods import METHODS
from auditor.report.inputs import inputs_of
from auditor.report.priority import PRIORITY
from auditor.report.ranking import Ranking, harm_order
from auditor.report.surroundings import surroundings
from auditor.report.thumbnails import Thumbnail, sparkline, thumbnail
from auditor.sections.running import Report
from auditor.storage import RunFolder

if TYPE_CHECKING:
    from auditor.data.splits import SplitName

OPEN = "open"
"""Shown as verdict of a sample on which nobody has decided."""

_VERDICTS = "review/verdicts.parquet"
_SHOWN_VALUES = 8
_LONGEST_TEXT = 120
_SMALL, _SMALL_BARS = 48, 24
"""Pixels and bars of what is shown beside others."""


@dataclass(frozen=True)
class Other:
    """A sample that is shown beside others, small."""

    sample_id: str
    label: str
    thumbnail: Thumbnail | None
    bars: str
    """See `Card`."""


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
    neighbours: tuple[tuple[int, float], ...]
    """(place in `Gallery.others`, cosine similarity) of the training samples most like it."""
    harmed: tuple[tuple[int, float], ...]
    """(place in `Gallery.others`, predicted fall of its loss without this sample, in nats) of validation samples."""

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
    others: tuple[Other, ...]
    """What stands around the cards, each once."""

    @property
    def orders(self) -> tuple[str, ...]:
        """The methods and the priority."""
        return (*self.methods, PRIORITY)

    @property
    def predicts(self) -> bool:
        """Whether harm is a predicted effect of removal."""
        return METHODS[self.rank_by].predicts


def gallery(ranking: Ranking, run: RunFolder, settings: Report, weight_decay: float) -> Gallery:
    """The samples that come first by harm or by priority.

    Args:
        ranking: The ranked table.
        run: The run folder, for images or features, and for the verdicts where there are any.
        settings: How many samples, and how many around each.
        weight_decay: Of the training.
    """
    count = settings.gallery
    ranks = {order: _ranks(ranking, order) for order in ranking.orders}
    better = np.minimum(np.arange(1, len(ranking.rows) + 1), ranks[PRIORITY])
    chosen = np.sort(np.argsort(better, kind="stable")[:count])
    inputs = inputs_of(run, "train", ranking.rows[chosen].tolist())
    verdicts = _verdicts(run)
    around = surroundings(run, ranking.rows[chosen], settings.neighbours, settings.harmed, weight_decay)
    others = _Others(run, ranking.class_names)
    near = others.places("train", around.neighbours if around else [])
    hit = others.places("validation", around.harmed if around else [])
    cards = [
        _card(ranking, line, place, [int(by_order[place]) for by_order in ranks.values()], inputs, verdicts)
        for line, place in zip(ranking.table.take(chosen).to_pylist(), chosen.tolist(), strict=True)
    ]
    if around is not None:
        cards = [
            replace(card, neighbours=beside, harmed=harmed)
            for card, beside, harmed in zip(cards, near, hit, strict=True)
        ]
    return Gallery(tuple(cards), ranking.methods, ranking.rank_by, ranking.class_names, others.shown())


class _Others:
    """Collects samples of both splits, each once, and gives them places."""

    def __init__(self, run: RunFolder, class_names: tuple[str, ...]) -> None:
        self._run, self._names = run, class_names
        self._places: dict[tuple[SplitName, int], int] = {}

    def places(
        self, split: SplitName, found: Sequence[Sequence[tuple[int, float]]]
    ) -> list[tuple[tuple[int, float], ...]]:
        """The same with places in the order of `shown` instead of rows."""
        return [
            tuple((self._places.setdefault((split, row), len(self._places)), value) for row, value in entries)
            for entries in found
        ]

    def shown(self) -> tuple[Other, ...]:
        """All that were given a place."""
        made: dict[tuple[SplitName, int], Other] = {}
        splits: tuple[SplitName, ...] = ("train", "validation")
        for split in splits:
            wanted = [row for name, row in self._places if name == split]
            if not wanted:
                continue
            for row, seen in inputs_of(self._run, split, wanted, more=("sample_id", "label")).items():
                features = np.asarray(seen.get("features") or [], dtype=np.float64)
                bars = sparkline(features, _SMALL_BARS) if len(features) else ""
                image = thumbnail(seen.get("image") or {}, _SMALL)
                made[split, row] = Other(seen["sample_id"], self._names[seen["label"]], image, bars)
        return tuple(made[place] for place in self._places)


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
        neighbours=(),
        harmed=(),
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
