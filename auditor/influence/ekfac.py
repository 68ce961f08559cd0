"""EK-FAC: the Gauss-Newton matrix as one Kronecker product a layer, in its eigenbasis, inverted in closed form.

Factors, eigenvalue correction and inverse are curvlinops' (George et al. 2018; for influence: Grosse et al. 2023).
It knows the weights and biases of linear layers and of ungrouped convolutions. All other parameters, such as
BatchNorm's, are taken as fixed: the solution is zero there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from auditor.influence.attention import plain_attention
from auditor.influence.solvers import Solution, UnsolvableError
from auditor.sam.perturbation import Tensors, global_norm

_DRAWS = 20_000
"""Labels drawn for the factors of a small data set, over all rows together: fewer leave them too noisy."""


def covered_parameters(model: nn.Module, inputs: Tensor) -> list[str]:
    """Names of the trainable parameters that EK-FAC knows.

    Args:
        model: In evaluation mode.
        inputs: [m, ...]; only layers that they pass through as modules are counted.
    """
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    }
    used: set[str] = set()
    handles = [layer.register_forward_hook(lambda *_, name=name: used.add(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    names = [f"{layer}.{kind}" for layer in layers if layer in used for kind in ("weight", "bias")]
    trainable = {name for name, value in model.named_parameters() if value.requires_grad}
    return [name for name in names if name in trainable]


class EKFAC:
    """(F + σ I)⁻¹ for one trained network, the factors computed once for any right side.

    The factors are those of the Fisher matrix with the model's own labels, which is the Gauss-Newton matrix of the
    cross-entropy: labels are drawn, or all of them taken where there are not more classes than draws.

    Args:
        model: In evaluation mode with the statistics it is evaluated with.
        chunks: (inputs [r, ...], labels [r]) of the training rows; iterated several times.
        seed: Draws labels.

    Raises:
        UnsolvableError: No layer is covered.
    """

    @plain_attention()
    def __init__(self, model: nn.Module, chunks: Iterable[tuple[Tensor, Tensor]], seed: int) -> None:
        # Imported late: it takes seconds, and only this needs it.
        from curvlinops import EKFACLinearOperator, FisherType, GGNLinearOperator

        inputs, _ = next(iter(chunks))
        self.names = covered_parameters(model, inputs)
        """Of the covered parameters."""
        if not self.names:
            raise UnsolvableError(
                "ekfac knows linear layers and ungrouped convolutions, and the model has none of its own"
            )
        found = dict(model.named_parameters())
        parameters = [found[name] for name in self.names]
        loss = nn.CrossEntropyLoss()
        with torch.no_grad():
            classes = model(inputs).shape[1]
        draws = -(-_DRAWS // sum(len(labels) for _, labels in chunks))
        every = draws >= classes
        self._factors = EKFACLinearOperator(
            model,
            loss,
            parameters,
            chunks,
            check_deterministic=False,
            seed=seed % 2**31,
            fisher_type=FisherType.TYPE2 if every else FisherType.MC,
            mc_samples=1 if every else draws,
            separate_weight_and_bias=False,
        )
        self._exact = GGNLinearOperator(model, loss, parameters, chunks, check_deterministic=False)

    def inverse(self, shift: float) -> Callable[[Mapping[str, Tensor]], Tensors]:
        """B ↦ (F + σ I)⁻¹ b, of all trainable parameters' names and shapes; zero where they are not covered."""
        from curvlinops import KFACInverseLinearOperator

        operator = KFACInverseLinearOperator(self._factors, damping=shift, use_exact_damping=True)

        def solve(right: Mapping[str, Tensor]) -> Tensors:
            solution = operator @ [right[name] for name in self.names]
            still = {name: torch.zeros_like(value) for name, value in right.items()}
            return {**still, **{name: value.detach() for name, value in zip(self.names, solution, strict=True)}}

        return solve

    @plain_attention()
    def residual(self, right: Mapping[str, Tensor], solution: Mapping[str, Tensor], shift: float) -> float:
        """‖b − (G + σ I) x‖ / ‖b‖ over the covered parameters, G the exact Gauss-Newton matrix."""
        wanted, found = ([side[name] for name in self.names] for side in (right, solution))
        left = [b - image - shift * x for b, image, x in zip(wanted, self._exact @ found, found, strict=True)]
        return float(global_norm(left) / global_norm(wanted))


def ekfac(
    model: nn.Module,
    chunks: Iterable[tuple[Tensor, Tensor]],
    right: Mapping[str, Tensor],
    shifts: Sequence[float],
    tolerance: float,
    seed: int,
) -> list[tuple[Tensors, Solution]]:
    """(F + σ I)⁻¹ b with EK-FAC's F; its residual is that of the exact Gauss-Newton matrix.

    Since EK-FAC is no solver but an approximation, the residual says how good that is.

    Args:
        model: In evaluation mode with the statistics it is evaluated with.
        chunks: (inputs [r, ...], labels [r]) of the training rows; iterated several times.
        right: b, of all trainable parameters' names and shapes.
        shifts: σ.
        tolerance: Relative residual within which the approximation counts as a solution.
        seed: Draws labels.

    Returns:
        For each shift x by name, of `right`'s names and shapes, and the solution over the covered parameters.

    Raises:
        UnsolvableError: No layer is covered.
    """
    factors = EKFAC(model, chunks, seed)
    results = []
    for shift in shifts:
        by_name = factors.inverse(shift)(right)
        residual = factors.residual(right, by_name, shift)
        flat = torch.cat([by_name[name].flatten() for name in factors.names])
        results.append((by_name, Solution(flat, 0, residual, residual <= tolerance)))
    return results
