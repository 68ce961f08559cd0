"""Exact replay of a whole training, backwards: torch.distributed where there is a process group, no Ray in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.config import Config
from auditor.distributed.partial_sweep import PartialSweep, PartialSweeps
from auditor.distributed.retraining import DriftError, Retraining
from auditor.distributed.trained_run import TrainedRun
from auditor.influence.replay import Cotangent, step_pullback
from auditor.sam import State
from auditor.sam.perturbation import global_norm
from auditor.storage import RunFolder
from auditor.trajectory import group
from auditor.trajectory.manifest import Segment
from auditor.trajectory.reader import RecordedStep

SHORTER_HORIZONS = (0.75, 0.5, 0.25, 0.1)
"""Shares of training after which a sweep notes what it has found so far."""


@dataclass(frozen=True)
class Sweep:
    """What a replay found."""

    influence: NDArray[np.float64]
    """[rows]: positive helps, negative harms; in nats of f."""
    drift: dict[int, float]
    """By checkpoint that was reached again: largest difference to the recorded parameters, relative to their norm."""
    predictability: float
    """‖λ_0‖ / ‖λ_T‖: how much the cotangent grew on its way back; large where training is chaotic."""
    first_step: int
    """The first step that was swept; later than 0 with a horizon."""
    shorter: dict[float, NDArray[np.float64]]
    """[rows] by shorter horizon: the influence through the last share of training alone, met on the way."""


def sweep(
    config: Config,
    run: RunFolder,
    device: torch.device,
    progress: Callable[[int], None] = lambda _: None,
    resumable: bool = False,
) -> Sweep | str:
    """Differentiate f, the loss of the query, through every recorded step, the last one first.

    Between two checkpoints the states are computed again from the earlier one, kept, and swept backwards; where they
    do not fit into `replay.memory_gib`, the segment is halved until they do.

    Collective: every worker of a process group calls it; alone it sweeps by itself.

    Args:
        config: The audit.
        run: Its run folder, training complete.
        device: This worker's device.
        progress: Told the number of steps swept, earlier attempts included, on the first rank.
        resumable: Go on where an interrupted sweep of this audit was, and keep in replay/partial/ what is found after
            each segment; the caller removes it. With as many workers as before the result is the same bit for bit.

    Returns:
        The influence of every training row, or in one sentence why it would be wrong; the same on every worker.

    Raises:
        StageError: Training has not ended.
    """
    trained = TrainedRun(config, run, device)
    return _Backwards(trained, progress, resumable).go()


class _Backwards:
    """The sweep's moving parts: what the finished segments gave, and what the one on its way back has picked up."""

    def __init__(self, trained: TrainedRun, progress: Callable[[int], None], resumable: bool) -> None:
        self.trained = trained
        self.progress = progress
        self.training = Retraining(trained)
        self.kept = PartialSweeps(trained.config, trained.run, trained.manifest) if resumable else None
        earlier = self.kept.read(trained.device) if self.kept is not None else None
        self.done = self._nothing() if earlier is None else earlier
        self.swept = trained.manifest.steps - max(self.done.first_step, self._first_step(trained.config.replay.horizon))
        self.cotangent = self.done.cotangent
        # Of this worker and the segment that is being swept.
        self.gradient = torch.zeros_like(self.done.gradient)
        self.passed: dict[float, torch.Tensor] = {}

    def go(self) -> Sweep | str:
        if (reason := self.training.why_not_differentiable()) is not None:
            return f"replay stopped: {reason}"
        first_step = self._first_step(self.trained.config.replay.horizon)
        for segment, steps in self.trained.reader.recorded_steps(backwards=True, end=self.done.first_step):
            if segment.end_step <= first_step:
                break
            state = self.trained.state(segment.first_step)
            end = self._sweep(state, steps, first_step)
            try:
                drift = self.training.drift(segment.end_step, end)
            except DriftError as error:
                return f"replay {error}"
            self._close(segment, drift)
        done = self.done
        grown = float(global_norm(done.cotangent.parameters.values())) / done.began
        if not (math.isfinite(grown) and bool(done.gradient.isfinite().all())):
            return "replay overflowed on its way back: this training is too chaotic to be differentiated"
        shorter = {horizon: -value.numpy() for horizon, value in done.shorter.items()}
        return Sweep(-done.gradient.numpy(), done.drift, grown, first_step, shorter)

    def _nothing(self) -> PartialSweep:
        """The end of training: no segment is swept yet."""
        manifest = self.trained.manifest
        final = self.trained.state(manifest.steps)
        cotangent = Cotangent.final(self.trained.validation_gradient(), final)
        began = float(global_norm(cotangent.parameters.values()))
        return PartialSweep(manifest.steps, began, cotangent, torch.zeros(manifest.rows, dtype=torch.float64), {}, {})

    def _close(self, segment: Segment, drift: float) -> None:
        """Add what all workers have found in a segment to what was there.

        Segment by segment, whether or not the sweep was interrupted in between: sums in one order.
        """
        found = {"all": self.gradient, **{str(horizon): value for horizon, value in self.passed.items()}}
        total = group.all_reduce({name: value.to(self.trained.device) for name, value in found.items()})
        sums = {name: self.done.gradient + value.cpu() for name, value in total.items()}
        self.done = replace(
            self.done,
            first_step=segment.first_step,
            cotangent=self.cotangent,
            gradient=sums["all"],
            shorter={**self.done.shorter, **{horizon: sums[str(horizon)] for horizon in self.passed}},
            drift={**self.done.drift, segment.end_step: drift},
        )
        self.gradient = torch.zeros_like(self.gradient)
        self.passed = {}
        if self.kept is not None and self.training.rank == 0:
            self.kept.write(self.done)

    def _sweep(self, state: State, steps: list[RecordedStep], first_step: int) -> State:
        """Sweep some neighbouring steps whose first one starts from `state`; returns the state after the last."""
        if len(steps) > self._states_that_fit(state):
            middle = len(steps) // 2
            half = state
            for step in steps[:middle]:
                half = self.training.forward(half, step)
            end = self._sweep(half, steps[middle:], first_step)
            self._sweep(state, steps[:middle], first_step)
            return end
        states = [state]
        for step in steps:
            states.append(self.training.forward(states[-1], step))
        for place in reversed(range(len(steps))):
            if steps[place].index >= first_step:
                self._backward(states[place], states[place + 1], steps[place])
        return states[-1]

    def _backward(self, before: State, after: State, step: RecordedStep) -> None:
        trained = self.trained
        mine = list(self.training.micro_batches(step))
        self.cotangent, found = step_pullback(
            trained.network,
            before,
            after,
            [batch for _, batch in mine],
            trained.manifest.micro_batches,
            trained.perturbation.at(step.index),
            self.training.optimizer(step),
            self.cotangent,
            group.all_reduce,
        )
        for (index, _), weights in zip(mine, found, strict=True):
            rows = torch.from_numpy(step.micro_batches[index].astype(np.int64))
            self.gradient.index_add_(0, rows, weights.double().cpu())
        for horizon in SHORTER_HORIZONS:
            if horizon < self.trained.config.replay.horizon and step.index == self._first_step(horizon):
                self.passed[horizon] = self.gradient.clone()
        self.swept += 1
        if self.training.rank == 0:
            self.progress(self.swept)

    def _first_step(self, horizon: float) -> int:
        return round((1.0 - horizon) * self.trained.manifest.steps)

    def _states_that_fit(self, state: State) -> int:
        size = sum(value.numel() * value.element_size() for _, tensors in state.parts() for value in tensors.values())
        return max(1, int(self.trained.config.replay.memory_gib * 2**30) // size)
