"""Clusters that come and go under an audit, and audits that come and go on a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
import yaml
from ray.cluster_utils import Cluster

from auditor import Audit
from auditor.storage import RunFolder
from auditor.trajectory import Manifest, TrajectoryReader
from tests.distributed.builders import config, equal_states
from tests.survive.soak import soak

pytestmark = [pytest.mark.ray, pytest.mark.soak]
SETTINGS = {"score": {"methods": ["replay", "gif", "loss"]}, "verify": {"during_run": False}}


def on_a_new_cluster(folder, work, **changes):
    """Call work(audit) with an audit that uses a cluster which is there for this call alone."""
    head = {"num_cpus": 4, "include_dashboard": False, "object_store_memory": 120 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        return work(Audit(config(folder, **{**SETTINGS, **changes}, resources={"ray_address": cluster.address})))
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


def test_a_head_that_dies_during_training_ends_the_command_and_another_head_goes_on_from_the_last_checkpoint(tmp_path):
    slow = {"name": "tests.distributed.builders:slow_cnn", "args": {"widths": [8], "seconds": 0.05}}
    train = {"epochs": 6, "batch_size": 32, "micro_batch_size": 16, "checkpoints": 8}
    head = {"num_cpus": 4, "include_dashboard": False, "object_store_memory": 120 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    audit = config(tmp_path / "run", **SETTINGS, model=slow, train=train, resources={"ray_address": cluster.address})
    run = RunFolder(audit.run)
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(audit.model_dump(mode="json")))
    command = [sys.executable, "-m", "auditor", "train", str(tmp_path / "audit.yaml")]
    # Patience of a minute by default.
    patience = {**os.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": "5", "PYTHONPATH": str(Path.cwd())}
    ended = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=patience)
    try:
        while len(found.checkpoints if (found := Manifest.read(run)) else ()) < 3:
            assert ended.poll() is None, ended.stderr.read()
            time.sleep(0.05)
        cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
        ended.communicate(timeout=180)
    finally:
        ended.kill()
        cluster.shutdown()
    reached = Manifest.read(run)
    assert ended.returncode not in (0, 2)
    assert not reached.complete

    quick = {"model": {**slow, "args": {**slow["args"], "seconds": 0.0}}}
    on_a_new_cluster(tmp_path / "whole", Audit.train, train=train, **quick)
    on_a_new_cluster(tmp_path / "run", Audit.train, train=train, model=slow)
    parts, whole = (TrajectoryReader(RunFolder(tmp_path / name)) for name in ("run", "whole"))
    assert equal_states(parts.state(parts.manifest.steps), whole.state(whole.manifest.steps))
    ledgers = [pa.concat_tables(reader.batches()).drop_columns(["rank"]) for reader in (parts, whole)]
    assert ledgers[0] == ledgers[1]


def test_audit_after_audit_on_one_cluster_holds_no_more_files_actors_workers_or_scratch(tmp_path):
    first, before, last = soak(tmp_path, 3)
    assert last.actors <= first.actors
    assert last.scratch <= first.scratch
    assert last.workers <= first.workers + 1
    assert last.files <= before.files + 8
    assert last.threads <= before.threads + 4
