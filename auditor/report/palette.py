"""Colours of the figures: on white, and still apart when a dark page inverts their lightness."""

from __future__ import annotations

from auditor.methods import METHODS, base
from auditor.report.priority import PRIORITY

PAGE = "#ffffff"
INK = "#1d2433"
FAINT = "#667085"
GRID = "#e4e7ec"
BLUE = "#2962c9"
ORANGE = "#d9730d"
TEAL = "#0f8a78"
PURPLE = "#7c4dca"
RED = "#c8324a"
MAGENTA = "#a8327d"

_METHODS = {"replay": MAGENTA, "gif": BLUE, "loss": ORANGE, "margin": TEAL, "aum": PURPLE, "random": FAINT}
_OTHERS = ("#8a6d00", "#3d7d2c", "#0b7fab", "#b0503c", "#5b6abf", "#96507f", "#4f7a75", "#7d6a55", "#4c4f9e", "#b3277a")


def colour(column: str) -> str:
    """One colour a method, the same in every figure; a method's variants share it, and the priority is ink."""
    if column == PRIORITY:
        return INK
    method = base(column)
    return _METHODS.get(method) or _OTHERS[list(METHODS).index(method) % len(_OTHERS)]
