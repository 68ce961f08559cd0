"""Output bias forgetting (Vani et al. 2024, arXiv 2406.06700).

Source: "Forget Sharpness: Perturbed Forgetting of Model Biases Within SAM Dynamics", and its authors' code.

ε = ρ g / ‖g‖₂ as in SAM, but g is the gradient of another loss than the one that is minimised: with p the softmax of
the logits, y the label and u the uniform distribution over the classes,

    OBF = (1 − α) CE(p, y) − CE(p, u),    α = γ max(0, (1 − λ / p_y) / (1 − λ)) held constant in the gradient g:

the ascent forgets what the outputs are certain of, where SAM's forgets what makes the loss low.

α is no constant of training, though: it moves with θ, and an exact derivative of g has to know. It depends on p_y
alone, that is on l = CE(p, y) = −ln p_y. So (1 − α(l)) ∇l is the gradient of an antiderivative of 1 − α, and what is
here is that loss, whose gradient is g and whose Hessian is the whole derivative of g:

    l − γ / (1 − λ) (l' − λ exp l') − CE(p, u),    l' = min(l, −ln λ).

There is no setting of γ and λ at which this is SAM.
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from auditor.sam.perturbation import Perturbation, forgetful, sample_losses
from auditor.sam.variants.sam import sam_ascent


def obf(rho: float, gamma: float = 1.0, threshold: float = 0.1) -> Perturbation:
    """SAM whose ascent follows the gradient of OBF."""
    loss = partial(obf_losses, gamma=gamma, threshold=threshold)
    return Perturbation(forgetful(partial(sam_ascent, rho=rho)), ascent_loss=loss)


def obf_losses(logits: Tensor, labels: Tensor, gamma: float, threshold: float) -> Tensor:
    """The loss whose gradient is that of OBF with α held constant.

    Args:
        logits: [m, classes].
        labels: [m].
        gamma: γ, the most that α may be, from 0 to 1.
        threshold: λ, from 0 to below 1: the probability of the label up to which α is 0; 0 makes α γ for all.

    Returns:
        [m], in nats up to a constant.
    """
    losses = sample_losses(logits, labels)
    cap = -math.log(threshold) if threshold else math.inf
    capped = losses.clamp_max(cap)
    forgotten = gamma / (1.0 - threshold) * (capped - (capped - cap).exp())
    uniform = -logits.log_softmax(dim=1).mean(dim=1)
    return losses - forgotten - uniform
