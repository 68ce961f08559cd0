"""The images or features of a few rows of the snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from auditor.storage import RunFolder


def inputs_of(
    run: RunFolder, split: str, wanted: Sequence[Any], key: str = "row", more: Sequence[str] = ()
) -> dict[Any, dict[str, Any]]:
    """Image or features of a few samples, nothing else of the snapshot being held.

    Row groups without a wanted row are skipped by their statistics.

    Args:
        run: The run folder.
        split: `train`, `validation` or `test`.
        wanted: Values of the key, each once.
        key: The column by which samples are wanted and found: `row` or `sample_id`.
        more: Other columns to read.
    """
    from pyarrow import dataset

    folder = f"dataset/{split}"
    files = [run.full(f"{folder}/{name}") for name in run.names(folder) if name.endswith(".parquet")]
    table = dataset.dataset(files, format="parquet", filesystem=run.filesystem)
    columns = [key, *more, *(name for name in ("image", "features") if name in table.schema.names)]
    named = pa.array(wanted, table.schema.field(key).type)
    found = table.to_table(columns=columns, filter=dataset.field(key).isin(named))
    return {line[key]: line for line in found.to_pylist()}
