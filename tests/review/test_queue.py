from __future__ import annotations

import urllib.request
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.tracing.client import TracingClient

from auditor.errors import StageError
from auditor.review.evidence import Ranked
from auditor.review.queue import fill_queue, questions
from auditor.review.verdicts import Verdict, write_verdicts
from tests.report.builders import Audit, png
from tests.review.builders import answer, audited, in_queue, ranked

QUEUE = {"queue": 5}


def flagged(run) -> list[str]:
    return [line["sample_id"] for line in Ranked.read(run).to_look_at()]


def test_flagged_samples_stand_in_the_queue_by_priority(tmp_path, uri):
    config, run = audited(tmp_path / "run", uri, review={"queue": 5, "reviewers": ["Ada", "bob"]})
    found = fill_queue(config, run)
    assert (found.items, found.added, found.settled) == (5, 5, 0)
    traces = in_queue(config, run)
    assert [trace.info.tags["auditor.sample_id"] for trace in traces] == flagged(run)[:5]
    first = Ranked.read(run).to_look_at()[0]
    shown = traces[0].info.request_preview
    assert shown.startswith(f"`{first['sample_id']}`: the label is `{first['label']}`, the model says")
    assert "](data:image/webp;base64," in shown
    assert f"| harm | {first['harm']:.3g} |" in traces[0].info.response_preview
    (span,) = traces[0].data.spans
    assert span.inputs == {"sample_id": first["sample_id"], "label": first["label"]}
    assert span.outputs["aum"] == pytest.approx(first["aum"])
    run_id = run.read_json("mlflow.json")["run_id"]
    assert traces[0].info.tags["auditor.run_id"] == run_id
    assert traces[0].info.trace_metadata["mlflow.sourceRun"] == run_id
    client = TracingClient(uri)
    queue = client._get_review_queue_by_name(traces[0].info.experiment_id, found.name)
    assert queue.users == ["ada", "bob"]
    asked = [client._get_label_schema(schema_id) for schema_id in queue.schema_ids]
    assert {schema.name: tuple(schema.input.options) for schema in asked} == {
        "verdict": ("keep", "relabel", "remove", "unsure"),
        "new label": ("zero", "one", "two", "three"),
    }
    newest_first = [schema.name for schema in client._list_label_schemas(queue.experiment_id)]
    assert newest_first.index("verdict") < newest_first.index("new label")


def test_filling_again_doubles_nothing_and_loses_no_answer(tmp_path, uri):
    config, run = audited(tmp_path / "run", uri, review=QUEUE)
    fill_queue(config, run)
    answer(config, run, flagged(run)[0], "verdict", "keep")
    ranked(config, run)
    again = fill_queue(config, run)
    assert (again.items, again.added) == (5, 0)
    traces = in_queue(config, run)
    assert len(traces) == 5
    assert [given.feedback.value for given in traces[0].info.assessments] == ["keep"]


def test_a_queue_that_was_deleted_comes_back_with_its_answers(tmp_path, uri):
    config, run = audited(tmp_path / "run", uri, review=QUEUE)
    found = fill_queue(config, run)
    answer(config, run, flagged(run)[0], "verdict", "keep")
    client = TracingClient(uri)
    experiment_id = run.read_json("mlflow.json")["experiment_id"]
    client._delete_review_queue(client._get_review_queue_by_name(experiment_id, found.name).queue_id)
    assert fill_queue(config, run).added == 5
    traces = in_queue(config, run)
    assert len(traces) == 5
    assert [given.feedback.value for given in traces[0].info.assessments] == ["keep"]


def test_more_samples_can_be_asked_about_later(tmp_path, uri):
    config, run = audited(tmp_path / "run", uri, review={"queue": 2})
    fill_queue(config, run)
    more = config.model_copy(update={"review": config.review.model_copy(update={"queue": 4})})
    found = fill_queue(more, run)
    assert (found.items, found.added) == (4, 2)
    assert {trace.info.tags["auditor.sample_id"] for trace in in_queue(config, run)} == set(flagged(run)[:4])


def test_what_an_earlier_audit_settled_is_not_asked_again(tmp_path, uri):
    _, earlier = audited(tmp_path / "a", uri)
    evidence = Ranked.read(earlier).evidence(flagged(earlier))
    first, second, third = flagged(earlier)[:3]
    moment = datetime(2026, 11, 25, tzinfo=UTC)
    kept = Verdict(first, "keep", None, "", "ada", moment, "csv", None, evidence[first])
    other = replace(kept, sample_id=second, evidence=replace(evidence[second], suggested_label="another"))
    unsure = replace(kept, sample_id=third, verdict="unsure", evidence=evidence[third])
    write_verdicts(earlier, [kept, other, unsure])
    config, run = audited(tmp_path / "b", uri, review={**QUEUE, "predecessor": earlier.uri})
    found = fill_queue(config, run)
    assert (found.items, found.settled) == (5, 1)
    assert [trace.info.tags["auditor.sample_id"] for trace in in_queue(config, run)] == flagged(run)[1:6]


def test_audits_in_one_experiment_have_their_own_queues_and_classes(tmp_path, uri):
    queues = []
    for name, classes in (("one", 4), ("two", 4), ("many", 12)):
        audit = Audit(class_names=[f"{'many' if name == 'many' else 'few'} {number}" for number in range(classes)])
        config, run = audited(tmp_path / name, uri, audit, tmp_path.name, review=QUEUE)
        queues.append(fill_queue(config, run).name)
        assert len(in_queue(config, run)) == 5
    assert len(set(queues)) == 3
    client = TracingClient(uri)
    experiment_id = MlflowClient(uri).get_experiment_by_name(tmp_path.name).experiment_id
    asked = {
        queue.name: sorted(client._get_label_schema(schema_id).name for schema_id in queue.schema_ids)
        for queue in client._list_review_queues(experiment_id)
        if queue.name in queues
    }
    few, again, many = (asked[name] for name in queues)
    assert few == again == ["new label", "verdict"]
    assert many != few
    assert [name.partition(" (")[0] for name in many] == few


def test_many_or_long_class_names_are_typed_instead_of_chosen():
    assert questions([str(number) for number in range(10)])[1].options
    assert not questions([str(number) for number in range(11)])[1].options
    assert not questions(["x" * 65, "y"])[1].options


def test_samples_without_images_and_with_broken_ones_are_queued_too(tmp_path, uri):
    features = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    config, run = audited(tmp_path / "features", uri, Audit(features=features), review=QUEUE)
    fill_queue(config, run)
    assert "5 features: " in in_queue(config, run)[0].info.request_preview
    config, run = audited(tmp_path / "broken", uri, Audit(images=[b"broken"] * 40), review=QUEUE)
    assert fill_queue(config, run).items == 5


def test_text_from_the_data_goes_through(tmp_path, uri):
    sample_ids = [f"<script>alert({row})</script> `'\"" for row in range(40)]
    audit = Audit(sample_ids=sample_ids, class_names=["<b>", "a|b", "`", "ü"])
    config, run = audited(tmp_path / "run", uri, audit, review=QUEUE)
    fill_queue(config, run)
    assert [trace.info.tags["auditor.sample_id"] for trace in in_queue(config, run)] == flagged(run)[:5]


def test_an_audit_that_is_not_in_the_store_is_said_so(tmp_path, uri):
    config, run = Audit(tracking_uri=uri).write(tmp_path / "run")
    ranked(config, run)
    with pytest.raises(StageError, match=r"is not logged to MLflow at sqlite://.*; auditor run does that"):
        fill_queue(config, run)


def test_on_a_server_large_images_have_an_address_that_answers(server, tmp_path):
    noise = np.random.default_rng(0)
    images = [png(noise.integers(0, 255, (120, 100, 3), dtype=np.uint8)) for _ in range(40)]
    config, run = audited(tmp_path / "run", server.address, Audit(images=images), review=QUEUE)
    found = fill_queue(config, run)
    assert found.added == 5
    experiment_id = run.read_json("mlflow.json")["experiment_id"]
    assert found.page == f"{server.address}/#/experiments/{experiment_id}/review-queue"
    assert fill_queue(config, run).added == 0
    traces = in_queue(config, run)
    assert [trace.info.tags["auditor.sample_id"] for trace in traces] == flagged(run)[:5]
    address = traces[0].info.request_preview.partition("](")[2].rstrip(")")
    assert address.startswith(server.address)
    with urllib.request.urlopen(address, timeout=10) as response:  # noqa: S310
        assert response.read(8) == b"\x89PNG\r\n\x1a\n"
