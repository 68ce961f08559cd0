"""Solvers of (A + σ I) x = b for a matrix that is known by its products alone, for several shifts σ at once.

Vectors are flat, [p]. Every solver returns, for each shift, a `Solution` whose residual was measured by one more
product with the very matrix that was to be solved, not the one that its recurrence believes in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator
from scipy.sparse.linalg import bicgstab as scipy_bicgstab
from torch import Tensor

from auditor.influence.krylov import Arnoldi, Product

Solver = Callable[[Product, Tensor, Sequence[float], int, float], list["Solution"]]
"""(A, b [p], shifts, most products for one solve, tolerance) → a solution for each shift."""

_RITZ_STEPS = 20
"""Products that estimate the outer ends of a spectrum."""


@dataclass(frozen=True)
class Solution:
    """x with (A + σ I) x ≈ b, and how well it does."""

    vector: Tensor
    """x, [p]."""
    iterations: int
    """Products with A that were needed, the measuring one apart; shared by all shifts where one basis serves them."""
    residual: float
    """‖b − (A + σ I) x‖ / ‖b‖."""
    converged: bool
    """Whether the residual is within the tolerance."""


class UnsolvableError(ValueError):
    """A system that a method cannot solve, in one sentence."""


def gmres(
    product: Product, right: Tensor, shifts: Sequence[float], iterations: int, tolerance: float
) -> list[Solution]:
    """Generalised minimal residuals for any square matrix; one basis serves all shifts.

    Krylov spaces do not change when a multiple of I is added to the matrix, so each shift only needs its own small
    least-squares problem, min_y ‖β e_1 − (H + σ Ī) y‖, x = V y (Saad and Schultz 1986; shifted systems: Frommer and
    Glässner 1998). Not restarted: it keeps a vector for each iteration.

    Args:
        product: A.
        right: b, not zero.
        shifts: σ.
        iterations: Most products.
        tolerance: Relative residual at which it ends, once all shifts have it.

    Returns:
        A solution for each shift.

    Raises:
        FloatingPointError: A product is not finite.
    """
    arnoldi = Arnoldi(product, right, iterations)
    while True:
        arnoldi.extend()
        found = [arnoldi.least_squares(shift) for shift in shifts]
        if arnoldi.exhausted or arnoldi.steps == iterations or max(left for _, left in found) <= tolerance:
            break
    small = [torch.from_numpy(solution).to(right) for solution, _ in found]
    vectors = [arnoldi.size * (solution @ arnoldi.basis[: arnoldi.steps]) for solution in small]
    steps = arnoldi.steps
    return [
        _measured(product, right, shift, vector, steps, tolerance)
        for shift, vector in zip(shifts, vectors, strict=True)
    ]


def cg(product: Product, right: Tensor, shifts: Sequence[float], iterations: int, tolerance: float) -> list[Solution]:
    """Conjugate gradients for a symmetric matrix, A + σ I positive definite; one recurrence serves all shifts.

    The residuals of all shifts are parallel, so the others follow from the smallest shift's scalars
    (Jegerlehner 1996, hep-lat/9612014); two vectors are kept for each shift.

    Args:
        product: A, symmetric.
        right: b, not zero.
        shifts: σ.
        iterations: Most products.
        tolerance: Relative residual at which it ends.

    Returns:
        A solution for each shift.

    Raises:
        FloatingPointError: A + σ I is not positive definite, or a product is not finite.
    """
    base = min(shifts)
    apart = [shift - base for shift in shifts]
    vectors = [torch.zeros_like(right) for _ in shifts]
    directions = [right.clone() for _ in shifts]
    direction, residual = right.clone(), right.clone()
    squared = float(residual @ residual)
    bound = tolerance**2 * squared
    zeta_before, zeta = [1.0] * len(shifts), [1.0] * len(shifts)
    alpha_before, beta_before = 1.0, 0.0
    steps = 0
    while steps < iterations and squared > bound:
        image = product(direction) + base * direction
        steps += 1
        curvature = float(direction @ image)
        if not curvature > 0.0 or not math.isfinite(curvature):
            raise FloatingPointError("conjugate gradients met a direction without positive curvature")
        alpha = squared / curvature
        residual = residual - alpha * image
        squared_after = float(residual @ residual)
        beta = squared_after / squared
        for index, shift in enumerate(apart):
            before, now = zeta_before[index], zeta[index]
            if now == 0.0:
                continue  # solved to the last digit
            scale = alpha * beta_before * (before - now) + before * alpha_before * (1.0 + shift * alpha)
            after = now * before * alpha_before / scale
            ratio = after / now
            vectors[index] += alpha * ratio * directions[index]
            directions[index] = after * residual + beta * ratio**2 * directions[index]
            zeta_before[index], zeta[index] = now, after
        direction = residual + beta * direction
        squared, alpha_before, beta_before = squared_after, alpha, beta
    return [
        _measured(product, right, shift, vector, steps, tolerance)
        for shift, vector in zip(shifts, vectors, strict=True)
    ]


def bicgstab(
    product: Product, right: Tensor, shifts: Sequence[float], iterations: int, tolerance: float
) -> list[Solution]:
    """Stabilised bi-conjugate gradients for any square matrix, in the memory of a few vectors (scipy's).

    Every shift is solved by itself; an iteration takes two products.

    Args:
        product: A.
        right: b, not zero.
        shifts: σ.
        iterations: Most products for one shift.
        tolerance: Relative residual at which it ends.

    Returns:
        A solution for each shift.
    """
    size = len(right)
    solutions = []
    for shift in shifts:
        used = 0

        def times(vector: NDArray[np.float64], shift: float = shift) -> NDArray[np.float64]:
            nonlocal used
            used += 1
            image = product(torch.from_numpy(vector.ravel().copy()).to(right)).double().cpu().numpy()
            return np.asarray(image + shift * vector.ravel())

        matrix = LinearOperator((size, size), matvec=times, dtype=np.float64)
        found, _ = scipy_bicgstab(
            matrix, right.double().cpu().numpy(), rtol=tolerance, atol=0.0, maxiter=max(1, iterations // 2)
        )
        solutions.append(_measured(product, right, shift, torch.from_numpy(found).to(right), used, tolerance))
    return solutions


def neumann(
    product: Product, right: Tensor, shifts: Sequence[float], iterations: int, tolerance: float
) -> list[Solution]:
    """The Neumann series x = α Σ_i (I − α (A + σ I))^i b, each shift by itself.

    It converges if and only if the spectrum of I − α (A + σ I) lies inside the unit disc. Ritz values from a few
    products estimate that spectrum: α is one over their largest modulus, and a spectrum outside is refused.

    Args:
        product: A.
        right: b, not zero.
        shifts: σ.
        iterations: Most products for one shift.
        tolerance: Relative residual at which it ends.

    Returns:
        A solution for each shift.

    Raises:
        UnsolvableError: The spectrum is outside, or the terms grow.
        FloatingPointError: A product is not finite.
    """
    arnoldi = Arnoldi(product, right, min(_RITZ_STEPS, iterations))
    while not arnoldi.exhausted and arnoldi.steps < min(_RITZ_STEPS, iterations):
        arnoldi.extend()
    ritz = np.linalg.eigvals(arnoldi.hessenberg[:-1])
    bound = tolerance * arnoldi.size
    solutions = []
    for shift in shifts:
        alpha = 1.0 / float(np.abs(ritz + shift).max())
        if not (radius := float(np.abs(1.0 - alpha * (ritz + shift)).max())) < 1.0:
            raise UnsolvableError(
                f"the Neumann series does not converge at damping and weight decay of together {shift:g}: the "
                f"curvature has an eigenvalue near {float(ritz.real.min()):.3g}, the spectral radius is {radius:.4g}"
            )
        vector, term, steps = torch.zeros_like(right), right.clone(), 0
        while steps < iterations - arnoldi.steps and float(term.norm()) > bound:
            vector += alpha * term
            term = term - alpha * (product(term) + shift * term)
            steps += 1
            if not float(term.norm()) < 10.0 * arnoldi.size:
                raise UnsolvableError(
                    f"the Neumann series does not converge at damping and weight decay of together {shift:g}: its "
                    f"terms grow after {steps} products"
                )
        solutions.append(_measured(product, right, shift, vector, arnoldi.steps + steps, tolerance))
    return solutions


SOLVERS: dict[str, Solver] = {"gmres": gmres, "bicgstab": bicgstab, "neumann": neumann, "cg": cg}
"""By the names that `hif.solver` knows."""


def _measured(
    product: Product, right: Tensor, shift: float, vector: Tensor, iterations: int, tolerance: float
) -> Solution:
    residual = relative_residual(product, right, shift, vector)
    return Solution(vector, iterations, residual, residual <= tolerance)


def relative_residual(product: Product, right: Tensor, shift: float, vector: Tensor) -> float:
    """‖b − (A + σ I) x‖ / ‖b‖, by one product."""
    return float((right - product(vector) - shift * vector).norm() / right.norm())
