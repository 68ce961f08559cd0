"""GIF at every recorded step: torch.distributed where there is a process group, no Ray in it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.config import Config
from auditor.distributed.retraining import DriftError, Retraining
from auditor.distributed.scoring_inputs import scaled_by
from auditor.distributed.trained_run import TrainedRun
from auditor.influence import step_derivatives
from auditor.storage import RunFolder
from auditor.trajectory import group


def gif_at_every_step(
    config: Config, run: RunFolder, device: torch.device, progress: Callable[[int], None] = lambda _: None
) -> NDArray[np.float64] | str:
    """Sum what each recorded step's gradient of a sample did to f, the samples as they were trained on.

    The states between two checkpoints are computed again from the earlier one.

    Collective: every worker of a process group calls it; alone it does all by itself.

    Args:
        config: The audit.
        run: Its run folder, training complete.
        device: This worker's device.
        progress: Told the number of steps done, on the first rank.

    Returns:
        The influence of every training row [rows], or in one sentence why it would be wrong; the same on every worker.

    Raises:
        StageError: Training has not ended.
    """
    trained = TrainedRun(config, run, device)
    training = Retraining(trained)
    if (reason := training.why_not_differentiable()) is not None:
        return f"gif_step stopped: {reason}"
    tangent = trained.validation_gradient()
    sizes = trained.step_sizes()
    influence = torch.zeros(trained.manifest.rows, dtype=torch.float64)
    for segment, steps in trained.reader.recorded_steps():
        state = trained.state(segment.first_step)
        for step in steps:
            perturbation = trained.perturbation.at(step.index)
            after = training.forward(state, step)
            scales = trained.scales(step.index, after)
            along = tangent if scales is None else scaled_by(scales, tangent)
            for index, batch in training.micro_batches(step):
                found = step_derivatives(trained.network, state, batch, perturbation, along)
                rows = torch.from_numpy(step.micro_batches[index].astype(np.int64))
                influence.index_add_(0, rows, sizes[step.index] * found.double().cpu())
            state = after
            if training.rank == 0:
                progress(step.index + 1)
        try:
            training.drift(segment.end_step, state)
        except DriftError as error:
            return f"gif_step {error}"
    total = group.all_reduce({"influence": influence.to(device)})["influence"]
    return np.asarray(total.cpu().numpy())
