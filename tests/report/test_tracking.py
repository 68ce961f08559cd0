from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from auditor.errors import InputError, StageError
from auditor.report import report
from auditor.report.curves import training_curves
from auditor.report.tracking import Tracking
from tests.report.builders import Audit

CHECKPOINT = "s3://key:secret@bucket/run/trajectory/checkpoints/step-00000020"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A real store, made once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(autouse=True)
def _artifacts_beside_the_store(store, monkeypatch):
    monkeypatch.chdir(store)


def _uri(store) -> str:
    return f"sqlite:///{store}/mlflow.db"


def _log_all(config, run, model):
    summary = report(config, run)
    with Tracking(config, run) as tracking:
        tracking.log_parameters()
        tracking.log_dataset()
        tracking.log_training()
        tracking.log_report(summary)
        uri = tracking.log_model(model, torch.randn(2, 1, 8, 8), CHECKPOINT)
    return tracking, summary, uri


@pytest.fixture(scope="module")
def logged(store, tmp_path_factory):
    """One audit, logged whole."""
    from mlflow import MlflowClient

    audit = Audit(tracking_uri=_uri(store))
    folder = tmp_path_factory.mktemp("runs") / "week-7"
    config, run = audit.write(folder)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(store)
        tracking, summary, uri = _log_all(config, run, model)
    client = MlflowClient(_uri(store))
    return SimpleNamespace(
        config=config,
        run=run,
        model=model,
        summary=summary,
        uri=uri,
        client=client,
        id=tracking.run_id,
        tracking=tracking,
    )


def test_the_run_is_named_tagged_and_finished(logged):
    found = logged.client.get_run(logged.id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "week-7"
    assert found.data.tags["auditor.run_folder"] == str(logged.run)
    assert found.data.tags["auditor.git_revision"] == "0123abc"
    assert found.data.tags["auditor.version"]
    assert logged.client.get_experiment(found.info.experiment_id).name == "auditor"
    known = logged.run.read_json("mlflow.json")
    assert (known["run_id"], known["experiment_id"]) == (logged.id, found.info.experiment_id)
    assert logged.tracking.page is None


def test_every_setting_is_a_parameter(logged):
    parameters = logged.client.get_run(logged.id).data.params
    assert parameters["train.perturbation.rho"] == "0.05"
    assert parameters["report.gallery"] == "8"
    assert len(parameters) > 40


def test_both_splits_are_inputs(logged):
    inputs = logged.client.get_run(logged.id).inputs.dataset_inputs
    assert sorted(entry.dataset.name for entry in inputs) == [
        "scikit-learn digits (train)",
        "scikit-learn digits (validation)",
    ]


def test_curves_are_those_of_the_ledger(logged):
    for name, (steps, values) in training_curves(logged.run).curves.items():
        history = sorted(logged.client.get_metric_history(logged.id, f"curves/{name}"), key=lambda point: point.step)
        np.testing.assert_array_equal([point.step for point in history], steps)
        np.testing.assert_allclose([point.value for point in history], values)


def test_metrics_are_those_of_the_summary(logged):
    metrics = logged.client.get_run(logged.id).data.metrics
    summary = logged.summary
    assert metrics["flagged"] == summary.flagged
    assert metrics["test_accuracy"] == summary.test_accuracy
    assert metrics["detection.gif.found.0.1"] == summary.detection["gif"].found["0.1"]
    assert metrics["seconds.train"] == 20.25
    assert not any("fidelity" in name for name in metrics)


def test_the_files_of_the_report_are_artifacts(logged, tmp_path):
    names = {entry.path for entry in logged.client.list_artifacts(logged.id)}
    assert names == {"config.yaml", "figures", "ranked.csv", "ranked.parquet", "report.html", "summary.json"}
    fetched = logged.client.download_artifacts(logged.id, "report.html", str(tmp_path))
    assert open(fetched, "rb").read() == logged.run.read_bytes("report/report.html")  # noqa: SIM115, PTH123


def test_the_note_says_what_to_open_and_how_to_load(logged):
    text = logged.client.get_run(logged.id).data.tags["mlflow.note.content"]
    assert f"runs/{logged.id}/artifacts/report.html" in text
    assert f'load_model("{logged.uri}")' in text


def test_the_model_loads_from_mlflow(logged, store, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", _uri(store))
    inputs = torch.randn(5, 1, 8, 8)
    loaded = mlflow.pytorch.load_model(logged.uri)
    torch.testing.assert_close(loaded(inputs), logged.model(inputs))
    described = logged.client.get_logged_model(logged.uri.removeprefix("models:/"))
    assert described.tags["auditor.checkpoint"] == CHECKPOINT.replace("key:secret", "***")
    assert described.source_run_id == logged.id


def test_logging_again_reuses_the_run_and_doubles_nothing(logged):
    _, _, uri = _log_all(logged.config, logged.run, logged.model)
    assert uri == logged.uri
    found = logged.client.get_run(logged.id)
    assert found.info.status == "FINISHED"
    assert len(found.inputs.dataset_inputs) == 2
    assert len(found.outputs.model_outputs) == 1
    assert len(logged.client.search_runs([found.info.experiment_id])) == 1
    for name in ("curves/train_loss", "curves/epoch_loss", "flagged", "detection.gif.auroc"):
        history = logged.client.get_metric_history(logged.id, name)
        assert len({point.step for point in history}) == len(history)


def _opened(store, tmp_path, **settings):
    _, run = Audit().write(tmp_path)
    return Audit().config(tmp_path, **settings), run


def _experiment(store, name, **settings):
    return {"mlflow": {"tracking_uri": _uri(store), "experiment": name, **settings}}


def test_a_failure_is_recorded_in_a_line_without_credentials_and_lifted_by_a_resume(logged, store, tmp_path):
    config, run = _opened(store, tmp_path, **_experiment(store, "failures"))
    tracking = Tracking(config, run)
    assert logged.client.get_run(tracking.run_id).info.status == "RUNNING"
    with pytest.raises(StageError), tracking:
        raise StageError("no loss\nfrom s3://key:secret@bucket")
    found = logged.client.get_run(tracking.run_id)
    assert found.info.status == "FAILED"
    assert found.data.tags["auditor.failure"] == "StageError: no loss from s3://***@bucket"
    with Tracking(config, run) as resumed:
        assert logged.client.get_run(resumed.run_id).info.status == "RUNNING"
    assert resumed.run_id == tracking.run_id
    found = logged.client.get_run(tracking.run_id)
    assert found.info.status == "FINISHED"
    assert "auditor.failure" not in found.data.tags


def test_an_interruption_leaves_the_run_killed_and_not_running(logged, store, tmp_path):
    config, run = _opened(store, tmp_path, **_experiment(store, "failures"))
    with pytest.raises(KeyboardInterrupt), Tracking(config, run) as tracking:
        raise KeyboardInterrupt
    assert logged.client.get_run(tracking.run_id).info.status == "KILLED"


def test_a_run_that_was_deleted_or_belongs_elsewhere_is_not_reused(logged, store, tmp_path):
    config, run = _opened(store, tmp_path, **_experiment(store, "one", run_name="mine"))
    with Tracking(config, run) as first:
        pass
    assert logged.client.get_run(first.run_id).info.run_name == "mine"
    logged.client.delete_run(first.run_id)
    with Tracking(config, run) as second:
        pass
    assert second.run_id != first.run_id
    elsewhere, _ = _opened(store, tmp_path / "other", **_experiment(store, "two"))
    with Tracking(elsewhere, run) as third:
        pass
    assert third.run_id != second.run_id
    run.write_json("mlflow.json", {**run.read_json("mlflow.json"), "run_id": "0" * 32})
    with Tracking(elsewhere, run) as fourth:
        pass
    assert fourth.run_id not in (second.run_id, third.run_id)


def test_a_deleted_experiment_is_the_users_to_restore(logged, store, tmp_path):
    config, run = _opened(store, tmp_path, **_experiment(store, "gone"))
    logged.client.delete_experiment(logged.client.create_experiment("gone"))
    with pytest.raises(InputError, match=r"mlflow\.experiment gone: was deleted"):
        Tracking(config, run)


def test_settings_that_change_on_resume_become_a_tag(logged, store, tmp_path):
    config, run = _opened(store, tmp_path, **_experiment(store, "resumes"))
    with Tracking(config, run) as tracking:
        tracking.log_parameters()
    config, _ = _opened(store, tmp_path, **_experiment(store, "resumes"), resources={"train_workers": 3})
    with Tracking(config, run) as tracking:
        tracking.log_parameters()
    found = logged.client.get_run(tracking.run_id)
    assert found.data.params["resources.train_workers"] == "1"
    assert found.data.tags["auditor.changed_on_resume"] == "resources.train_workers: 1 → 3"


def test_settings_of_any_length_and_name_are_logged(logged, store, tmp_path):
    names = [f"class {index}" for index in range(2000)]
    source = {"source": {"kind": "digits"}, "class_names": names}
    args = {"model": {"name": "mlp", "args": {"odd (name) %": 1, "a": "x" * 9000}}}
    config, run = _opened(store, tmp_path, **_experiment(store, "long"), data=source, **args)
    with Tracking(config, run) as tracking:
        tracking.log_parameters()
    parameters = logged.client.get_run(tracking.run_id).data.params
    assert parameters["model.args.odd _name_ _"] == "1"
    assert len(parameters["model.args.a"]) == 6000
    assert parameters["data.class_names"].endswith("…")


def test_a_model_that_cannot_be_exported_is_known_by_its_checkpoint(logged, store, tmp_path, caplog):
    class Choosy(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs if float(inputs.sum()) > 0 else -inputs

    config, run = _opened(store, tmp_path, **_experiment(store, "choosy"))
    with Tracking(config, run) as tracking:
        uri = tracking.log_model(Choosy(), torch.randn(2, 4), "/run/trajectory/checkpoints/step-00000020")
    described = logged.client.get_logged_model(uri.removeprefix("models:/"))
    assert described.status == "READY"
    assert described.tags["auditor.checkpoint"] == "/run/trajectory/checkpoints/step-00000020"
    assert described.tags["mlflow.model.isExternal"] == "true"
    assert "checkpoint address alone" in caplog.text


def test_a_run_folder_off_the_local_disk_is_logged_too(logged, store):
    config, run = Audit(tracking_uri=_uri(store)).write("mock:///audits/far")
    assert run.local is None
    summary = report(config, run)
    with Tracking(config, run) as tracking:
        tracking.log_report(summary)
    names = {entry.path for entry in logged.client.list_artifacts(tracking.run_id, "figures")}
    assert "figures/scores.png" in names
    assert json.loads(run.read_bytes("report/summary.json"))["rows"] == 40
