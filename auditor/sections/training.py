"""Sections about the network, its training and its evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from auditor.sections.optimizer import SGD, Optimizer
from auditor.sections.perturbation import SAM, Perturbation
from auditor.sections.section import PositiveInt, Section

PREDECESSOR = "predecessor"
"""The value of `model.weights` that goes on from the audit before this one."""


class Model(Section):
    """The network."""

    name: str = "resnet"
    """`resnet`, `wide_resnet`, `whitened_cnn`, `resnet18`, `resnet50`, `vit`, `small_cnn`, `mlp`, or `module:callable`
    of your own."""
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


def _named(name: str) -> Callable[[Any], Any]:
    """Settings without a name are those of `name`."""
    return lambda raw: {"name": name, **raw} if isinstance(raw, dict) else raw


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
    """Samples that share one ε and one set of BatchNorm statistics (m of m-SAM; with the batch size it is n-SAM): part
    of the objective, whatever the number of workers. Must divide the batch size."""
    optimizer: Annotated[Optimizer, Field(discriminator="name"), BeforeValidator(_named("sgd"))] = SGD()
    """The base optimizer; without a name, `sgd`."""
    perturbation: Annotated[Perturbation, Field(discriminator="name"), BeforeValidator(_named("sam"))] = SAM()
    """The variant of SAM; without a name, `sam`."""
    checkpoints: Annotated[int, Field(ge=2)] = 10
    """Checkpoints spread evenly over training, the initial and the final state among them."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Seeds initial weights, batch order, augmentation and dropout; null takes the audit's `seed`. Another one is
    another training on the same splits and labels."""
    precision: Literal["float32", "float64", "bfloat16"] = "float32"
    """Type of parameters and arithmetic. `bfloat16` is mixed precision: in training's passes, layers compute in it
    (`torch.autocast`); parameters, losses, optimizer, evaluation and all derivatives of the training keep 32 bits."""

    @model_validator(mode="after")
    def _micro_batches_fill_the_batch(self) -> Train:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}")
        return self

    @model_validator(mode="after")
    def _differences_survive_rounding(self) -> Train:
        # Of a trained network's estimates in bfloat16 and in 32 bits, correlations of 0.75 to 0.94 were measured.
        if self.precision == "bfloat16" and self.perturbation.name == "reweighted_sam":
            raise ValueError(
                "precision bfloat16 does not go with perturbation reweighted_sam, whose weights come from losses at "
                "two points so close that rounding would decide between them"
            )
        return self


class Evaluation(Section):
    """How validation and test loss are measured, everywhere they are measured."""

    statistics: Literal["precise", "running"] = "precise"
    """BatchNorm statistics: recomputed from fixed training rows at the parameters in question, or the running ones."""
    statistics_rows: PositiveInt = 512
    """How many training rows give precise statistics."""
    batch_size: PositiveInt = 256
    """Rows a forward pass."""
