from __future__ import annotations

import pytest

from tests.jobs.clusters import Head


@pytest.fixture(scope="package")
def head():
    """A cluster for all tests of jobs."""
    started = Head()
    try:
        started.wait()
        yield started
    finally:
        started.end()
