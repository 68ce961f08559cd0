from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.data import snapshot
from auditor.data.snapshot import SnapshotWriter, snapshot_batches
from auditor.storage import RunFolder


def rows(start: int, count: int) -> pa.Table:
    return pa.table({"row": pa.array(range(start, start + count), pa.int32())})


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 2500), min_size=1, max_size=6))
def test_tables_of_any_length_become_groups_of_1024_rows(tmp_path_factory, lengths):
    run = RunFolder(tmp_path_factory.mktemp("run"))
    with SnapshotWriter(run, "train", ["a"]) as writer:
        for start, length in zip(np.cumsum([0, *lengths]), lengths, strict=False):
            writer.write(rows(int(start), length))
    batches = list(snapshot_batches(run, "train"))
    total = sum(lengths)
    assert [batch.num_rows for batch in batches] == [1024] * (total // 1024) + [total % 1024] * (total % 1024 > 0)
    assert [row for batch in batches for row in batch["row"].to_pylist()] == list(range(total))


def test_files_end_after_their_groups_and_carry_names_and_version(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot, "FILE_GROUPS", 2)
    run = RunFolder(tmp_path)
    with SnapshotWriter(run, "test", ["Käse", "b"]) as writer:
        writer.write(rows(0, 5000))
    assert run.names("dataset/test") == [f"part-{part:05d}.parquet" for part in range(3)]
    metadata = pq.read_schema(tmp_path / "dataset/test/part-00002.parquet").metadata
    assert json.loads(metadata[b"class_names"]) == ["Käse", "b"]
    assert metadata[b"auditor.format_version"] == b"1"
    assert run.read_table("dataset/test")["row"].to_pylist() == list(range(5000))


def test_groups_of_huge_rows_end_early(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot, "GROUP_BYTES", 1000)
    run = RunFolder(tmp_path)
    with SnapshotWriter(run, "train", []) as writer:
        for _ in range(5):
            writer.write(pa.table({"image": [b"x" * 400]}))
    assert [batch.num_rows for batch in snapshot_batches(run, "train")] == [3, 2]


def test_an_interrupted_writer_leaves_no_file_to_see(tmp_path):
    run = RunFolder(tmp_path)

    def write_and_stop() -> None:
        with SnapshotWriter(run, "train", []) as writer:
            writer.write(rows(0, 3000))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_stop()
    assert run.names("dataset/train") == []
    assert list(snapshot_batches(run, "train")) == []


def test_columns_can_be_chosen(tmp_path):
    run = RunFolder(tmp_path)
    with SnapshotWriter(run, "train", []) as writer:
        writer.write(pa.table({"row": [0], "image": [{"bytes": b"x", "path": None}], "label": [1]}))
    (batch,) = snapshot_batches(run, "train", ["image", "label"])
    assert batch.to_pylist() == [{"image": {"bytes": b"x", "path": None}, "label": 1}]
