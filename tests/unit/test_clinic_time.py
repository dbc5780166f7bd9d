"""The time where a clinic is, over changes to summer time and back."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cobalt_relay.clinic_time import comes_within, moment_of, today, zone_named

ZONES = sorted(available_timezones())
MINUTE = timedelta(minutes=1)
QUARTER = timedelta(minutes=15)
NEW_YORK = ZoneInfo("America/New_York")


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../etc/passwd", "America", "a" * 300, "\0"])
def test_no_zone_when_there_is_none_of_that_name(name: str) -> None:
    assert zone_named(name) is None


def test_two_clinics_have_two_days_when_midnight_lies_between_them() -> None:
    moment = datetime(2025, 3, 1, 6, 30, tzinfo=UTC)

    days = [today(moment, ZoneInfo(name)) for name in ("America/New_York", "America/Los_Angeles")]

    assert days == [date(2025, 3, 1), date(2025, 2, 28)]


@pytest.mark.parametrize(
    ("day", "at", "moment"),
    [
        (date(2025, 3, 8), time(2, 30), datetime(2025, 3, 8, 7, 30, tzinfo=UTC)),
        (date(2025, 3, 9), time(2, 30), datetime(2025, 3, 9, 7, 30, tzinfo=UTC)),  # left out
        (date(2025, 3, 9), time(6, 0), datetime(2025, 3, 9, 10, 0, tzinfo=UTC)),
        (date(2025, 11, 2), time(1, 30), datetime(2025, 11, 2, 5, 30, tzinfo=UTC)),  # the first
        (date(2025, 11, 2), time(6, 0), datetime(2025, 11, 2, 11, 0, tzinfo=UTC)),
    ],
)
def test_moment_of_a_time_when_the_clocks_change(day: date, at: time, moment: datetime) -> None:
    assert moment_of(day, at, NEW_YORK) == moment


@given(
    name=st.sampled_from(ZONES),
    at=st.builds(time, st.integers(0, 23), st.sampled_from([0, 15, 30, 45])),
    begin=st.datetimes(datetime(2024, 1, 1), datetime(2027, 12, 31)),  # noqa: DTZ001 - made aware below
)
@example(name="America/New_York", at=time(2, 30), begin=datetime(2025, 3, 8, 23, 45))  # noqa: DTZ001
@example(name="America/New_York", at=time(1, 30), begin=datetime(2025, 11, 1, 23, 45))  # noqa: DTZ001
@example(name="Australia/Lord_Howe", at=time(1, 45), begin=datetime(2025, 4, 5, 0, 0))  # noqa: DTZ001
@example(name="America/Havana", at=time(0, 0), begin=datetime(2025, 3, 8, 0, 0))  # noqa: DTZ001 - no midnight
@example(name="America/Santiago", at=time(23, 30), begin=datetime(2025, 4, 4, 0, 0))  # noqa: DTZ001 - two
@example(name="Asia/Kathmandu", at=time(6, 0), begin=datetime(2025, 4, 4, 0, 0))  # noqa: DTZ001
def test_each_day_has_its_time_once_in_slots_that_follow_each_other(
    name: str, at: time, begin: datetime
) -> None:
    quarter = begin.minute // 15 * 15
    zone, first = ZoneInfo(name), begin.replace(minute=quarter, second=0, microsecond=0, tzinfo=UTC)
    slots = [first + number * QUARTER for number in range(5 * 24 * 4)]

    hits = [slot for slot in slots if comes_within(slot, slot + QUARTER, at, zone)]

    days = [today(moment, zone) for moment in hits]
    whole = [today(first, zone) + timedelta(days=number) for number in range(1, 4)]
    assert len(set(days)) == len(days)
    assert set(whole) <= set(days)
    for slot, day in zip(hits, days, strict=True):
        clocks = [slot + number * MINUTE for number in range(15)]
        shown = {moment.astimezone(zone).time() for moment in clocks}
        assert at in shown or is_left_out(day, at, zone)


def is_left_out(day: date, at: time, zone: ZoneInfo) -> bool:
    """Whether the clocks of a day never show a time: it does not come back from UTC as it went."""
    local = datetime.combine(day, at, tzinfo=zone)
    return local.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != local.replace(tzinfo=None)
