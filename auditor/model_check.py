"""A model is tried in every way the audit will use it before any worker starts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from auditor.config import Config
from auditor.errors import InputError
from auditor.influence import (
    Direction,
    Point,
    PreciseStatistics,
    directional_derivatives,
    query_gradient,
    random_projection,
    step_derivatives,
    trak_tangent,
)
from auditor.models import build_model
from auditor.precision import autocast_of, dtype_of
from auditor.sam import MicroBatch, Network, State, make_perturbation, prepared
from auditor.sam.draws import draws_alike
from auditor.sam.sharded import why_not_sharded, why_rows_cannot_part
from auditor.sam.step import sam_micro_batch

_ROWS = 4


def check_model(config: Config, input_shape: tuple[int, ...], classes: int) -> None:
    """Build the model; train, evaluate and differentiate it on a few random rows.

    Raises:
        InputError: It cannot be built or used, does not return logits [m, classes], or keeps state that workers
            could not share.
    """
    name = config.model.name
    dtype = dtype_of(config)
    try:
        model = build_model(name, config.model.args, input_shape, classes, config.seed, dtype, config.model.frozen)
    except ValueError as error:
        raise InputError(str(error)) from error
    except Exception as error:  # a model of one's own raises what it likes
        raise InputError(f"model.name {name!r} cannot be built: {_first_line(error)}") from error
    for layer, module in model.named_modules():
        if isinstance(module, nn.SyncBatchNorm):
            raise InputError(
                f"model.name {name!r}: layer {layer} is SyncBatchNorm; use BatchNorm, whose statistics are those of a "
                "micro-batch on any number of workers"
            )
    if config.resources.sharded and (reason := why_not_sharded(model)) is not None:
        raise InputError(f"resources.sharded does not go with model.name {name!r}: {reason}")
    network = Network(model)
    size = min(config.train.micro_batch_size, _ROWS)
    generator = torch.Generator().manual_seed(config.seed)
    inputs = torch.randn(size, *input_shape, generator=generator, dtype=dtype)
    batch = MicroBatch(inputs, torch.arange(size) % classes, torch.ones(size, dtype=dtype), seed=0)
    try:
        logits = network.evaluate(network.parameters(), network.buffers(), inputs)
    except Exception as error:
        raise InputError(f"model.name {name!r} fails on inputs {list(input_shape)}: {_first_line(error)}") from error
    if not isinstance(logits, Tensor) or logits.shape != (size, classes):
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"model.name {name!r} returns {found} for {size} samples, expected logits [{size}, {classes}]")
    try:
        if config.resources.sharded and (reason := why_rows_cannot_part(network, inputs)) is not None:
            raise InputError(f"resources.sharded does not go with model.name {name!r}: {reason}")
        _train(config, network, batch)
        _train_in_fewer_bits(config, network, batch)
        _differentiate(config, network, batch)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"model.name {name!r} cannot be audited: {_first_line(error)}") from error


def _train(config: Config, network: Network, batch: MicroBatch) -> None:
    buffers = network.buffers()
    kept = {name: value.clone() for name, value in buffers.items()}
    perturbation = make_perturbation(**config.train.perturbation.model_dump())
    state = prepared(State(network.parameters(), {}, buffers), perturbation, config.train.optimizer.model_dump())
    sam_micro_batch(network, state, batch, perturbation)
    for name, value in buffers.items():
        if not torch.equal(value, kept[name]):
            raise InputError(
                f"model.name {config.model.name!r}: buffer {name} changes in training; only BatchNorm's may, others "
                "would differ from worker to worker"
            )


def _train_in_fewer_bits(config: Config, network: Network, batch: MicroBatch) -> None:
    autocast = autocast_of(config)
    if autocast is None:
        return
    mixed = Network(network.model, autocast)
    try:
        _train(config, mixed, batch)
        alike = draws_alike(network, mixed, network.parameters(), network.buffers(), batch.inputs)
    except RuntimeError as error:  # an operation of one's own may insist on a type
        raise InputError(
            f"train.precision {config.train.precision} does not go with model.name {config.model.name!r}: "
            f"{_first_line(error)}"
        ) from error
    if not alike and {"replay", "gif_step"} & set(config.score.methods):
        raise InputError(
            f"train.precision {config.train.precision} does not go with model.name {config.model.name!r}: training "
            "draws other random numbers in it than in 32 bits, where replay and gif_step differentiate"
        )


def _differentiate(config: Config, network: Network, batch: MicroBatch) -> None:
    parameters, buffers = network.parameters(), network.buffers()
    precise = PreciseStatistics(network, (batch.inputs,) if config.evaluation.statistics == "precise" else ())
    query_gradient(network, precise, Point.at(precise, parameters, buffers), [(batch.inputs, batch.labels)])
    direction = Direction.along(precise, parameters, buffers, parameters)
    directional_derivatives(network, direction, batch.inputs, batch.labels)
    if "gif_step" in config.score.methods:
        perturbation = make_perturbation(**config.train.perturbation.model_dump())
        state = State(parameters, {}, buffers, memory=perturbation.initial_memory(parameters))
        step_derivatives(network, state, batch, perturbation, parameters)
    if "trak" in config.score.methods:
        projection = random_projection(parameters, 1, seed=0)
        trak_tangent(network, precise, direction.point, [(batch.inputs, batch.labels)], parameters, projection)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
