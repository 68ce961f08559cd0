"""The last linear layer of a classifier: what it reads of a sample, and influence as far as it goes through this layer.

With x_k = (features, 1) the input of the layer and d_k = p_k − onehot(label) the derivative of the loss in the logits,
the gradient in the layer's weights is x_k d_kᵀ, and with the Kronecker-factored Gauss-Newton matrix of the layer,
A = mean x xᵀ and B = mean (diag(p) − p pᵀ) in their eigenbases U, V (Martens and Grosse 2015),

    influence_k(z) = (1/n) Σ_ij (Uᵀx_k)_i (Uᵀx_z)_i (Vᵀd_k)_j (Vᵀd_z)_j / (a_i b_j + σ).

A forward pass for each sample is all it costs, for any number of pairs. What moves the layers before is left out.

The matrix 1 / (a_i b_j + σ) is smooth in both indices and has but a few singular values that matter; with them a pair
costs a few inner products instead of a product with the whole layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def find_head(model: nn.Module, inputs: Tensor) -> str | None:
    """Name of the linear layer whose output is the logits; None where there is none.

    Args:
        model: In evaluation mode.
        inputs: [m, ...]
    """
    outputs: dict[str, Tensor] = {}
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    handles = [
        layer.register_forward_hook(lambda _, __, output, name=name: outputs.__setitem__(name, output))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            logits = model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return next((name for name, output in reversed(outputs.items()) if output is logits), None)


class FeatureReader:
    """Reads the features of samples: the input of a layer.

    Args:
        model: In evaluation mode.
        head: Name of the layer.
    """

    def __init__(self, model: nn.Module, head: str) -> None:
        self._model, self._layer = model, model.get_submodule(head)

    def __call__(self, inputs: Tensor) -> Tensor:
        """[m, features] of inputs [m, ...]."""
        seen: list[Tensor] = []
        handle = self._layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
        try:
            with torch.no_grad():
                self._model(inputs)
        finally:
            handle.remove()
        return seen[-1]


_NEGLIGIBLE = 1e-9
"""Singular values below this part of the largest are left out."""


@dataclass(frozen=True)
class Head:
    """The layer's weights."""

    weight: NDArray[np.float64]
    """[classes, features]"""
    bias: NDArray[np.float64]
    """[classes]"""

    def probabilities(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """[m, classes] for features [m, features]."""
        logits = features.astype(np.float64) @ self.weight.T + self.bias
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))

    def gradients(
        self, features: NDArray[np.floating], labels: NDArray[np.integer]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """X [m, features + 1] and d [m, classes]: the two factors of each sample's gradient in the layer."""
        errors = self.probabilities(features)
        errors[np.arange(len(labels)), labels] -= 1.0
        return _with_one(features), errors


class HeadCurvature:
    """The layer's Gauss-Newton matrix, gathered while the training rows stream by."""

    def __init__(self, head: Head) -> None:
        classes, features = head.weight.shape
        self._head = head
        self._rows = 0
        self._inputs = np.zeros((features + 1, features + 1))
        self._outputs = np.zeros((classes, classes))

    def add(self, features: NDArray[np.floating]) -> None:
        """Take note of some training rows, [m, features]."""
        given, likely = _with_one(features), self._head.probabilities(features)
        self._rows += len(features)
        self._inputs += given.T @ given
        self._outputs += np.diag(likely.sum(axis=0)) - likely.T @ likely

    def influence(self, shift: float) -> HeadInfluence:
        """The influence of any sample on any other.

        Args:
            shift: σ: weight decay and damping.
        """
        inner, basis = np.linalg.eigh(self._inputs / self._rows)
        outer, directions = np.linalg.eigh(self._outputs / self._rows)
        scale = 1.0 / (np.outer(inner.clip(0), outer.clip(0)) + shift) / self._rows
        left, singular, right = np.linalg.svd(scale, full_matrices=False)
        kept = singular > _NEGLIGIBLE * singular[0]
        return HeadInfluence(self._head, basis, directions, (left * singular)[:, kept].T, right[kept])


@dataclass(frozen=True)
class HeadInfluence:
    """Influence through the last layer alone."""

    head: Head
    basis: NDArray[np.float64]
    """U"""
    directions: NDArray[np.float64]
    """V"""
    left: NDArray[np.float64]
    """[rank, features + 1]; with `right`, the factors of 1 / n (a_i b_j + σ)."""
    right: NDArray[np.float64]
    """[rank, classes]"""

    def __call__(
        self,
        features: NDArray[np.floating],
        labels: NDArray[np.integer],
        on_features: NDArray[np.floating],
        on_labels: NDArray[np.integer],
    ) -> NDArray[np.float64]:
        """What leaving out each of m samples does to the loss of each of q others, [m, q], in nats: positive helps.

        Args:
            features: [m, features] of the training samples.
            labels: [m]
            on_features: [q, features] of the others.
            on_labels: [q]
        """
        given, errors = self.head.gradients(features, labels)
        on_given, on_errors = self.head.gradients(on_features, on_labels)
        given, on_given = given @ self.basis, on_given @ self.basis
        errors, on_errors = errors @ self.directions, on_errors @ self.directions
        found = np.zeros((len(labels), len(on_labels)))
        for left, right in zip(self.left, self.right, strict=True):
            found += ((given * left) @ on_given.T) * ((errors * right) @ on_errors.T)
        return found


def _with_one(features: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.concatenate([features.astype(np.float64), np.ones((len(features), 1))], axis=1)
