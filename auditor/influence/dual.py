"""A dual forward pass for each tangent, eagerly or compiled.

Compiled, the pass costs a quarter less on a CPU (docs/benchmarks/scoring.md), after seconds to a minute of compiling.
Compilers have dropped tangents in silence before, so what is compiled is tried first: see `Derivatives`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp
from torch.nn.functional import cross_entropy

from auditor.influence.attention import plain_attention
from auditor.influence.folded import Folded, wide
from auditor.sam.network import Network
from auditor.sam.perturbation import Tensors

Dual = Callable[[Tensors, Tensors, Tensors, Tensor, Tensor], Tensor]
"""(values, tangent, constants, inputs [m, ...], labels [m]) ↦ ⟨∇l_k, tangent⟩ [m]."""


def dual(network: Network) -> Dual:
    """The pass of a network."""

    def along(values: Tensors, tangent: Tensors, constants: Tensors, inputs: Tensor, labels: Tensor) -> Tensor:
        def losses(at: Tensors) -> Tensor:
            logits = network.evaluate(at, constants, inputs)
            return cross_entropy(logits.to(wide(logits.dtype)), labels, reduction="none")

        _, derivative, *_ = jvp(losses, (values,), (tangent,))
        found: Tensor = derivative
        return found

    return along


def compiled(network: Network) -> Dual:
    """The same, compiled for each number of rows that it meets; smaller batches are filled up to the largest."""
    network.model.eval()
    quick: Dual = torch.compile(dual(network), dynamic=False)
    size = 0

    def along(values: Tensors, tangent: Tensors, constants: Tensors, inputs: Tensor, labels: Tensor) -> Tensor:
        nonlocal size
        rows = len(labels)
        size = max(size, rows)
        filled = torch.arange(size, device=labels.device).clamp_(max=rows - 1)
        return quick(values, tangent, constants, inputs[filled], labels[filled])[:rows]

    return along


class DualPasses:
    """⟨∇l_k, v_q⟩ by a dual forward pass for each tangent.

    Args:
        folded: A point and tangents.
        dual: The pass.
    """

    def __init__(self, folded: Folded, dual: Dual) -> None:
        self._folded, self._dual = folded, dual

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """[m, Q] of inputs [m, ...] and labels [m]."""
        folded = self._folded
        inputs = folded.given(inputs)
        columns = []
        with torch.no_grad(), plain_attention():
            for place in range(len(folded)):
                tangent = {name: value[place] for name, value in folded.tangents.items()}
                columns.append(self._dual(folded.values, tangent, folded.constants, inputs, labels))
        return torch.stack(columns, dim=1)
