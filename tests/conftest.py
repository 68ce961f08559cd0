from __future__ import annotations

import os

import pytest
import torch

from tests.stores import Store

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


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
