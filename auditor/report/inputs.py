"""The images or features of a few rows of the snapshot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from auditor.storage import RunFolder


def inputs_of(run: RunFolder, split: str, rows: NDArray[np.integer]) -> dict[int, dict[str, Any]]:
    """Image or features by row; row groups without a wanted row are skipped by their statistics.

    Args:
        run: The run folder.
        split: `train`, `validation` or `test`.
        rows: Wanted rows.
    """
    from pyarrow import dataset

    folder = f"dataset/{split}"
    files = [run.full(f"{folder}/{name}") for name in run.names(folder) if name.endswith(".parquet")]
    table = dataset.dataset(files, format="parquet", filesystem=run.filesystem)
    columns = ["row", *(name for name in ("image", "features") if name in table.schema.names)]
    found = table.to_table(columns=columns, filter=dataset.field("row").isin(pa.array(rows, pa.int32())))
    return {line["row"]: line for line in found.to_pylist()}
