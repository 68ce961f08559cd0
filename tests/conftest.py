from __future__ import annotations

import logging
import os
import sys
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


@pytest.fixture
def in_store(store, monkeypatch):
    """The store, for code in this process too."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.setenv(name, store.environment[name])
    return store
