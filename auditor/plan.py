"""What an audit will do and cost, from a look at the source and a few measured steps, before anything starts."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from auditor import counters
from auditor.config import Config
from auditor.data import SPLITS, peek
from auditor.data.peek import Peek
from auditor.distributed.computing import set_up
from auditor.distributed.loop import configured_model
from auditor.errors import InputError
from auditor.influence import Derivatives, Directions, PreciseStatistics
from auditor.influence.head import find_head
from auditor.initial_weights import check_weights
from auditor.model_check import check_model
from auditor.precision import autocast_of, dtype_of
from auditor.sam import MicroBatch, Network, State, make_perturbation, prepared
from auditor.sam.step import micro_batch_pass, sam_micro_batch
from auditor.trajectory import spread_checkpoints

_LEDGER_BYTES = 8
_SIGNAL_BYTES = 28
_SCORE_BYTES = 80
_FEATURE_BYTES = 12
"""Upper bounds a row on disk: see docs/formats.md."""
_GROUP_BYTES = 1024
"""Upper bound of what a Parquet file holds beside the rows of one group."""
_FILE_BYTES = 8192
"""Upper bound of what a Parquet file holds beside its rows."""
_TENSOR_BYTES = 512
"""Upper bound of what a checkpoint holds beside a tensor's numbers: its name, shape and place."""


_REPLAY_STEPS = 4.5
"""Training steps that one step of replay takes, recomputation included (docs/benchmarks/replay_cost.md: 3.2 to 4.2)."""
_PRODUCT_STEPS = 3.2
"""SAM micro-batches that one product with SAM's Jacobian takes (same source)."""
_GIF_STEPS = 2.5
"""Training steps that one step of gif_step takes, measured at 2 to 3."""
_HIF_SYSTEMS = ({"hif_full", "hif"}, {"hif_fast"}, {"influence"})
"""Methods that share a solve."""


@dataclass(frozen=True)
class Plan:
    """Expectations; bytes and seconds are estimates."""

    rows: dict[str, int]
    """By split, before unusable rows are set aside."""
    classes: int
    input_shape: tuple[int, ...]
    parameters: int
    """Trainable numbers of the model."""
    steps: int
    steps_per_epoch: int
    micro_batches: int
    """J, micro-batches a step."""
    checkpoints: int
    train_workers: int
    score_actors: int
    seconds: dict[str, float]
    """Computing time by stage, start-up of processes apart; empty when the workers' device is not on this machine."""
    memory: dict[str, int]
    """Bytes of one training worker: decoded images, parameters and what goes with them, activations."""
    disk: dict[str, int]
    """Bytes in the run folder."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def plan(config: Config) -> Plan:
    """Look at the source, build the model, time a few steps.

    Args:
        config: The audit.

    Returns:
        The plan.

    Raises:
        InputError: The source or the model is unusable.
    """
    seen = peek(config)
    train, resources = config.train, config.resources
    rows = seen.rows["train"]
    if rows < train.batch_size:
        raise InputError(f"train.batch_size is {train.batch_size}, but there are only {rows} training rows")
    steps_per_epoch = rows // train.batch_size
    steps = train.epochs * steps_per_epoch
    dtype = dtype_of(config)
    check_model(config, seen.input_shape, seen.classes)
    check_weights(config, seen.input_shape, seen.class_names)
    model = configured_model(config, seen.input_shape, seen.classes)
    network = Network(model, autocast_of(config))
    width = torch.finfo(dtype).bits // 8
    tensors = 2 * len(network.parameters()) + len(network.buffers())
    parameters = sum(value.numel() for value in network.parameters().values())
    buffers = sum(value.numel() for value in network.buffers().values())
    # Momentum, AdamW's second moment and what a variant of SAM keeps.
    kept = parameters + sum(
        value.numel()
        for part in ("second", "memory")
        for value in getattr(_initial_state(config, network), part).values()
    )
    checkpoints = len(spread_checkpoints(steps, train.checkpoints))
    initial = (parameters + buffers) * width + _TENSOR_BYTES * tensors
    activations, seconds = _measure(config, network, seen.input_shape, seen.classes, dtype)
    ledger_files = (checkpoints - 1) * resources.train_workers
    score_files = 4 * resources.score_actors + rows // 8192 + 1
    pixels = rows * math.prod(seen.input_shape) * (1 if seen.is_image else 4)
    cached = pixels if not seen.is_image or pixels <= config.data.cache_gib * 2**30 else 0
    return Plan(
        rows=dict(seen.rows.items()),
        classes=seen.classes,
        input_shape=seen.input_shape,
        parameters=parameters,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        micro_batches=train.batch_size // train.micro_batch_size,
        checkpoints=checkpoints,
        train_workers=resources.train_workers,
        score_actors=resources.score_actors,
        seconds={}
        if resources.gpus_per_worker and not torch.cuda.is_available()
        else _stage_seconds(config, rows, steps, checkpoints, seconds),
        memory={
            "images": cached,
            # θ, what is kept beside it, the sum of gradients, both passes' gradients, ε and θ + ε
            "parameters": (6 * parameters + kept) * width // (resources.train_workers if resources.sharded else 1),
            "activations": activations,
        },
        disk={
            "dataset": round(seen.bytes_a_row * sum(seen.rows[split] for split in SPLITS)),
            "ledger": _LEDGER_BYTES * steps * train.batch_size + _FILE_BYTES * ledger_files,
            "signals": _SIGNAL_BYTES * steps * train.batch_size + _FILE_BYTES * ledger_files,
            "checkpoints": checkpoints * ((parameters + kept + buffers) * width + _TENSOR_BYTES * tensors),
            **({} if config.model.weights is None else {"initial": initial}),
            "scores": _SCORE_BYTES * rows + _FILE_BYTES * score_files,
            **_features_disk(config, model, seen),
        },
    )


def _initial_state(config: Config, network: Network) -> State:
    perturbation = make_perturbation(**config.train.perturbation.model_dump())
    return prepared(State.initial(network), perturbation, config.train.optimizer.model_dump())


def _features_disk(config: Config, model: nn.Module, seen: Peek) -> dict[str, int]:
    if not (config.report.neighbours or config.report.harmed):
        return {}
    dtype = next(model.parameters()).dtype
    head = find_head(model.eval(), torch.zeros(2, *seen.input_shape, dtype=dtype))
    if head is None:
        return {"features": _FILE_BYTES}
    classes, wide = dict(model.named_parameters())[f"{head}.weight"].shape
    rows = [seen.rows["train"], seen.rows["validation"]]
    groups = sum(-(-count // config.evaluation.batch_size) for count in rows) + 2 * config.resources.train_workers
    bytes_a_row = 4 * wide + _FEATURE_BYTES
    files = (2 * config.resources.train_workers + 2) * _FILE_BYTES
    return {"features": bytes_a_row * sum(rows) + _GROUP_BYTES * groups + 8 * classes * (wide + 1) + files}


def _stage_seconds(
    config: Config, rows: int, steps: int, checkpoints: int, seconds: dict[str, float]
) -> dict[str, float]:
    """Seconds of computing by stage, from those that `_measure` returns."""
    train, methods, resources = config.train, set(config.score.methods), config.resources
    micro_batches = train.batch_size // train.micro_batch_size
    at_a_time = math.ceil(micro_batches / resources.train_workers)
    step, full_step = at_a_time * seconds["micro_batch"], at_a_time * seconds["full_micro_batch"]
    passes = checkpoints * sum(method in methods for method in ("gif", "tracin"))
    row = passes * seconds["score_row"] if passes else seconds["forward_row"]
    found = {"train": steps * step, "score": rows * row / resources.score_actors}
    if "replay" in methods:
        found["replay"] = config.replay.horizon * steps * (step + (_REPLAY_STEPS - 1) * full_step)
    if systems := sum(bool(methods & wanted) for wanted in _HIF_SYSTEMS):
        epoch = seconds["full_micro_batch"] * math.ceil(rows / train.micro_batch_size / resources.train_workers)
        found["hif"] = systems * config.hif.iterations * _PRODUCT_STEPS * epoch
    if "gif_step" in methods:
        found["gif_step"] = steps * (step + (_GIF_STEPS - 1) * full_step)
    at_once = resources.retrainers or max(1, (os.cpu_count() or 1) // resources.cpus_per_worker)
    retraining = steps * micro_batches * seconds["micro_batch"]
    if "out_of_sample" in methods:
        found["out_of_sample"] = math.ceil(config.score.folds / at_once) * retraining
    if config.verify.during_run:
        wanted = config.verify.leave_one_out + config.verify.subsets * len(config.verify.drop_rates) + 2
        found["verify"] = math.ceil(wanted / at_once) * retraining
    return found


def _measure(
    config: Config, network: Network, shape: tuple[int, ...], classes: int, dtype: torch.dtype
) -> tuple[int, dict[str, float]]:
    """Bytes of activations of one pass, and seconds of what the stages do.

    The latter are of one micro-batch, as it is trained on and in full precision, one scored row and one evaluated row.
    """
    device = torch.device("cuda" if config.resources.gpus_per_worker and torch.cuda.is_available() else "cpu")
    network.model.to(device)
    before = torch.get_num_threads()
    set_up(config.resources.cpus_per_worker)
    try:
        parameters, buffers = network.parameters(), network.buffers()
        perturbation = make_perturbation(**config.train.perturbation.model_dump())
        batch = _random_batch(config.train.micro_batch_size, shape, classes, dtype, device)
        activations = _saved_bytes(lambda: micro_batch_pass(network, parameters, buffers, batch))
        state = _initial_state(config, network)
        turns = [perturbation.at(step) for step in range(perturbation.period)]

        def every_turn(network: Network) -> None:
            for turn in turns:
                sam_micro_batch(network, state, batch, turn)

        micro_batch = _seconds(lambda: every_turn(network), device) / len(turns)
        full = micro_batch
        if network.autocast is not None:
            plain_network = Network(network.model)
            full = _seconds(lambda: every_turn(plain_network), device) / len(turns)
        rows = _random_batch(config.score.batch_size, shape, classes, dtype, device)
        directions = Directions.along(PreciseStatistics(network, ()), parameters, buffers, [parameters])
        derivatives = Derivatives(network, [directions])
        score = _seconds(lambda: derivatives(rows.inputs, rows.labels), device)

        def forward() -> None:
            with torch.no_grad():
                cross_entropy(network.evaluate(parameters, buffers, network.quick(rows.inputs)), rows.labels)

        size = config.score.batch_size
        plain = _seconds(forward, device)
    finally:
        torch.set_num_threads(before)
    return activations, {
        "micro_batch": micro_batch,
        "full_micro_batch": full,
        "score_row": score / size,
        "forward_row": plain / size,
    }


def _random_batch(
    size: int, shape: tuple[int, ...], classes: int, dtype: torch.dtype, device: torch.device
) -> MicroBatch:
    values = counters.uniform("plan", np.arange(size * math.prod(shape))) * 2 - 1
    inputs = torch.as_tensor(values, dtype=dtype).view(size, *shape)
    labels = torch.arange(size) % classes
    return MicroBatch(inputs.to(device), labels.to(device), torch.ones(size, dtype=dtype, device=device), seed=0)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median of a few runs after one that warms up."""
    times = []
    for _ in range(4):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))


def _saved_bytes(work: Callable[[], object]) -> int:
    """Bytes that autograd keeps for the backward pass, each storage once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(storages.values())
