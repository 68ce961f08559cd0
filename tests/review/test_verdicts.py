from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from auditor.errors import InputError
from auditor.review.evidence import Evidence
from auditor.review.verdicts import (
    SCHEMA,
    VERDICTS_FILE,
    Verdict,
    current,
    disagreements,
    merged,
    read_verdicts,
    with_evidence,
    write_verdicts,
)
from auditor.storage import RunFolder

NOON = datetime(2026, 11, 25, 12, 0, 0, 123000, UTC)


def given(sample_id="a", verdict="keep", *, by="ada", hours=0, new_label=None, **more) -> Verdict:
    return Verdict(sample_id, verdict, new_label, "", by, NOON + timedelta(hours=hours), "mlflow", f"tr-{by}", **more)


def test_the_newest_wins_and_all_are_kept():
    history = merged([given(verdict="remove", hours=2)], [given(), given(verdict="unsure", by="bob", hours=1)])
    assert [v.verdict for v in history] == ["keep", "unsure", "remove"]
    assert current(history)["a"].verdict == "remove"


def test_what_is_read_twice_is_kept_once():
    history = [given(), given("b", hours=1)]
    assert merged(history, history, [given()]) == history


def test_a_relabel_without_a_label_counts_for_nothing():
    history = merged([given(), given(verdict="relabel", hours=1)])
    assert current(history)["a"].verdict == "keep"
    assert len(history) == 2


def test_disagreement_is_between_the_newest_words_of_two_reviewers():
    relabel = {"verdict": "relabel", "new_label": "dog"}
    assert disagreements([given(), given(verdict="remove", by="bob")]) == ["a"]
    assert disagreements([given(), given(by="bob", **relabel)]) == ["a"]
    assert disagreements([given(**relabel), given(by="bob", **{**relabel, "new_label": "cat"})]) == ["a"]
    assert disagreements([given(**relabel), given(by="bob", **relabel)]) == []
    assert disagreements(merged([given(), given(verdict="remove", hours=1)])) == []
    changed = [given(), given(verdict="remove", by="bob"), given(by="bob", hours=1)]
    assert disagreements(merged(changed)) == []
    assert disagreements([given(), given(verdict="unsure", by="bob")]) == []
    assert disagreements([given("a"), given("b", "remove", by="bob")]) == []


def test_a_verdict_holds_for_the_label_it_was_given_about():
    seen = given(evidence=Evidence("cat", "dog", 3))
    assert seen.holds("cat")
    assert not seen.holds("dog")
    assert not given().holds("cat")
    assert not replace(seen, verdict="relabel").holds("cat")


def test_a_verdict_is_carried_out_where_the_sample_is_gone_or_has_the_new_label():
    seen = given(evidence=Evidence("cat", "dog", 3))
    removed = replace(seen, verdict="remove")
    relabelled = replace(seen, verdict="relabel", new_label="dog")
    assert [removed.carried_out(label) for label in (None, "cat")] == [True, False]
    assert [relabelled.carried_out(label) for label in (None, "cat", "dog", "cow")] == [False, False, True, False]
    assert not replace(relabelled, new_label="cat").carried_out("cat")
    assert not seen.carried_out(None)
    assert not given(verdict="remove").carried_out(None)


def test_evidence_is_noted_once():
    first, second = Evidence("cat", "dog", 3), Evidence("cat", "dog", 9)
    (noted,) = with_evidence([given()], {"a": first})
    assert noted.evidence == first
    assert with_evidence([noted, given("b")], {"a": second}) == [noted, given("b")]


def test_the_history_comes_back_as_it_was_written(tmp_path):
    run = RunFolder(tmp_path)
    assert read_verdicts(run) == []
    evidence = Evidence("cat", "dog", 3)
    history = merged(
        [
            given(evidence=evidence),
            given(verdict="relabel", hours=1, new_label="dog", evidence=evidence),
            replace(given("b", by="bob"), comment='=odd, "very"\n', source="csv", item_id=None),
        ]
    )
    write_verdicts(run, history)
    assert read_verdicts(run) == history
    table = run.read_table(VERDICTS_FILE)
    assert table.schema.remove_metadata() == SCHEMA
    assert dict(zip(table["time"].to_pylist(), table["current"].to_pylist(), strict=True)) == {
        NOON: True,
        NOON + timedelta(hours=1): True,
    }
    assert table["current"].to_pylist().count(True) == 2
    write_verdicts(run, [])
    assert read_verdicts(run) == []


def test_a_newer_format_is_refused_by_name(tmp_path):
    run = RunFolder(tmp_path)
    table = pa.Table.from_pylist([], SCHEMA)
    run.write_table(VERDICTS_FILE, table.replace_schema_metadata({b"auditor.format_version": b"2"}))
    with pytest.raises(InputError, match=r"verdicts\.parquet: has format version 2"):
        read_verdicts(run)
