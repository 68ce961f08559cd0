"""What an audit found by class: a line a class, and which label the model suggests in place of which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from auditor.report.ranking import Ranking

MATRIX_CLASSES = 20
"""Beyond this many classes the matrix shows those with the most suggestions of another label."""

HEATS = 8
"""Shades of the matrix, beside none."""


@dataclass(frozen=True)
class ClassLine:
    """One class, by the label as audited."""

    index: int
    name: str
    rows: int
    flagged: int
    elsewhere: int
    """Rows for which the model suggests another label."""
    mean_harm: float | None
    """By the method that ranks; None without rows."""
    wrong: int | None
    """Labels known to be wrong; None without truth."""


@dataclass(frozen=True)
class Classes:
    """All classes, and the matrix of given against suggested labels."""

    lines: tuple[ClassLine, ...]
    shown: tuple[int, ...]
    """Classes of the matrix, in label order."""
    counts: NDArray[np.int64]
    """Rows by given (first axis) and suggested label, [shown, shown]."""
    heats: NDArray[np.int64]
    """Shade of each cell, from 0 (none) to HEATS (the most frequent pair of two labels); 0 on the diagonal."""


def by_class(ranking: Ranking) -> Classes:
    """Sum up a ranking by class."""
    given, suggested, count = ranking.given, ranking.suggested, len(ranking.class_names)
    rows = np.bincount(given, minlength=count)
    flagged = np.bincount(given[ranking.flagged], minlength=count)
    elsewhere = np.bincount(given[given != suggested], minlength=count)
    harm = np.bincount(given, weights=ranking.harm(ranking.rank_by), minlength=count)
    wrong = None if ranking.wrong is None else np.bincount(given[ranking.wrong], minlength=count)
    lines = tuple(
        ClassLine(
            index=index,
            name=name,
            rows=int(rows[index]),
            flagged=int(flagged[index]),
            elsewhere=int(elsewhere[index]),
            mean_harm=float(harm[index] / rows[index]) if rows[index] else None,
            wrong=None if wrong is None else int(wrong[index]),
        )
        for index, name in enumerate(ranking.class_names)
    )
    moved = elsewhere + np.bincount(suggested[given != suggested], minlength=count)
    shown = np.sort(np.argsort(-moved, kind="stable")[:MATRIX_CLASSES])
    counts = confusion(given, suggested, shown)
    return Classes(lines, tuple(shown.tolist()), counts, heats(counts))


def confusion(
    given: NDArray[np.integer], suggested: NDArray[np.integer], shown: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Rows by given and suggested label among some classes.

    >>> confusion(np.array([0, 2, 2, 1]), np.array([2, 2, 0, 2]), np.array([0, 2]))
    array([[0, 1],
           [1, 1]])
    """
    counts = np.zeros((len(shown), len(shown)), dtype=np.int64)
    inside = np.isin(given, shown) & np.isin(suggested, shown)
    np.add.at(counts, (np.searchsorted(shown, given[inside]), np.searchsorted(shown, suggested[inside])), 1)
    return counts


def heats(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Shades of a matrix's cells: proportional to the count, at least 1 where there is one, 0 on the diagonal.

    >>> heats(np.array([[90, 8], [1, 70]]))
    array([[0, 8],
           [1, 0]])
    """
    others = counts * (1 - np.eye(len(counts), dtype=np.int64))
    return np.asarray(np.ceil(HEATS * others / max(others.max(initial=0), 1)), dtype=np.int64)
