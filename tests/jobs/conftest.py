from __future__ import annotations

import pytest
import ray


@pytest.fixture(scope="module", autouse=True)
def _without_the_cluster_of_other_tests() -> None:
    """These connect by themselves; a folder of tests that is done may still be connected."""
    ray.shutdown()
