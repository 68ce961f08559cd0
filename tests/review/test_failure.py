from __future__ import annotations

import threading
import time

import pytest
from mlflow import MlflowClient
from mlflow.tracing.client import TracingClient

from auditor.errors import InputError, StageError
from auditor.report import report
from auditor.report.tracking import Tracking
from auditor.review.evidence import Ranked
from auditor.review.queue import fill_queue
from auditor.review.review import review
from auditor.review.verdicts import read_verdicts
from tests.report.builders import Audit
from tests.review.builders import answer, audited, in_queue

QUEUE = {"queue": 60}


@pytest.fixture
def impatient(monkeypatch):
    """Requests are tried again, but not for minutes."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")


def test_a_queue_whose_server_dies_half_way_is_filled_by_another_call(own_server, tmp_path, impatient):
    audit = Audit(rows=300, flagged=0.2, wrong_share=0.3)
    config, run = audited(tmp_path / "run", own_server.address, audit, review=QUEUE)
    wanted = [line["sample_id"] for line in Ranked.read(run).to_look_at()][:60]
    assert len(wanted) == 60
    experiment_id = run.read_json("mlflow.json")["experiment_id"]

    def kill_when_some_are_there():
        # A second client, so that the first one notices nothing until the server is gone.
        client = MlflowClient(own_server.address)
        while len(client.search_traces(locations=[experiment_id], max_results=100, include_spans=False)) < 25:
            time.sleep(0.02)
        own_server.kill()

    killer = threading.Thread(target=kill_when_some_are_there)
    killer.start()
    with pytest.raises(StageError, match="nothing is lost, the same command goes on where it stopped"):
        fill_queue(config, run)
    killer.join()
    with pytest.raises(InputError, match="no server answers there"):
        fill_queue(config, run)
    own_server.start()
    client = TracingClient(own_server.address)
    queue = client._list_review_queues(experiment_id)[0]
    begun = len(client._list_review_queue_items(queue.queue_id))
    assert 0 < begun < 60
    found = fill_queue(config, run)
    assert (found.items, found.added) == (60, 60 - begun)
    traces = in_queue(config, run)
    assert sorted(trace.info.tags["auditor.sample_id"] for trace in traces) == sorted(wanted)
    assert len({trace.info.trace_id for trace in traces}) == 60
    everything = MlflowClient(own_server.address).search_traces(locations=[experiment_id], max_results=500)
    assert len(everything) == 60


def test_verdicts_outlive_a_server_that_is_away_while_they_are_read(own_server, tmp_path, impatient):
    config, run = audited(tmp_path / "run", own_server.address, review={"queue": 5})
    fill_queue(config, run)
    first, second = [line["sample_id"] for line in Ranked.read(run).to_look_at()][:2]
    answer(config, run, first, "verdict", "keep")
    review(config, run)
    answer(config, run, second, "verdict", "remove")
    own_server.kill()
    with pytest.raises(InputError, match="no server answers there"):
        review(config, run)
    assert len(read_verdicts(run)) == 1
    own_server.start()
    assert review(config, run).counts == {"keep": 1, "relabel": 0, "remove": 1, "unsure": 0}


def test_an_artifact_store_that_cannot_be_written_is_said_in_one_sentence(tmp_path, uri):
    (tmp_path / "file").write_text("no folder")
    client = MlflowClient(uri)
    client.create_experiment(tmp_path.name, artifact_location=f"{tmp_path}/file/artifacts")
    config, run = audited(tmp_path / "run", uri, experiment=tmp_path.name)
    summary = report(config, run)
    message = r"MLflow's artifact store .*/file/artifacts.* cannot be written; the run folder holds everything"
    with Tracking(config, run) as tracking, pytest.raises(StageError, match=message):
        tracking.log_report(summary)
