from __future__ import annotations

import csv
import io

import pyarrow as pa
import pytest

from auditor.report.spreadsheet import to_csv


def _read(table: pa.Table) -> list[list[str]]:
    return list(csv.reader(io.StringIO(to_csv(table).decode())))


def test_values_survive_quotes_commas_and_newlines():
    table = pa.table(
        {"id": ['say "hi", now', "two\nlines", "Grün"], "harm": [0.5, -1e-09, 3.0], "flagged": [True, False, None]}
    )
    assert _read(table) == [
        ["id", "harm", "flagged"],
        ['say "hi", now', "0.5", "true"],
        ["two\nlines", "-1e-9", "false"],
        ["Grün", "3", ""],
    ]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1"])
def test_text_never_becomes_a_formula(text):
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        header, row = _read(pa.table({f"{text}": pa.array([text]).cast(kind)}))
        assert header == [f"'{text}"]
        assert row == [f"'{text}"]


def test_text_with_an_operator_inside_stays_as_it_is():
    assert _read(pa.table({"id": ["a=b", "train/cat-1.png"]}))[1:] == [["a=b"], ["train/cat-1.png"]]


def test_what_no_cell_can_hold_is_left_out():
    table = pa.table({"id": ["a"], "list": [[1]], "struct": [{"a": 1}], "blob": [b"x"]})
    assert _read(table) == [["id"], ["a"]]
