from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from mlflow import MlflowClient
from mlflow.tracing.client import TracingClient

from auditor.errors import InputError
from auditor.review.answers import from_answers, open_queue
from auditor.review.evidence import Ranked
from auditor.review.mlflow_queue import Answer, Entry
from auditor.review.queue import fill_queue
from auditor.review.review import review, sentences
from auditor.review.verdicts import current, read_verdicts, write_verdicts
from tests.review.builders import answer, audited, in_queue

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def said(question, value, *, by="ada", minutes=0, comment="", valid=True):
    return Answer(question, value, comment, by, NOON + timedelta(minutes=minutes), valid)


def read(*answers, classes=("cat", "dog")):
    return from_answers([Entry("tr-1", "a", False, answers)], classes)


def test_an_answer_becomes_a_verdict():
    (found,) = read(said("verdict", "remove", comment="a blur"), said("verdict", "maybe"), said("Feedback", "keep"))
    assert (found.sample_id, found.verdict, found.comment, found.reviewer) == ("a", "remove", "a blur", "ada")
    assert (found.time, found.source, found.item_id) == (NOON, "mlflow", "tr-1")


def test_a_relabel_takes_the_same_reviewers_label_that_stands_and_a_replaced_one_the_nearest():
    found = read(
        said("verdict", "relabel", valid=False),
        said("verdict", "relabel", minutes=60),
        said("new label (1a2b3c)", "cat", minutes=1, valid=False),
        said("new label (1a2b3c)", "dog", minutes=90),
        said("new label (1a2b3c)", "dog", by="bob"),
        said("verdict", "keep", by="bob"),
    )
    assert [(v.reviewer, v.new_label, v.time) for v in found] == [
        ("ada", "cat", NOON + timedelta(minutes=1)),
        ("ada", "dog", NOON + timedelta(minutes=90)),
        ("bob", None, NOON),
    ]


def test_a_label_that_is_no_class_is_kept_in_the_comment():
    (found,) = read(said("verdict", "relabel", comment="odd"), said("new label", "cow"))
    assert found.new_label is None
    assert found.comment == "odd (new label 'cow' is no class)"
    assert not found.complete


@pytest.fixture
def queued(tmp_path, uri):
    config, run = audited(tmp_path / "run", uri, review={"queue": 6})
    fill_queue(config, run)
    return config, run, [line["sample_id"] for line in Ranked.read(run).to_look_at()]


def test_verdicts_come_back_from_mlflow_with_who_when_and_what(queued):
    config, run, flagged = queued
    label = Ranked.read(run).lines(flagged[:1])[0]["label"]
    other = next(name for name in ("zero", "one") if name != label)
    answer(config, run, flagged[0], "verdict", "relabel", comment="clearly")
    answer(config, run, flagged[0], "new label", other)
    answer(config, run, flagged[1], "verdict", "remove", by="bob")
    answer(config, run, flagged[2], "verdict", "keep")
    answer(config, run, flagged[3], "verdict", "unsure")
    answer(config, run, flagged[4], "verdict", "remove", kind="CODE")
    answer(config, run, flagged[5], "verdict", "relabel")
    found = review(config, run)
    assert found.counts == {"keep": 1, "relabel": 1, "remove": 1, "unsure": 1}
    assert (found.items, found.open, found.decided, found.added) == (6, 3, 3, 5)
    assert found.precision == pytest.approx(2 / 3)
    assert found.incomplete == (flagged[5],)
    assert (found.disagreements, found.unapplied) == ((), ())
    first = current(read_verdicts(run))[flagged[0]]
    assert (first.new_label, first.comment, first.reviewer) == (other, "clearly", "ada")
    assert first.evidence.label == label
    assert abs(first.time - datetime.now(UTC)) < timedelta(minutes=5)
    metrics = MlflowClient(config.mlflow.tracking_uri).get_run(run.read_json("mlflow.json")["run_id"]).data.metrics
    assert metrics["review.precision"] == pytest.approx(2 / 3)
    assert (metrics["review.keep"], metrics["review.open"]) == (1, 3)
    assert sentences(found)[:3] == [
        "Verdicts: 1 keep, 1 relabel, 1 remove, 1 unsure; 5 of them new.",
        "3 of 6 samples in the queue are open.",
        "2 of 3 decided flags were right (67%).",
    ]
    assert review(config, run) == replace(found, added=0)


def test_a_change_of_mind_and_a_disagreement_are_kept_as_history(queued):
    config, run, flagged = queued
    answer(config, run, flagged[0], "verdict", "keep")
    review(config, run)
    answer(config, run, flagged[0], "verdict", "remove", by="bob")
    found = review(config, run)
    assert found.disagreements == (flagged[0],)
    assert f"reviewers disagree; the newest verdict counts ({flagged[0]})" in sentences(found)[-1]
    assert [v.verdict for v in read_verdicts(run)] == ["keep", "remove"]
    assert found.counts["remove"] == 1
    assert found.precision == 1.0


def test_an_answer_changed_in_place_leaves_the_one_that_was_read_before(queued):
    config, run, flagged = queued
    answer(config, run, flagged[0], "verdict", "keep")
    review(config, run)
    (given,) = in_queue(config, run)[0].info.assessments
    client = TracingClient(config.mlflow.tracking_uri)
    given.feedback.value = "remove"
    client.update_assessment(given.trace_id, given.assessment_id, given)
    assert review(config, run).counts == {"keep": 0, "relabel": 0, "remove": 1, "unsure": 0}
    assert [v.verdict for v in read_verdicts(run)] == ["keep", "remove"]


def test_an_item_put_aside_is_not_open(queued):
    config, run, _ = queued
    queue, _ = open_queue(config, run)
    client = TracingClient(config.mlflow.tracking_uri)
    item = in_queue(config, run)[0].info.trace_id
    client._set_review_queue_item_status(queue._found().queue_id, item_id=item, status="declined", completed_by="ada")
    found = review(config, run)
    assert (found.items, found.open) == (6, 5)


def test_a_csv_is_merged_and_read_again_without_effect(queued, tmp_path):
    config, run, flagged = queued
    answer(config, run, flagged[0], "verdict", "keep")
    path = tmp_path / "verdicts.csv"
    path.write_text(f"sample_id,verdict,new_label,comment,reviewer\n{flagged[1]},relabel,two,,bob\n")
    found = review(config, run, path)
    assert (found.added, found.counts["keep"], found.counts["relabel"]) == (2, 1, 1)
    assert review(config, run, path) == replace(found, added=0)
    assert {v.source for v in read_verdicts(run)} == {"mlflow", "csv"}


def test_a_csv_with_one_bad_row_changes_nothing(queued, tmp_path):
    config, run, flagged = queued
    answer(config, run, flagged[0], "verdict", "keep")
    path = tmp_path / "verdicts.csv"
    path.write_text(f"sample_id,verdict\n{flagged[1]},keep\nnobody,keep\n")
    with pytest.raises(InputError, match="line 3: sample_id 'nobody'"):
        review(config, run, path)
    assert not run.exists("review")


def test_verdicts_on_samples_that_are_gone_or_relabelled_are_kept_and_named(queued):
    config, run, flagged = queued
    answer(config, run, flagged[0], "verdict", "keep")
    answer(config, run, flagged[1], "verdict", "remove")
    review(config, run)
    noted = read_verdicts(run)
    gone = replace(noted[0], sample_id="gone")
    moved = [replace(v, evidence=replace(v.evidence, label="another")) for v in noted if v.sample_id == flagged[1]]
    write_verdicts(run, [gone, *(v for v in noted if v.sample_id == flagged[0]), *moved])
    found = review(config, run)
    assert found.unapplied == tuple(sorted(["gone", flagged[1]]))
    assert found.counts == {"keep": 1, "relabel": 0, "remove": 0, "unsure": 0}
    assert len(read_verdicts(run)) == 3
    assert "the sample is gone or has another label" in sentences(found)[-1]
