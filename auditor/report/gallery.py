"""The most harmful samples as cards: only their rows are read from the training table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from auditor.report.ranking import Ranking
from auditor.report.thumbnails import Thumbnail, sparkline, thumbnail
from auditor.storage import RunFolder

_SHOWN_VALUES = 8
_LONGEST_TEXT = 120


@dataclass(frozen=True)
class Card:
    """One sample as the report shows it; every text is raw and escaped by the template."""

    rank: int
    sample_id: str
    label: str
    suggested_label: str
    suggested_probability: float
    harm: float
    flagged: bool
    scores: tuple[tuple[str, float], ...]
    """Score columns beside the one that ranks, as they are in the table."""
    true_label: str | None
    thumbnail: Thumbnail | None
    bars: tuple[tuple[float, float, float, float], ...]
    """Bars of the feature values; none for images."""
    values: tuple[float, ...]
    """The first feature values."""
    features: int
    """How many features there are; 0 for images."""
    carried: tuple[tuple[str, str], ...]
    """Columns carried through from the source."""

    @property
    def agrees(self) -> bool:
        """Whether the model would give the given label."""
        return self.label == self.suggested_label


def gallery(ranking: Ranking, run: RunFolder, count: int) -> list[Card]:
    """Cards of the first `count` samples of a ranking.

    Args:
        ranking: The ranked table.
        run: The run folder, for the images or features.
        count: Most cards.
    """
    inputs = _inputs(run, ranking.rows[:count])
    return [
        _card(ranking, line, inputs[int(row)])
        for line, row in zip(ranking.table.slice(0, count).to_pylist(), ranking.rows[:count], strict=True)
    ]


def _card(ranking: Ranking, line: dict[str, Any], inputs: dict[str, Any]) -> Card:
    features = np.asarray(inputs.get("features") or [], dtype=np.float64)
    return Card(
        rank=line["rank"],
        sample_id=line["sample_id"],
        label=line["label"],
        suggested_label=line["suggested_label"],
        suggested_probability=line["suggested_probability"],
        harm=line["harm"],
        flagged=line["flagged"],
        scores=tuple((method, line[method]) for method in ranking.methods if method != ranking.rank_by),
        true_label=line.get("true_label"),
        thumbnail=thumbnail(inputs.get("image") or {}),
        bars=tuple(sparkline(features)) if len(features) else (),
        values=tuple(features[:_SHOWN_VALUES].tolist()),
        features=len(features),
        carried=tuple((name, _text(line[name])) for name in ranking.carried if line[name] is not None),
    )


def _inputs(run: RunFolder, rows: np.ndarray[tuple[int], np.dtype[np.int32]]) -> dict[int, dict[str, Any]]:
    """Image or features by row; row groups without a wanted row are skipped by their statistics."""
    from pyarrow import dataset

    files = [run.full(f"dataset/train/{name}") for name in run.names("dataset/train") if name.endswith(".parquet")]
    train = dataset.dataset(files, format="parquet", filesystem=run.filesystem)
    columns = ["row", *(name for name in ("image", "features") if name in train.schema.names)]
    found = train.to_table(columns=columns, filter=dataset.field("row").isin(pa.array(rows, pa.int32())))
    return {line["row"]: line for line in found.to_pylist()}


def _text(value: object) -> str:
    text = f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"
