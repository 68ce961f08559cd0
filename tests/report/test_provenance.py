from __future__ import annotations

from auditor.report.provenance import revision, run_name, settings, versions
from auditor.storage import RunFolder
from tests.report.builders import Audit


def test_versions_and_revision_are_those_that_the_run_recorded(written):
    _, _, run = written
    assert versions(run) == {"auditor": "0.1.0", "torch": "2.15.0", "revision": "0123abc"}
    assert revision(run) == "0123abc"


def test_a_run_that_recorded_nothing_claims_nothing(tmp_path):
    assert versions(RunFolder(tmp_path)) == {}
    assert revision(RunFolder(tmp_path)) is None


def test_the_name_is_the_configured_one_or_the_folders():
    assert run_name(Audit().config("s3://bucket/audits/week-7/")) == "week-7"
    assert run_name(Audit().config("runs/a", mlflow={"run_name": "mine"})) == "mine"


def test_settings_hold_every_key_and_no_credential():
    config = Audit(tracking_uri="postgresql://me:secret@db/mlflow").config("runs/a")
    plain = settings(config)
    assert plain["train.perturbation.rho"] == "0.05"
    assert plain["mlflow.tracking_uri"] == "postgresql://***@db/mlflow"
    assert "secret" not in str(plain)
