from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from types import SimpleNamespace

import pytest
import torch

from tests.stores import Store

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """Runs the command in this process and takes back what it does to the process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    logger = logging.getLogger("auditor")
    before = logger.handlers, logger.propagate, logger.level

    def run(*arguments):
        from auditor.cli import main

        with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
            main(list(arguments))
        found = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code or 0, out=found.out, err=found.err)

    yield run
    logger.handlers, logger.propagate = before[:2]
    logger.setLevel(before[2])


ON_REQUEST = ("benchmark", "soak")
"""Markers of tests that are run when they are asked for, and not by whoever chooses among the other markers."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    unasked = [marker for marker in ON_REQUEST if marker not in config.getoption("-m")]
    left_out = [item for item in items if any(map(item.get_closest_marker, unasked))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Sums in one order: results do not depend on how many cores a machine has."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def store():
    """A real S3 server for all tests; each takes a prefix of its own."""
    started = Store()
    yield started
    started.end()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One real MLflow server for all tests that do not end it; each makes its own experiment."""
    from tests.review.servers import Server

    started = Server(tmp_path_factory.mktemp("server"))
    try:
        started.start()
        yield started
    finally:
        started.kill()


@pytest.fixture(scope="session")
def running_cluster():
    """The environment of commands that are to use a real Ray cluster which is there, and not to start one each.

    In this process, ray.init changes how later commands prove who they are; with this cluster they need no proof.
    """
    from ray.cluster_utils import Cluster

    # A folder of its own: in Ray's usual one, others on this machine would find the cluster and take it for theirs.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        head = {"num_cpus": 4, "temp_dir": folder, "include_dashboard": False, "object_store_memory": 150 * 2**20}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_AUTH_MODE", "disabled")
            started = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
        yield {"RAY_ADDRESS": started.address, "RAY_AUTH_MODE": "disabled"}
        started.shutdown()


@pytest.fixture
def in_store(store, monkeypatch):
    """The store, for code in this process too."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.setenv(name, store.environment[name])
    return store
