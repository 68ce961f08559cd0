"""What influence is measured on: the mean loss f(θ) over a set of query samples, and its whole gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from auditor.influence.directional import Point, sample_logits
from auditor.influence.statistics import PreciseStatistics
from auditor.sam.network import Network
from auditor.sam.perturbation import Tensors


@dataclass(frozen=True)
class Evaluated:
    """Loss and accuracy over a set of samples."""

    loss: float
    """Mean cross-entropy, in nats."""
    accuracy: float
    """Share of samples whose largest logit is their label's."""


def evaluate(network: Network, point: Point, chunks: Iterable[tuple[Tensor, Tensor]]) -> Evaluated:
    """Loss and accuracy at a point.

    Args:
        network: The model.
        point: Where.
        chunks: (inputs [r, ...], labels [r]).

    Returns:
        Means over all samples of all chunks.
    """
    loss, hits, count = 0.0, 0, 0
    with torch.no_grad():
        for inputs, labels in chunks:
            logits = sample_logits(network, point, inputs)
            loss += float(cross_entropy(logits, labels, reduction="sum"))
            hits += int((logits.argmax(dim=1) == labels).sum())
            count += len(labels)
    return Evaluated(loss / count, hits / count)


def query_gradient(
    network: Network,
    precise: PreciseStatistics,
    point: Point,
    chunks: Iterable[tuple[Tensor, Tensor]],
) -> Tensors:
    """∇f(θ), the part that goes through the BatchNorm statistics included.

    Args:
        network: The model.
        precise: S(θ), for its derivative.
        point: θ.
        chunks: (inputs [r, ...], labels [r]) of the query samples.

    Returns:
        The gradient of the mean loss, of the parameters' names and shapes.
    """
    counts = []

    def weighed() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for inputs, labels in chunks:
            counts.append(len(labels))
            yield inputs, labels, torch.ones(len(labels))

    total = weighted_gradient(network, precise, point, weighed())
    return {name: value / sum(counts) for name, value in total.items()}


def weighted_gradient(
    network: Network,
    precise: PreciseStatistics,
    point: Point,
    chunks: Iterable[tuple[Tensor, Tensor, Tensor]],
) -> Tensors:
    """Σ_k w_k ∇l_k(θ) in evaluation mode, the part that goes through the BatchNorm statistics included.

    Args:
        network: The model.
        precise: S(θ), for its derivative.
        point: θ.
        chunks: (inputs [r, ...], labels [r], weights [r]).

    Returns:
        Of the parameters' names and shapes.
    """
    names = list(point.parameters)
    total = {name: torch.zeros_like(value) for name, value in point.parameters.items()}
    cotangent = {name: torch.zeros_like(value) for name, value in point.statistics.items()}
    for inputs, labels, weights in chunks:
        leaves = {name: value.detach().requires_grad_() for name, value in point.parameters.items()}
        statistics = {name: value.detach().requires_grad_() for name, value in point.statistics.items()}
        logits = sample_logits(network, Point(leaves, point.buffers, statistics), inputs)
        loss = (weights.to(logits) * cross_entropy(logits, labels, reduction="none")).sum()
        gradients = torch.autograd.grad(loss, [*leaves.values(), *statistics.values()])
        for name, gradient in zip(names, gradients[: len(names)], strict=True):
            total[name] += gradient
        for name, gradient in zip(statistics, gradients[len(names) :], strict=True):
            cotangent[name] += gradient
    through = precise.pullback(point.parameters, point.buffers, cotangent)
    return {name: total[name] + through[name] for name in names}
