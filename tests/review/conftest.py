from __future__ import annotations

import pytest

from tests.report.builders import Audit
from tests.review.builders import ranked
from tests.review.servers import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One real MLflow server for all tests that do not end it; each makes its own experiment."""
    started = Server(tmp_path_factory.mktemp("server"))
    try:
        started.start()
        yield started
    finally:
        started.kill()


@pytest.fixture(scope="session")
def uri(tmp_path_factory):
    """One SQLite store for all tests, as its tables take seconds to make; each test makes its own experiment."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def own_server(tmp_path):
    """A real MLflow server to end and start again."""
    started = Server(tmp_path)
    try:
        started.start()
        yield started
    finally:
        started.kill()


@pytest.fixture
def audit():
    """What a run folder holds."""
    return Audit()


@pytest.fixture
def run(audit, tmp_path):
    """Its run folder, with a ranking."""
    config, run = audit.write(tmp_path / "run")
    ranked(config, run)
    return run
