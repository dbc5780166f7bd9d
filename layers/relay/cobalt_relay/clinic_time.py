"""The time where a clinic is: its today, and when a time of its day comes."""

from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

_ONE_DAY = timedelta(days=1)


@cache
def zone_named(name: str) -> ZoneInfo | None:
    """Give an IANA time zone; None where there is none of that name."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; no name of a zone; a folder of zones
        return None


def today(now: datetime, zone: ZoneInfo) -> date:
    """Give the day that it is in a zone."""
    return now.astimezone(zone).date()


def moment_of(day: date, at: time, zone: ZoneInfo) -> datetime:
    """Give the moment of a day at which a zone's clocks show a time, in UTC.

    A time that a change to summer time leaves out comes as much later as the clocks are put on; of
    one that comes twice the first is meant.
    """
    return datetime.combine(day, at, tzinfo=zone).astimezone(UTC)


def comes_within(begin: datetime, end: datetime, at: time, zone: ZoneInfo) -> bool:
    """Whether a time of day comes in a zone at or after `begin`, and before `end`.

    It comes once on every day of the zone's own, so that spans which follow each other have each
    day's once, whatever the clocks do.
    """
    day, last = today(begin, zone) - _ONE_DAY, today(end, zone) + _ONE_DAY
    while day <= last:
        if begin <= moment_of(day, at, zone) < end:
            return True
        day += _ONE_DAY
    return False
