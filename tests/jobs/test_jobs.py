"""Jobs on a real cluster, as a person hands them in."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from auditor.storage import RunFolder
from auditor.trajectory import Manifest
from tests.distributed.builders import config
from tests.jobs.clusters import ROOT, Head, job_environment

pytestmark = pytest.mark.ray

OWN_MODEL = """
import time
from auditor.models.small_cnn import small_cnn

def make(input_shape, num_classes, seconds, **args):
    model = small_cnn(input_shape, num_classes, **args)
    model.register_forward_pre_hook(lambda *_: time.sleep(seconds) if model.training else None)
    return model
"""
OWN_JOB = """
import pathlib, sys, time
print("begun with", sys.argv[1], flush=True)
while not pathlib.Path({go!r}).exists():
    time.sleep(0.1)
print("going on", flush=True)
pathlib.Path({done!r}).touch()
sys.exit(3)
"""


@pytest.fixture(scope="module")
def head():
    """A cluster for all of them."""
    started = Head()
    try:
        started.wait()
        yield started
    finally:
        started.end()


@pytest.fixture
def desk(tmp_path):
    """A working directory with a configuration whose places are absolute, and a model of one's own."""
    raw = config(
        tmp_path / "run",
        model={"name": "own:make", "args": {"widths": [8], "seconds": 0.02}},
        train={"epochs": 8, "batch_size": 32, "micro_batch_size": 16, "checkpoints": 9},
    ).model_dump(mode="json")
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(raw))
    (tmp_path / "own.py").write_text(OWN_MODEL)
    return tmp_path


def start(cwd, head, *arguments, **environment) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "auditor", "submit", *arguments],
        cwd=cwd,
        env=job_environment(RAY_API_SERVER_ADDRESS=head.address, **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def submit(cwd, head, *arguments, **environment) -> subprocess.CompletedProcess[str]:
    process = start(cwd, head, *arguments, **environment)
    try:
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def ray_job(head, verb, job) -> str:
    command = [str(Path(sys.executable).with_name("ray")), "job", verb, "--address", head.address, job]
    ended = subprocess.run(command, env=job_environment(), capture_output=True, text=True, timeout=60, check=True)
    return ended.stdout + ended.stderr


def wait_until(condition):
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def mlflow_status(desk) -> str:
    client = MlflowClient(f"sqlite:///{desk}/run-mlflow.db")
    [logged] = client.search_runs([client.get_experiment_by_name("auditor").experiment_id])
    return logged.info.status


def test_a_stopped_audit_is_killed_in_mlflow_and_the_next_job_goes_on_from_there(desk, head):
    run = RunFolder(desk / "run")
    handed_in = submit(desk, head, str(ROOT / "jobs" / "audit.py"), "audit.yaml", "--no-wait", "--json", "--name", "a")
    assert json.loads(handed_in.stdout) == {"job": "a", "address": head.address}, handed_in.stderr
    wait_until(lambda: (found := Manifest.read(run)) is not None and len(found.checkpoints) >= 3)
    assert "was stopped" in ray_job(head, "stop", "a")
    assert mlflow_status(desk) == "KILLED"
    assert "stopped on request; the same command goes on where it was" in ray_job(head, "logs", "a")
    before = Manifest.read(run)
    assert not before.complete
    kept = run.local / "trajectory" / "checkpoints" / f"step-{before.checkpoints[1]:08d}"
    written = kept.stat().st_mtime_ns

    ended = submit(desk, head, "train", "audit.yaml")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr.splitlines()[-1].endswith(": SUCCEEDED")
    assert ended.stdout.count("train: 48 steps of 32 samples") == 1
    assert kept.stat().st_mtime_ns == written
    assert Manifest.read(run).complete


def test_wrong_input_is_the_jobs_message_in_ray_and_exit_code_two(desk, head):
    ended = submit(desk, head, "train", "audit.yaml", "--json", "--name", "b", "--set", "train.batch_size=4096")
    found = json.loads(ended.stdout)
    assert (ended.returncode, ended.stderr) == (2, "")
    message = "error: train.batch_size is 4096, but there are only 200 training rows"
    assert found == {"job": "b", "address": head.address, "status": "FAILED", "exit_code": 2, "message": message}
    again = submit(desk, head, "train", "audit.yaml", "--name", "b")
    assert again.returncode == 2
    assert again.stderr.startswith(f"error: {head.address}: the Ray cluster takes no job (")
    assert "Job with submission_id b already exists" in again.stderr


def test_ctrl_c_leaves_the_job_alone_and_says_how_to_follow_and_stop_it(desk, head):
    go, done = desk / "go", desk / "done"
    (desk / "mine.py").write_text(OWN_JOB.format(go=str(go), done=str(done)))
    following = start(desk, head, "mine.py", "audit.yaml", "--name", "c")
    shown = []
    while not shown or "begun with audit.yaml" not in shown[-1]:
        shown.append(following.stdout.readline())
        assert shown[-1]
    following.send_signal(signal.SIGINT)
    _, err = following.communicate(timeout=60)
    assert following.returncode == 130
    assert "Traceback" not in err
    last = err.splitlines()[-3:]
    assert last[0] == "The job goes on."
    assert last[1].endswith(f"ray job logs --follow --address {head.address} c")
    assert last[2].endswith(f"ray job stop --address {head.address} c")
    go.touch()
    wait_until(done.exists)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RAY_AUTH_TOKEN": "another"}, "the Ray cluster refuses the token; set RAY_AUTH_MODE=token and"),
        ({"RAY_AUTH_MODE": "disabled"}, "the Ray cluster refuses the token; set RAY_AUTH_MODE=token and"),
        ({"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9"}, "no Ray cluster answers there"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_named_in_one_sentence(desk, head, environment, message):
    address = environment.pop("RAY_API_SERVER_ADDRESS", head.address)
    ended = submit(desk, head, "train", "audit.yaml", "--address", address, **environment)
    assert (ended.returncode, ended.stdout) == (2, "")
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"error: {address}: {message}")
    assert not (desk / "run").exists()
