"""Small audit tables, images and configurations for the tests of auditor.data."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from auditor.config import Config, parse_config
from auditor.data.sources.base import image_array

SIDE = 8
CIFAR10 = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"

needs_cifar10 = pytest.mark.skipif(not CIFAR10.is_dir(), reason=f"{CIFAR10} is not there")


def pixels(seed: int, channels: int = 3, height: int = SIDE, width: int = SIDE) -> NDArray[np.uint8]:
    """A noise image [height, width, 3] or [height, width], different for each seed."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(image: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def images(count: int, first: int = 0, channels: int = 3, side: int = SIDE) -> list[bytes | None]:
    return [encode(pixels(first + seed, channels, side, side)) for seed in range(count)]


def table(
    encoded: Sequence[bytes | None],
    labels: Sequence[Any] | None = None,
    ids: Sequence[str | None] | None = None,
    first: int = 0,
    **columns: Any,
) -> pa.Table:
    """An audit table with ids `s000`…, counted from `first`, and labels 0, 1, 0, 1, …"""
    count = len(encoded)
    return pa.table(
        {
            "sample_id": pa.array(ids or [f"s{first + row:03d}" for row in range(count)], pa.string()),
            "image": image_array(list(encoded), [None] * count),
            "label": [row % 2 for row in range(count)] if labels is None else labels,
            **columns,
        }
    )


def feature_table(rows: Sequence[Sequence[float | None] | None], first: int = 0) -> pa.Table:
    return pa.table(
        {
            "sample_id": pa.array([f"s{first + row:03d}" for row in range(len(rows))], pa.string()),
            "features": pa.array(rows, pa.list_(pa.float64())),
            "label": pa.array([row % 2 for row in range(len(rows))], pa.int64()),
        }
    )


def parquet_config(folder: Path, tables: Mapping[str, pa.Table], **data: Any) -> Config:
    """Write the tables as `train.parquet`, … and configure an audit of them that writes into `run`."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in tables.items():
        pq.write_table(rows, folder / f"{split}.parquet")
    source = {"kind": "parquet", **{split: str(folder / f"{split}.parquet") for split in tables}}
    return configure(folder / "run", source, **data)


def configure(run: Path, source: dict[str, Any], **data: Any) -> Config:
    train = {"batch_size": 4, "micro_batch_size": 4}
    return parse_config({"run": str(run), "train": train, "data": {"source": source, **data}})


def three_tables(count: int = 40, **replaced: pa.Table) -> dict[str, pa.Table]:
    """Training, validation and test tables without a row in common."""
    return {
        "train": table(images(count)),
        "validation": table(images(20, first=1000), first=1000),
        "test": table(images(20, first=2000), first=2000),
        **replaced,
    }
