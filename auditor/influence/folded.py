"""Directions prepared once for many batches: statistics folded into BatchNorm's weights, and so are their tangents.

What is left is a network of plain parameters. It runs in the memory format that convolutions are fastest in, and in
fewer bits where that is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import jvp, vmap

from auditor.influence.directional import Directions
from auditor.influence.fusion import Fusion
from auditor.influence.statistics import fold
from auditor.sam.memory_format import innermost
from auditor.sam.network import Network
from auditor.sam.perturbation import Tensors


@dataclass(frozen=True)
class Folded:
    """A point and Q tangents at it, as a network without precise statistics sees them."""

    network: Network
    values: Tensors
    """What the network computes with and what depends on θ."""
    tangents: Tensors
    """[Q, ...] of the values' names and shapes."""
    constants: Tensors
    """What the network computes with beside them."""
    innermost: bool = False
    """Whether kernels lie with their channels innermost, and images had better."""

    @classmethod
    def of(
        cls, network: Network, directions: Directions, fusion: Fusion | None = None, inputs: Tensor | None = None
    ) -> Folded:
        """Fold a point's statistics, and the tangents with them.

        Args:
            network: The model.
            directions: A point and tangents.
            fusion: The network to compute with, BatchNorm layers being a part of others; by default the model itself.
            inputs: Samples like those it will be given, [m, ...]: kernels lie in memory as these had better do.
        """
        point, fusion = directions.point, fusion or Fusion.none(network)
        layers = {name.rpartition(".")[0] for name in point.statistics}
        from_statistics = {f"{name}.{kind}" for name in layers for kind in ("weight", "bias")}
        moving = point.parameters.keys() | from_statistics

        def every(parameters: Tensors, statistics: Tensors) -> Tensors:
            return fusion(fold(network, parameters, point.buffers, statistics))

        with torch.no_grad():
            values = every(point.parameters, point.statistics)
            touched = {made for names, sources in fusion.parts() if moving & sources for made in names}
            touched |= from_statistics & values.keys()

            def folded(parameters: Tensors, statistics: Tensors) -> Tensors:
                found = every(parameters, statistics)
                return {name: found[name] for name in touched}

            def along(parameters: Tensors, statistics: Tensors) -> Tensors:
                _, derivative, *_ = jvp(folded, (point.parameters, point.statistics), (parameters, statistics))
                found: Tensors = derivative
                return found

            tangents = {name: value for name, value in directions.parameters.items() if name in values}
            if touched:
                tangents |= vmap(along)(directions.parameters, directions.statistics)
        laid_out = inputs is not None and network.innermost(inputs)
        moved = {name: innermost(values[name]) if laid_out else values[name] for name in tangents}
        constants = {name: value for name, value in values.items() if name not in moved}
        return cls(fusion.network, moved, tangents, constants, laid_out)

    def __len__(self) -> int:
        return len(next(iter(self.tangents.values())))

    @property
    def dtype(self) -> torch.dtype:
        """Of its numbers."""
        return next(iter(self.values.values())).dtype

    def rounded(self, dtype: torch.dtype) -> Folded:
        """The same in numbers of another type; what is folded was computed in the type of training."""

        def cast(tensors: Tensors) -> Tensors:
            return {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}

        return replace(self, values=cast(self.values), tangents=cast(self.tangents), constants=cast(self.constants))

    def given(self, inputs: Tensor) -> Tensor:
        """Inputs [m, ...] as this network takes them."""
        inputs = inputs.to(self.dtype)
        return innermost(inputs) if self.innermost else inputs


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type in which a loss is computed and sums are kept: 32 bits at least."""
    return torch.promote_types(dtype, torch.float32)
