"""The ledger's reader: a recorded training as tables, weights and states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from auditor.errors import StageError
from auditor.sam.state import State
from auditor.storage import RunFolder
from auditor.trajectory.checkpoint import load_checkpoint
from auditor.trajectory.manifest import BATCHES, SIGNALS, Manifest, Segment


@dataclass(frozen=True)
class RecordedStep:
    """One step of the ledger: all that is needed to take it again."""

    index: int
    epoch: int
    learning_rate: float
    micro_batches: tuple[NDArray[np.int32], ...]
    """Row indices of each micro-batch, in order."""


class TrajectoryReader:
    """Reads what a `TrajectoryRecorder` wrote.

    Args:
        run: The run folder.

    Raises:
        StageError: There is no trajectory, or its training has not ended.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        manifest = Manifest.read(run)
        if manifest is None:
            raise StageError(f"{run}: holds no trajectory; train first")
        if not manifest.complete:
            done = manifest.checkpoints[-1] if manifest.checkpoints else 0
            raise StageError(f"{run}: training has reached step {done} of {manifest.steps}; let it end first")
        self.manifest = manifest

    def batches(self) -> Iterator[pa.Table]:
        """The ledger a segment at a time, ordered by (step, micro_batch)."""
        for segment in self.manifest.segments:
            yield self._batches(segment)

    def _batches(self, segment: Segment) -> pa.Table:
        table = self.run.read_table([f"{BATCHES}/{name}" for name in segment.batches])
        return table.sort_by([("step", "ascending"), ("micro_batch", "ascending")])

    def signals(self) -> Iterator[pa.Table]:
        """The per-sample signals a segment at a time; nothing when the training recorded none."""
        for segment in self.manifest.segments:
            if segment.signals:
                yield self.run.read_table([f"{SIGNALS}/{name}" for name in segment.signals])

    def state(self, step: int) -> State:
        """The state before step `step`, on the CPU; `step` must be among the manifest's checkpoints."""
        return load_checkpoint(self.run, step)

    def recorded_steps(
        self, backwards: bool = False, end: int | None = None
    ) -> Iterator[tuple[Segment, list[RecordedStep]]]:
        """The steps of each segment, ascending; the segments ascending as well, or from the last to the first.

        Args:
            backwards: Begin with the last segment.
            end: Leave out the segments that end after this step.
        """
        segments = [segment for segment in self.manifest.segments if end is None or segment.end_step <= end]
        for segment in reversed(segments) if backwards else segments:
            table = self._batches(segment)
            count = self.manifest.micro_batches
            steps = []
            for first in range(0, table.num_rows, count):
                rows = table.slice(first, count).to_pydict()
                steps.append(
                    RecordedStep(
                        rows["step"][0],
                        rows["epoch"][0],
                        rows["lr"][0],
                        tuple(np.array(samples, dtype=np.int32) for samples in rows["samples"]),
                    )
                )
            yield segment, steps

    def step_samples(self, step: int) -> NDArray[np.int32]:
        """Row indices of one step's batch, micro-batch after micro-batch, [b]."""
        for segment in self.manifest.segments:
            if segment.first_step <= step < segment.end_step:
                table = self._batches(segment)
                rows = table.filter(pc.equal(table["step"], step))["samples"]
                return np.asarray(rows.combine_chunks().flatten(), dtype=np.int32)
        raise StageError(f"{self.run}: the ledger has no step {step}")

    def learning_rates(self) -> NDArray[np.float64]:
        """η of every step, [steps]."""
        rates = np.full(self.manifest.steps, np.nan)
        for table in self.batches():
            rates[table["step"].to_numpy()] = table["lr"].to_numpy()
        return rates

    def exposures(
        self, step_weights: NDArray[np.float64], intervals: NDArray[np.integer], count: int
    ) -> NDArray[np.float64]:
        """Sums of step weights over the steps that used a sample, by interval.

        Args:
            step_weights: [steps].
            intervals: [steps], the interval each step belongs to.
            count: Number of intervals.

        Returns:
            W [rows, intervals]; W[k, c] = Σ_{t in c} weight_t B_{k,t}.
        """
        sums = np.zeros((self.manifest.rows, count))
        for table in self.batches():
            samples = table["samples"].combine_chunks()
            steps = np.repeat(table["step"].to_numpy(), np.diff(samples.offsets.to_numpy()))
            np.add.at(sums, (samples.flatten().to_numpy(), intervals[steps]), step_weights[steps])
        return sums

    def mean_signal(
        self, name: str, of: Callable[[NDArray[np.floating]], NDArray[np.floating]] = np.asarray, since: int = 0
    ) -> NDArray[np.float64]:
        """A signal, or a function of it, averaged over the epochs that saw a sample; NaN if none did.

        The mean of `margin` is AUM (Pleiss et al. 2020), that of exp(−`loss`) the confidence of Swayamdipta et al.
        2020.

        Args:
            name: Column of the signals.
            of: Applied to the values before they are averaged.
            since: The first epoch that counts, from 0.

        Returns:
            [rows]
        """
        sums, counts = np.zeros(self.manifest.rows), np.zeros(self.manifest.rows)
        for table in self.signals():
            counted = table.filter(pc.greater_equal(table["epoch"], since))
            samples = counted["sample"].to_numpy()
            np.add.at(sums, samples, of(counted[name].to_numpy()))
            np.add.at(counts, samples, 1)
        means = np.full(self.manifest.rows, np.nan)
        np.divide(sums, counts, out=means, where=counts > 0)
        return means
