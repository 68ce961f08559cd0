"""Sections about the network, its training and its evaluation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from auditor.sections.section import PositiveInt, Section

PREDECESSOR = "predecessor"
"""The value of `model.weights` that goes on from the audit before this one."""


class Model(Section):
    """The network."""

    name: str = "resnet"
    """`resnet`, `wide_resnet`, `resnet18`, `resnet50`, `vit`, `small_cnn`, `mlp`, or `module:callable` of your own."""
    args: dict[str, Any] = {}
    """Passed to the factory beside num_classes (and input_shape, where it takes one)."""
    weights: Annotated[str, Field(min_length=1)] | None = None
    """Weights that training starts from, without any momentum: `predecessor`, the final ones of the audit before this
    one (`review.predecessor`; the first one starts from seeded weights); or the path or URI of a run folder (its final
    ones), of a checkpoint, or of a `.safetensors` file with the module's state dict; null seeds them. Influence is then
    about this audit's training alone: what a sample did to the given weights is not in it."""
    frozen: list[str] = []
    """Patterns of the names of parameters that are not trained: `["0.*"]`. Perturbation, weight decay and influence are
    those of the other parameters. A BatchNorm layer whose weight and bias are both frozen always normalises with its
    running statistics, which stay as they are."""


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


def _plain_sam(raw: Any) -> Any:
    """Settings without a name are plain SAM's."""
    return {"name": "sam", **raw} if isinstance(raw, dict) else raw


class Optimizer(Section):
    """Stochastic gradient descent with coupled weight decay, as in `torch.optim.SGD`."""

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


class Train(Section):
    """SAM training."""

    reuse: bool = False
    """Take over the training of the audit before this one (`review.predecessor`) where rows and settings are the same,
    so that it would come out the same; for audits that run on a schedule."""
    epochs: PositiveInt = 30
    """Passes over the training rows; the rows that do not fill a last batch sit out, all rows in turn."""
    batch_size: PositiveInt = 128
    """Samples a step, over all workers together."""
    micro_batch_size: PositiveInt = 64
    """Samples that share one ε and one set of BatchNorm statistics (m of m-SAM): part of the objective, whatever
    the number of workers. Must divide the batch size."""
    optimizer: Optimizer = Optimizer()
    """The base optimizer."""
    perturbation: Annotated[
        SAM | ASAM | GSAM | SparseSAM | OBF, Field(discriminator="name"), BeforeValidator(_plain_sam)
    ] = SAM()
    """The variant of SAM; without a name, `sam`."""
    checkpoints: Annotated[int, Field(ge=2)] = 10
    """Checkpoints spread evenly over training, the initial and the final state among them."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Seeds initial weights, batch order, augmentation and dropout; null takes the audit's `seed`. Another one is
    another training on the same splits and labels."""
    precision: Literal["float32", "float64"] = "float32"
    """Type of parameters and arithmetic."""

    @model_validator(mode="after")
    def _micro_batches_fill_the_batch(self) -> Train:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}")
        return self


class Evaluation(Section):
    """How validation and test loss are measured, everywhere they are measured."""

    statistics: Literal["precise", "running"] = "precise"
    """BatchNorm statistics: recomputed from fixed training rows at the parameters in question, or the running ones."""
    statistics_rows: PositiveInt = 512
    """How many training rows give precise statistics."""
    batch_size: PositiveInt = 256
    """Rows a forward pass."""
