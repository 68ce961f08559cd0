from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch

from auditor.distributed.remarks import pass_on, remark
from auditor.distributed.rows import RowReader
from auditor.distributed.shared import share_tensors
from auditor.errors import StageError
from auditor.storage import RunFolder


def reader(tmp_path, rows):
    """Only what cutting into parts reads."""
    found = object.__new__(RowReader)
    found.rows, found.run = rows, RunFolder(str(tmp_path))
    return found


def memory_for(most):
    def work(part):
        if len(part) > most:
            raise torch.OutOfMemoryError
        return part["row"].to_pylist()

    return work


def test_where_memory_runs_out_batches_are_halved_from_there_on_and_no_row_is_lost_or_doubled(tmp_path, caplog):
    actor, table = reader(tmp_path, 64), pa.table({"row": list(range(150))})
    parts = list(actor.in_parts(table, memory_for(20)))
    assert [row for part in parts for row in part] == list(range(150))
    assert {len(part) for part in parts[:-1]} == {16}
    assert [len(part) for part in actor.in_parts(table.slice(0, 20), memory_for(20))] == [16, 4]
    with caplog.at_level(logging.WARNING, "auditor"):
        pass_on(actor.run, "score")
    assert sorted(record.message for record in caplog.records) == [
        "score: memory had no room for 32 samples at a time; it went on with 16",
        "score: memory had no room for 64 samples at a time; it went on with 32",
    ]
    assert actor.run.names("", hidden=True) == []


def test_memory_that_has_no_room_for_one_row_ends_the_stage_in_a_sentence(tmp_path):
    with pytest.raises(StageError, match="no memory for a single sample"):
        list(reader(tmp_path, 5).in_parts(pa.table({"row": [1, 2]}), memory_for(0)))


def test_the_same_remark_of_many_actors_is_passed_on_once(tmp_path, caplog):
    run = RunFolder(str(tmp_path))
    for _ in range(3):
        remark(run, "it rains")
    with caplog.at_level(logging.WARNING, "auditor"):
        pass_on(run, "explain")
        pass_on(run, "explain")
    assert [record.message for record in caplog.records] == ["explain: it rains"]


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="tells by /proc what is mapped where")
def test_processes_of_a_machine_read_shared_tensors_where_they_lie(ray_cluster):
    @ray.remote
    class Reader:
        def __init__(self, held):
            self.held = ray.get(held[0])

        def place(self):
            """What is mapped where the tensor lies, and its sum."""
            address = self.held.value.data_ptr()
            for line in Path("/proc/self/maps").read_text().splitlines():
                span, *_, name = line.split(maxsplit=5)
                first, end = (int(part, 16) for part in span.split("-"))
                if first <= address < end:
                    return name, float(self.held.value.sum())
            return None

    share_tensors()
    try:
        values = torch.arange(300_000, dtype=torch.float64)
        held = ray.put(SimpleNamespace(value=values))
    finally:
        ray.util.deregister_serializer(torch.Tensor)
    name, total = ray.get(Reader.remote([held]).place.remote())
    assert "plasma" in name
    assert total == np.arange(300_000).sum()
