from __future__ import annotations

import urllib.request

from auditor.report import report
from auditor.report.tracking import Tracking
from tests.report.builders import Audit


def test_an_audit_is_logged_to_a_server_and_its_report_is_served(server, tmp_path, capfd):
    config, run = Audit(tracking_uri=server.address).write(tmp_path / "run")
    summary = report(config, run)
    with Tracking(config, run) as tracking:
        tracking.log_parameters()
        tracking.log_parameters()
        tracking.log_dataset()
        tracking.log_training()
        tracking.log_report(summary)
    assert tracking.page == f"{server.address}/#/experiments/{tracking.experiment_id}/runs/{tracking.run_id}"
    artifact = f"{server.address}/get-artifact?path=report.html&run_uuid={tracking.run_id}"
    with urllib.request.urlopen(artifact, timeout=10) as response:  # noqa: S310
        assert response.read() == run.read_bytes("report/report.html")
    assert capfd.readouterr().out == ""
