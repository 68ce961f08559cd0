"""How scoring grows with rows, checkpoints, workers and queries: `python docs/benchmarks/growth.py CONFIG`.

CONFIG is an audit of CIFAR-10 such as docs/examples/cifar10.yaml. It is trained for one epoch, which is all that
scoring needs; then its rows are scored on a Ray cluster of this machine, and validation images explained. Seconds by
the clock, the start of the cluster apart: leave the machine alone meanwhile. Memory is the most that a scoring actor
held of its own.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import ray
import torch

from auditor.config import Config, load_config
from auditor.data import prepare
from auditor.distributed.explain import explain_on_ray
from auditor.distributed.loop import run_training
from auditor.distributed.score import score_on_ray
from auditor.storage import RunFolder

BATCH = 125
"""Divides all numbers of rows, so that one epoch uses every row."""


class Trained:
    """Finished trainings, one for each number of rows, and copies of them to be scored."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self._given, self._folder, self._copies = given, folder, 0

    def config(self, rows: int, run: Path, changes: list[str]) -> Config:
        limits = {"train": rows, "validation": 1000, "test": 200}
        fixed = [f"data.limit.{split}={limit}" for split, limit in limits.items()]
        fixed += ["data.split={validation: 0.02}", f"train.batch_size={BATCH}", f"train.micro_batch_size={BATCH}"]
        fixed += [
            "train.epochs=1",
            "train.checkpoints=10",
            "train.optimizer.warmup_epochs=0",
            "score.methods=[gif, loss]",
            "report.rank_by=gif",
            "resources.score_actors=1",
        ]
        return load_config(self._given.config, [*self._given.overrides, *fixed, *changes], run=str(run))

    def copy(self, rows: int, *changes: str) -> tuple[Config, RunFolder]:
        original = self._folder / f"rows-{rows}"
        if not original.exists():
            config = self.config(rows, original, [])
            torch.set_num_threads(os.cpu_count() or 1)
            prepare(config, RunFolder(config.run))
            run_training(config, RunFolder(config.run), torch.device("cpu"))
        self._copies += 1
        copy = self._folder / f"copy-{self._copies}"
        shutil.copytree(original, copy, copy_function=os.link)
        return self.config(rows, copy, list(changes)), RunFolder(str(copy))


class Memory:
    """The most that a scoring actor of this process held while the block ran, in MiB."""

    def __enter__(self) -> Memory:
        self.most, self._ended = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            for process in psutil.Process().children(recursive=True):
                try:
                    if any("MapWorker" in part for part in process.cmdline()):
                        # Mapped blocks of the object store are nobody's own, though "unique" where one actor reads.
                        held = process.memory_info()
                        self.most = max(self.most, (held.rss - held.shared) / 2**20)
                except psutil.Error:
                    continue


def measured(work: Callable[[Config, RunFolder], object], config: Config, run: RunFolder) -> tuple[float, float]:
    """Seconds and MiB."""
    with Memory() as memory:
        began = time.perf_counter()
        work(config, run)
        seconds = time.perf_counter() - began
    return seconds, memory.most


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10000, 48000], help="2 %% are kept aside")
    parser.add_argument("--middle", type=int, default=10000, help="rows of the other tables")
    given = parser.parse_args()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        trained = Trained(given, Path(folder))
        most = max(given.rows)
        alone = table(
            "rows (10 checkpoints, 1 actor)", given.rows, lambda rows: measured(score_on_ray, *trained.copy(rows))
        )[most]
        table(
            f"checkpoints ({given.middle:,} rows, 1 actor)",
            [1, 5, 10],
            lambda count: measured(score_on_ray, *trained.copy(given.middle, f"score.checkpoints={count}")),
        )
        table(
            f"actors of one CPU ({most:,} rows, 10 checkpoints)",
            [1, 2],
            lambda count: (
                alone if count == 1 else measured(score_on_ray, *trained.copy(most, f"resources.score_actors={count}"))
            ),
        )
        table(
            f"queries ({given.middle:,} rows, EK-FAC, its factors included)",
            [1, 16, 256],
            lambda count: measured(explain_on_ray, *trained.copy(given.middle, f"explain.images={count}")),
        )
    ray.shutdown()


def table(name: str, sizes: list[int], work: Callable[[int], tuple[float, float]]) -> dict[int, tuple[float, float]]:
    """One table, a line for each size, and what is in it."""
    print(f"\n| {name} | seconds | beside the first | memory of an actor, MiB |\n| ---: | ---: | ---: | ---: |")
    found: dict[int, tuple[float, float]] = {}
    for size in sizes:
        found[size] = seconds, memory = work(size)
        print(f"| {size:,} | {seconds:.1f} | {seconds / found[sizes[0]][0]:.2f} | {memory:.0f} |", flush=True)
    return found


if __name__ == "__main__":
    main()
