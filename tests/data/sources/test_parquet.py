from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.data.decode import read_encoded
from auditor.data.sources.parquet import ParquetTables
from auditor.errors import InputError
from auditor.sections.data import Columns, ParquetSource
from tests.data.builders import encode, feature_table, images, pixels, table


def source_of(folder: Path, rows: pa.Table, columns: Columns | None = None, **options: Any) -> ParquetTables:
    pq.write_table(rows, folder / "train.parquet", **options)
    return ParquetTables(ParquetSource(kind="parquet", train=str(folder / "train.parquet")), columns or Columns())


def all_rows(source: ParquetTables) -> pa.Table:
    return pa.concat_tables(source.batches("train", np.arange(source.count("train"))))


def test_columns_are_read_by_their_parts(tmp_path):
    rows = table(images(3), labels=["a", "b", "a"], human=["b", "b", "a"], extra=[[1], [], None])
    columns = Columns(label="human", true_label="label")
    source = source_of(tmp_path, rows, columns)
    index = source.index("train")
    assert index.sample_ids == ["s000", "s001", "s002"]
    assert index.labels.to_pylist() == ["b", "b", "a"]
    assert index.true_labels is not None
    assert index.true_labels.to_pylist() == ["a", "b", "a"]
    read = all_rows(source)
    assert read.column_names == ["sample_id", "image", "extra"]
    assert read["image"].to_pylist() == rows["image"].to_pylist()
    assert read["extra"].to_pylist() == [[1], [], None]


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 400), min_size=1, max_size=3),
    group=st.integers(1, 300),
    share=st.floats(0, 1),
)
def test_any_rows_of_many_files_come_in_their_order(tmp_path_factory, lengths, group, share):
    folder = tmp_path_factory.mktemp("table")
    for part, length in enumerate(lengths):
        start = sum(lengths[:part])
        rows = feature_table([[float(start + row)] for row in range(length)], first=start)
        pq.write_table(rows, folder / f"part-{part}.parquet", row_group_size=group)
    source = ParquetTables(ParquetSource(kind="parquet", train=str(folder)), Columns())
    chosen = np.flatnonzero(np.random.default_rng(0).random(sum(lengths)) < share)
    batches = list(source.batches("train", chosen))
    assert [value for batch in batches for (value,) in batch["features"].to_pylist()] == chosen.tolist()
    assert all(0 < batch.num_rows <= 256 for batch in batches)
    assert source.index("train").sample_ids == [f"s{row:03d}" for row in range(sum(lengths))]


def test_folders_leave_hidden_and_other_files_alone(tmp_path):
    folder = tmp_path / "table"
    for name, first in [("b.parquet", 2), ("a/c.parquet", 0), (".hidden.parquet", 9), ("_delta/x.parquet", 9)]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(feature_table([[0.0], [1.0]], first=first), folder / name)
    (folder / "README.md").write_text("no table")
    for uri in (str(folder), folder.as_uri()):
        source = ParquetTables(ParquetSource(kind="parquet", train=uri), Columns())
        assert source.index("train").sample_ids == ["s000", "s001", "s002", "s003"]


def test_binary_images_become_structs(tmp_path):
    encoded = images(2)
    for kind in (pa.binary(), pa.large_binary()):
        rows = table(encoded).set_column(1, "image", pa.array([*encoded], kind))
        assert all_rows(source_of(tmp_path, rows))["image"].to_pylist() == [
            {"bytes": each, "path": None} for each in encoded
        ]


def test_relative_paths_without_bytes_start_at_the_file(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/x y.png").write_bytes(encode(pixels(1)))
    structs = [
        {"path": "pictures/x y.png", "bytes": None, "more": 1},
        {"path": str(tmp_path / "pictures/x y.png"), "bytes": None, "more": 2},
        {"path": "name only.png", "bytes": b"given", "more": 3},
        None,
    ]
    rows = table([None] * 4).set_column(1, "image", pa.array(structs))
    source_of(tmp_path, rows)
    for train in (str(tmp_path / "train.parquet"), (tmp_path / "train.parquet").as_uri()):
        source = ParquetTables(ParquetSource(kind="parquet", train=train), Columns())
        first, second, third, fourth = all_rows(source)["image"].to_pylist()
        assert read_encoded(first) == read_encoded(second) == (tmp_path / "pictures/x y.png").read_bytes()
        assert third == {"bytes": b"given", "path": "name only.png"}
        assert fourth == {"bytes": None, "path": None}


def test_features_become_float32(tmp_path):
    for kind in (pa.list_(pa.float64()), pa.large_list(pa.int64()), pa.list_(pa.float16(), 2)):
        rows = feature_table([[1.0, 2.0], [3.0, 4.0]])
        rows = rows.set_column(1, "features", pa.array([[1, 2], [3, 4]], pa.list_(pa.int8())).cast(kind))
        read = all_rows(source_of(tmp_path, rows))
        assert read.schema.field("features").type == pa.list_(pa.float32())
        assert read["features"].to_pylist() == [[1, 2], [3, 4]]


def test_images_win_over_features_and_the_user_is_told(tmp_path):
    rows = table(images(2), features=[[1.0], [2.0]])
    source = source_of(tmp_path, rows)
    assert all_rows(source).column_names == ["sample_id", "image", "source_features"]
    assert "so features is carried along only" in source.warnings()[0]


def test_carried_columns_make_room_for_the_snapshots_own(tmp_path):
    rows = table(images(2), row=[7, 8], source_row=[1, 2], human=[0, 1]).append_column(
        "kind", pa.array(["x", "y"]).dictionary_encode()
    )
    source = source_of(tmp_path, rows, Columns(label="human"))
    read = all_rows(source)
    assert read.column_names == ["sample_id", "image", "source_label", "source_source_row", "source_row", "kind"]
    assert read["source_source_row"].to_pylist() == [7, 8]
    assert read["kind"].to_pylist() == ["x", "y"]
    assert [warning.split(": ")[1] for warning in source.warnings()] == [
        "column label is carried as source_label",
        "column row is carried as source_source_row",
    ]


def test_integer_ids_and_missing_ids(tmp_path):
    rows = table(images(3)).set_column(0, "sample_id", pa.array([5, None, 7]))
    assert source_of(tmp_path, rows).index("train").sample_ids == ["5", "", "7"]


def test_files_of_one_table_may_differ_in_what_is_carried(tmp_path):
    pq.write_table(table(images(1), a=["x"], n=pa.array([1], pa.int8())), tmp_path / "0.parquet")
    pq.write_table(table(images(1), labels=[1.0], first=1, n=pa.array([300])), tmp_path / "1.parquet")
    source = ParquetTables(ParquetSource(kind="parquet", train=str(tmp_path)), Columns())
    assert source.index("train").labels.to_pylist() == [0, 1]
    read = all_rows(source)
    assert read["a"].to_pylist() == ["x", None]
    assert read["n"].to_pylist() == [1, 300]


@pytest.mark.parametrize(
    "metadata",
    [
        {"class_names": json.dumps(["cat", "dog"])},
        {
            "huggingface": json.dumps(
                {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
            )
        },
        {
            "class_names": "no json",
            "huggingface": json.dumps({"info": {"features": {"label": {"names": ["cat", "dog"]}}}}),
        },
    ],
)
def test_class_names_come_from_metadata(tmp_path, metadata):
    assert source_of(tmp_path, table(images(2)).replace_schema_metadata(metadata)).class_names() == ["cat", "dog"]


@pytest.mark.parametrize("metadata", [{}, {"huggingface": "[]"}, {"huggingface": '{"info": {"features": {}}}'}])
def test_without_metadata_no_class_names_are_declared(tmp_path, metadata):
    assert source_of(tmp_path, table(images(2)).replace_schema_metadata(metadata)).class_names() is None


def test_other_annotations_share_the_names_of_the_truth(tmp_path):
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": {"names": ["cat", "dog"]}}}})}
    rows = table(images(2), human=[0, 1]).replace_schema_metadata(metadata)
    assert source_of(tmp_path, rows, Columns(label="human", true_label="label")).class_names() == ["cat", "dog"]


def test_a_validation_table_without_annotations_is_read_with_its_truth(tmp_path):
    pq.write_table(table(images(2), human=[1, 1]), tmp_path / "train.parquet")
    pq.write_table(table(images(2)), tmp_path / "test.parquet")
    paths = {split: str(tmp_path / f"{split}.parquet") for split in ("train", "test")}
    source = ParquetTables(ParquetSource(kind="parquet", **paths), Columns(label="human", true_label="label"))
    test = source.index("test")
    assert test.labels.to_pylist() == [0, 1]
    assert test.true_labels is not None
    assert test.true_labels.to_pylist() == [0, 1]
    assert source.warnings() == [
        f"data.source.test {paths['test']}: has no column human: its labels are read from label"
    ]


@pytest.mark.parametrize(
    ("columns", "missing"),
    [
        ({"sample_id": "key"}, "key"),
        ({"label": "target"}, "target"),
        ({"true_label": "truth"}, "truth"),
        ({"image": "picture", "features": "vector"}, "picture or vector"),
    ],
)
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path, columns, missing):
    source = source_of(tmp_path, table(images(2)), Columns(**columns))
    with pytest.raises(InputError) as caught:
        source.index("train")
    assert str(caught.value) == (
        f"data.source.train {tmp_path}/train.parquet: has no column {missing}; its columns are sample_id, image, label "
        "(data.columns names them)"
    )


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("sample_id", [0.5, 1.5], "column sample_id is double, expected strings or integers"),
        ("image", ["a.png", "b.png"], r"column image is string, expected struct\{bytes, path\} or binary"),
        ("image", [{"path": 3}, {"path": 4}], "column image is struct<path: int64>"),
        ("label", [[1], [2]], "column label: labels are list<"),
    ],
)
def test_columns_of_other_types_are_refused(tmp_path, column, values, message):
    rows = table(images(2))
    source = source_of(tmp_path, rows.set_column(rows.column_names.index(column), column, pa.array(values)))
    with pytest.raises(InputError, match=f"^data.source.train {tmp_path}/train.parquet.*{message}"):
        source.index("train")


def test_features_must_be_lists_of_numbers(tmp_path):
    rows = feature_table([[1.0]]).set_column(1, "features", pa.array([["a"]]))
    with pytest.raises(InputError, match=r"column features is list<.*expected a list of numbers"):
        source_of(tmp_path, rows).index("train")


def test_paths_that_hold_no_table_are_named(tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 is not enough")
    (tmp_path / "empty").mkdir()
    for name, message in [
        ("gone.parquet", "does not exist"),
        ("broken.parquet", "cannot be read as Parquet"),
        ("empty", "the folder holds no .parquet file"),
    ]:
        source = ParquetTables(ParquetSource(kind="parquet", train=str(tmp_path / name)), Columns())
        with pytest.raises(InputError, match=f"^data.source.train {tmp_path / name}: {message}"):
            source.count("train")


def test_a_file_damaged_inside_is_named(tmp_path):
    source = source_of(tmp_path, table(images(300)), compression="none")
    path = tmp_path / "train.parquet"
    contents = bytearray(path.read_bytes())
    contents[4:2000] = bytes(1996)
    path.write_bytes(contents)
    with pytest.raises(InputError, match=f"data.source.train {path}: cannot be read as Parquet"):
        source.index("train")
