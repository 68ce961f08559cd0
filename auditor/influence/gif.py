"""SAM-GIF: influence from the gradients along the recorded trajectory.

Source: "Attributing Data for Sharpness-Aware Minimization", Theorem 4.6, with the sign and the 1/b that its text lost:

    influence_k = Σ_c W_{k,c} ⟨∇f(θ_T), ∇l_k(θ_c + ε_c)⟩,   W_{k,c} = Σ_{t in interval c} (η̄_t / b_t) B_{k,t}

Positive: the sample helps. GIF drops the curvature between step t and the end: it ranks, it does not measure.
"""

from __future__ import annotations

from collections.abc import Iterable

from auditor.sam.network import Network
from auditor.sam.perturbation import Past, Perturbation, Tensors, zeros
from auditor.sam.state import State
from auditor.sam.step import MicroBatch, first_pass


def perturbed_parameters(
    network: Network,
    state: State,
    batches: Iterable[MicroBatch],
    total: int,
    perturbation: Perturbation,
) -> Tensors:
    """θ_c + ε_c at a checkpoint: where GIF takes the gradients of samples.

    Args:
        network: The model.
        state: The checkpoint.
        batches: Micro-batches of the step recorded at the checkpoint; ε_c is the ascent of their mean gradient.
        total: How many they are.
        perturbation: The variant of SAM; GIF knows its ascent and the loss of it only.

    Returns:
        Parameters; the derivatives of a sample's loss there along ∇f(θ_T) are what GIF sums, weighted by W.
    """
    mean = zeros(state.parameters)
    seed = 0
    for batch in batches:
        found = first_pass(network, state.parameters, state.buffers, batch, perturbation)
        for name, value in found.gradient.items():
            mean[name] += value / total
        seed = batch.seed
    epsilon = perturbation.ascent(state.parameters, mean, Past(state.memory, seed))
    return {name: value + epsilon[name] for name, value in state.parameters.items()}
