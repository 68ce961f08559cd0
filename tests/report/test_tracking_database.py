"""A tracking server as a team has it: PostgreSQL, artifacts on S3, a password for everybody."""

from __future__ import annotations

import logging
import threading

import pytest
from mlflow import MlflowClient
from pyarrow import fs

from auditor.errors import InputError
from auditor.report import report
from auditor.report.tracking import Tracking
from auditor.storage import resolve
from tests.databases import PASSWORD, Postgres, postgres_programs
from tests.report.builders import Audit
from tests.review.servers import Server
from tests.stores import BUCKET
from tests.stores import SECRET as STORE_SECRET

LOGIN = "pass-word-of-the-server"
ARTIFACTS = f"s3://{BUCKET}/tracking"


@pytest.fixture(scope="module")
def server(tmp_path_factory, store):
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    folder = tmp_path_factory.mktemp("server")
    database = Postgres(programs)
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
        f"database_uri = sqlite:///{folder}/auth.db\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    secrets = {"MLFLOW_AUTH_ADMIN_PASSWORD": LOGIN, "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-the-tests"}
    started = Server(
        folder,
        *("--backend-store-uri", database.uri, "--artifacts-destination", ARTIFACTS, "--app-name", "basic-auth"),
        **{**store.environment, **secrets, "MLFLOW_AUTH_CONFIG_PATH": f"{folder}/auth.ini"},
    )
    try:
        started.start()
        yield started
    finally:
        started.kill()
        database.end()


@pytest.fixture
def login(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", LOGIN)


@pytest.fixture
def audit(server, tmp_path):
    return Audit(tracking_uri=server.address).write(tmp_path / "run")


def artifacts() -> dict[str, bytes]:
    filesystem, path = resolve(ARTIFACTS)
    found = filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    return {
        info.path.removeprefix(f"{path}/"): filesystem.open_input_stream(info.path).read()
        for info in found
        if info.type == fs.FileType.File
    }


def test_an_audit_is_logged_while_the_server_starts_again_and_no_credentials_are_left_anywhere(
    server, login, in_store, audit, tmp_path, caplog, capfd, monkeypatch
):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)  # the server writes to the store, its clients do not
    caplog.set_level(logging.INFO)
    config, run = audit
    summary = report(config, run)
    with Tracking(config, run) as tracking:
        tracking.log_parameters()
        tracking.log_dataset()
        server.kill()
        back = threading.Thread(target=server.start)
        back.start()
        tracking.log_training()
        tracking.log_report(summary)
    back.join()
    logged = MlflowClient(server.address).get_run(tracking.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, in_store.environment[name])
    stored = artifacts()
    [page] = [name for name in stored if name.endswith(f"{tracking.run_id}/artifacts/report.html")]
    assert stored[page] == run.read_bytes("report/report.html")
    shown = capfd.readouterr()
    left = [caplog.text, shown.out, shown.err, str(logged.to_dictionary())]
    left += [text.decode("utf-8", "replace") for text in stored.values()]
    left += [path.read_bytes().decode("utf-8", "replace") for path in (tmp_path / "run").rglob("*") if path.is_file()]
    for secret in (LOGIN, PASSWORD, STORE_SECRET):
        assert not [text for text in left if secret in text]


@pytest.mark.parametrize("password", ["wrong-pass-word", None])
def test_a_server_that_refuses_the_password_is_named_and_the_password_is_not(server, audit, monkeypatch, password):
    if password is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    with pytest.raises(InputError, match=f"mlflow.tracking_uri {server.address}: lets nobody in without") as refused:
        Tracking(*audit)
    assert "MLFLOW_TRACKING_USERNAME" in str(refused.value)
    assert str(password) not in str(refused.value)
