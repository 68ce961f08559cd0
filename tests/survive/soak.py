"""Audit after audit on one Ray cluster: what grows? `python -m tests.survive.soak 30` prints a line for each."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import psutil
import ray
from ray.cluster_utils import Cluster

from auditor import Audit
from tests.distributed.builders import config

SETTINGS = {
    "data": {"source": {"kind": "digits"}, "limit": {"train": 200, "validation": 60, "test": 60}},
    "train": {"epochs": 2, "batch_size": 50, "micro_batch_size": 50, "checkpoints": 2},
    "score": {"methods": ["replay", "gif", "loss"]},
    "verify": {"during_run": True, "leave_one_out": 1, "subsets": 1},
    "review": {"queue": 5},
}


@dataclass(frozen=True)
class Usage:
    """What this process and the cluster hold after an audit."""

    memory: int
    """MiB of this process."""
    files: int
    """Open file descriptors of this process."""
    cluster_files: int
    """Of the cluster's own processes, its workers apart."""
    threads: int
    """Of this process."""
    workers: int
    """Ray's worker processes, idle ones among them."""
    actors: int
    """That are alive."""
    scratch: int
    """Files of ours in the folder for temporary files."""


def usage(scratch: Path) -> Usage:
    """Look at this process, its cluster and the folder for temporary files."""
    own = psutil.Process()
    children = [child for child in own.children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
    workers = [child for child in children if any(part.startswith("ray::") for part in child.cmdline())]
    rest = [child for child in children if child not in workers]
    return Usage(
        memory=own.memory_info().rss // 2**20,
        files=own.num_fds(),
        cluster_files=sum(child.num_fds() for child in rest),
        threads=own.num_threads(),
        workers=len(workers),
        actors=sum(state["State"] == "ALIVE" for state in ray._private.state.actors().values()),
        scratch=sum(path.is_file() for path in scratch.rglob("*") if not path.is_relative_to(scratch / "ray")),
    )


def soak(folder: Path, audits: int) -> list[Usage]:
    """Run audits one after another, each in a folder of its own, in one MLflow experiment.

    Args:
        folder: For run folders, MLflow's store and temporary files.
        audits: How many.

    Returns:
        What is held after each.
    """
    scratch = folder / "scratch"
    scratch.mkdir()
    before, tempfile.tempdir = tempfile.tempdir, str(scratch)
    head = {"num_cpus": 4, "include_dashboard": False, "object_store_memory": 150 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    found = []
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        for number in range(audits):
            mlflow = {"tracking_uri": f"sqlite:///{folder}/mlflow.db", "experiment": "soak"}
            Audit(config(folder / f"run-{number}", **SETTINGS, mlflow=mlflow)).run()
            found.append(usage(scratch))
    finally:
        ray.shutdown()
        cluster.shutdown()
        tempfile.tempdir = before
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        lines = [("audit", *(field.name for field in fields(Usage)))]
        lines += [(index, *astuple(held)) for index, held in enumerate(soak(Path(place), int(sys.argv[1])), 1)]
        sys.stdout.write("".join("\t".join(map(str, line)) + "\n" for line in lines))
