"""The one primitive: for a batch and one direction v, ⟨∇l_k, v⟩ for every sample k in one dual forward pass.

No per-sample gradient exists at any time and memory is a forward pass's (MATH: forward-mode differentiation of the
vector of losses). With BatchNorm, l_k reads precise statistics and their derivative along v is part of the answer,
so a sample's number does not depend on which other samples share its batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp
from torch.nn.functional import cross_entropy

from auditor.influence.attention import plain_attention
from auditor.influence.statistics import PreciseStatistics, fold
from auditor.sam.network import Network
from auditor.sam.perturbation import Tensors


@dataclass(frozen=True)
class Point:
    """Where per-sample losses are evaluated: parameters, buffers and the statistics that belong to them."""

    parameters: Tensors
    buffers: Tensors
    statistics: Tensors
    """Empty where running statistics are used."""

    @classmethod
    def at(cls, precise: PreciseStatistics, parameters: Tensors, buffers: Tensors) -> Point:
        """The point of some parameters, its statistics computed."""
        return cls(parameters, buffers, precise.value(parameters, buffers))

    def to(self, device: torch.device) -> Point:
        """The same point on a device."""
        return Point(*(_to(tensors, device) for tensors in (self.parameters, self.buffers, self.statistics)))


@dataclass(frozen=True)
class Direction:
    """A point and a tangent at it, the statistics' own tangent included."""

    point: Point
    parameters: Tensors
    """v, of the parameters' names and shapes."""
    statistics: Tensors
    """(∂S/∂θ) v."""

    @classmethod
    def along(cls, precise: PreciseStatistics, parameters: Tensors, buffers: Tensors, tangent: Tensors) -> Direction:
        """The direction `tangent` at some parameters."""
        statistics, derivative = precise.pushforward(parameters, buffers, tangent)
        return cls(Point(parameters, buffers, statistics), tangent, derivative)


@dataclass(frozen=True)
class Directions:
    """Q tangents at one point, stacked."""

    point: Point
    parameters: Tensors
    """[Q, ...] of the parameters' names and shapes."""
    statistics: Tensors
    """[Q, channels], (∂S/∂θ) v of each."""

    @classmethod
    def along(
        cls, precise: PreciseStatistics, parameters: Tensors, buffers: Tensors, tangents: Sequence[Tensors]
    ) -> Directions:
        """Directions of one or more tangents at some parameters."""
        pushed = [precise.pushforward(parameters, buffers, tangent) for tangent in tangents]
        point = Point(parameters, buffers, pushed[0][0])
        return cls(point, _stack(tangents), _stack([moving for _, moving in pushed]))

    def __len__(self) -> int:
        return len(next(iter(self.parameters.values())))

    def __getitem__(self, place: int) -> Direction:
        """One of them."""
        parameters = {name: value[place] for name, value in self.parameters.items()}
        return Direction(self.point, parameters, {name: value[place] for name, value in self.statistics.items()})

    def to(self, device: torch.device) -> Directions:
        """The same directions on a device."""
        return Directions(self.point.to(device), _to(self.parameters, device), _to(self.statistics, device))


def sample_logits(network: Network, point: Point, inputs: Tensor) -> Tensor:
    """Logits [m, classes] in evaluation mode with the point's statistics; not under vmap, which knows no format."""
    values = fold(network, point.parameters, point.buffers, point.statistics)
    return network.evaluate(values, {}, network.quick(inputs))


def directional_derivatives(
    network: Network, direction: Direction, inputs: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Per-sample losses and their derivatives along a direction.

    Args:
        network: The model.
        direction: θ and v.
        inputs: [m, ...].
        labels: [m].

    Returns:
        (l_k [m], ⟨∇l_k, v⟩ [m]).
    """
    point = direction.point

    def losses(parameters: Tensors, statistics: Tensors) -> Tensor:
        logits = sample_logits(network, Point(parameters, point.buffers, statistics), inputs)
        return cross_entropy(logits, labels, reduction="none")

    with torch.no_grad(), plain_attention():
        value, derivative, *_ = jvp(
            losses, (point.parameters, point.statistics), (direction.parameters, direction.statistics)
        )
    return value, derivative


def _stack(tensors: Sequence[Tensors]) -> Tensors:
    return {name: torch.stack([each[name] for each in tensors]) for name in tensors[0]}


def _to(tensors: Mapping[str, Tensor], device: torch.device) -> Tensors:
    return {name: value.to(device) for name, value in tensors.items()}
