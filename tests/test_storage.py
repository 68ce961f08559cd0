from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from auditor.errors import InputError
from auditor.storage import FORMAT_VERSION, RunFolder, resolve

SIZE = 16 << 20
WRITER = """
import sys
from auditor.storage import RunFolder
run = RunFolder(sys.argv[1])
for turn in range(1, 10**6):
    run.write_bytes("folder/file", bytes([turn % 251]) * int(sys.argv[2]))
"""


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def writer(run):
    """A process that writes one large file over and over, every time filled with another byte."""
    run.write_bytes("folder/file", bytes(SIZE))
    process = subprocess.Popen([sys.executable, "-c", WRITER, run.path, str(SIZE)])
    yield process
    process.kill()
    process.wait()


def half_written(run):
    """Hidden files that hold a part of what is to be written."""
    folder = run.local / "folder"
    return [path for path in folder.glob(".file.*") if 0 < path.stat().st_size < SIZE]


def is_whole(contents):
    return len(contents) == SIZE and contents.count(contents[:1]) == SIZE


def test_a_reader_beside_a_writer_sees_whole_files_only(run, writer):
    seen = set()
    deadline = time.monotonic() + 30
    while len(seen) < 3 and time.monotonic() < deadline:
        contents = run.read_bytes("folder/file")
        assert is_whole(contents)
        assert run.names("folder") == ["file"]
        seen.add(contents[0])
    assert len(seen) == 3, "the writer did not write"


def test_a_writer_killed_half_way_leaves_the_old_file(run, writer):
    deadline = time.monotonic() + 30
    caught = []
    while not caught and time.monotonic() < deadline:
        if half_written(run):
            os.kill(writer.pid, signal.SIGSTOP)
            caught = half_written(run)  # what it looks like now that nothing moves
            if not caught:
                os.kill(writer.pid, signal.SIGCONT)
    assert caught, "the writer was never seen half way"
    before = run.read_bytes("folder/file")
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert is_whole(before)
    assert run.read_bytes("folder/file") == before
    assert run.names("folder") == ["file"]
    assert run.names("folder", hidden=True) != ["file"], "what the writer had written is still there, unseen"


def test_a_write_that_fails_leaves_the_old_file(run):
    run.write_json("a.json", {"value": 1})
    with pytest.raises(ValueError, match="JSON"):
        run.write_json("a.json", {"value": float("nan")})
    assert run.read_json("a.json")["value"] == 1


def test_names_are_sorted_and_hidden_ones_are_invisible(run):
    for name in ("b", "a/x", ".c", "a/.y", "B"):
        run.write_bytes(f"folder/{name}", b"")
    assert run.names("folder") == ["B", "a", "b"]
    assert run.names("folder", hidden=True) == [".c", "B", "a", "b"]
    assert run.names("folder/a") == ["x"]
    assert run.names("nowhere") == []


def test_a_table_is_read_back_from_a_file_several_or_a_folder_in_order(run):
    for name, values in (("b", [3]), ("a", [1, 2]), (".hidden", [9])):
        run.write_table(f"folder/{name}.parquet", pa.table({"x": values, "y": values}))
    assert run.read_table("folder")["x"].to_pylist() == [1, 2, 3]
    assert run.read_table(["folder/b.parquet", "folder/a.parquet"])["x"].to_pylist() == [3, 1, 2]
    assert run.read_table("folder/a.parquet", columns=["y"]).column_names == ["y"]
    metadata = pq.read_schema(run.full("folder/a.parquet")).metadata
    assert metadata[b"auditor.format_version"] == str(FORMAT_VERSION).encode()


def test_a_tables_own_metadata_is_kept(run):
    run.write_table("t.parquet", pa.table({"x": [1]}).replace_schema_metadata({b"class_names": b"[]"}))
    assert run.read_table("t.parquet").schema.metadata[b"class_names"] == b"[]"


def test_json_is_stamped_and_read_back(run):
    run.write_json("a.json", {"name": "Füße", "values": [1, None]})
    assert run.read_json("a.json") == {"format_version": FORMAT_VERSION, "name": "Füße", "values": [1, None]}
    assert "Füße" in run.read_bytes("a.json").decode()


def test_json_of_a_newer_format_is_refused_by_name(run):
    run.write_json("folder/a.json", {"format_version": FORMAT_VERSION + 1})
    with pytest.raises(InputError, match=rf"{run}/folder/a\.json: has format version 2, this release reads up to 1"):
        run.read_json("folder/a.json")


@pytest.mark.parametrize("columns", [None, ["x"], ["renamed since"]])
def test_parquet_of_a_newer_format_is_refused_by_name_whatever_its_columns(run, columns):
    newer = pa.table({"x": [1]}).replace_schema_metadata({b"auditor.format_version": b"2"})
    run.write_table("folder/a.parquet", pa.table({"x": [1]}))
    run.write_table("folder/b.parquet", newer)
    with pytest.raises(InputError, match=rf"{run}/folder/b\.parquet: has format version 2"):
        run.read_table("folder/b.parquet", columns=columns)
    if columns != ["renamed since"]:
        with pytest.raises(InputError, match=r"b\.parquet: has format version 2"):
            run.read_table("folder", columns=columns)


def test_files_without_a_version_are_of_this_format(run):
    run.write_bytes("a.json", json.dumps([1, 2]).encode())
    assert run.read_json("a.json") == [1, 2]
    pq.write_table(pa.table({"x": [1]}), run.full("a.parquet"))
    assert run.read_table("a.parquet")["x"].to_pylist() == [1]


def test_what_is_no_json_is_refused_by_name(run):
    run.write_bytes("a.json", b"{")
    with pytest.raises(InputError, match=rf"{run}/a\.json: is not JSON"):
        run.read_json("a.json")


def test_replace_moves_a_folder_into_place_over_an_earlier_one(run):
    run.write_bytes("old/a", b"1")
    run.write_bytes("old/sub/b", b"1")
    run.write_bytes(".new/c", b"2")
    run.replace(".new", "old")
    assert run.names("old") == ["c"]
    assert not run.exists(".new")
    run.replace("old", "first")
    assert run.read_bytes("first/c") == b"2"


def test_remove_takes_a_file_or_a_whole_folder_and_minds_neither(run):
    run.write_bytes("a/b/c", b"1")
    run.remove("a/b/c")
    assert run.exists("a/b")
    run.remove("a")
    run.remove("a")
    assert not run.exists("a")


def test_upload_copies_files_of_a_local_folder(run, tmp_path):
    for name in ("x", "y", "z"):
        (tmp_path / name).write_text(name)
    run.upload(tmp_path, "to/here", ["x", "z"])
    assert {name: run.read_bytes(f"to/here/{name}") for name in run.names("to/here")} == {"x": b"x", "z": b"z"}


def test_a_run_folder_survives_pickling_with_its_filesystem(run):
    run.write_bytes("a", b"1")
    for folder in (run, RunFolder(f"file://{run.path}")):
        again = pickle.loads(pickle.dumps(folder))  # noqa: S301 - its own bytes
        assert (again.uri, again.path) == (folder.uri, folder.path)
        assert again.read_bytes("a") == b"1"


def test_a_file_uri_and_a_local_path_are_the_same_folder(run):
    other = RunFolder(f"file://{run.path}")
    run.write_table("t/a.parquet", pa.table({"x": [1]}))
    other.write_json("b.json", {"x": 1})
    assert other.read_table("t") == run.read_table("t")
    assert run.read_json("b.json") == other.read_json("b.json")
    assert other.local == run.local == Path(run.path)
    assert str(other) == f"file://{run.path}"


def test_a_relative_path_and_a_home_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert RunFolder("runs/a").path == RunFolder(Path("runs/a")).uri == f"{tmp_path}/runs/a"
    assert RunFolder("~/a").path == f"{tmp_path}/home/a"


@pytest.mark.parametrize("uri", ["ftp://host/run", "made-up://bucket/run", "://run"])
def test_an_unknown_scheme_is_refused_by_name(uri):
    with pytest.raises(InputError, match="is no path or URI that can be opened") as refused:
        RunFolder(uri)
    assert str(refused.value).startswith(uri)


def test_another_filesystem_has_no_local_path():
    assert not isinstance(resolve("mock://run")[0], fs.LocalFileSystem)
    assert RunFolder("mock://run").local is None
