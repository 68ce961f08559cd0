from __future__ import annotations

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from torch import nn

from auditor.fidelity.edit import Edit, Measured
from auditor.report.tracking import Tracking
from auditor.report.versions import log_versions
from tests.report.builders import Audit

NUMBERS = ("seconds", "query_loss", "validation_loss", "validation_accuracy", "test_accuracy", "removed_loss")
INPUTS = torch.randn(2, 1, 8, 8)


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def measured(**changes):
    return Measured(**{**dict.fromkeys(NUMBERS, 0.5), "membership": 0.6, **changes})


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """An audit whose model is known to a real store, and two edits of it, logged twice."""
    store = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{store}/mlflow.db"
    audit = Audit(tracking_uri=uri)
    config, run = audit.write(tmp_path_factory.mktemp("runs") / "week-7")
    found = Edit(
        "0a1b", "harmful", 3, 60, {"recorded": measured(), "gif": measured(distance=1.5), "replay": measured()}
    )
    settings = {"gif": {"checkpoints": None}, "replay": {"horizon": 0.5}}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(store)
        with Tracking(config, run) as tracking:
            tracking.log_model(network(0), INPUTS, "runs/week-7/trajectory/checkpoints/step-00000020")

        def log():
            edited = ((name, network(seed), f"runs/week-7/edits/{name}") for name, seed in (("gif", 1), ("replay", 2)))
            return log_versions(config, run, found, settings, edited, INPUTS)

        versions = [log(), log()]
    return config, MlflowClient(uri), tracking.run_id, versions, store


def test_each_edit_is_a_version_behind_the_audited_model_and_is_logged_once(logged):
    _, client, run_id, versions, _ = logged
    assert versions == [{"gif": 2, "replay": 3}] * 2
    found = {int(version.version): version for version in client.search_model_versions("name='auditor'")}
    assert sorted(found) == [1, 2, 3]
    assert "auditor.parent" not in found[1].tags
    for number, method in ((2, "gif"), (3, "replay")):
        tags = found[number].tags
        assert tags["auditor.parent"] == "models:/auditor/1"
        assert tags["auditor.method"] == method
        assert tags["auditor.removed"] == "3 samples (harmful)"
        assert found[number].run_id == run_id
        assert found[number].description == f"Version 1 without 3 of its 60 training samples, by {method}."


def test_a_version_loads_and_predicts_as_the_edited_weights_do(logged, monkeypatch):
    config, _, _, _, store = logged
    monkeypatch.chdir(store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", config.mlflow.tracking_uri)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    for version, seed in ((1, 0), (2, 1), (3, 2)):
        loaded = mlflow.pytorch.load_model(f"models:/auditor/{version}")
        torch.testing.assert_close(loaded(INPUTS), network(seed)(INPUTS))


def test_what_the_weights_do_stands_beside_the_model(logged):
    _, client, run_id, _, _ = logged
    outputs = client.get_run(run_id).outputs.model_outputs
    models = {
        model.tags.get("auditor.method"): model for model in (client.get_logged_model(o.model_id) for o in outputs)
    }
    assert set(models) == {None, "gif", "replay"}
    numbers = {metric.key: metric.value for metric in models["gif"].metrics}
    assert numbers["edit.distance"] == 1.5
    assert numbers["edit.membership"] == 0.6
    assert "edit.distance" not in {metric.key for metric in models["replay"].metrics}
