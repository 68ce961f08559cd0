"""The torch types that `train.precision` stands for."""

from __future__ import annotations

import torch

from auditor.config import Config


def dtype_of(config: Config) -> torch.dtype:
    """Type of parameters, inputs, and of all arithmetic but what `autocast_of` says."""
    return torch.float64 if config.train.precision == "float64" else torch.float32


def autocast_of(config: Config) -> torch.dtype | None:
    """Type that the passes of training compute in where it is not that of the parameters, else None."""
    return torch.bfloat16 if config.train.precision == "bfloat16" else None
