from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from auditor.report import report
from auditor.report.tracking import Tracking
from tests.report.builders import Audit


@pytest.fixture
def server(tmp_path):
    """A real tracking server, gone with all its processes afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        f"{tmp_path}/artifacts",
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "server.log").open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_it_answers(address, process)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_it_answers(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(f"{address}/health", timeout=1).close()  # noqa: S310
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    pytest.fail("the server did not answer within a minute")


def test_an_audit_is_logged_to_a_server_and_its_report_is_served(server, tmp_path, capfd):
    config, run = Audit(tracking_uri=server).write(tmp_path / "run")
    summary = report(config, run)
    with Tracking(config, run) as tracking:
        tracking.log_parameters()
        tracking.log_dataset()
        tracking.log_training()
        tracking.log_report(summary)
    assert tracking.page == f"{server}/#/experiments/{tracking.experiment_id}/runs/{tracking.run_id}"
    artifact = f"{server}/get-artifact?path=report.html&run_uuid={tracking.run_id}"
    with urllib.request.urlopen(artifact, timeout=10) as response:  # noqa: S310
        assert response.read() == run.read_bytes("report/report.html")
    assert capfd.readouterr().out == ""
