"""Sections about the variants of SAM, one each; `auditor.sam.variants` has their formulas."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from auditor.sections.section import PositiveInt, Section


class SAM(Section):
    """Foret et al. 2021: ε = ρ g / ‖g‖, the gradient at θ + ε."""

    name: Literal["sam"] = "sam"
    rho: Annotated[float, Field(ge=0)] = 0.05
    """Radius ρ; 0 is plain SGD."""
    p: Annotated[float, Field(gt=1)] = 2.0
    """Norm of the ball; 2 is plain SAM."""


class ASAM(Section):
    """Adaptive SAM (Kwon et al. 2021): ε in proportion to the size of each parameter."""

    name: Literal["asam"]
    rho: Annotated[float, Field(ge=0)] = 0.5
    """Radius ρ, relative to the parameters and so larger than SAM's; 0 is plain SGD."""
    eta: Annotated[float, Field(ge=0)] = 0.01
    """η, added to the parameters' sizes."""


class GSAM(Section):
    """Surrogate gap guided SAM (Zhuang et al. 2022): SAM that also closes the gap between the losses at θ and θ + ε."""

    name: Literal["gsam"]
    rho: Annotated[float, Field(ge=0)] = 0.05
    """Radius ρ; 0 is plain SGD."""
    alpha: Annotated[float, Field(ge=0)] = 0.1
    """α, how much closing the gap counts; 0 is SAM."""


class SparseSAM(Section):
    """Sparse SAM (Mi et al. 2022): SAM's ε where the gradient is largest, and none elsewhere."""

    name: Literal["sparse_sam"]
    rho: Annotated[float, Field(ge=0)] = 0.05
    """Radius ρ of SAM's ε; 0 is plain SGD."""
    density: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the parameters that move; 1 is SAM."""


class OBF(Section):
    """Output bias forgetting (Vani et al. 2024): ε follows a loss of its own, (1 − α) CE(p, y) − CE(p, uniform)."""

    name: Literal["obf"]
    rho: Annotated[float, Field(ge=0)] = 0.05
    """Radius ρ; 0 is plain SGD."""
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    """γ, the most that α may be."""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """λ: α = γ max(0, (1 − λ / p_y) / (1 − λ)) grows from 0 where the label's probability is λ; 0 makes α γ
    everywhere."""


class FriendlySAM(Section):
    """Friendly SAM (Li et al. 2024): ε along what is left of the gradient without its average over the steps."""

    name: Literal["friendly_sam"]
    rho: Annotated[float, Field(ge=0)] = 0.05
    """Radius ρ; 0 is plain SGD."""
    sigma: Annotated[float, Field(ge=0)] = 1.0
    """σ, how much of the average is left out; 0 is SAM."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """λ of the moving average of gradients."""


class ReweightedSAM(Section):
    """Reweighted SAM (Luo et al. 2025): in the ascent, samples with long gradients count for more."""

    name: Literal["reweighted_sam"]
    rho: Annotated[float, Field(ge=0)] = 0.05
    """Radius ρ; 0 is plain SGD."""
    temperature: Annotated[float, Field(ge=0)] = 0.5
    """λ of the weights softmax(λ ‖∇l_k‖); 0 is SAM."""
    delta: Annotated[float, Field(gt=0)] = 1e-3
    """δ, the step in every parameter of the finite difference that estimates ‖∇l_k‖."""


class ESAM(Section):
    """Efficient SAM (Du et al. 2022): ε in a random part of the parameters, descent on the most sensitive samples."""

    name: Literal["esam"]
    rho: Annotated[float, Field(ge=0)] = 0.05
    """Radius ρ; 0 is plain SGD."""
    beta: Annotated[float, Field(gt=0, le=1)] = 0.6
    """β, the probability that a parameter is perturbed; 1 perturbs all."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.5
    """γ, the share of a micro-batch's samples that the descent is taken from; 1 takes all."""


class LookSAM(Section):
    """LookSAM (Liu et al. 2022): SAM at every k-th step, and in between what it added to the gradient there."""

    name: Literal["look_sam"]
    rho: Annotated[float, Field(ge=0)] = 0.05
    """Radius ρ; 0 is plain SGD."""
    alpha: Annotated[float, Field(ge=0)] = 0.7
    """α, how much is added in between."""
    period: PositiveInt = 5
    """k; 1 is SAM."""


class MomentumSAM(Section):
    """Momentum SAM (Becker et al. 2024): ε against the momentum, so that a step has one backward pass."""

    name: Literal["momentum_sam"]
    rho: Annotated[float, Field(ge=0)] = 0.3
    """Radius ρ, the authors' larger than SAM's; 0 is plain SGD."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """μ of the momentum that is ascended against."""


Perturbation = SAM | ASAM | GSAM | SparseSAM | OBF | FriendlySAM | ReweightedSAM | ESAM | LookSAM | MomentumSAM
