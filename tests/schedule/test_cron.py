from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.errors import InputError
from auditor.schedule.cron import parse_cron

MONDAY = datetime(2026, 11, 30, 3, 0, tzinfo=UTC)


def at(*parts):
    return datetime(*parts, tzinfo=UTC)


def test_one_is_monday():
    """As in Kubernetes and crontab; not every library counts so."""
    cron = parse_cron("0 3 * * 1")
    assert cron.after(at(2026, 11, 25)) == MONDAY
    assert cron.after(MONDAY) == MONDAY + timedelta(days=7)
    assert cron.latest(MONDAY) == MONDAY
    assert cron.latest(MONDAY - timedelta(seconds=1)) == MONDAY - timedelta(days=7)


EXPRESSIONS = ["0 3 * * 1", "*/7 * * * *", "30 2 * * *", "0 0 1,15 * *", "15 4 1-7 * mon", "59 23 31 dec *"]


@given(
    st.sampled_from(EXPRESSIONS),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
    st.datetimes(datetime(2024, 1, 1), datetime(2029, 1, 1)).map(lambda naive: naive.replace(tzinfo=UTC)),
)
def test_the_latest_tick_and_the_next_one_enclose_every_moment(expression, zone, moment):
    cron = parse_cron(expression, zone)
    latest, following = cron.latest(moment), cron.after(moment)
    assert latest <= moment < following
    assert cron.latest(latest) == latest
    assert cron.after(latest) == following
    assert cron.latest(following) == following


@pytest.mark.parametrize(
    ("expression", "day", "tick"),
    [
        ("0 3 * * *", at(2026, 3, 28, 12), at(2026, 3, 29, 1)),  # summer time begins at two
        ("30 2 * * *", at(2026, 3, 28, 12), at(2026, 3, 29, 1)),  # there is no 2:30 on that day
        ("30 2 * * *", at(2026, 10, 24, 12), at(2026, 10, 25, 0, 30)),  # it comes twice, and counts once
    ],
)
def test_daylight_saving_time_neither_skips_nor_doubles_a_tick(expression, day, tick):
    cron = parse_cron(expression, "Europe/Berlin")
    assert cron.after(day) == tick
    assert cron.after(tick) - tick > timedelta(hours=20)


def test_a_label_is_the_date_where_that_is_enough():
    assert parse_cron("0 3 * * 1").label(MONDAY) == "2026-11-30"
    assert parse_cron("0 3,15 * * *").label(MONDAY) == "2026-11-30-0300"
    assert parse_cron("*/5 * * * *").label(MONDAY) == "2026-11-30-0300"
    assert parse_cron("30 0 * * *", "Asia/Tokyo").label(at(2026, 11, 29, 15, 30)) == "2026-11-30"


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "expected five fields"),
        ("0 3 * *", "expected five fields"),
        ("0 0 3 * * 1", "expected five fields"),
        ("@weekly", "expected five fields"),
        ("60 3 * * 1", "bad minute"),
        ("0 24 * * 1", "bad hour"),
        ("0 3 0 * *", "bad day-of-month"),
        ("0 3 * 13 *", "bad month"),
        ("0 3 * * 8", "bad day-of-week"),
        ("0 3 * * foo", "bad day-of-week"),
        ("0 5-3 * * *", "bad hour"),
        ("*/0 3 * * *", "bad minute"),
        ("0 3 * * 7", "the day of week 7 is unknown to Kubernetes; Sunday is 0"),
        ("0 3 * * 5-7", "the day of week 7 is unknown to Kubernetes; Sunday is 0"),
        ("5/10 * * * *", "the minute '5/10' is no *, number, range or step of one"),
        ("0 3 L * *", "the day of month 'L' is no *, number, range or step of one"),
        ("0 3 * * 1#2", "the day of week '1#2' is no *, number, range or step of one"),
        ("0 3,, * * 1", "the hour '3,,' is no *, number, range or step of one"),
        ("0 3 */2 * 1", "crons differ on what '*/2' together with '1' means"),
        ("0 3 31 2 *", ""),
    ],
)
def test_what_is_no_expression_or_not_everybodys_is_refused_in_a_sentence(expression, reason):
    with pytest.raises(InputError) as refused:
        parse_cron(expression)
    assert str(refused.value).startswith(f"--cron {expression!r}: ")
    assert reason in str(refused.value)


@pytest.mark.parametrize("zone", ["Europe/Nowhere", "", "/etc/passwd", "../UTC"])
def test_an_unknown_time_zone_is_refused(zone):
    with pytest.raises(InputError, match="there is no such time zone"):
        parse_cron("0 3 * * 1", zone)
