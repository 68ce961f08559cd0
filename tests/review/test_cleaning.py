from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from auditor.review.cleaning import ClassCount, cleaned, count_classes, decisions
from auditor.review.evidence import Evidence
from auditor.review.verdicts import Verdict, write_verdicts
from tests.report.builders import Audit
from tests.review.builders import ranked

CLASSES = ("cat", "dog", "cow")
MOMENT = datetime(2026, 11, 25, tzinfo=UTC)


def said(sample_id, word, label, new_label=None, by="ada"):
    return Verdict(sample_id, word, new_label, "", by, MOMENT, "csv", None, Evidence(label, "dog", 1))


VERDICTS = {
    "b": said("b", "remove", "dog"),
    "c": said("c", "relabel", "cow", "cat", "bob"),
    "d": said("d", "keep", "cat"),
    "e": said("e", "relabel", "cat", "cat"),
}


def rows(**more):
    columns = {"row": pa.array(range(5), pa.int32()), "sample_id": list("abcde")}
    labels = {"label": pa.array([0, 1, 2, 0, 0], pa.int32()), "true_label": pa.array([0, 1, 0, None, 0], pa.int32())}
    return pa.table({**columns, **labels, "weight": [1.5, 2.5, 3.5, 4.5, 5.5], **more})


def test_removed_rows_are_out_and_relabelled_ones_have_both_labels():
    table = cleaned(rows(), VERDICTS, CLASSES, "run-1", text=True)
    assert table.to_pydict() == {
        "sample_id": ["a", "c", "d", "e"],
        "label": ["cat", "cat", "cat", "cat"],
        "original_label": [None, "cow", None, None],
        "true_label": ["cat", "cat", None, "cat"],
        "weight": [1.5, 3.5, 4.5, 5.5],
        "audit_run": [None, "run-1", "run-1", "run-1"],
        "verdict": [None, "relabel", "keep", "relabel"],
        "reviewer": [None, "bob", "ada", "ada"],
    }


def test_labels_stay_numbers_where_the_source_has_numbers():
    table = cleaned(rows(), VERDICTS, CLASSES, "run-1", text=False)
    assert table["label"].to_pylist() == [0, 0, 0, 0]
    assert table["original_label"].to_pylist() == [None, 2, None, None]
    assert table["label"].type == table["original_label"].type == pa.int32()


def test_a_second_export_keeps_what_the_first_noted():
    first = cleaned(rows(), {"c": VERDICTS["c"]}, CLASSES, "run-1", text=False)
    again = first.append_column("row", pa.array(range(5), pa.int32()))
    table = cleaned(again, {"a": said("a", "keep", "cat")}, CLASSES, "run-2", text=False)
    assert table["audit_run"].to_pylist() == ["run-2", None, "run-1", None, None]
    assert table["original_label"].to_pylist() == [None, None, 2, None, None]
    moved = cleaned(again, {"c": said("c", "relabel", "cat", "dog")}, CLASSES, "run-2", text=False)
    assert moved["label"].to_pylist()[2] == 1
    assert moved["original_label"].to_pylist()[2] == 2
    assert moved["audit_run"].to_pylist()[2] == "run-2"


def test_a_column_of_the_users_own_by_such_a_name_is_kept_under_another():
    table = cleaned(rows(reviewer=[1, 2, 3, 4, 5]), VERDICTS, CLASSES, "run-1", text=True)
    assert table["source_reviewer"].to_pylist() == [1, 3, 4, 5]
    assert table["reviewer"].to_pylist() == [None, "bob", "ada", "ada"]


def test_classes_are_counted_before_and_after():
    counts = count_classes([3, 1, 1], CLASSES, VERDICTS)
    assert counts == {"cat": ClassCount(3, 0, 0, 1), "dog": ClassCount(1, 1, 0, 0), "cow": ClassCount(1, 0, 1, 0)}
    table = cleaned(rows(), VERDICTS, CLASSES, "run-1", text=True)
    assert {name: table["label"].to_pylist().count(name) for name in CLASSES} == {
        name: count.after for name, count in counts.items()
    }


@pytest.fixture
def run(tmp_path):
    config, run = Audit().write(tmp_path)
    ranked(config, run)
    return run


def test_only_verdicts_about_the_label_as_it_is_are_applied_and_those_carried_out_are_no_problem(run):
    lines = run.read_table("report/ranked.parquet").to_pylist()[:5]
    keep, unsure, moved, twice = (said(line["sample_id"], "keep", line["label"]) for line in lines[:4])
    unsure = replace(unsure, verdict="unsure")
    moved = replace(moved, evidence=Evidence("another", "dog", 1))
    later = replace(twice, verdict="remove", time=MOMENT.replace(hour=1))
    relabelled = replace(said(lines[4]["sample_id"], "relabel", "another"), new_label=lines[4]["label"])
    gone = [said("gone", "keep", "cat"), said("removed", "remove", "cat")]
    write_verdicts(run, [keep, unsure, moved, twice, relabelled, *gone, later])
    applied, unapplied = decisions(run)
    assert applied == {keep.sample_id: keep, twice.sample_id: later}
    assert unapplied == tuple(sorted([moved.sample_id, "gone"]))
