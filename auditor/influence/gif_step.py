"""GIF without checkpoints in between: the gradient that each recorded step took of each of its samples.

    influence_k = Σ_t (η̄_t / b_t) B_{k,t} ⟨∇f(θ_T), ∇l_k(θ_t + ε_t)⟩

ε_t is the sample's own micro-batch's, the sample is augmented as it was, and BatchNorm normalises with the statistics
of the micro-batch, through which the derivative goes. What is left out is what GIF leaves out at any number of
checkpoints: how the steps after t bend the path (curvature), and the sample's part in ε_t.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import jvp
from torch.nn.functional import cross_entropy

from auditor.influence.attention import plain_attention
from auditor.sam.network import Network
from auditor.sam.perturbation import Perturbation, Tensors
from auditor.sam.state import State
from auditor.sam.step import MicroBatch, ascend


def step_derivatives(
    network: Network, state: State, batch: MicroBatch, perturbation: Perturbation, tangent: Tensors
) -> Tensor:
    """⟨∇l_k(θ + ε), v⟩ of the samples of a micro-batch, in training mode: one gradient and one dual forward pass.

    Args:
        network: The model.
        state: The state before the step.
        batch: The samples, as they were trained on.
        perturbation: The variant of SAM; GIF knows its ascent and the loss of it only.
        tangent: v, of the parameters' names and shapes.

    Returns:
        [m]
    """
    _, perturbed = ascend(network, state, batch, perturbation)

    def losses(parameters: Tensors) -> Tensor:
        logits, _ = network.train(parameters, state.buffers, batch.inputs, batch.seed)
        return cross_entropy(logits, batch.labels, reduction="none")

    with torch.no_grad(), plain_attention():
        _, derivative, *_ = jvp(losses, (perturbed,), (tangent,))
    found: Tensor = derivative
    return found
