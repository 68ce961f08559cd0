"""What a variant of SAM is: pure functions of one micro-batch, ascent and descent, and the loss that is ascended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

Tensors = dict[str, Tensor]
"""Named tensors: parameters, gradients, perturbations or buffers of one network."""


def perturbed_gradient(gradient: Mapping[str, Tensor], perturbed: Mapping[str, Tensor]) -> Tensors:
    """The descent of most variants: the gradient at θ + ε as it is."""
    del gradient
    return dict(perturbed)


def sample_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of every sample, cross-entropy: what is minimised, whatever is ascended.

    Args:
        logits: [m, classes].
        labels: [m].

    Returns:
        [m], in nats.
    """
    return cross_entropy(logits, labels, reduction="none")


@dataclass(frozen=True)
class Perturbation:
    """A variant of SAM with its settings bound; `auditor.sam.variants` has one file for each.

    All are differentiable, the loss twice: exact influence takes its derivatives from them.
    """

    ascent: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensors]
    """(θ, g) → ε: g is the gradient of the micro-batch's ascent loss at θ."""
    descent: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensors] = perturbed_gradient
    """(g, gradient at θ + ε) → the direction that the base optimizer is given, before the mean over micro-batches."""
    ascent_loss: Callable[[Tensor, Tensor], Tensor] = sample_losses
    """(logits [m, classes], labels [m]) → [m]: the weighted mean of this one has the gradient g."""


def global_norm(tensors: Iterable[Tensor], order: float = 2.0) -> Tensor:
    """The vector norm of all entries together, as a scalar tensor."""
    norms = torch.stack([torch.linalg.vector_norm(tensor, order) for tensor in tensors])
    total: Tensor = torch.linalg.vector_norm(norms, order)
    return total


def inverse(norm: Tensor) -> Tensor:
    """1 / norm, and 0 for a norm so small that its square vanishes: rounding would decide where its vector points."""
    floor = torch.finfo(norm.dtype).tiny ** 0.5
    return torch.where(norm > floor, 1.0 / norm.clamp_min(floor), 0.0)
