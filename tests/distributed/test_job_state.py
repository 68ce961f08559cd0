"""Jobs of a real cluster, looked at from a process of its own, as a keeper is."""

from __future__ import annotations

import subprocess
import sys
import time
from threading import Event

import pytest

from auditor.distributed.job_state import await_cluster
from tests.jobs.clusters import ROOT, Head, job_environment

SUBMIT = """
import sys
from ray.job_submission import JobSubmissionClient
client = JobSubmissionClient(sys.argv[1])
until_let_go = f"until [ -e {sys.argv[2]} ]; do sleep 0.1; done"
for name, what in (("good", until_let_go), ("bad", "exit 3")):
    client.submit_job(entrypoint=f"sh -c '{what}'", submission_id=name)
"""
AWAIT = """
import sys
from threading import Event, Timer
from auditor.distributed.job_state import await_job
stop = Event()
timer = Timer(float(sys.argv[3]), stop.set)
timer.daemon = True
timer.start()
print(await_job(sys.argv[1], sys.argv[2], stop))
"""


@pytest.fixture(scope="module")
def address():
    head = Head()
    try:
        head.wait()
        yield head.address
    finally:
        head.end()


def python(program, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, env=job_environment(), stdout=subprocess.PIPE, text=True
    )


@pytest.mark.ray
def test_a_job_that_somebody_else_handed_in_is_waited_for(address, tmp_path):
    assert await_cluster(address, 0.0, Event())
    assert python(SUBMIT, address, str(tmp_path / "go")).wait(60) == 0
    asked = [("good", 120), ("bad", 120), ("unknown", 120), ("good", 0)]
    good, *others = [python(AWAIT, address, name, str(seconds)) for name, seconds in asked]
    assert [process.communicate(timeout=120)[0].strip() for process in others] == ["False", "None", "None"]
    assert good.poll() is None
    (tmp_path / "go").touch()
    assert good.communicate(timeout=120)[0].strip() == "True"


def test_a_cluster_that_is_away_is_waited_for_so_long():
    started = time.monotonic()
    assert not await_cluster("http://127.0.0.1:9", 1.0, Event())
    assert 1.0 <= time.monotonic() - started < 10
    stopped = Event()
    stopped.set()
    assert not await_cluster("http://127.0.0.1:9", 60.0, stopped)
