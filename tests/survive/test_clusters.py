"""Clusters that come and go under an audit, and audits that come and go on a cluster."""

from __future__ import annotations

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from auditor import Audit
from auditor.storage import RunFolder
from tests.distributed.builders import config
from tests.survive.soak import soak

pytestmark = [pytest.mark.ray, pytest.mark.soak]
SETTINGS = {"score": {"methods": ["replay", "gif", "loss"]}, "verify": {"during_run": False}}


def on_a_new_cluster(folder, work):
    """Call work(audit) with an audit that uses a cluster which is there for this call alone."""
    head = {"num_cpus": 4, "include_dashboard": False, "object_store_memory": 120 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        return work(Audit(config(folder, **SETTINGS, resources={"ray_address": cluster.address})))
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_head_that_is_replaced_between_stages_changes_no_score(tmp_path):
    on_a_new_cluster(tmp_path / "parts", Audit.train)
    on_a_new_cluster(tmp_path / "parts", Audit.score)
    on_a_new_cluster(tmp_path / "whole", lambda audit: (audit.train(), audit.score()))
    parts, whole = (RunFolder(tmp_path / name).read_table("scores").sort_by("sample_id") for name in ("parts", "whole"))
    for column in ("replay", "gif", "loss"):
        np.testing.assert_array_equal(parts[column].to_numpy(), whole[column].to_numpy())


def test_audit_after_audit_on_one_cluster_holds_no_more_files_actors_workers_or_scratch(tmp_path):
    first, before, last = soak(tmp_path, 3)
    assert last.actors <= first.actors
    assert last.scratch <= first.scratch
    assert last.workers <= first.workers + 1
    assert last.files <= before.files + 8
    assert last.threads <= before.threads + 4
