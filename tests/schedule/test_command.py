"""The command as a person calls it, in processes of its own."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import yaml

from auditor.schedule.cron import parse_cron
from tests.distributed.builders import auditor, config, train_here

RUN = {"run": "s3://audits/digits", "mlflow": {"tracking_uri": "http://mlflow:5000"}}


def written(folder, **changes):
    raw = {"run": "runs/digits", "data": {"source": {"kind": "digits"}}, **changes}
    (folder / "audit.yaml").write_text(yaml.safe_dump(raw))
    return "audit.yaml"


def test_manifests_are_shown_or_written(tmp_path, command):
    path = written(tmp_path, **RUN)
    shown = command("schedule", path, "--cron", "0 3 * * 1")
    assert (shown.code, shown.err) == (0, "")
    assert [document["kind"] for document in yaml.safe_load_all(shown.out)] == ["ConfigMap", "CronJob"]
    out = command("schedule", path, "--form", "rayjob", "--name", "Once", "--out", "k8s")
    assert out.out.split() == ["k8s/once-config.yaml", "k8s/once-rayjob.yaml"]
    assert yaml.safe_load((tmp_path / "k8s/once-rayjob.yaml").read_text())["kind"] == "RayJob"
    (tmp_path / "file").touch()
    refused = command("schedule", path, "--form", "rayjob", "--out", "file")
    assert (refused.code, refused.err) == (2, "error: --out file: cannot be written to (File exists)\n")


@pytest.mark.parametrize(
    ("changes", "arguments", "sentence"),
    [
        (RUN, [], "a cronjob needs --cron EXPRESSION"),
        (RUN, ["--cron", "weekly"], "--cron 'weekly': expected five fields"),
        (RUN, ["--cron", "0 3 * * 1", "--time-zone", "Mars"], "--time-zone 'Mars': there is no such time zone"),
        (
            {},
            ["--cron", "0 3 * * 1"],
            "run runs/digits and mlflow.tracking_uri mlflow.db would be in a folder of one pod",
        ),
        (
            {**RUN, "data": {"source": {"kind": "parquet", "train": "here.parquet"}}},
            ["--cron", "0 3 * * 1"],
            "data.source.train here.parquet would be in a folder of one pod",
        ),
        (
            {**RUN, "mlflow": {"tracking_uri": "http://me:secret@mlflow"}},
            ["--cron", "0 3 * * 1"],
            "mlflow.tracking_uri holds credentials",
        ),
        (RUN, ["--cron", "0 3 * * 1", "--form", "raycronjob", "--name", "a" * 37], "at most 36 characters"),
        (RUN, ["--cron", "0 3 * * 1", "--run", "s3://audits/123"], "gives no name that Kubernetes takes"),
        ({}, ["--local"], "--local and --once need --cron EXPRESSION"),
        ({}, ["--local", "--cron", "x"], "--cron 'x': expected five fields"),
        ({}, ["--once", "--cron", "0 3 * * 1", "--address", "head:8265"], "--address head:8265: expected the URL"),
        ({"seed": "x"}, ["--local", "--cron", "0 3 * * 1"], "seed is 'x'"),
        ({}, ["--local", "--cron", "0 3 * * 1", "--run", "/proc/x/y"], "/proc/x/y-schedule: cannot hold a schedule"),
    ],
)
def test_what_cannot_be_scheduled_is_wrong_input(tmp_path, command, changes, arguments, sentence):
    ended = command("schedule", written(tmp_path, **changes), *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert sentence in ended.err
    assert len(ended.err.splitlines()) == 1
    assert "secret" not in ended.err.replace("secret auditor-credentials", "")


def test_a_schedule_waits_for_its_tick_and_ends_at_sigterm(tmp_path):
    path = written(tmp_path)
    keeper = subprocess.Popen(
        [sys.executable, "-m", "auditor", "schedule", path, "--local", "--cron", "0 0 1 1 *"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert keeper.stderr is not None
    line = keeper.stderr.readline()
    assert line.startswith("schedule digits: the next audit, digits-20")
    assert line.endswith("-01-01 00:00:00 UTC\n")
    keeper.send_signal(signal.SIGTERM)
    assert keeper.wait(10) == 0
    assert (tmp_path / "runs/digits-schedule/history.csv").exists()


@pytest.mark.ray
def test_what_is_due_is_audited_once_in_a_folder_named_by_its_date(tmp_path):
    """Training is there already, so this is what is left after an interruption."""
    cron = parse_cron("0 0 * * *")
    name = f"digits-{cron.label(cron.latest(datetime.now(UTC)))}"
    train_here(config(tmp_path / "runs" / name))
    # No features: their workers would take longer to start than all the rest.
    report = {"neighbours": 0, "harmed": 0}
    raw = config(tmp_path / "runs/digits", review={"queue": 0}, report=report).model_dump(mode="json")
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(raw))
    arguments = ("schedule", "audit.yaml", "--once", "--cron", cron.expression)
    ended = auditor(tmp_path, *arguments)
    assert ended.returncode == 0, ended.stderr
    with (tmp_path / "runs/digits-schedule/history.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["audit"], row["status"], row["exit_code"]) == (name, "done", "0")
    assert (tmp_path / "runs" / name / "report/report.html").exists()
    again = auditor(tmp_path, *arguments)
    assert again.returncode == 0
    assert f"schedule digits: {name} is done already" in again.stderr
