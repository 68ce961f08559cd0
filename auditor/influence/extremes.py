"""The training samples of the largest influence on each of several queries, kept while samples stream by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Extremes:
    """Running lists of the samples that help and harm each query most: memory is queries x count, whatever streams by.

    Equal influences are ordered by row, so the result does not depend on how the stream is cut.

    Args:
        queries: M.
        count: Samples to keep for each query and side.
    """

    def __init__(self, queries: int, count: int) -> None:
        self._queries, self._count = queries, count
        self._rows = np.empty((queries, 0), np.int64)
        self._values = np.empty((queries, 0))

    def __len__(self) -> int:
        return self._queries

    def add(self, rows: NDArray[np.integer], influence: NDArray[np.float64]) -> None:
        """Take note of some samples.

        Args:
            rows: Their numbers, [m]; each sample is added once.
            influence: Of each sample on each query, [m, M]: positive helps.
        """
        self.merge(np.broadcast_to(rows, (self._queries, len(rows))), influence.T)

    def merge(self, rows: NDArray[np.integer], influence: NDArray[np.float64]) -> None:
        """Take note of samples that differ from query to query, such as `kept` of another part of the stream.

        Args:
            rows: [M, m]; for each query, each sample is added once.
            influence: [M, m]
        """
        among = np.concatenate([self._rows, rows], axis=1)
        values = np.concatenate([self._values, influence], axis=1)
        order = np.lexsort((among, values), axis=1)
        if order.shape[1] > 2 * self._count:
            order = np.concatenate([order[:, : self._count], order[:, -self._count :]], axis=1)
        self._rows = np.take_along_axis(among, order, axis=1)
        self._values = np.take_along_axis(values, order, axis=1)

    def kept(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows and influences of all that are kept, [M, at most 2 count], the most harmful first."""
        return self._rows, self._values

    def harmful(self, query: int) -> list[tuple[int, float]]:
        """(row, influence) of the samples that harm a query most, the worst first; only such as harm it."""
        kept = zip(self._rows[query][: self._count], self._values[query][: self._count], strict=True)
        return [(int(row), float(value)) for row, value in kept if value < 0]

    def helpful(self, query: int) -> list[tuple[int, float]]:
        """(row, influence) of the samples that help a query most, the best first; only such as help it."""
        kept = zip(self._rows[query][::-1][: self._count], self._values[query][::-1][: self._count], strict=True)
        return [(int(row), float(value)) for row, value in kept if value > 0]
