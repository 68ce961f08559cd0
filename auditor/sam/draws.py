"""Whether a network draws the same random numbers in two precisions, as dropout on a CPU does."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from auditor.sam.network import Network

_SEEDS = (1, 2)


def draws_alike(
    full: Network, mixed: Network, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: Tensor
) -> bool:
    """Whether rounding alone tells two precisions apart, found by trying.

    Args:
        full: The network in the precision of its parameters.
        mixed: The same network in mixed precision.
        parameters: Where.
        buffers: Likewise.
        inputs: A few rows, [m, ...].

    Returns:
        True for a network that draws nothing; else whether two precisions under one seed are nearer to each other than
        half of what two seeds are apart.
    """

    def logits(network: Network, seed: int) -> Tensor:
        return network.train(parameters, buffers, inputs, seed)[0]

    with torch.no_grad():
        one, other = (logits(full, seed) for seed in _SEEDS)
        if torch.equal(one, other):
            return True
        return bool((logits(mixed, _SEEDS[0]) - one).norm() < 0.5 * (other - one).norm())
