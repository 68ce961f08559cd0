"""Initial weights from somewhere else: found, fitted to the model and kept in the run folder before training begins."""

from __future__ import annotations

import torch

from auditor.config import Config
from auditor.data import Dataset
from auditor.distributed.loop import configured_model, new_model
from auditor.errors import InputError
from auditor.influence.head import find_head
from auditor.models.weights import Fitted, fit, put
from auditor.report.masking import mask
from auditor.sam import Network, State
from auditor.sections.running import AUTO
from auditor.sections.training import PREDECESSOR
from auditor.storage import RunFolder
from auditor.trajectory import Manifest
from auditor.trajectory.given import GivenWeights, read_weights
from auditor.trajectory.initial import Initial, fingerprint, read_initial, write_initial


def check_weights(config: Config, input_shape: tuple[int, ...], class_names: tuple[str, ...]) -> None:
    """Refuse named weights that the model cannot start from; those of a predecessor are not known yet.

    Args:
        config: The audit.
        input_shape: Shape of one sample, without the batch.
        class_names: In label order.

    Raises:
        InputError: They cannot be read, or do not fit.
    """
    named = config.model.weights
    if named not in (None, PREDECESSOR):
        _fitted(config, _read(config, RunFolder(config.run), named), input_shape, class_names)


def settle_weights(config: Config, run: RunFolder) -> Initial | None:
    """Put the initial weights that `model.weights` names into the run folder, unless they are there.

    Args:
        config: The audit.
        run: Its run folder, dataset prepared.

    Returns:
        Where they come from; None for seeded weights that nobody asked to replace, or where training has begun.

    Raises:
        InputError: They cannot be read or do not fit, or it cannot be known which audit was the one before.
        StageError: MLflow, where the audit before this one is looked for, does not answer.
    """
    named = config.model.weights
    if named is None or Manifest.read(run) is not None:
        return None
    known = read_initial(run)
    if known is not None:
        return known
    dataset = Dataset.load(run)
    model = new_model(config, dataset)
    source = _predecessor(config, run) if named == PREDECESSOR else named
    given, fitted, reason = None, Fitted({}, ()), None
    if source is not None:
        given = _read(config, run, source)
        fitted, reason = _fitted(config, given, dataset.input_shape, dataset.class_names)
        put(model, fitted.taken)
    state = State.initial(Network(model))
    initial = Initial(
        weights=mask(named),
        source=None if given is None else mask(given.address),
        seeded=fitted.seeded,
        reason=reason,
        fingerprint=fingerprint({**state.buffers, **state.parameters}),
    )
    write_initial(run, state, initial)
    return initial


def _predecessor(config: Config, run: RunFolder) -> str | None:
    """The run folder of the audit before this one; None for the first one."""
    from auditor.review.predecessor import certain_predecessor, is_logged

    key, given = "model.weights is predecessor", config.review.predecessor
    if given is None:
        raise InputError(f"{key}, but review.predecessor is null: auto looks for one, a run folder names it")
    if given == AUTO and not is_logged(config, run):
        raise InputError(
            f"{key}, which is looked for in MLflow, where this audit does not stand yet: `auditor run` logs it there "
            "first, or review.predecessor names a run folder"
        )
    before = certain_predecessor(config, run)
    return None if before is None else before.uri


def _read(config: Config, run: RunFolder, source: str) -> GivenWeights:
    try:
        if RunFolder(source).uri == run.uri:
            raise InputError("is this audit's own run folder")
        return read_weights(source)
    except InputError as error:
        raise InputError(f"{_key(config, source)}: {mask(str(error))}") from error


def _fitted(
    config: Config, given: GivenWeights, input_shape: tuple[int, ...], class_names: tuple[str, ...]
) -> tuple[Fitted, str | None]:
    """What the model takes, and why its last layer does not take all, if so."""
    model = configured_model(config, input_shape, len(class_names))
    example = torch.zeros(2, *input_shape, dtype=next(model.parameters()).dtype)
    head = find_head(model.eval(), example)
    others = given.class_names is not None and given.class_names != class_names
    if others and head is None:
        raise InputError(
            f"{_key(config, given.address)}: was trained for other classes, and the model has no linear layer at its "
            "end that could start anew"
        )
    try:
        fitted = fit(model, given.tensors, head, new_head=others)
    except ValueError as error:
        raise InputError(f"{_key(config, given.address)}: {error}") from error
    if not fitted.seeded:
        return fitted, None
    return fitted, "the classes are others" if others else "they are missing or have another shape there"


def _key(config: Config, source: str) -> str:
    """The key and what it names, for a message."""
    named = str(config.model.weights)
    return f"model.weights {mask(named)}" if named != PREDECESSOR else f"model.weights predecessor ({mask(source)})"
