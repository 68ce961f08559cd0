"""Scores that a whole-training computation gives to every row at once, kept in the run folder until scoring."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from auditor.storage import RunFolder

FOLDERS = ("replay", "gif_step", "hif", "out_of_sample")
"""Stages that leave such scores."""


def write_row_scores(run: RunFolder, folder: str, columns: Mapping[str, NDArray[np.floating]]) -> None:
    """Write `<folder>/influence.parquet`.

    Args:
        run: The run folder.
        folder: One of `FOLDERS`.
        columns: Scores [rows] by score column.
    """
    count = len(next(iter(columns.values())))
    rows = pa.array(np.arange(count), pa.int32())
    run.write_table(f"{folder}/influence.parquet", pa.table({"row": rows, **columns}))


def read_row_scores(run: RunFolder) -> dict[str, NDArray[np.float64]]:
    """Scores [rows] by score column, of every stage that has left some."""
    found: dict[str, NDArray[np.float64]] = {}
    for folder in FOLDERS:
        if run.exists(path := f"{folder}/influence.parquet"):
            table = run.read_table(path).drop_columns(["row"])
            found |= {name: np.asarray(table[name].to_numpy(), dtype=np.float64) for name in table.column_names}
    return found
