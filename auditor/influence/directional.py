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
from torch.func import jvp, vmap
from torch.nn.functional import cross_entropy

from auditor.influence.attention import plain_attention
from auditor.influence.statistics import PreciseStatistics, fold
from auditor.sam.network import Network
from auditor.sam.perturbation import Tensors

_TANGENTS = 8
"""Tangents that share one pass: their activations are held together."""


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

    @classmethod
    def all_along(
        cls, precise: PreciseStatistics, parameters: Tensors, buffers: Tensors, tangents: Sequence[Tensors]
    ) -> list[Direction]:
        """Directions of several tangents at some parameters; they share their point, and so its forward pass."""
        point = Point.at(precise, parameters, buffers)
        return [cls(point, tangent, precise.pushforward(parameters, buffers, tangent)[1]) for tangent in tangents]

    def to(self, device: torch.device) -> Direction:
        """The same direction on a device."""
        return Direction(self.point.to(device), _to(self.parameters, device), _to(self.statistics, device))


def sample_logits(network: Network, point: Point, inputs: Tensor) -> Tensor:
    """Logits [m, classes] in evaluation mode with the point's statistics."""
    return network.evaluate(fold(network, point.parameters, point.buffers, point.statistics), {}, inputs)


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


def derivatives_along(network: Network, directions: Sequence[Direction], inputs: Tensor, labels: Tensor) -> Tensor:
    """⟨∇l_k(θ_d), v_d⟩ for every sample and direction: one dual forward pass each.

    Directions whose `point` is one and the same object share the pass at that point: see `derivatives_at`.

    Args:
        network: The model.
        directions: Points and tangents.
        inputs: [m, ...], not augmented.
        labels: [m].

    Returns:
        [m, directions], in float64: influence is a weighted sum over the directions.
    """
    found = torch.zeros(len(labels), len(directions), dtype=torch.float64, device=labels.device)
    for places in _by_point(directions).values():
        if len(places) == 1:
            _, column = directional_derivatives(network, directions[places[0]], inputs, labels)
            found[:, places[0]] = column.double()
        else:
            together = derivatives_at(network, [directions[place] for place in places], inputs, labels)
            found[:, places] = together.double()
    return found


def derivatives_at(network: Network, directions: Sequence[Direction], inputs: Tensor, labels: Tensor) -> Tensor:
    """⟨∇l_k(θ), v_d⟩ for several tangents at one point: the losses themselves are computed once for a few tangents.

    Args:
        network: The model; all its operations must have batching rules.
        directions: Tangents at the point of the first.
        inputs: [m, ...], not augmented.
        labels: [m].

    Returns:
        [m, directions]
    """
    point = directions[0].point

    def losses(parameters: Tensors, statistics: Tensors) -> Tensor:
        logits = sample_logits(network, Point(parameters, point.buffers, statistics), inputs)
        return cross_entropy(logits, labels, reduction="none")

    def along(parameters: Tensors, statistics: Tensors) -> Tensor:
        _, derivative, *_ = jvp(losses, (point.parameters, point.statistics), (parameters, statistics))
        found: Tensor = derivative
        return found

    columns = []
    with torch.no_grad(), plain_attention():
        for first in range(0, len(directions), _TANGENTS):
            some = directions[first : first + _TANGENTS]
            stacked = (_stack([d.parameters for d in some]), _stack([d.statistics for d in some]))
            columns.append(vmap(along, out_dims=1)(*stacked))
    return torch.cat(columns, dim=1)


def directions_to(directions: Sequence[Direction], device: torch.device) -> tuple[Direction, ...]:
    """The same directions on a device; those that shared a point or a tangent still do."""
    points = {id(direction.point): direction.point for direction in directions}
    moved = {key: point.to(device) for key, point in points.items()}
    tangents = {id(direction.parameters): direction.parameters for direction in directions}
    carried = {key: _to(tangent, device) for key, tangent in tangents.items()}
    return tuple(
        Direction(moved[id(given.point)], carried[id(given.parameters)], _to(given.statistics, device))
        for given in directions
    )


def _by_point(directions: Sequence[Direction]) -> dict[int, list[int]]:
    places: dict[int, list[int]] = {}
    for place, direction in enumerate(directions):
        places.setdefault(id(direction.point), []).append(place)
    return places


def _stack(tensors: Sequence[Tensors]) -> Tensors:
    return {name: torch.stack([each[name] for each in tensors]) for name in tensors[0]}


def _to(tensors: Mapping[str, Tensor], device: torch.device) -> Tensors:
    return {name: value.to(device) for name, value in tensors.items()}
