"""Derivatives of samples' losses along many directions, the quicker of two exact ways for each point.

One tangent at each point: a dual forward pass, BatchNorm layers fused. Several: a `Contraction`, where a trial shows
that it is right for the network, and a dual forward pass each otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from auditor.influence.contraction import Contraction, UncoveredError
from auditor.influence.directional import Directions
from auditor.influence.dual import Dual, DualPasses, compiled, dual
from auditor.influence.folded import Folded, wide
from auditor.influence.fusion import Fusion, fusion_of
from auditor.influence.statistics import fold
from auditor.sam.network import Network
from auditor.sam.trial import near

_TRIAL_ROWS = 3
_AGREEMENT = 1e-2
"""Largest difference of a trial, relative to its largest number: far above rounding, far below a forgotten layer."""
_COMPILED_AGREEMENT = 1e-3
"""The same for a compiled pass, whose operations are the same ones."""

_Along = Callable[[Tensor, Tensor], Tensor]


class Derivatives:
    """⟨∇l_k(θ_d), v_d⟩ for every sample k and direction d.

    Args:
        network: The model.
        directions: Points with their tangents; they stay on their device.
        compile: Compile the dual pass; where that fails or gives other numbers, it is left as it is, and `remark` says
            so.
        dtype: Type of the numbers that the network computes with; by default that of its parameters. What is lost
            with fewer bits, `auditor.distributed.rounding` measures.
    """

    def __init__(
        self,
        network: Network,
        directions: Sequence[Directions],
        compile: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._network, self._directions = network, directions
        self._compile, self._dtype = compile, dtype
        self._ways: list[_Along] | None = None
        self.remark: str | None = None
        """What came of compiling, where nothing did; known after the first batch."""

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Derivatives of a batch; a sample's numbers do not depend on the others.

        Args:
            inputs: [m, ...], not augmented.
            labels: [m].

        Returns:
            [m, directions], in float64: influence is a weighted sum over the directions.
        """
        if self._ways is None:
            self._ways = self._choose(inputs, labels)
            self._directions = ()  # not before: memory may run out, and another attempt has fewer rows
        if not self._ways:
            return torch.zeros(len(labels), 0, dtype=torch.float64, device=labels.device)
        return torch.cat([along(inputs, labels).double() for along in self._ways], dim=1)

    def _choose(self, inputs: Tensor, labels: Tensor) -> list[_Along]:
        self.remark = None
        every = self._fold(inputs[:_TRIAL_ROWS])
        several = [folded for folded in every if len(folded) > 1]
        contracts = bool(several) and can_contract(several[0], inputs[:_TRIAL_ROWS], labels[:_TRIAL_ROWS])
        by_passes = [folded for folded in every if not contracts or len(folded) == 1]
        if not by_passes:
            return [Contraction(folded) for folded in several]
        plain = dual(by_passes[0].network)
        along = self._compiled(by_passes[0], plain, inputs, labels) if self._compile else plain
        return [Contraction(folded) if contracts and len(folded) > 1 else DualPasses(folded, along) for folded in every]

    def _fold(self, inputs: Tensor) -> list[Folded]:
        """Directions as they are computed with."""
        directions, fusion = self._directions, Fusion.none(self._network)
        # Many tangents are views of memory that all actors of a machine share: fused ones would be copies.
        if directions and all(len(some) == 1 for some in directions):
            point = directions[0].point
            values = fold(self._network, point.parameters, point.buffers, point.statistics)
            fusion = fusion_of(self._network, values, inputs)
        folded = (Folded.of(self._network, some, fusion, inputs) for some in directions)
        return [some if self._dtype is None else some.rounded(self._dtype) for some in folded]

    def _compiled(self, folded: Folded, plain: Dual, inputs: Tensor, labels: Tensor) -> Dual:
        """The compiled pass, if it gives what the plain one does."""
        try:
            quick = compiled(folded.network)
            found = DualPasses(folded, quick)(inputs, labels)
        except Exception as error:  # a compiler may fail in any way there is, a missing one included
            self.remark = f"the scoring pass could not be compiled ({type(error).__name__}) and runs as it is"
            return plain
        expected = DualPasses(folded, plain)(inputs, labels)
        # Compiled, sums are rounded elsewhere: a few units in the last place of fewer bits.
        if not _agree(found, expected, max(_COMPILED_AGREEMENT, 4 * torch.finfo(folded.dtype).eps)):
            self.remark = "the compiled scoring pass gives other numbers than the plain one, which runs in its place"
            return plain
        return quick


def can_contract(folded: Folded, inputs: Tensor, labels: Tensor) -> bool:
    """Whether `Contraction` is right for a network: a trial near a point, along a tangent, both random.

    At the point itself a layer of zeros, as networks begin with, would hide what lies before it.

    Args:
        folded: The network at a point.
        inputs: A few samples, [m, ...].
        labels: [m].
    """
    generator = torch.Generator().manual_seed(0)
    folded = folded.rounded(wide(folded.dtype))  # rounding would hide a small layer that is forgotten

    def drawn(value: Tensor) -> Tensor:
        return torch.randn(value.shape, generator=generator, dtype=value.dtype).to(value.device)

    tried = near(folded.values, generator)
    tangent = {name: drawn(value)[None] for name, value in folded.values.items()}
    trial = replace(folded, values=tried, tangents=tangent)
    try:
        found = Contraction(trial)(inputs, labels)
    except (UncoveredError, RuntimeError, ValueError, IndexError, TypeError):
        return False  # tokens of all samples in one row, an output that is no tensor, and what else there is
    expected = DualPasses(trial, dual(folded.network))(inputs, labels)
    return bool(expected.any()) and _agree(found, expected, _AGREEMENT)


def _agree(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())
