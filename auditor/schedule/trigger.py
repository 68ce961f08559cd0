"""When a schedule is due."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Trigger(Protocol):
    """Moments, called ticks, without an end. All of them are in UTC, so that they compare as instants."""

    def after(self, moment: datetime) -> datetime:
        """The first tick later than a moment."""

    def latest(self, moment: datetime) -> datetime:
        """The last tick at or before a moment."""

    def label(self, tick: datetime) -> str:
        """What names a tick's audit, different for each tick."""
