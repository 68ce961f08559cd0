"""What recording costs beside training: `python docs/benchmarks/training.py CONFIG`.

Takes the same steps four times, in turns, in this process on one thread: the bare SAM steps with all inputs made
beforehand, the same with rows decoded and inputs made first, training that keeps the ledger and the signals but no more
checkpoints than of its beginning and its end, and training as it is. CPU seconds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from auditor.config import Config, load_config
from auditor.data import Dataset, prepare
from auditor.distributed.loop import (
    StepInputs,
    load_samples,
    new_model,
    planned_optimizer,
    run_training,
    training_manifest,
)
from auditor.sam import MicroBatch, Network, State, make_perturbation, sam_step
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader
from auditor.trajectory.order import steps_from

CPU = torch.device("cpu")


class Steps:
    """The steps of a training, without anything around them."""

    def __init__(self, config: Config, run: RunFolder) -> None:
        self._config, self._run, self._dataset = config, run, Dataset.load(run)
        self._manifest = training_manifest(config, self._dataset)
        self._made = list(self._steps())

    def _steps(self) -> Iterator[tuple[int, list[MicroBatch]]]:
        inputs = StepInputs(self._config, load_samples(self._config, self._run, self._dataset, "train"), CPU)
        for step, epoch, micro_batches in steps_from(self._manifest, 0):
            yield step, [inputs.micro_batch(step, epoch, index, rows) for index, rows in enumerate(micro_batches)]

    def bare(self) -> None:
        self._take(self._made)

    def with_inputs(self) -> None:
        self._take(self._steps())

    def _take(self, steps: Iterable[tuple[int, list[MicroBatch]]]) -> None:
        network = Network(new_model(self._config, self._dataset))
        state, perturbation = State.initial(network), make_perturbation(**self._manifest.perturbation)
        for step, batches in steps:
            settings = planned_optimizer(self._manifest, step)
            state, _, _ = sam_step(network, state, batches, self._manifest.micro_batches, perturbation, settings)


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(given.config, given.overrides, run=f"{folder}/run")
        run = RunFolder(config.run)
        prepare(config, run)
        steps = Steps(config, run)
        few = config.model_copy(update={"train": config.train.model_copy(update={"checkpoints": 2})})
        times: dict[str, list[float]] = {}
        for _ in range(given.repeats):
            for name, work in (
                ("bare SAM steps", steps.bare),
                ("with their inputs, rows decoded first", steps.with_inputs),
                ("training with its ledger and signals, two checkpoints", lambda: run_training(few, run, CPU)),
                (f"training with {config.train.checkpoints} checkpoints", lambda: run_training(config, run, CPU)),
            ):
                run.remove("trajectory")
                began = time.process_time()
                work()
                times.setdefault(name, []).append(time.process_time() - began)
        manifest = TrajectoryReader(run).manifest
        size = sum(path.stat().st_size for path in (Path(config.run) / "trajectory/batches").iterdir())
        seen = manifest.steps * manifest.batch_size
        base = min(times["bare SAM steps"])
        print(f"{manifest.steps} steps of {manifest.batch_size}; ledger: {size / seen:.1f} bytes a sample and epoch")
        print("\n| | seconds | |\n| --- | ---: | ---: |")
        for name, found in times.items():
            print(f"| {name} | {min(found):.2f} | {min(found) / base - 1:+.1%} |")


if __name__ == "__main__":
    main()
