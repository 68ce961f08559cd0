"""Colours of the figures: on white, and still apart when a dark page inverts their lightness."""

from __future__ import annotations

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

METHODS = {"replay": MAGENTA, "gif": BLUE, "loss": ORANGE, "margin": TEAL, "aum": PURPLE}
"""One colour a method, the same in every figure."""
