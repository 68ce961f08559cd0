"""A finished training, opened for computation on one device: what scoring, replay and the logged model share."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from auditor import counters
from auditor.config import Config
from auditor.data import Dataset, Samples, SplitName, query_rows
from auditor.distributed.loop import StepInputs, load_samples, new_model
from auditor.errors import InputError
from auditor.influence import (
    Point,
    PreciseStatistics,
    effective_steps,
    effective_steps_of_adamw,
    evaluate,
    query_gradient,
    sample_logits,
    with_running,
)
from auditor.sam import AdamW, MicroBatch, Network, State, Tensors, make_perturbation, optimizer_at, preconditioner
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader

_STATISTICS_CHUNK = 256
"""Rows that share one batch of BatchNorm statistics: part of the definition of S(θ), not a matter of memory."""


class Chunks:
    """A split, or some of its rows, as (inputs, labels) on a device, a chunk at a time, as often as it is iterated.

    Args:
        samples: The split.
        size: Rows a chunk.
        device: Where the tensors go.
        rows: Which rows; all by default.
    """

    def __init__(
        self, samples: Samples, size: int, device: torch.device, rows: NDArray[np.integer] | None = None
    ) -> None:
        self.samples, self._size, self._device = samples, size, device
        self._rows = np.arange(len(samples)) if rows is None else rows

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(self._rows), self._size):
            rows = self._rows[first : first + self._size]
            yield self.samples.inputs(rows).to(self._device), self.samples.labels[rows].to(self._device)


class TrainedRun:
    """Network, samples and ledger of a training that has ended.

    Args:
        config: The audit.
        run: Its run folder.
        device: Where to compute.

    Raises:
        StageError: Training has not ended.
    """

    def __init__(self, config: Config, run: RunFolder, device: torch.device) -> None:
        self.config, self.run, self.device = config, run, device
        self.reader = TrajectoryReader(run)
        self.manifest = self.reader.manifest
        self.dataset = Dataset.load(run)
        self.network = Network(new_model(config, self.dataset).to(device))
        self._shapes = {name: value.shape for name, value in self.network.parameters().items()}
        self.perturbation = make_perturbation(**self.manifest.perturbation)

    @cached_property
    def train(self) -> Samples:
        """The training rows."""
        return load_samples(self.config, self.run, self.dataset, "train")

    @cached_property
    def validation(self) -> Samples:
        """The validation rows."""
        return load_samples(self.config, self.run, self.dataset, "validation")

    @cached_property
    def test(self) -> Samples:
        """The test rows."""
        return load_samples(self.config, self.run, self.dataset, "test")

    @cached_property
    def precise(self) -> PreciseStatistics:
        """S(θ) over rows drawn by a counter; over none for running statistics."""
        evaluation = self.config.evaluation
        if evaluation.statistics == "running" or not self.network.norms:
            return PreciseStatistics(self.network, ())
        count = min(evaluation.statistics_rows, len(self.train))
        rows = np.sort(counters.permutation("statistics", len(self.train), self.config.seed)[:count])
        parts = np.array_split(rows, -(-count // _STATISTICS_CHUNK))
        return PreciseStatistics(self.network, [self.train.inputs(part).to(self.device) for part in parts])

    def state(self, step: int) -> State:
        """The recorded state before a step, on the device; `step` must be among the manifest's checkpoints.

        Raises:
            InputError: Its parameters are not the network's: whatever computed with it would silently use others.
        """
        state = self.reader.state(step)
        for name, shape in self._shapes.items():
            found = state.parameters.get(name)
            if found is None or found.shape != shape:
                held = "no such parameter" if found is None else f"one of {list(found.shape)}"
                raise InputError(
                    f"model.name {self.config.model.name!r} has a parameter {name} of {list(shape)}, and the recorded "
                    f"training has {held}: the model is not the one that was trained"
                )
        return state.to(self.device)

    def chunks(self, split: SplitName, rows: NDArray[np.integer] | None = None) -> Chunks:
        """A split, or some rows of it, in chunks of `evaluation.batch_size`."""
        samples: Samples = getattr(self, split)
        return Chunks(samples, self.config.evaluation.batch_size, self.device, rows)

    def point(self, step: int) -> Point:
        """The recorded state before a step, with its statistics."""
        return self.final if step == self.manifest.steps else self._point(step)

    def _point(self, step: int) -> Point:
        state = self.state(step)
        return Point.at(self.precise, state.parameters, state.buffers)

    @cached_property
    def final(self) -> Point:
        """θ_T with its statistics, computed once."""
        return self._point(self.manifest.steps)

    @cached_property
    def query(self) -> Chunks:
        """The validation rows over which f is the mean loss: those of `config.query`."""
        samples = self.validation
        rows = query_rows(self.config.query, self.dataset.class_names, samples.sample_ids, samples.labels.numpy())
        return self.chunks("validation", rows)

    def validation_logits(self, point: Point) -> tuple[Tensor, Tensor]:
        """Logits [rows, classes] and labels [rows] of all validation rows at a point."""
        with torch.no_grad():
            pairs = [(sample_logits(self.network, point, x), labels) for x, labels in self.chunks("validation")]
        return torch.cat([logits for logits, _ in pairs]), torch.cat([labels for _, labels in pairs])

    def validation_losses(self, point: Point) -> NDArray[np.float32]:
        """The loss of every validation row at a point, [rows], in nats."""
        losses: Tensor = cross_entropy(*self.validation_logits(point), reduction="none")
        return np.asarray(losses.float().cpu().numpy())

    def query_loss(self, point: Point) -> float:
        """F at a point, in nats."""
        return evaluate(self.network, point, self.query).loss

    def validation_gradient(self, point: Point | None = None) -> Tensors:
        """∇f at a point; at θ_T by default."""
        return query_gradient(self.network, self.precise, point or self.final, self.query)

    def step_sizes(self) -> NDArray[np.float64]:
        """η̄_t / b: what a unit of a sample's gradient at each step moves the final parameters by, [steps]."""
        settings, rates = self.manifest.optimizer, self.reader.learning_rates()
        decay = settings["weight_decay"]
        if settings["name"] == "adamw":
            effective = effective_steps_of_adamw(rates, settings["beta1"], decay)
        else:
            effective = effective_steps(rates, settings["momentum"], decay, settings["nesterov"])
        return effective / self.manifest.batch_size

    def scales(self, step: int, state: State | None = None) -> Tensors | None:
        """What the base optimizer scales each entry of a gradient by beside `step_sizes`; None for SGD.

        Args:
            step: A step that has been taken.
            state: The state after it; by default that of the recorded checkpoint.
        """
        optimizer = optimizer_at(self.manifest.optimizer, 0.0, step)
        if not isinstance(optimizer, AdamW):
            return None
        after = self.state(step + 1) if state is None else state
        return preconditioner(after.second, optimizer)

    def scales_at(self, checkpoint: int) -> Tensors | None:
        """The same at a checkpoint: as the step before it took it, or, at the initial one, that before the next."""
        later = checkpoint or self.manifest.checkpoints[1]
        return self.scales(later - 1)

    @property
    def decay(self) -> float:
        """λ where the end of training stands still at G + λ θ = 0; 0 for AdamW: see `decay_scales`."""
        return 0.0 if self.manifest.optimizer["name"] == "adamw" else float(self.manifest.optimizer["weight_decay"])

    def decay_scales(self) -> Tensors | None:
        """λ (√v̂ + ε), entry by entry, where the end of training stands still at G + λ (√v̂ + ε) θ = 0: under AdamW."""
        scales = self.scales_at(self.manifest.steps)
        decay = self.manifest.optimizer["weight_decay"]
        return None if scales is None else {name: decay / value for name, value in scales.items()}

    def micro_batches(self, step: int) -> Iterator[MicroBatch]:
        """All micro-batches of a recorded step, as they were trained on, one at a time."""
        epoch = step // self.manifest.steps_per_epoch
        rows = np.split(self.reader.step_samples(step), self.manifest.micro_batches)
        inputs = StepInputs(self.config, self.train, self.device)
        for index, part in enumerate(rows):
            yield inputs.micro_batch(step, epoch, index, part)

    def model(self, state: State | None = None) -> nn.Module:
        """The module in evaluation mode, with the statistics it is evaluated with.

        It is one and the same module at every call.

        Args:
            state: What it holds; the end of training by default.
        """
        at = self.state(self.manifest.steps) if state is None else state.to(self.device)
        point = Point.at(self.precise, at.parameters, at.buffers)
        buffers = with_running(point.buffers, point.statistics)
        model = self.network.model
        with torch.no_grad():
            for name, value in (*model.named_parameters(), *model.named_buffers()):
                value.copy_(point.parameters[name] if name in point.parameters else buffers[name])
        return model.eval()
