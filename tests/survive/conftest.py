"""A real Ray cluster of several nodes on one machine, of which a test can lose some."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

STORE = 120 * 2**20


class Nodes:
    """A head that computes nothing and two nodes that do; a lost one is replaced."""

    def __init__(self) -> None:
        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": STORE}
        # A lost node is noticed in two seconds, not in Ray's fifteen.
        head["_system_config"] = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
        # Nodes are made on another thread, where no handler for the end of the process can be set.
        self._cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
        self._workers = [self._new(), self._new()]
        self._cluster.wait_for_nodes()
        ray.init(address=self._cluster.address, log_to_driver=False)

    def close(self) -> None:
        """End all processes of the cluster."""
        ray.shutdown()
        self._cluster.shutdown()

    def lose_one_with(self, kind: str, when: Callable[[], bool]) -> threading.Thread:
        """Kill the node of a process whose command line names `kind` as soon as a condition holds.

        The thread ends when the node is gone and another has joined; its attribute `lost` holds the pids that died.
        """
        thread = threading.Thread(target=self._lose, args=(kind, when), daemon=True)
        self.lost: list[int] = []
        thread.start()
        return thread

    def _lose(self, kind: str, when: Callable[[], bool]) -> None:
        while not when():
            time.sleep(0.01)
        for node in self._workers:
            victims = [process for process in self._children(node) if any(kind in part for part in command(process))]
            if victims:
                self.lost = [process.pid for process in victims]
                self._workers.remove(node)
                self._cluster.remove_node(node, allow_graceful=False)
                self._workers.append(self._new())
                return

    def _new(self):
        return self._cluster.add_node(num_cpus=4, object_store_memory=STORE)

    def _children(self, node) -> list[psutil.Process]:
        [raylet] = node.all_processes["raylet"]
        return psutil.Process(raylet.process.pid).children(recursive=True)


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


@pytest.fixture(scope="module", autouse=True)
def _without_the_cluster_of_other_tests() -> None:
    """These connect by themselves; a folder of tests that is done may still be connected."""
    ray.shutdown()


@pytest.fixture(scope="module")
def nodes():
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    made = Nodes()
    yield made
    made.close()
