"""The recorded training, step for step, run again: as it was, or with some samples masked."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.distributed.division import share_of
from auditor.distributed.loop import StepInputs
from auditor.distributed.trained_run import TrainedRun
from auditor.precision import autocast_of
from auditor.sam import MicroBatch, Network, Optimizer, State, optimizer_at, sam_step
from auditor.sam.draws import draws_alike
from auditor.sam.perturbation import global_norm
from auditor.trajectory import group
from auditor.trajectory.reader import RecordedStep


class DriftError(ArithmeticError):
    """Training run again left the recorded training; the same on every worker, whose states are equal."""


class Retraining:
    """Runs recorded steps again, this worker's share of each step's micro-batches.

    Args:
        trained: The finished training.
        weights: Of every training row, [rows]; 1 by default. A row of weight 0 keeps its place in order and batch
            statistics, its loss is gone: it is masked.
    """

    def __init__(self, trained: TrainedRun, weights: NDArray[np.float64] | None = None) -> None:
        self.trained = trained
        self.rank, self.world_size = group.rank(), group.world_size()
        # As it was trained; the derivatives of what it does are taken in full precision.
        self._network = Network(trained.network.model, autocast_of(trained.config))
        self._inputs = StepInputs(trained.config, trained.train, trained.device)
        if weights is not None:
            self._inputs.weights = torch.from_numpy(weights).to(self._inputs.weights.dtype)

    def why_not_differentiable(self) -> str | None:
        """What keeps derivatives of the recorded steps in full precision from being theirs, in words; collective.

        A step that is taken again as it was shows nothing of it: its draws are those of training.
        """
        if self._network.autocast is None:
            return None
        return group.from_first_rank(self._unlike_draws)

    def _unlike_draws(self) -> str | None:
        trained = self.trained
        state = trained.state(0)
        batch = next(trained.micro_batches(0))
        if draws_alike(trained.network, self._network, state.parameters, state.buffers, batch.inputs):
            return None
        precision = trained.config.train.precision
        return (
            f"on this device the network draws other random numbers in {precision} (train.precision) than in 32 bits, "
            "where its steps would be differentiated"
        )

    def micro_batches(self, step: RecordedStep) -> Iterator[tuple[int, MicroBatch]]:
        """This worker's micro-batches of a step with their indices, as they were trained on."""
        for index in share_of(len(step.micro_batches), self.rank, self.world_size):
            yield index, self._inputs.micro_batch(step.index, step.epoch, index, step.micro_batches[index])

    def optimizer(self, step: RecordedStep) -> Optimizer:
        """The base optimizer's numbers at a step."""
        return optimizer_at(self.trained.manifest.optimizer, step.learning_rate, step.index)

    def forward(self, state: State, step: RecordedStep) -> State:
        """The state after a step; collective."""
        trained = self.trained
        total = trained.manifest.micro_batches
        batches = (batch for _, batch in self.micro_batches(step))
        perturbation = trained.perturbation.at(step.index)
        after, _, _ = sam_step(
            self._network, state, batches, total, perturbation, self.optimizer(step), group.all_reduce
        )
        return after

    def run(self, first_step: int = 0, progress: Callable[[int], None] = lambda _: None) -> State:
        """The final state of training taken up again at a recorded checkpoint, its beginning by default; collective.

        Args:
            first_step: Of the manifest's checkpoints.
            progress: Told the number of steps taken.
        """
        state = self.trained.state(first_step)
        for segment, steps in self.trained.reader.recorded_steps():
            if segment.first_step < first_step:
                continue
            for step in steps:
                state = self.forward(state, step)
                progress(step.index + 1 - first_step)
        return state

    def drift(self, step: int, found: State) -> float:
        """‖θ − θ_recorded‖ / ‖θ_recorded‖ at a checkpoint: how far training run again is from the recorded one.

        Raises:
            DriftError: More than `replay.tolerance`, or no number.
        """
        recorded = self.trained.state(step).parameters
        apart = global_norm(value - recorded[name] for name, value in found.parameters.items())
        drift, tolerance = float(apart / global_norm(recorded.values())), self.trained.config.replay.tolerance
        if not drift <= tolerance:
            raise DriftError(
                f"stopped at step {step}: training run again differs from the recorded parameters by {drift:.1e}, "
                f"more than replay.tolerance {tolerance:.1e}"
            )
        return drift
