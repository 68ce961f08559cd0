"""The passes of a SAM step with their graphs kept, so that what they gave can be differentiated once more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.func import vjp

from auditor.influence.attention import plain_attention
from auditor.influence.double_backward import CheapDoubleBackward
from auditor.sam.network import Network
from auditor.sam.perturbation import Perturbation, Tensors, Weighing, sample_losses, zeros
from auditor.sam.state import State
from auditor.sam.step import MicroBatch, look, micro_batch_pass, probed


def micro_batch_hessian(
    network: Network,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batch: MicroBatch,
    vector: Tensors,
    loss_of: Callable[[Tensor, Tensor], Tensor] = sample_losses,
) -> tuple[Tensors, Tensor]:
    """Without any perturbation: the Hessian of one micro-batch's loss times a vector, and ⟨∇l_k, v⟩ / m, [m]."""
    curved, weights, _ = Pass(network, parameters, buffers, batch, loss_of).along(vector)
    return curved, weights


class Pass:
    """A forward and backward pass whose graph is kept, so that its gradient can be differentiated once more."""

    def __init__(
        self,
        network: Network,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        batch: MicroBatch,
        loss_of: Callable[[Tensor, Tensor], Tensor] = sample_losses,
        weighing: Weighing | None = None,
        beside: Tensor | None = None,
    ) -> None:
        self._leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        with plain_attention(), CheapDoubleBackward():
            logits, _ = network.train(self._leaves, buffers, batch.inputs, batch.seed)
        self._losses = sample_losses(logits, batch.labels)
        self.losses = self._losses.detach()
        self._pull: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]] | None = None
        weights = batch.weights
        if weighing is not None:
            weights, self._pull, *_ = vjp(weighing, weights, self.losses, beside)
        self._weights = weights.detach().requires_grad_()
        loss = (self._weights * loss_of(logits, batch.labels)).mean()
        self._gradient = torch.autograd.grad(loss, list(self._leaves.values()), create_graph=True)
        self.gradient = {name: value.detach() for name, value in zip(self._leaves, self._gradient, strict=True)}

    def along(self, direction: Tensors, toward: Tensor | None = None) -> tuple[Tensors, Tensor, Tensor | None]:
        """What ⟨∇L, v⟩ moves by: with θ, H v; with each sample's weight, ⟨∇l_k, v⟩ / m; with the losses beside it.

        Args:
            direction: v.
            toward: A cotangent of the losses [m], which adds what it pulls back to θ.

        Returns:
            Of the parameters' names and shapes, [m], and [m], which is None where the weights are the samples' own.
        """
        # It is linear in the weights of the pass: both are derivatives of one number.
        *curved, weights = torch.autograd.grad(
            self._gradient,
            [*self._leaves.values(), self._weights],
            [direction[name] for name in self._leaves],
            retain_graph=self._pull is not None or toward is not None,
            allow_unused=True,
            materialize_grads=True,
        )
        found, beside = dict(zip(self._leaves, curved, strict=True)), None
        if self._pull is not None:
            weights, own, beside = self._pull(weights)
            toward = own if toward is None else own + toward
        # A choice of samples has no derivative in their losses.
        if toward is not None and bool(toward.any()):
            leaves = list(self._leaves.values())
            moved = torch.autograd.grad(self._losses, leaves, toward, allow_unused=True, materialize_grads=True)
            found = {name: value + each for (name, value), each in zip(found.items(), moved, strict=True)}
        return found, weights, beside


class FirstPass:
    """The pass at θ, with the weights that a variant gives the samples there."""

    def __init__(self, network: Network, state: State, batch: MicroBatch, perturbation: Perturbation) -> None:
        self._network, self._state, self._batch = network, state, batch
        self._pass: Pass | None = None
        self._probe: Tensors = {}
        if not perturbation.ascends_gradient:
            self.losses, self.gradient = look(network, state.parameters, state.buffers, batch).losses, {}
            return
        weighing, beside = None, None
        if (reweighting := perturbation.reweighting) is not None:
            weighing = reweighting.weights
            self._probe, beside = probed(network, state.parameters, state.buffers, batch, reweighting)
        loss_of = perturbation.ascent_loss
        self._pass = Pass(network, state.parameters, state.buffers, batch, loss_of, weighing, beside)
        self.losses, self.gradient = self._pass.losses, self._pass.gradient

    def along(self, direction: Tensors, toward: Tensor | None = None) -> tuple[Tensors, Tensor]:
        """What ⟨g, v⟩ and ⟨toward, losses⟩ together move by with θ, and with each sample's weight, [m]."""
        if self._pass is None:
            nothing = zeros(self._state.parameters)
            return self._and_losses(nothing, self._state.parameters, toward), torch.zeros_like(self._batch.weights)
        found, weights, beside = self._pass.along(direction, toward)
        # As θ moves, the probe moves along.
        return self._and_losses(found, self._probe, beside), weights

    def _and_losses(self, found: Tensors, at: Tensors, toward: Tensor | None) -> Tensors:
        """`found` and what ⟨toward, losses at a point⟩ moves by with the point."""
        if toward is None or not bool(toward.any()):
            return found
        # A pass takes the mean over the samples, where their sum is meant.
        alone = replace(self._batch, weights=len(toward) * toward)
        moved = micro_batch_pass(self._network, at, self._state.buffers, alone).gradient
        return {name: value + moved[name] for name, value in found.items()}
