"""Influence in pure torch, under any launcher."""

from auditor.influence.derivatives import Derivatives
from auditor.influence.directional import (
    Direction,
    Directions,
    Point,
    directional_derivatives,
    sample_logits,
)
from auditor.influence.effective_step import effective_steps, effective_steps_of_adamw, nearest_checkpoints
from auditor.influence.gif import perturbed_parameters
from auditor.influence.gif_step import step_derivatives
from auditor.influence.query import Evaluated, evaluate, query_gradient, weighted_gradient
from auditor.influence.statistics import PreciseStatistics, fold, with_running
from auditor.influence.trak import random_projection, trak_tangent

__all__ = [
    "Derivatives",
    "Direction",
    "Directions",
    "Evaluated",
    "Point",
    "PreciseStatistics",
    "directional_derivatives",
    "effective_steps",
    "effective_steps_of_adamw",
    "evaluate",
    "fold",
    "nearest_checkpoints",
    "perturbed_parameters",
    "query_gradient",
    "random_projection",
    "sample_logits",
    "step_derivatives",
    "trak_tangent",
    "weighted_gradient",
    "with_running",
]
