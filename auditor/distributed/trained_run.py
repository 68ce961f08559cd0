"""A finished training, opened for computation on one device: what scoring, replay and the logged model share."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from auditor import counters
from auditor.config import Config
from auditor.data import Dataset, Samples, SplitName
from auditor.distributed.loop import StepInputs, load_samples, new_model
from auditor.influence import Point, PreciseStatistics, query_gradient, with_running
from auditor.sam import MicroBatch, Network, Tensors, make_perturbation
from auditor.storage import RunFolder
from auditor.trajectory import TrajectoryReader

_STATISTICS_CHUNK = 256
"""Rows that share one batch of BatchNorm statistics: part of the definition of S(θ), not a matter of memory."""


class Chunks:
    """A split as (inputs, labels) on a device, a chunk at a time, as often as it is iterated.

    Args:
        samples: The split.
        size: Rows a chunk.
        device: Where the tensors go.
    """

    def __init__(self, samples: Samples, size: int, device: torch.device) -> None:
        self._samples, self._size, self._device = samples, size, device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(self._samples), self._size):
            rows = np.arange(first, min(first + self._size, len(self._samples)))
            labels = self._samples.labels[first : first + self._size]
            yield self._samples.inputs(rows).to(self._device), labels.to(self._device)


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
        self.perturbation = make_perturbation(**self.manifest.perturbation)

    @cached_property
    def train(self) -> Samples:
        """The training rows."""
        return load_samples(self.config, self.run, self.dataset, "train")

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

    def chunks(self, split: SplitName) -> Chunks:
        """A split in chunks of `evaluation.batch_size`."""
        samples = load_samples(self.config, self.run, self.dataset, split)
        return Chunks(samples, self.config.evaluation.batch_size, self.device)

    def point(self, step: int) -> Point:
        """The recorded state before a step, with its statistics."""
        state = self.reader.state(step).to(self.device)
        return Point.at(self.precise, state.parameters, state.buffers)

    def validation_gradient(self) -> Tensors:
        """∇f(θ_T) of the mean validation loss."""
        return query_gradient(self.network, self.precise, self.point(self.manifest.steps), self.chunks("validation"))

    def micro_batches(self, step: int) -> Iterator[MicroBatch]:
        """All micro-batches of a recorded step, as they were trained on, one at a time."""
        epoch = step // self.manifest.steps_per_epoch
        rows = np.split(self.reader.step_samples(step), self.manifest.micro_batches)
        inputs = StepInputs(self.config, self.train, self.device)
        for index, part in enumerate(rows):
            yield inputs.micro_batch(step, epoch, index, part)

    def model(self) -> nn.Module:
        """The module at the end of training, in evaluation mode, with the statistics it is evaluated with."""
        point = self.point(self.manifest.steps)
        buffers = with_running(point.buffers, point.statistics)
        model = self.network.model
        with torch.no_grad():
            for name, value in (*model.named_parameters(), *model.named_buffers()):
                value.copy_(point.parameters[name] if name in point.parameters else buffers[name])
        return model.eval()
