"""Influence in pure torch, under any launcher."""

from auditor.influence.directional import Direction, Point, derivatives_along, directional_derivatives, sample_logits
from auditor.influence.effective_step import effective_steps, nearest_checkpoints
from auditor.influence.gif import gif_direction
from auditor.influence.query import Evaluated, evaluate, query_gradient
from auditor.influence.statistics import PreciseStatistics, fold, with_running

__all__ = [
    "Direction",
    "Evaluated",
    "Point",
    "PreciseStatistics",
    "derivatives_along",
    "directional_derivatives",
    "effective_steps",
    "evaluate",
    "fold",
    "gif_direction",
    "nearest_checkpoints",
    "query_gradient",
    "sample_logits",
    "with_running",
]
