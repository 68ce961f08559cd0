"""Effective steps: what a unit of gradient at one step moves the final parameters by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def effective_steps(
    learning_rates: NDArray[np.float64], momentum: float, weight_decay: float, nesterov: bool = False
) -> NDArray[np.float64]:
    """η̄_t under momentum and weight decay, curvature dropped (the assumption of GIF).

    With (α, β) the derivative of the final parameters in (θ, u) after step t, starting from (1, 0):

        η̄_t = η_t α − β
        (α, β) ← (α (1 − η_t λ) + β λ, (β − η_t α) μ)

    and for Nesterov's momentum η̄_t = η_t (1 + μ) α − β, (α (1 − η_t (1 + μ) λ) + β λ, (β − η_t μ α) μ).
    Plain gradient descent gives η̄_t = η_t.

    Args:
        learning_rates: η of every step, [steps].
        momentum: μ.
        weight_decay: λ.
        nesterov: Nesterov's form.

    Returns:
        [steps]
    """
    effective = np.empty(len(learning_rates))
    boost, carry = (1.0 + momentum, momentum) if nesterov else (1.0, 1.0)
    alpha, beta = 1.0, 0.0
    for step in range(len(learning_rates) - 1, -1, -1):
        rate = float(learning_rates[step])
        effective[step] = rate * boost * alpha - beta
        alpha, beta = (
            alpha * (1.0 - rate * boost * weight_decay) + beta * weight_decay,
            (beta - rate * carry * alpha) * momentum,
        )
    return effective


def effective_steps_of_adamw(
    learning_rates: NDArray[np.float64], beta1: float, weight_decay: float
) -> NDArray[np.float64]:
    """η̄_t under AdamW, curvature dropped and the second moment held: scaled by P = 1 / (√v̂ + ε), entry by entry.

    With (α, β) the derivative of the final parameters in (θ, P m) after step t, starting from (1, 0), and
    η̂_t = η_t / (1 − β₁ᵗ⁺¹):

        η̄_t = (1 − β₁) (η̂_t α − β)
        (α, β) ← (α (1 − η_t λ), (β − η̂_t α) β₁)

    Args:
        learning_rates: η of every step, [steps].
        beta1: β₁.
        weight_decay: λ.

    Returns:
        [steps]
    """
    effective = np.empty(len(learning_rates))
    alpha, beta = 1.0, 0.0
    for step in range(len(learning_rates) - 1, -1, -1):
        rate = float(learning_rates[step])
        unbiased = rate / (1.0 - beta1 ** (step + 1))
        effective[step] = (1.0 - beta1) * (unbiased * alpha - beta)
        alpha, beta = alpha * (1.0 - rate * weight_decay), (beta - unbiased * alpha) * beta1
    return effective


def nearest_checkpoints(checkpoint_steps: NDArray[np.integer], steps: int) -> NDArray[np.intp]:
    """For every step, the index of the checkpoint nearest to its middle: the gradient used in its place.

    Args:
        checkpoint_steps: Ascending steps whose states are known, [checkpoints].
        steps: Steps of the training.

    Returns:
        [steps], indices into `checkpoint_steps`.
    """
    middles = (checkpoint_steps[1:] + checkpoint_steps[:-1]) / 2
    return np.searchsorted(middles, np.arange(steps) + 0.5, side="left")
