"""Every score a training sample can get: its name, which way it points, and whether it predicts anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Method:
    """One method. A column is named after it; a variant of it, under another setting, is `name@setting`."""

    name: str
    meaning: str
    """One line for tables and reports."""
    predicts: bool = True
    """Whether it is an influence: its harm is a predicted change of f, validation loss by default, in nats. The others
    only say how wrong a label looks, or nothing."""
    harm_sign: float = -1.0
    """harm = sign x (score − neutral): an influence is positive for a sample that helps; a suspect has a high loss or
    a low margin."""
    neutral: float = 0.0
    """The score from which on a sample is neither harmful nor suspicious."""


_ALL = (
    Method("replay", "exact influence: all of SAM training differentiated backwards"),
    Method("hif_full", "SAM-HIF: the end of training as a function of its samples, ε included throughout"),
    Method("hif_fast", "SAM-HIF with ε held everywhere (the paper's fast form)"),
    Method("hif", "SAM-HIF with ε held in the sample's own part alone (the paper's full form)"),
    Method("influence", "classic influence function, without SAM (Koh and Liang 2017)"),
    Method("ekfac", "classic influence function with EK-FAC's curvature (Grosse et al. 2023)"),
    Method("gif_step", "SAM-GIF at every step: the gradients that training took, curvature dropped"),
    Method("gif", "SAM-GIF: gradients at the checkpoints, curvature dropped"),
    Method("tracin", "TracInCP: sample and query gradient at the same checkpoint, θ for both (Pruthi et al. 2020)"),
    Method("trak", "a linear model of randomly projected gradients, last checkpoint (Park et al. 2023)"),
    Method("loss", "loss at the end of training", predicts=False, harm_sign=1.0),
    Method("margin", "margin at the end of training", predicts=False),
    Method("aum", "margin averaged over training (Pleiss et al. 2020)", predicts=False),
    Method("aum_late", "margin averaged over the second half of training", predicts=False),
    Method("aum_perturbed", "margin at θ + ε averaged over training: AUM where SAM looks", predicts=False),
    Method(
        "self_confidence",
        "probability of the given label averaged over training (Swayamdipta et al. 2020)",
        predicts=False,
        neutral=0.5,
    ),
    Method(
        "out_of_sample",
        "probability of the given label by a model that was trained without the sample (Northcutt et al. 2021)",
        predicts=False,
        neutral=0.5,
    ),
    Method(
        "ekfac_self",
        "influence of the sample on its own loss, with EK-FAC's curvature (Koh and Liang 2017)",
        predicts=False,
        harm_sign=1.0,
    ),
    Method("random", "a number drawn from the seed: what any other score must beat", predicts=False, harm_sign=1.0),
)

METHODS: dict[str, Method] = {method.name: method for method in _ALL}
"""By name; what can be trusted most to predict retraining comes first."""

HIF = ("hif_full", "hif_fast", "hif", "influence", "ekfac")
"""Those that one linear solve at the end of training gives."""

END_OF_TRAINING = (*HIF, "ekfac_self")
"""Those that the workers compute together at the end of training: the task `hif`."""

AUTO = "auto"
"""Ranks by the method that agrees best with real retrainings, or, without any, by the first of METHODS."""


def base(column: str) -> str:
    """The method of a score column: `replay` for `replay@0.5`."""
    return column.partition("@")[0]


def harm(column: str, scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Turn scores so that a larger value is a more harmful (or more suspicious) sample.

    Args:
        column: Name of the score column.
        scores: Its values, any shape.

    Returns:
        Values of the same shape; a zero is never negative, so that equal scores stay equal.
    """
    method = METHODS[base(column)]
    return method.harm_sign * (scores.astype("float64") - method.neutral) + 0.0


def is_score(column: str) -> bool:
    """Whether a column holds the scores of a method or of a variant of one."""
    return base(column) in METHODS


def in_order(columns: Iterable[str]) -> tuple[str, ...]:
    """The score columns among some names, methods in the order of METHODS, variants behind their method."""
    place = {name: index for index, name in enumerate(METHODS)}
    return tuple(sorted(filter(is_score, columns), key=lambda column: (place[base(column)], len(column), column)))
