"""Derivatives of samples' losses along many directions, the quicker of two exact ways for each point.

One tangent at a point: a dual forward pass. Several: a `Contraction`, where a trial shows that it is right for the
network, and a dual forward pass each otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import jvp

from auditor.influence.attention import plain_attention
from auditor.influence.contraction import Contraction, UncoveredError
from auditor.influence.directional import Directions
from auditor.influence.folded import Folded
from auditor.sam.network import Network

_TRIAL_ROWS = 3
_AGREEMENT = 1e-2
"""Largest difference of a trial, relative to its largest number: far above rounding, far below a forgotten layer."""

_Along = Callable[[Tensor, Tensor], Tensor]


class Derivatives:
    """⟨∇l_k(θ_d), v_d⟩ for every sample k and direction d.

    Args:
        network: The model.
        directions: Points with their tangents; they stay on their device.
    """

    def __init__(self, network: Network, directions: Sequence[Directions]) -> None:
        self._network = network
        self._folded = [Folded.of(network, some) for some in directions]
        self._ways: list[_Along] | None = None

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Derivatives of a batch; a sample's numbers do not depend on the others.

        Args:
            inputs: [m, ...], not augmented.
            labels: [m].

        Returns:
            [m, directions], in float64: influence is a weighted sum over the directions.
        """
        if self._ways is None:
            self._ways = self._choose(inputs[:_TRIAL_ROWS], labels[:_TRIAL_ROWS])
        if not self._ways:
            return torch.zeros(len(labels), 0, dtype=torch.float64, device=labels.device)
        return torch.cat([along(inputs, labels).double() for along in self._ways], dim=1)

    def _choose(self, inputs: Tensor, labels: Tensor) -> list[_Along]:
        several = [folded for folded in self._folded if _count(folded) > 1]
        contracts = bool(several) and can_contract(several[0], inputs, labels)
        return [Contraction(each) if contracts and _count(each) > 1 else DualPasses(each) for each in self._folded]


class DualPasses:
    """⟨∇l_k, v_q⟩ by a dual forward pass for each tangent.

    Args:
        folded: A point and tangents.
    """

    def __init__(self, folded: Folded) -> None:
        self._folded = folded

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """[m, Q] of inputs [m, ...] and labels [m]."""
        folded = self._folded
        columns = []
        with torch.no_grad(), plain_attention():
            for place in range(_count(folded)):
                tangent = {name: value[place] for name, value in folded.tangents.items()}
                _, derivative, *_ = jvp(
                    lambda values: folded.losses(values, inputs, labels), (folded.values,), (tangent,)
                )
                columns.append(derivative)
        return torch.stack(columns, dim=1)


def can_contract(folded: Folded, inputs: Tensor, labels: Tensor) -> bool:
    """Whether `Contraction` is right for a network: a trial along a random tangent, which no parameter is absent from.

    Args:
        folded: The network at a point.
        inputs: A few samples, [m, ...].
        labels: [m].
    """
    generator = torch.Generator().manual_seed(0)
    random = {
        name: torch.randn(1, *value.shape, generator=generator, dtype=value.dtype).to(value.device)
        for name, value in folded.values.items()
    }
    trial = Folded(folded.network, folded.values, random, folded.constants)
    try:
        found = Contraction(trial)(inputs, labels)
    except (UncoveredError, RuntimeError, ValueError, IndexError, TypeError):
        return False  # tokens of all samples in one row, an output that is no tensor, and what else there is
    expected = DualPasses(trial)(inputs, labels)
    return bool((found - expected).abs().max() <= _AGREEMENT * expected.abs().max())


def _count(folded: Folded) -> int:
    return len(next(iter(folded.tangents.values())))
