"""Tensors in Ray's object store as arrays: processes of one machine read them where they lie, none has a copy."""

from __future__ import annotations

import warnings
from typing import Any

import ray
import torch
from numpy.typing import NDArray
from torch import Tensor


def share_tensors() -> None:
    """From here on, this process hands tensors on the CPU over in this way. Who reads one must not write into it."""
    ray.util.register_serializer(Tensor, serializer=_array, deserializer=_tensor)


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().numpy()
    return array


def _tensor(array: NDArray[Any]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
