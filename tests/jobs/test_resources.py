"""Asking real clusters for more than they have, for what comes later, and for resources with names."""

from __future__ import annotations

import logging
import tempfile
import threading
import time

import pytest
import ray
from ray.cluster_utils import Cluster

from auditor.data import prepare
from auditor.distributed.cluster import cluster
from auditor.distributed.retrain import retrain_on_ray
from auditor.distributed.score import score_on_ray
from auditor.distributed.workers import run_on_workers
from auditor.errors import InputError
from auditor.fidelity import Removal
from auditor.models.small_cnn import small_cnn
from auditor.sections.running import Resources
from auditor.storage import RunFolder
from tests.distributed.builders import config

pytestmark = pytest.mark.ray

MACHINE = {"object_store_memory": 100 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def machines():
    """Two machines of two CPUs, one of which has a resource with a name."""
    # A folder of its own: in Ray's usual one, others on this machine would find the cluster and take it for theirs.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        head = {"num_cpus": 2, "temp_dir": folder, **MACHINE}
        several = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
        several.add_node(num_cpus=3, resources={"scanner": 3}, object_store_memory=100 * 2**20)
        several.wait_for_nodes()
        yield several
        several.shutdown()


def noting_cnn(input_shape, num_classes, notes, **args):
    """`small_cnn`, which notes the machine of everybody who makes it."""
    node = ray.get_runtime_context().get_node_id()
    with open(notes, "a") as file:  # noqa: PTH123
        file.write(f"{node}\n")
    return small_cnn(input_shape, num_classes, **args)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"score_actors": 9}, "asks for 10 CPU, the Ray cluster has 5 CPU"),
        ({"gpus_per_worker": 1}, "asks for 1 GPU, the Ray cluster has 0 GPU"),
        ({"custom": {"scanner": 4}}, "asks for 4 scanner, the Ray cluster has 3 scanner"),
        ({"custom": {"printer": 1}}, "asks for 1 printer, the Ray cluster has 0 printer"),
        ({"cpus_per_worker": 4}, "asks for 1 workers of 4 CPU each, the Ray cluster's machines have room for 0"),
    ],
)
def test_more_than_there_is_is_said_in_time_and_not_waited_for_without_end(machines, asked, message):
    resources = Resources(ray_address=machines.address, wait_seconds=0.5, **asked)
    began = time.monotonic()
    with pytest.raises(InputError) as refused, cluster(resources):
        pytest.fail("the cluster has no room")
    assert str(refused.value) == f"resources: the audit {message} after 0.5 s"
    assert time.monotonic() - began < 20
    assert not ray.is_initialized()


def test_a_machine_that_comes_while_the_audit_waits_is_used(machines, caplog):
    caplog.set_level(logging.INFO, "auditor")
    added = []

    def add():
        time.sleep(1)
        added.append(machines.add_node(num_cpus=1, resources={"late": 1}, object_store_memory=100 * 2**20))

    adding = threading.Thread(target=add)
    adding.start()
    try:
        with cluster(Resources(ray_address=machines.address, custom={"late": 1}, wait_seconds=60)):
            assert ray.cluster_resources()["late"] == 1
    finally:
        adding.join()
        machines.remove_node(added[0])
    [said] = [record.getMessage() for record in caplog.records if record.name == "auditor"]
    assert said == "resources: the audit asks for 1 late, the Ray cluster has 0 late; waiting up to 60 s for more"


def test_workers_and_actors_run_where_the_named_resource_is(machines, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    notes = tmp_path / "notes"
    audit = config(
        tmp_path / "run",
        model={"name": "tests.jobs.test_resources:noting_cnn", "args": {"widths": [8], "notes": str(notes)}},
        train={"epochs": 2, "batch_size": 32, "micro_batch_size": 8, "checkpoints": 2},
        resources={"ray_address": machines.address, "train_workers": 2, "custom": {"scanner": 1}},
    )
    run = RunFolder(audit.run)
    prepare(audit, run)
    with cluster(audit.resources):
        [wanted] = [node["NodeID"] for node in ray.nodes() if node["Alive"] and "scanner" in node["Resources"]]
        here = ray.get_runtime_context().get_node_id()
        run_on_workers(audit, run, ["train"])
        trained = notes.read_text().split()
        assert trained == [wanted] * 2
        score_on_ray(audit, run)
        retrain_on_ray(audit, run, [Removal("one", (1,))])
    # The driver itself prepares scoring.
    rest = notes.read_text().split()[2:]
    assert set(rest) == {here, wanted}
    assert rest.count(here) == 1


def test_a_cluster_of_ones_own_has_whatever_is_asked_for():
    with cluster(Resources(custom={"scanner": 2}, score_actors=2, retrainers=5)):
        there = ray.cluster_resources()
    assert there["scanner"] >= 10
    assert there["CPU"] >= 5
