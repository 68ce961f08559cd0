from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from auditor.data.parts import Part, choose_parts, merge_rows, set_aside
from auditor.data.quarantine import Quarantine
from auditor.data.sources import open_source
from tests.data.builders import configure, images, parquet_config, table


def part(split: str, rows: list[int]) -> Part:
    count = len(rows)
    return Part(
        split=split,
        table="train",
        rows=np.array(rows, dtype=np.int64),
        sample_ids=[f"s{row}" for row in rows],
        raw_labels=pa.nulls(count, pa.int64()),
        labels=np.zeros(count, np.int32),
        true_labels=None,
        kept=np.ones(count, np.bool_),
    )


@given(st.lists(st.sampled_from([0, 1, 2]), max_size=50), st.sets(st.integers(0, 49)))
def test_merged_rows_lead_back_to_their_parts(owners, aside):
    parts = [
        part(name, [row for row, owner in enumerate(owners) if owner == number])
        for number, name in enumerate(["train", "validation", "test"])
    ]
    quarantine = Quarantine(limit=0.5)
    for each in parts:
        for place, row in enumerate(each.rows.tolist()):
            if row in aside:
                set_aside(quarantine, each, place, "corrupt_image", "why")
    rows, owner, places = merge_rows(parts)
    assert rows.tolist() == [row for row in range(len(owners)) if row not in aside]
    assert owner.tolist() == [owners[row] for row in rows]
    assert [parts[number].rows[place] for number, place in zip(owner, places, strict=True)] == rows.tolist()
    assert {entry.row for entry in quarantine.rows} == aside & set(range(len(owners)))
    assert [parts[number].sample_ids[place] for number, place in zip(owner, places, strict=True)] == [
        f"s{row}" for row in rows
    ]


def test_one_table_is_cut_and_each_cut_is_limited(tmp_path):
    config = configure(tmp_path, {"kind": "digits"}, limit={"train": 100, "test": 7}, split={"validation": 0.3})
    names, parts = choose_parts(config, open_source(config.data))
    assert names == [str(digit) for digit in range(10)]
    assert {split: len(each.rows) for split, each in parts.items()}["train"] == 100
    assert len(parts["test"].rows) == 7
    assert len(parts["validation"].rows) > 400
    assert all(each.table == "train" for each in parts.values())
    everything = np.concatenate([each.rows for each in parts.values()])
    assert len(np.unique(everything)) == len(everything)
    labels = open_source(config.data).index("train").labels
    assert parts["test"].labels.tolist() == [labels[row].as_py() for row in parts["test"].rows]


def test_a_split_of_its_own_is_taken_whole(tmp_path):
    tables = {"train": table(images(40)), "test": table(images(5, first=90), first=90)}
    config = parquet_config(tmp_path, tables)
    _, parts = choose_parts(config, open_source(config.data))
    assert parts["test"].table == "test"
    assert parts["test"].sample_ids == [f"s{row:03d}" for row in range(90, 95)]
    assert len(parts["train"].rows) + len(parts["validation"].rows) == 40
