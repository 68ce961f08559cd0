from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import ray

from auditor.data import prepare
from auditor.distributed.workers import run_on_workers
from auditor.fidelity.edit_files import ask
from auditor.fidelity.removals import Removal
from auditor.storage import RunFolder
from tests.distributed.builders import config

SMALL = {
    "data": {"source": {"kind": "digits"}, "limit": {"train": 50, "validation": 20, "test": 20}},
    "model": {"name": "small_cnn", "args": {"widths": [4]}},
    "train": {"epochs": 2, "batch_size": 16, "micro_batch_size": 8, "checkpoints": 3, "precision": "float64"},
    "score": {"methods": ["replay", "gif_step", "hif_full", "ekfac", "ekfac_self", "loss"]},
    "report": {"rank_by": "hif_full"},
    "hif": {"iterations": 5, "damping": 0.1, "tolerance": 1e-6},
    "edit": {"methods": ["gif", "replay"], "damping": 0.05},
    "resources": {"train_workers": 2},
}
REMOVED = Removal("samples", (3, 20, 41), 0.06)


@pytest.fixture(scope="session")
def ray_cluster():
    """A real local cluster for the tests of this folder, which takes its own processes along when it ends."""
    with pytest.MonkeyPatch.context() as patch:
        # As where auditor starts a cluster of its own.
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        ray.init(
            address="local", num_cpus=4, include_dashboard=False, object_store_memory=150 * 2**20, log_to_driver=False
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def on_two_workers(ray_cluster, tmp_path_factory):
    """`audit` and `run`, whose tasks two Ray workers have computed, what was `told` of them, and who made `passes`."""
    folder = tmp_path_factory.mktemp("two")
    counted = {"widths": [4], "seconds": 0, "passes": str(folder / "passes")}
    audit = config(
        folder / "run", **{**SMALL, "model": {"name": "tests.distributed.builders:counted_cnn", "args": counted}}
    )
    run, told = RunFolder(audit.run), []
    prepare(audit, run)
    ask(audit, run, REMOVED)
    tasks = ["edit", "gif_step", "hif", "replay", "train"]
    run_on_workers(audit, run, tasks, lambda task, seconds: told.append((task, seconds)))
    return SimpleNamespace(audit=audit, run=run, told=told, passes=(folder / "passes").read_text().split())


@pytest.fixture
def computed(on_two_workers, tmp_path):
    """A copy of it for one test: `audit`, `run`, and `untrained`, another audit of the same that was only prepared."""
    copy = RunFolder(tmp_path / "computed")
    shutil.copytree(on_two_workers.run.path, copy.path)
    untrained = config(tmp_path / "untrained", **SMALL)
    prepare(untrained, RunFolder(untrained.run))
    audit = on_two_workers.audit.model_copy(update={"run": copy.uri})
    return SimpleNamespace(audit=audit, run=copy, untrained=untrained)
