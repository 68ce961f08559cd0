"""Sections about the base optimizers, one each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from auditor.sections.section import Section


class SGD(Section):
    """Stochastic gradient descent with coupled weight decay, as in `torch.optim.SGD`."""

    name: Literal["sgd"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    """Peak learning rate η."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """μ."""
    nesterov: bool = False
    """Nesterov's form of momentum."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """λ, added to the gradient."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes on after warm-up."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    """Epochs of linear warm-up."""


class AdamW(Section):
    """Adam with decoupled weight decay, as in `torch.optim.AdamW`; transformers need it."""

    name: Literal["adamw"]
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate η."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """β₁, decay of the first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """β₂, decay of the second moment."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """ε, added to the root of the second moment. A larger one makes training easier to predict."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """λ, times the learning rate."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes on after warm-up."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    """Epochs of linear warm-up."""


Optimizer = SGD | AdamW
