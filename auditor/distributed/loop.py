"""The training loop that every worker runs: torch.distributed where there is a process group, no Ray in it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auditor import counters
from auditor.config import Config
from auditor.data import Dataset, Samples, SplitName
from auditor.distributed.division import divide, whole
from auditor.errors import InputError
from auditor.models import build_model
from auditor.precision import autocast_of, dtype_of
from auditor.sam import (
    MicroBatch,
    Network,
    Optimizer,
    Perturbation,
    State,
    learning_rate,
    make_perturbation,
    optimizer_at,
    prepared,
    sam_step,
)
from auditor.storage import RunFolder
from auditor.trajectory import Manifest, TrajectoryRecorder, spread_checkpoints
from auditor.trajectory.initial import load_initial
from auditor.trajectory.order import steps_from

_LOOK_AT_LOSS_EVERY = 32
"""Steps between looks at the loss on an accelerator, where each look waits for the device."""


def training_manifest(config: Config, dataset: Dataset) -> Manifest:
    """The training that a configuration and a dataset describe.

    Raises:
        InputError: One epoch would leave rows out.
    """
    train, rows = config.train, dataset.splits["train"].rows
    steps_per_epoch, left_over = divmod(rows, train.batch_size)
    if train.epochs == 1 and left_over:
        raise InputError(
            f"train.epochs is 1 and train.batch_size {train.batch_size} does not divide the {rows} training rows: "
            f"{left_over} of them would never be used; two epochs use all"
        )
    steps = train.epochs * steps_per_epoch
    return Manifest(
        rows=rows,
        steps=steps,
        epochs=train.epochs,
        steps_per_epoch=steps_per_epoch,
        batch_size=train.batch_size,
        micro_batch_size=train.micro_batch_size,
        optimizer=train.optimizer.model_dump(),
        perturbation=train.perturbation.model_dump(),
        seed=config.training_seed,
        checkpoint_steps=spread_checkpoints(steps, train.checkpoints),
    )


def new_model(config: Config, dataset: Dataset) -> nn.Module:
    """The configured network with its seeded initial weights, on the CPU."""
    return configured_model(config, dataset.input_shape, len(dataset.class_names))


def configured_model(config: Config, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """The same before there is a dataset.

    Raises:
        ValueError: See `build_model`.
    """
    seed = counters.seed_of("weights", config.training_seed)
    model = config.model
    return build_model(model.name, model.args, input_shape, classes, seed, dtype_of(config), model.frozen)


def initial_state(config: Config, run: RunFolder, network: Network, perturbation: Perturbation) -> State:
    """The state before training: seeded weights, or those that `model.weights` left in the run folder.

    Raises:
        InputError: They are not there.
    """
    start = State.initial(network) if config.model.weights is None else load_initial(run)
    return prepared(start, perturbation, config.train.optimizer.model_dump())


def load_samples(config: Config, run: RunFolder, dataset: Dataset, split: SplitName) -> Samples:
    """One split of the snapshot as the audit trains on it and evaluates with it."""
    return Samples.load(
        run,
        split,
        dataset,
        config.data.cache_gib,
        dtype_of(config),
        augmentation=config.data.augmentation,
        seed=config.training_seed,
    )


class StepInputs:
    """Makes micro-batches from row indices: order, augmentation and dropout are functions of counters.

    Args:
        config: The audit.
        samples: Training samples.
        device: Where the tensors go.
    """

    def __init__(self, config: Config, samples: Samples, device: torch.device) -> None:
        self.seed = config.training_seed
        self.samples = samples
        self.device = device
        self.weights = torch.ones(len(samples), dtype=dtype_of(config))

    def micro_batch(self, step: int, epoch: int, index: int, rows: NDArray[np.integer]) -> MicroBatch:
        """Micro-batch `index` of a step, as it was and will be trained on."""
        indices = torch.from_numpy(rows.astype(np.int64))
        return MicroBatch(
            inputs=self.samples.inputs(rows, epoch).to(self.device, non_blocking=True),
            labels=self.samples.labels[indices].to(self.device),
            weights=self.weights[indices].to(self.device),
            seed=counters.seed_of("dropout", self.seed, step, index),
        )


def planned_optimizer(manifest: Manifest, step: int) -> Optimizer:
    """The base optimizer's numbers at one step."""
    settings = manifest.optimizer
    warmup = round(settings["warmup_epochs"] * manifest.steps_per_epoch)
    rate = learning_rate(step, manifest.steps, warmup, settings["learning_rate"], settings["schedule"])
    return optimizer_at(settings, rate, step)


def run_training(
    config: Config,
    run: RunFolder,
    device: torch.device,
    progress: Callable[[int], None] = lambda _: None,
) -> str | None:
    """Train from the last complete checkpoint, or the beginning, to the end, recording everything.

    Collective: every worker of a process group calls it; alone it trains by itself.

    Args:
        config: The audit.
        run: Its run folder, dataset prepared.
        device: This worker's device.
        progress: Told the number of steps done, on the first rank.

    Returns:
        None at the end of training, or in one sentence why it could not go on; the same on every worker.
    """
    dataset = Dataset.load(run)
    manifest = training_manifest(config, dataset)
    samples = load_samples(config, run, dataset, "train")
    inputs = StepInputs(config, samples, device)
    division = divide(
        new_model(config, dataset),
        manifest.micro_batches,
        manifest.micro_batch_size,
        device,
        config.resources.sharded,
        autocast_of(config),
    )
    network = division.network
    perturbation = make_perturbation(**manifest.perturbation)

    recorder = TrajectoryRecorder(run, manifest)
    restored = recorder.restore()
    state = division.placed(restored or initial_state(config, run, network, perturbation))
    if restored is None:
        recorder.checkpoint(0, state)
    planned = frozenset(manifest.checkpoint_steps)
    losses: list[Tensor] = []
    for step, epoch, micro_batches in steps_from(manifest, recorder.next_step):
        optimizer = planned_optimizer(manifest, step)
        batches = (
            inputs.micro_batch(step, epoch, index, division.rows(micro_batches[index])) for index in division.computed
        )
        state, loss, results = sam_step(
            network, state, batches, manifest.micro_batches, perturbation.at(step), optimizer, division.all_reduce
        )
        for index, result in zip(division.recorded, division.to_record(results), strict=True):
            recorder.record(
                step=step,
                epoch=epoch,
                micro_batch=index,
                samples=micro_batches[index],
                learning_rate=optimizer.learning_rate,
                rho=float(manifest.perturbation["rho"]),
                grad_norm=result.grad_norm,
                loss=result.loss,
                signals=(
                    result.losses,
                    result.margins,
                    result.losses_perturbed,
                    result.margins_perturbed,
                    result.predicted,
                ),
            )
        losses.append(loss)
        if device.type == "cpu" or len(losses) == _LOOK_AT_LOSS_EVERY or step + 1 in planned:
            failure = _first_not_finite(losses, step)
            if failure is not None:
                return failure
            losses.clear()
            if recorder.rank == 0:
                progress(step + 1)
        if step + 1 in planned:
            if not all(bool(whole(value.isfinite().all())) for value in state.parameters.values()):
                return f"training stopped at step {step}: the parameters are not finite after it"
            recorder.checkpoint(step + 1, state)
    return None


def _first_not_finite(losses: list[Tensor], last_step: int) -> str | None:
    values = torch.stack(losses).tolist()
    for offset, value in enumerate(values):
        if not math.isfinite(value):
            step = last_step - len(values) + 1 + offset
            return f"training stopped at step {step}: the loss is {value}; a smaller learning rate may help"
    return None
