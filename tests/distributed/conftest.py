from __future__ import annotations

import pytest
import ray


@pytest.fixture(scope="package")
def ray_cluster():
    """A real local cluster for the tests of this folder, which takes its own processes along when it ends."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=150 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()
