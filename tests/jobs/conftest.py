from __future__ import annotations

import pytest
import ray

from tests.jobs.clusters import Head


@pytest.fixture(scope="module", autouse=True)
def _without_the_cluster_of_other_tests() -> None:
    """These connect by themselves; a folder of tests that is done may still be connected."""
    ray.shutdown()


@pytest.fixture(scope="package")
def head():
    """A cluster for all tests of jobs."""
    started = Head()
    try:
        started.wait()
        yield started
    finally:
        started.end()
