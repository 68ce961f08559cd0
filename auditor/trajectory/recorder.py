"""The ledger's writer: which samples every step used, what it saw of them, and the states in between."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.errors import InputError
from auditor.sam.optimizer import optimizer_at
from auditor.sam.state import State
from auditor.sam.variants import make_perturbation
from auditor.storage import RunFolder
from auditor.trajectory import group
from auditor.trajectory.checkpoint import load_checkpoint, save_checkpoint
from auditor.trajectory.manifest import BATCHES, CHECKPOINTS, SIGNALS, Manifest, Segment, checkpoint_folder

BATCH_SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("epoch", pa.int32()),
        ("micro_batch", pa.int32()),
        ("rank", pa.int32()),
        ("samples", pa.list_(pa.int32())),
        ("lr", pa.float64()),
        ("rho", pa.float64()),
        ("grad_norm", pa.float64()),
        ("loss", pa.float64()),
    ]
)
SIGNAL_SCHEMA = pa.schema(
    [
        ("epoch", pa.int32()),
        ("sample", pa.int32()),
        ("loss", pa.float32()),
        ("margin", pa.float32()),
        ("loss_perturbed", pa.float32()),
        ("margin_perturbed", pa.float32()),
        ("predicted", pa.int32()),
    ]
)
_SIGNALS = ("loss", "margin", "loss_perturbed", "margin_perturbed", "predicted")


class TrajectoryRecorder:
    """Records a training run into its run folder.

    Every rank of a process group makes one, records its own micro-batches, and calls `checkpoint` together with
    the others at each of the manifest's checkpoint steps. What was recorded since the last checkpoint is written
    there; after a crash, `restore` gives back the last complete checkpoint and drops what came later, so the
    ledger holds each (step, micro-batch) exactly once.

    Args:
        run: The run folder.
        manifest: The training that is about to run.

    Raises:
        InputError: The folder holds a trajectory of another training, or the manifest's optimizer or perturbation
            cannot be made from its settings, so that nothing could be computed from the trajectory.
    """

    def __init__(self, run: RunFolder, manifest: Manifest) -> None:
        _can_be_made(manifest)
        self.run = run
        self.rank, self.world_size = group.rank(), group.world_size()
        found = group.from_first_rank(lambda: Manifest.read(run))
        if found is not None and not found.same_training(manifest):
            raise InputError(f"{run}: holds the trajectory of another training")
        self.manifest = replace(found or manifest, world_size=self.world_size)
        self._batches: list[tuple[Any, ...]] = []
        self._scalars: list[Tensor] = []
        self._signals: list[tuple[int, NDArray[np.int32], tuple[Tensor, ...]]] = []
        self._since = time.monotonic()
        group.barrier()  # nobody writes before everybody has read

    @property
    def next_step(self) -> int:
        """The first step that is not in the ledger yet."""
        return self.manifest.checkpoints[-1] if self.manifest.checkpoints else 0

    def restore(self) -> State | None:
        """The state before `next_step`, leftovers of a crashed attempt removed; None when there is none yet."""
        if self.rank == 0:
            self._remove_leftovers()
        group.barrier()
        return load_checkpoint(self.run, self.next_step) if self.manifest.checkpoints else None

    def record(
        self,
        *,
        step: int,
        epoch: int,
        micro_batch: int,
        samples: Sequence[int] | NDArray[np.integer],
        learning_rate: float,
        rho: float,
        grad_norm: Tensor | float,
        loss: Tensor | float,
        signals: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None = None,
    ) -> None:
        """Record one micro-batch of this rank. Tensors are kept where they are until the next checkpoint.

        Args:
            step: 0 .. steps − 1.
            epoch: 0 .. epochs − 1.
            micro_batch: 0 .. J − 1.
            samples: Row indices of the micro-batch, in its order.
            learning_rate: η of this step.
            rho: SAM's radius.
            grad_norm: ‖g‖₂ of the micro-batch at θ.
            loss: Mean loss of the micro-batch at θ.
            signals: Per sample: loss and margin at θ, loss and margin at θ + ε, predicted class; each [m].
        """
        rows = np.asarray(samples, dtype=np.int32)
        self._batches.append((step, epoch, micro_batch, self.rank, rows, learning_rate, rho))
        self._scalars += [torch.as_tensor(grad_norm), torch.as_tensor(loss)]
        if signals is not None:
            self._signals.append((epoch, rows, signals))

    def checkpoint(self, step: int, state: State) -> None:
        """Write the state before step `step` and everything recorded since the last checkpoint; collective.

        Raises:
            InputError: `step` is not the next planned checkpoint, or a (step, micro-batch) before it was recorded
                twice or not at all.
        """
        first = self.next_step
        self._check_complete(first, step)
        batches = self._write_batches(first, step)
        signals = self._write_signals(first, step)
        save_checkpoint(self.run, step, state)
        segments = self.manifest.segments
        if step > first:
            written = group.gather((batches, signals))
            segments += (
                Segment(
                    first,
                    step,
                    tuple(batch for batch, _ in written if batch is not None),
                    tuple(signal for _, signal in written if signal is not None),
                ),
            )
        now = time.monotonic()
        self.manifest = replace(
            self.manifest,
            checkpoints=(*self.manifest.checkpoints, step),
            segments=segments,
            seconds=round(self.manifest.seconds + now - self._since, 3),
            status="complete" if step == self.manifest.steps else "running",
        )
        self._since = now
        if self.rank == 0:
            self.manifest.write(self.run)
        group.barrier()

    def _check_complete(self, first: int, step: int) -> None:
        planned = self.manifest.checkpoint_steps[len(self.manifest.checkpoints) :]
        if not planned or step != planned[0]:
            expected = f"step {planned[0]}" if planned else "none, training is complete"
            raise InputError(f"a checkpoint of step {step} was recorded, the next planned one is {expected}")
        count = self.manifest.micro_batches
        mine = [int(batch[0]) * count + int(batch[2]) for batch in self._batches]
        recorded = sorted(place for part in group.gather(mine) for place in part)
        for place, found in zip(range(first * count, step * count), recorded, strict=False):
            if place != found:
                index, wrong = min(place, found), "twice" if found < place else "never"
                raise InputError(f"micro-batch {index % count} of step {index // count} was recorded {wrong}")
        if len(recorded) != (step - first) * count:
            raise InputError(
                f"{len(recorded)} micro-batches were recorded from step {first} to {step}, "
                f"{(step - first) * count} were expected"
            )

    def _write_batches(self, first: int, end: int) -> str | None:
        if not self._batches:
            return None
        columns: list[object] = [list(column) for column in zip(*self._batches, strict=True)]
        scalars = torch.stack(self._scalars).double().cpu().numpy()
        columns += [scalars[0::2], scalars[1::2]]
        table = pa.table(columns, schema=BATCH_SCHEMA)
        name = f"{_segment_name(first, end)}-rank-{self.rank:04d}.parquet"
        # Row indices of a shuffled epoch have no structure a dictionary could use.
        self.run.write_table(f"{BATCHES}/{name}", table, use_dictionary=False)
        self._batches, self._scalars = [], []
        return name

    def _write_signals(self, first: int, end: int) -> str | None:
        if not self._signals:
            return None
        epochs = np.concatenate([np.full(len(rows), epoch, np.int32) for epoch, rows, _ in self._signals])
        rows = np.concatenate([rows for _, rows, _ in self._signals])
        values = [torch.cat([signals[index] for _, _, signals in self._signals]) for index in range(len(_SIGNALS))]
        arrays = [
            value.cpu().numpy().astype(SIGNAL_SCHEMA.field(name).type.to_pandas_dtype())
            for name, value in zip(_SIGNALS, values, strict=True)
        ]
        table = pa.table([epochs, rows, *arrays], schema=SIGNAL_SCHEMA)
        name = f"{_segment_name(first, end)}-rank-{self.rank:04d}.parquet"
        self.run.write_table(f"{SIGNALS}/{name}", table)
        self._signals = []
        return name

    def _remove_leftovers(self) -> None:
        kept = {f"{BATCHES}/{name}" for segment in self.manifest.segments for name in segment.batches}
        kept |= {f"{SIGNALS}/{name}" for segment in self.manifest.segments for name in segment.signals}
        kept |= {checkpoint_folder(step) for step in self.manifest.checkpoints}
        for folder in (BATCHES, SIGNALS, CHECKPOINTS):
            for name in self.run.names(folder, hidden=True):
                if f"{folder}/{name}" not in kept:
                    self.run.remove(f"{folder}/{name}")


def _segment_name(first: int, end: int) -> str:
    return f"steps-{first:08d}-{end:08d}"


def _can_be_made(manifest: Manifest) -> None:
    for name, settings, make in (
        ("optimizer", manifest.optimizer, lambda settings: optimizer_at(settings, 0.0, 0)),
        ("perturbation", manifest.perturbation, lambda settings: make_perturbation(**settings)),
    ):
        try:
            make(settings)
        except KeyError as error:
            raise InputError(f"the manifest's {name} has no {error}") from error
        except (TypeError, ValueError) as error:
            raise InputError(f"the manifest's {name}: {error}") from error
