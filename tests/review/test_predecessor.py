from __future__ import annotations

from datetime import UTC, datetime

import pytest
import torch
import yaml
from mlflow import MlflowClient

from auditor.data import prepare
from auditor.distributed.loop import run_training
from auditor.errors import InputError, StageError
from auditor.initial_weights import settle_weights
from auditor.opening import open_run
from auditor.report.tracking import Tracking
from auditor.review.evidence import Ranked
from auditor.review.predecessor import carry_over, earlier_verdicts, predecessor
from auditor.review.queue import fill_queue
from auditor.review.verdicts import Verdict, read_verdicts, write_verdicts
from auditor.sam import State
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader
from tests.distributed.builders import config as small_audit
from tests.distributed.builders import equal_states
from tests.report.builders import Audit
from tests.review.builders import answer, audited, ranked


def test_it_is_the_folder_that_the_configuration_names(tmp_path):
    config, run = Audit().write(tmp_path / "a")
    ranked(config, run)
    other = RunFolder(tmp_path / "b")
    assert predecessor(config, other) is None  # it is not in MLflow, where one could be looked for
    found = predecessor(Audit().config(tmp_path / "b", review={"predecessor": str(tmp_path / "a")}), other)
    assert found.uri == run.uri


@pytest.mark.parametrize(
    ("given", "message"),
    [("b", "is this audit's own run folder"), ("nowhere", "is no run folder with a report")],
)
def test_a_folder_that_cannot_be_one_is_named(tmp_path, given, message):
    config = Audit().config(tmp_path / "b", review={"predecessor": str(tmp_path / given)})
    with pytest.raises(InputError, match=f"review.predecessor .*{given}: {message}"):
        predecessor(config, RunFolder(tmp_path / "b"))


def test_its_verdicts_are_carried_over_once_and_later_ones_too(tmp_path):
    before, run = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    first, second, own = (
        Verdict("x", "keep", None, "", "ada", datetime(2026, 11, day, tzinfo=UTC), "csv") for day in (1, 3, 2)
    )
    carry_over(run, read_verdicts(before))
    assert not run.exists("review")
    write_verdicts(before, [first])
    write_verdicts(run, [own])
    carry_over(run, read_verdicts(before))
    carry_over(run, read_verdicts(before))
    assert read_verdicts(run) == [first, own]
    write_verdicts(before, [first, second])
    carry_over(run, read_verdicts(before))
    assert read_verdicts(run) == [first, own, second]


def in_experiment(folder, uri, experiment, **overrides):
    return audited(folder, uri, experiment=experiment, **overrides)


def test_it_is_found_as_the_latest_earlier_audit_of_the_same_rows_in_the_experiment(tmp_path, uri):
    name = f"weekly {tmp_path}"
    audits = [in_experiment(tmp_path / folder, uri, name) for folder in ("a", "b", "c")]
    # The builder makes run folders without a configuration of their own.
    for config, run in audits:
        run.write_bytes("config.yaml", yaml.safe_dump(config.model_dump(mode="json")).encode())
    assert [predecessor(*audit) and predecessor(*audit).uri for audit in audits] == [
        None,
        audits[0][1].uri,
        audits[1][1].uri,
    ]
    config, run = audits[2]
    alone = config.model_copy(update={"review": config.review.model_copy(update={"predecessor": None})})
    assert predecessor(alone, run) is None
    # Gone, or of other rows, or not finished: the one before it.
    audits[1][1].remove("report")
    assert predecessor(config, run).uri == audits[0][1].uri
    other = audits[0][0].model_dump(mode="json")
    other["data"]["columns"]["label"] = "another"
    audits[0][1].write_bytes("config.yaml", yaml.safe_dump(other).encode())
    assert predecessor(config, run) is None


def test_an_audit_in_another_experiment_or_one_that_failed_is_none(tmp_path, uri):
    _, first = in_experiment(tmp_path / "a", uri, f"one {tmp_path}")
    config, run = in_experiment(tmp_path / "b", uri, f"two {tmp_path}")
    later, last = in_experiment(tmp_path / "c", uri, f"two {tmp_path}")
    for folder in (first, run, last):
        folder.write_bytes("config.yaml", yaml.safe_dump(config.model_dump(mode="json")).encode())
    assert predecessor(config, run) is None
    assert predecessor(later, last).uri == run.uri
    MlflowClient(uri).set_terminated(run.read_json("mlflow.json")["run_id"], "FAILED")
    assert predecessor(later, last) is None


def test_answers_that_nobody_has_read_are_carried_over_and_another_store_is_a_warning(tmp_path, uri, caplog):
    config, before = audited(tmp_path / "a", uri, review={"queue": 4})
    fill_queue(config, before)
    flagged = [line["sample_id"] for line in Ranked.read(before).to_look_at()]
    answer(config, before, flagged[0], "verdict", "keep")
    assert not read_verdicts(before)
    (found,) = earlier_verdicts(config, before)
    assert (found.sample_id, found.verdict) == (flagged[0], "keep")
    assert found.evidence is not None
    run = RunFolder(tmp_path / "b")
    carry_over(run, [found])
    assert read_verdicts(run) == [found]
    elsewhere = Audit().config(tmp_path / "c", mlflow={"tracking_uri": f"sqlite:///{tmp_path}/other.db"})
    assert earlier_verdicts(elsewhere, before) == []
    assert "is in another tracking store" in caplog.text


def test_training_goes_on_from_the_final_weights_of_the_audit_that_mlflow_knows(tmp_path, uri):
    shared = {
        "model": {"name": "small_cnn", "args": {"widths": [4]}, "weights": "predecessor", "frozen": ["0.*", "1.*"]},
        "train": {"epochs": 2, "batch_size": 50, "micro_batch_size": 50, "checkpoints": 2},
        "mlflow": {"tracking_uri": uri, "experiment": f"weights {tmp_path}"},
    }
    found = []
    for week in ("week-1", "week-2"):
        audit = small_audit(tmp_path / week, **shared)
        run = open_run(audit)
        prepare(audit, run)
        with Tracking(audit, run) as tracking:
            found.append(settle_weights(audit, run))
            assert run_training(audit, run, torch.device("cpu")) is None
            run.write_bytes("report/ranked.parquet", b"")
            run.write_json("evaluation.json", {"checkpoints": []})
            tracking.log_training()
    assert MlflowClient(uri).get_run(tracking.run_id).data.tags["auditor.initial_weights"] == found[1].sentences[0]
    assert found[0].sentences == ["starts from seeded weights: there is no audit before this one"]
    (last,) = found[1].sentences
    assert last == f"starts from the weights in {tmp_path}/week-1/trajectory/checkpoints/step-00000008"
    first, second = (TrajectoryReader(RunFolder(tmp_path / week)) for week in ("week-1", "week-2"))
    begun, ended = second.state(0), first.state(8)
    still = {name: torch.zeros_like(value) for name, value in ended.momentum.items()}
    assert equal_states(begun, State(ended.parameters, still, ended.buffers))
    assert not equal_states(begun, first.state(0))
    # Frozen for two weeks.
    seeded = first.state(0).buffers
    assert all(torch.equal(second.state(8).buffers[name], value) for name, value in seeded.items())


def test_where_mlflow_gives_no_answer_no_seeded_weights_stand_in_for_the_predecessors(tmp_path, uri):
    audit = small_audit(tmp_path / "run", model={"weights": "predecessor"}, mlflow={"tracking_uri": uri})
    run = open_run(audit)
    prepare(audit, run)
    run.write_json("mlflow.json", {"tracking_uri": uri, "experiment_id": "0", "run_id": "f" * 32})
    assert predecessor(audit, run) is None
    with pytest.raises((InputError, StageError)):
        settle_weights(audit, run)
    assert not run.exists("initial")


def test_it_is_found_behind_however_many_runs_of_others(tmp_path, uri, monkeypatch):
    monkeypatch.setattr("auditor.review.predecessor._PAGE", 2)
    name = f"shared {tmp_path}"
    before, run_before = in_experiment(tmp_path / "a", uri, name)
    run_before.write_bytes("config.yaml", yaml.safe_dump(before.model_dump(mode="json")).encode())
    client = MlflowClient(uri)
    for _ in range(5):
        other = client.create_run(client.get_experiment_by_name(name).experiment_id)
        client.set_terminated(other.info.run_id)
    assert predecessor(*in_experiment(tmp_path / "b", uri, name)).uri == run_before.uri
