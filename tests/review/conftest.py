from __future__ import annotations

import pytest

from tests.report.builders import Audit
from tests.review.builders import ranked
from tests.review.servers import Server


@pytest.fixture(scope="session")
def uri(tmp_path_factory):
    """One SQLite store for all tests, as its tables take seconds to make; each test makes its own experiment."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture(scope="module")
def mortal(tmp_path_factory):
    """A real MLflow server that tests end and start again."""
    made = Server(tmp_path_factory.mktemp("mortal"))
    yield made
    made.kill()


@pytest.fixture
def own_server(mortal):
    """The same, running; for one test to do with as it likes, in an experiment of its own."""
    if not mortal.running:
        mortal.start()
    return mortal


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
