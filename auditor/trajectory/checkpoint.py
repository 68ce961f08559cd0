"""Sharded checkpoints through torch.distributed.checkpoint: every rank writes its own safetensors file, no pickle."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from auditor.sam.state import State
from auditor.storage import RunFolder
from auditor.trajectory import group
from auditor.trajectory.manifest import checkpoint_folder

_PARTS = tuple(each.name for each in fields(State))


def save_checkpoint(run: RunFolder, step: int, state: State) -> None:
    """Write the state before step `step` of the recorded training; see `save_state`.

    Args:
        run: The run folder.
        step: 0 .. steps.
        state: The state to keep.
    """
    save_state(run, checkpoint_folder(step), state)


def load_checkpoint(run: RunFolder, step: int) -> State:
    """The state before step `step`, on the CPU; see `load_state`.

    Args:
        run: The run folder.
        step: A step whose checkpoint is complete.
    """
    return load_state(run, checkpoint_folder(step))


def save_state(run: RunFolder, folder: str, state: State) -> None:
    """Write a state; collective when a process group exists.

    Tensors that all ranks hold alike are shared out between them, so every rank writes its own file and no tensor
    is written twice.

    Args:
        run: The run folder.
        folder: Within it, not at its top; replaced whole.
        state: The state to keep.
    """
    tensors = _flatten(state)
    if run.local is None:
        with tempfile.TemporaryDirectory(prefix="auditor-") as scratch:
            _save(tensors, scratch)
            run.upload(Path(scratch), folder, sorted(path.name for path in Path(scratch).iterdir()))
        group.barrier()
        return
    above, _, name = folder.rpartition("/")
    hidden = f"{above}/.{name}"
    if group.rank() == 0:
        run.remove(hidden)
        run.make(hidden)
    group.barrier()
    _save(tensors, run.full(hidden))
    if group.rank() == 0:
        run.replace(hidden, folder)
    group.barrier()


def load_state(run: RunFolder, folder: str) -> State:
    """A state that `save_state` wrote, on the CPU; every rank may call it alone.

    Args:
        run: The run folder.
        folder: Within it.

    Returns:
        The whole state, whatever number of ranks wrote it.
    """
    if run.local is not None:
        return _load(run.full(folder))
    with tempfile.TemporaryDirectory(prefix="auditor-") as scratch:
        for name in run.names(folder):
            (Path(scratch) / name).write_bytes(run.read_bytes(f"{folder}/{name}"))
        return _load(scratch)


def _save(tensors: dict[str, Tensor], folder: str) -> None:
    writer = HuggingFaceStorageWriter(folder, save_distributed=True)
    with _quiet():
        dcp.save(tensors, storage_writer=writer, no_dist=not dist.is_initialized())


def _load(folder: str) -> State:
    reader = HuggingFaceStorageReader(folder)
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in reader.read_metadata().state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    with _quiet():
        dcp.load(tensors, storage_reader=HuggingFaceStorageReader(folder), no_dist=True)
    return State(
        **{
            part: {
                name.removeprefix(f"{part}."): tensors[name] for name in sorted(tensors) if name.startswith(f"{part}.")
            }
            for part in _PARTS
        }
    )


def _flatten(state: State) -> dict[str, Tensor]:
    # The file format knows neither strides nor shared memory.
    return {
        f"{part}.{name}": value.detach().clone(memory_format=torch.contiguous_format)
        for part, tensors in state.parts()
        for name, value in tensors.items()
    }


@contextmanager
def _quiet() -> Iterator[None]:
    # A single process is what was asked for; torch warns about it all the same.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
