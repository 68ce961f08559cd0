"""Numbers as the report writes them."""

from __future__ import annotations


def number(value: float | None) -> str:
    """Three significant digits with a real minus sign; a dash for nothing.

    >>> number(-0.00123456)
    '−0.00123'
    """
    return "–" if value is None else f"{value:.3g}".replace("-", "−")


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent; a dash for nothing.

    >>> percent(0.123)
    '12.3%'
    """
    return "–" if value is None else f"{value:.{digits}%}"
