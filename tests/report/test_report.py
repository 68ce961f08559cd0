from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from auditor.errors import StageError
from auditor.report import report
from tests.report.builders import Audit, write_verification


@pytest.fixture
def plain(tmp_path):
    """A run folder whose report has few figures."""
    audit = Audit(methods=("gif",), truth=False)
    return audit, *audit.write(tmp_path / "run")


def test_it_writes_every_contract_file(tmp_path):
    config, run = Audit(carried={"boxes": pa.array([[1, 2]] * 40)}).write(tmp_path)
    summary = report(config, run)
    assert run.names("report") == ["figures", "ranked.csv", "ranked.parquet", "report.html", "summary.json"]
    assert run.names("report/figures") == ["detection.png", "scores.png", "training.png"]
    value = run.read_json("report/summary.json")
    assert value["flagged"] == summary.flagged
    assert value["seconds"]["report"] > 0
    assert (summary.folder, summary.html) == (f"{run}/report", f"{run}/report/report.html")
    table = run.read_table("report/ranked.parquet")
    assert [row["sample_id"] for row in table.slice(0, 10).to_pylist()] == [row.sample_id for row in summary.top]
    assert value["format_version"] == 1
    assert pq.read_schema(run.full("report/ranked.parquet")).metadata[b"auditor.format_version"] == b"1"
    lines = run.read_bytes("report/ranked.csv").decode().splitlines()
    assert len(lines) == 41
    assert lines[0].startswith('"rank","sample_id","label"')
    assert "boxes" in table.column_names
    assert "boxes" not in lines[0]


def test_a_report_after_a_verification_shows_it_and_one_before_does_not(plain):
    audit, config, run = plain
    assert report(config, run).fidelity is None
    assert run.read_json("report/summary.json")["fidelity"] is None
    assert "retrainings.png" not in run.names("report/figures")
    found = write_verification(audit, run, audit.scores["gif"])
    assert report(config, run).fidelity == found
    assert set(run.read_json("report/summary.json")["fidelity"]) == {"gif", "auto"}
    assert "retrainings.png" in run.names("report/figures")
    page = run.read_bytes("report/report.html").decode()
    assert 'id="fidelity"' in page
    assert "Checked by training again" in page


def test_a_second_report_replaces_the_first_and_ranks_the_same(plain):
    _, config, run = plain
    report(config, run)
    first = run.read_bytes("report/ranked.csv")
    run.write_bytes("report/figures/old.png", b"")
    report(config, run)
    assert run.read_bytes("report/ranked.csv") == first
    assert "old.png" not in run.names("report/figures")
    assert run.names("", hidden=True).count(".report") == 0


def test_a_report_that_fails_leaves_the_earlier_one(plain):
    audit, config, run = plain
    report(config, run)
    before = run.read_bytes("report/summary.json")
    audit.write_scores(run, audit.scores_table().slice(1))
    with pytest.raises(StageError):
        report(config, run)
    assert run.read_bytes("report/summary.json") == before


def test_importing_the_report_is_cheap():
    code = "import auditor.report, auditor.report.tracking, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"matplotlib", "sklearn", "mlflow", "jinja2", "torch", "ray", "pandas", "pyarrow.dataset"}
    assert not heavy & set(loaded)
