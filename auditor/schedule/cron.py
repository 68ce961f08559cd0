"""Cron expressions, read as both Kubernetes and we ourselves have to understand them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from auditor.errors import InputError

_FIELDS = ("minute", "hour", "day of month", "month", "day of week")
_VALUE = r"(?:\d{1,2}|[a-z]{3})"
_TERM = re.compile(rf"\*(/\d+)?|{_VALUE}(-{_VALUE}(/\d+)?)?", re.IGNORECASE)
_MOST_YEARS = timedelta(days=4 * 366)


@dataclass(frozen=True)
class Cron:
    """A trigger by minute, hour, day of month, month and day of week; see `parse_cron`."""

    expression: str
    time_zone: str = "UTC"

    def after(self, moment: datetime) -> datetime:
        """The first tick later than a moment."""
        return next(CronSim(self.expression, moment.astimezone(self._zone))).astimezone(UTC)

    def latest(self, moment: datetime) -> datetime:
        """The last tick at or before a moment."""
        # Going backwards, the moment itself does not count, so it starts a moment later.
        later = moment.replace(microsecond=0) + timedelta(seconds=1)
        return next(CronSim(self.expression, later.astimezone(self._zone), reverse=True)).astimezone(UTC)

    def label(self, tick: datetime) -> str:
        """A tick's date, with the time where there can be several on a day."""
        minute, hour, *_ = self.expression.split()
        once_a_day = minute.isdigit() and hour.isdigit()
        return tick.astimezone(self._zone).strftime("%Y-%m-%d" if once_a_day else "%Y-%m-%d-%H%M")

    @cached_property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)


def parse_cron(expression: str, time_zone: str = "UTC") -> Cron:
    """A trigger from an expression such as `0 3 * * 1`, Monday at three.

    What crons read differently is refused: seven for Sunday, `5/10`, `L`, `#`, names such as `@weekly`, and a day of
    month with a day of week where one of them is a step of all.

    Args:
        expression: Five fields.
        time_zone: A name such as `Europe/Berlin`; hours that daylight saving time skips or doubles are ticks once.

    Raises:
        InputError: The expression is none of these, is never due, or there is no such time zone.
    """
    fields = expression.split()
    if len(fields) != len(_FIELDS):
        raise InputError(
            f"--cron {expression!r}: expected five fields (minute, hour, day of month, month, day of week) such as "
            "'0 3 * * 1'"
        )
    for name, field in zip(_FIELDS, fields, strict=True):
        if not all(_TERM.fullmatch(term) for term in field.split(",")):
            raise InputError(f"--cron {expression!r}: the {name} {field!r} is no *, number, range or step of one")
    if "7" in re.findall(r"\d+", re.sub(r"/\d+", "", fields[4])):
        raise InputError(f"--cron {expression!r}: the day of week 7 is unknown to Kubernetes; Sunday is 0")
    days = fields[2], fields[4]
    if "*" not in days and any(field.startswith("*") for field in days):
        raise InputError(f"--cron {expression!r}: crons differ on what {days[0]!r} together with {days[1]!r} means")
    try:
        ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InputError(f"--time-zone {time_zone!r}: there is no such time zone") from error
    cron = Cron(" ".join(fields), time_zone)
    now = datetime.now(UTC)
    try:
        first = cron.after(now)
    except CronSimError as error:
        reason = str(error)
        raise InputError(f"--cron {expression!r}: {reason[0].lower() + reason[1:]}") from error
    except StopIteration:
        first = None
    if first is None or first - now > 2 * _MOST_YEARS:
        raise InputError(f"--cron {expression!r}: is never due")
    return cron
