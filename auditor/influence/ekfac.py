"""EK-FAC: the Gauss-Newton matrix as one Kronecker product a layer, in its eigenbasis, inverted in closed form.

Factors, eigenvalue correction and inverse are curvlinops' (George et al. 2018; for influence: Grosse et al. 2023).
It knows the weights and biases of linear layers and of ungrouped convolutions. All other parameters, such as
BatchNorm's, are taken as fixed: the solution is zero there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from auditor.influence.attention import plain_attention
from auditor.influence.solvers import Solution, UnsolvableError
from auditor.sam.perturbation import Tensors, global_norm

_DRAWS = 20_000
"""Labels drawn for the factors of a small data set, over all rows together: fewer leave them too noisy."""
_GRADIENTS = 2**26
"""Numbers of per-sample gradients that are held at a time; at least one sample's are."""


@dataclass(frozen=True)
class _Layer:
    """The eigenbasis of one layer."""

    names: list[str]
    """Its covered parameters, weight before bias."""
    outputs: Tensor
    """[d_out, d_out], eigenvectors of the output gradients' covariance in columns."""
    inputs: Tensor | None
    """[d_in, d_in] of the inputs' covariance, a one behind them for the bias; None where the bias alone is covered."""
    eigenvalues: Tensor
    """[d_out, d_in], corrected; d_in is 1 for a bias alone."""

    def rotated(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Gradients [m, ...] of the layer's parameters in its eigenbasis, [m, d_out, d_in]."""
        columns = [
            gradients[name].flatten(2) if gradients[name].dim() > 2 else gradients[name][..., None]
            for name in self.names
        ]
        turned = self.outputs.T @ torch.cat(columns, dim=2)
        return turned if self.inputs is None else turned @ self.inputs


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
        self._factors.compute_kronecker_factors()
        self._factors.compute_eigenvalue_correction()
        self._model = model
        self._parameters = {name: found[name].detach() for name in self.names}

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

    def solve(
        self, right: Mapping[str, Tensor], shifts: Sequence[float], tolerance: float
    ) -> list[tuple[Tensors, Solution]]:
        """(F + σ I)⁻¹ b; its residual is that of the exact Gauss-Newton matrix.

        Since EK-FAC is no solver but an approximation, the residual says how good that is.

        Args:
            right: b, of all trainable parameters' names and shapes.
            shifts: σ.
            tolerance: Relative residual within which the approximation counts as a solution.

        Returns:
            For each shift x by name, of `right`'s names and shapes, and the solution over the covered parameters.
        """
        results = []
        for shift in shifts:
            by_name = self.inverse(shift)(right)
            residual = self.residual(right, by_name, shift)
            flat = torch.cat([by_name[name].flatten() for name in self.names])
            results.append((by_name, Solution(flat, 0, residual, residual <= tolerance)))
        return results

    @plain_attention()
    def self_influence(self, inputs: Tensor, labels: Tensor, shift: float) -> Tensor:
        """∇l_kᵀ (F + σ I)⁻¹ ∇l_k of each sample over the covered parameters: how much it holds up its own loss.

        A layer's gradient is turned into the layer's eigenbasis, where the matrix is diagonal. Gradients exist for a
        few samples at a time.

        Args:
            inputs: [m, ...].
            labels: [m].
            shift: σ, above 0.

        Returns:
            [m], not negative; large where the label is at odds with the other samples' (Koh and Liang 2017).
        """

        def loss(parameters: Tensors, row: Tensor, label: Tensor) -> Tensor:
            return cross_entropy(functional_call(self._model, parameters, (row[None],)), label[None])

        each = vmap(grad(loss), in_dims=(None, 0, 0))
        size = max(1, _GRADIENTS // sum(value.numel() for value in self._parameters.values()))
        layers = list(self._layers())
        found = []
        for some, given in zip(torch.split(inputs, size), torch.split(labels, size), strict=True):
            gradients = each(self._parameters, some, given)
            squares = [
                (layer.rotated(gradients).square() / (layer.eigenvalues + shift)).sum((1, 2)) for layer in layers
            ]
            found.append(torch.stack(squares).sum(0))
        return torch.cat(found).detach()

    def _layers(self) -> Iterator[_Layer]:
        state = self._factors.state_dict()
        for layer in dict.fromkeys(name.rpartition(".")[0] for name in self.names):
            names = [name for name in self.names if name.rpartition(".")[0] == layer]
            eigenvalues = state["corrected_eigenvalues"][layer]
            if isinstance(eigenvalues, dict):  # weight or bias alone, by the parameter's place
                [eigenvalues] = eigenvalues.values()
            yield _Layer(
                names,
                state["gradient_covariances_eigenvectors"][layer],
                state["input_covariances_eigenvectors"].get(layer),
                eigenvalues if eigenvalues.dim() > 1 else eigenvalues[:, None],
            )
