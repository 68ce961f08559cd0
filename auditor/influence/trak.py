"""TRAK: the trained network replaced by a linear model of its randomly projected gradients.

Source: Park et al. 2023, "TRAK: Attributing Model Behavior at Scale", with one trained model in place of an ensemble
and its last checkpoint alone. With the model output m_k = log(p_k / (1 − p_k)) of the given label's probability, a
random P [parameters, dimensions], φ_k = Pᵀ∇m_k and Φ the matrix of all training samples' φ_k:

    influence_k = −⟨Pᵀ∇f, (ΦᵀΦ)⁻¹ φ_k⟩ (1 − p_k) = ⟨v, ∇l_k(θ_T)⟩,    v = P (ΦᵀΦ)⁻¹ Pᵀ∇f,

since ∇l_k = −(1 − p_k)∇m_k. The paper attributes the output of one query sample; f is a mean loss here, and a loss is a
function of its output, so that its gradient takes the output's place. BatchNorm statistics are precise and depend on
θ, in ∇m_k as in ∇f.

The gradients of a few samples exist at a time, P is drawn a few columns at a time, and no matrix has a row for each
sample. The `traker` package keeps projected gradients of all samples and knows evaluation-mode constants as
BatchNorm statistics alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor
from torch.func import grad, vmap

from auditor.influence.attention import plain_attention
from auditor.influence.directional import Point
from auditor.influence.statistics import PreciseStatistics, fold
from auditor.sam.network import Network
from auditor.sam.perturbation import Tensors

Projection = Callable[[], Iterable[Tensor]]
"""Gives P in blocks of columns [parameters, some], the same at every call; parameters in the order of their names."""

_COLUMNS = 16
"""Columns of P that exist at a time."""
_NUMBERS = 2**26
"""Numbers in the gradients that exist at a time."""


def random_projection(parameters: Mapping[str, Tensor], dimensions: int, seed: int) -> Projection:
    """P of independent signs, drawn from a seed; its scale cancels out of TRAK.

    Args:
        parameters: What is projected.
        dimensions: Columns of P.
        seed: Equal seeds draw equal projections on every device.
    """
    first = next(iter(parameters.values()))
    size = sum(value.numel() for value in parameters.values())

    def blocks() -> Iterator[Tensor]:
        for block, column in enumerate(range(0, dimensions, _COLUMNS)):
            generator = torch.Generator().manual_seed((seed + block) % 2**63)
            bits = torch.randint(2, (size, min(_COLUMNS, dimensions - column)), generator=generator, dtype=torch.int8)
            yield bits.to(first.device).to(first.dtype) * 2 - 1

    return blocks


def trak_tangent(
    network: Network,
    precise: PreciseStatistics,
    point: Point,
    chunks: Iterable[tuple[Tensor, Tensor]],
    gradient: Tensors,
    projection: Projection,
) -> Tensors:
    """v, whose per-sample derivatives at the point are TRAK's influence.

    Args:
        network: The model; its operations must have batching rules.
        precise: S(θ).
        point: θ_T.
        chunks: (inputs [r, ...], labels [r]) of all training samples.
        gradient: ∇f(θ_T).
        projection: P.

    Returns:
        v, of the parameters' names and shapes.
    """
    moving = _statistics_along(precise, point, projection) if point.statistics else None
    gram: Tensor | None = None
    for inputs, labels in chunks:
        for parameters, statistics in _sample_gradients(network, point, inputs, labels):
            features = torch.cat([_rows(parameters) @ block for block in projection()], dim=1)
            if moving is not None:
                features += _rows(statistics) @ moving
            features = features.double()
            gram = features.T @ features if gram is None else gram + features.T @ features
    assert gram is not None, "there are training samples"  # noqa: S101
    flat = _flat({name: gradient[name] for name in point.parameters})
    target = torch.cat([flat @ block for block in projection()]).double()
    # The pseudoinverse: fewer samples than dimensions leave directions in which nothing is known.
    solved = (torch.linalg.pinv(gram, hermitian=True) @ target).to(flat.dtype)
    total, first = torch.zeros_like(flat), 0
    for block in projection():
        total += block @ solved[first : first + block.shape[1]]
        first += block.shape[1]
    return _unflat(total, point.parameters)


def _statistics_along(precise: PreciseStatistics, point: Point, projection: Projection) -> Tensor:
    """(∂S/∂θ) P, [statistics, dimensions]."""
    columns = []
    for block in projection():
        for column in block.T:
            tangent = _unflat(column, point.parameters)
            _, derivative = precise.pushforward(point.parameters, point.buffers, tangent)
            columns.append(_flat({name: derivative[name] for name in point.statistics}))
    return torch.stack(columns, dim=1)


def _sample_gradients(
    network: Network, point: Point, inputs: Tensor, labels: Tensor
) -> Iterator[tuple[Tensors, Tensors]]:
    """∇m_k of a few samples at a time, in the parameters and in the statistics, each [r, ...]."""

    def output(parameters: Tensors, statistics: Tensors, sample: Tensor, label: Tensor) -> Tensor:
        logits = network.evaluate(fold(network, parameters, point.buffers, statistics), {}, sample[None])[0]
        own = torch.arange(len(logits), device=logits.device) == label
        return (logits * own).sum() - logits.masked_fill(own, -torch.inf).logsumexp(0)

    each = vmap(grad(output, argnums=(0, 1)), in_dims=(None, None, 0, 0))
    size = max(1, _NUMBERS // sum(value.numel() for value in point.parameters.values()))
    for first in range(0, len(labels), size):
        some = slice(first, first + size)
        with torch.no_grad(), plain_attention():
            found: tuple[Tensors, Tensors] = each(
                dict(point.parameters), dict(point.statistics), inputs[some], labels[some]
            )
        yield found


def _rows(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten(1) for value in tensors.values()], dim=1)


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in tensors.values()])


def _unflat(vector: Tensor, like: Mapping[str, Tensor]) -> Tensors:
    parts = torch.split(vector, [value.numel() for value in like.values()])
    return {name: part.view_as(value) for (name, value), part in zip(like.items(), parts, strict=True)}
