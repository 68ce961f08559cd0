"""The process group that trains, or the one process that does it all by itself: the same calls serve both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from auditor.errors import InputError

T = TypeVar("T")


def rank() -> int:
    """This worker's place in the group; 0 alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Workers in the group; 1 alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait for all workers. Collective."""
    if dist.is_initialized():
        dist.barrier()


def gather(value: T) -> list[T]:
    """The value of every rank, in the order of ranks. Collective."""
    if not dist.is_initialized():
        return [value]
    gathered: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def from_first_rank(read: Callable[[], T]) -> T:
    """What the first rank reads: on a network file system others may still see an older file. Collective."""
    if not dist.is_initialized():
        return read()
    box: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            box = [read(), None]
        except InputError as error:
            box = [None, str(error)]
    dist.broadcast_object_list(box)
    if box[1] is not None:
        raise InputError(box[1])
    value: T = box[0]
    return value


def all_reduce(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sum named tensors over all ranks, in one message. Collective."""
    if world_size() == 1:
        return tensors
    flat = torch.cat([value.flatten() for value in tensors.values()])
    dist.all_reduce(flat)
    parts = torch.split(flat, [value.numel() for value in tensors.values()])
    return {name: part.view_as(tensors[name]) for name, part in zip(tensors, parts, strict=True)}
