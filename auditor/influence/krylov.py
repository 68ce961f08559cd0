"""Krylov spaces: what products of a matrix with one vector, again and again, tell of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""v → A v, both [p]."""


class Arnoldi:
    """An orthonormal basis V of the Krylov space of A and b, a vector at a time: A V_k = V_{k+1} H_k.

    Args:
        product: A.
        right: b, not zero.
        steps: Most products; room for as many vectors is taken.
    """

    def __init__(self, product: Product, right: Tensor, steps: int) -> None:
        self._product = product
        self.size = float(right.norm())
        self.basis = right.new_empty(min(steps, len(right)) + 1, len(right))
        self.basis[0] = right / self.size
        self._hessenberg = np.zeros((len(self.basis), len(self.basis) - 1))
        self.steps = 0
        self.exhausted = False
        """Whether the space holds the exact solution: A leads nowhere new."""

    @property
    def hessenberg(self) -> NDArray[np.float64]:
        """H, [steps + 1, steps]."""
        return self._hessenberg[: self.steps + 1, : self.steps]

    def extend(self) -> None:
        """One product more.

        Raises:
            FloatingPointError: It is not finite.
        """
        made = self.basis[: self.steps + 1]
        new = self._product(self.basis[self.steps])
        length = float(new.norm())
        column = torch.zeros_like(made[:, 0])
        for _ in range(2):  # once leaves rounding errors as large as what is left of a vector that cancels
            along = made @ new
            new = new - along @ made
            column += along
        rest = float(new.norm())
        self._hessenberg[: self.steps + 1, self.steps] = column.double().cpu().numpy()
        self._hessenberg[self.steps + 1, self.steps] = rest
        self.steps += 1
        if not math.isfinite(rest):
            raise FloatingPointError("a product with the matrix is not finite")
        self.exhausted = rest <= 10 * torch.finfo(new.dtype).eps * length or self.steps == len(new)
        if rest > 0:
            self.basis[self.steps] = new / rest

    def least_squares(self, shift: float) -> tuple[NDArray[np.float64], float]:
        """The y of min ‖e_1 − (H + σ Ī) y‖, [steps], and that minimum: the relative residual of x = ‖b‖ V y."""
        shifted = self.hessenberg + shift * np.eye(self.steps + 1, self.steps)
        first = np.zeros(self.steps + 1)
        first[0] = 1.0
        solution = np.asarray(np.linalg.lstsq(shifted, first, rcond=None)[0], dtype=np.float64)
        return solution, float(np.linalg.norm(first - shifted @ solution))
