"""Run folders on a real S3 server."""

from __future__ import annotations

import pickle
import time

import pyarrow as pa
import pytest
import torch

from auditor.errors import InputError
from auditor.opening import open_run
from auditor.sam import State
from auditor.storage import RunFolder, reach
from auditor.trajectory.checkpoint import load_checkpoint, save_checkpoint
from tests.distributed.builders import config, equal_states, in_processes
from tests.stores import BUCKET, SECRET


@pytest.fixture
def run(in_store, request):
    return RunFolder(f"s3://{BUCKET}/{request.node.name}/run")


def listed(run):
    """Every object below the run folder."""
    from pyarrow import fs

    found = run.filesystem.get_file_info(fs.FileSelector(run.path, recursive=True))
    return sorted(info.path.removeprefix(f"{run.path}/") for info in found if info.type == fs.FileType.File)


def test_files_and_tables_are_written_in_place_and_read_back(run):
    run.write_json("a.json", {"value": 1})
    run.write_table("t/b.parquet", pa.table({"x": [3]}))
    run.write_table("t/a.parquet", pa.table({"x": [1, 2]}))
    assert listed(run) == ["a.json", "t/a.parquet", "t/b.parquet"]
    assert run.read_json("a.json")["value"] == 1
    assert run.read_table("t")["x"].to_pylist() == [1, 2, 3]
    assert (run.exists("t"), run.exists("t/a.parquet"), run.exists("u")) == (True, True, False)
    run.remove("t")
    run.remove("t")
    assert listed(run) == ["a.json"]


def test_a_folder_is_moved_into_place_over_an_earlier_one(run):
    run.write_bytes("scores/old", b"1")
    run.write_bytes(".scores/new", b"2")
    run.write_bytes(".scores/sub/new", b"3")
    run.replace(".scores", "scores")
    assert listed(run) == ["scores/new", "scores/sub/new"]
    run.write_bytes(".file", b"4")
    run.replace(".file", "file")
    assert run.read_bytes("file") == b"4"


def test_a_folder_whose_move_was_cut_off_does_not_exist_until_it_is_moved_again(run, monkeypatch):
    run.write_bytes(".scores/a", b"1")
    run.write_bytes(".scores/b", b"2")
    before = run.filesystem

    class Dying:
        """Dies at the second copy."""

        def __getattr__(self, name):
            return getattr(before, name)

        def copy_file(self, source, target):
            if source.endswith("b"):
                raise KeyboardInterrupt
            before.copy_file(source, target)

    run.filesystem = Dying()
    with pytest.raises(KeyboardInterrupt):
        run.replace(".scores", "scores")
    run.filesystem = before
    assert run.read_bytes("scores/a") == b"1"
    assert not run.exists("scores")
    run.replace(".scores", "scores")
    assert run.exists("scores")
    assert listed(run) == ["scores/a", "scores/b"]


def test_the_address_of_a_file_is_a_uri(run):
    assert run.address("a/b") == f"{run.uri}/a/b"
    assert RunFolder(f"{run.uri}/?region=eu-west-1").address("a") == f"{run.uri}/a?region=eu-west-1"


def save_alike(rank, uri):
    save_checkpoint(RunFolder(uri), 7, state())


def state():
    values = torch.Generator().manual_seed(0)
    parameters = {name: torch.randn(5, 3, generator=values) for name in "abc"}
    return State(parameters, {name: value + 1 for name, value in parameters.items()}, {"count": torch.tensor(3)})


def test_a_checkpoint_that_two_ranks_wrote_is_read_back_bit_for_bit(run):
    in_processes(save_alike, 2, run.uri)
    assert sum(name.endswith(".safetensors") for name in listed(run)) == 2
    assert equal_states(load_checkpoint(run, 7), state())


def test_a_store_that_answers_503_is_asked_again_more_often_than_pyarrow_would(run, store):
    run.write_bytes("a", b"1")
    copy = pickle.loads(pickle.dumps(run.filesystem))  # noqa: S301 - its own bytes
    before, began = store.gate.refused, time.monotonic()
    store.gate.refuse(4)
    with copy.open_input_stream(run.full("a")) as stream:
        assert stream.read() == b"1"
    assert time.monotonic() - began >= 4
    assert store.gate.refused - before >= 3  # after which pyarrow gives up


def test_what_travels_to_other_processes_holds_no_credentials(run):
    assert SECRET.encode() not in pickle.dumps((run, run.filesystem))


def test_a_store_that_is_away_is_told_in_seconds_and_a_busy_one_is_waited_for(run, store, monkeypatch):
    store.gate.refuse(2)
    reach(run.uri)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    audit, began = config(run.uri), time.monotonic()
    with pytest.raises(InputError, match=f"run {run.uri}: cannot be a run folder"):
        open_run(audit)
    assert time.monotonic() - began < 30
