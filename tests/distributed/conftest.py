from __future__ import annotations

import pytest
import ray


@pytest.fixture
def ray_cluster():
    """A real local cluster, ended with the test; only processes it started."""
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=150 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()
