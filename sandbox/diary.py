"""The diaries: for any day from year 1 to 9999, what a provider's day looks like at any moment.

A day is never stored. Its bookings follow from the seed, the clinic, the provider and the date;
each booking carries the moments at which it was made, moved, cancelled or taken out, and looking at
the day "as of" a moment applies those that have passed. Times are whole minutes since the beginning
of year 1 on the clinic's own wall clock.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from sandbox.clinics import VISIT_TYPES, Profile, Stage
from sandbox.dice import dice, digest
from sandbox.people import POOL, providers

if TYPE_CHECKING:
    import random

DAY = 1440
WEEK = 7 * DAY
SLOT_MINUTES = 15
MORNING = range(8 * 60, 12 * 60, SLOT_MINUTES)
AFTERNOON = range(13 * 60, 17 * 60, SLOT_MINUTES)
SLOTS = (*MORNING, *AFTERNOON)
MOVED_IN_AT = 17 * 60
"""Minute of the day kept free for the one appointment that may come over from last week."""

IMPORTED_FROM = date(2024, 1, 1).toordinal() * DAY
"""Standing appointments in the future were entered in the year after this day."""


@dataclass(frozen=True, slots=True)
class Booking:
    """One appointment with its whole life, from being made to its end."""

    key: str
    provider: int
    patient: int
    visit_type: int
    start: int
    created: int
    visible_from: int | None = None
    confirmed_at: int | None = None
    moved_at: int | None = None
    moved_to: int | None = None
    cancelled_at: int | None = None
    removed_at: int | None = None
    no_show: bool = False

    @property
    def minutes(self) -> int:
        """The length of the visit."""
        return VISIT_TYPES[self.visit_type][2]

    def start_at(self, now: int) -> int:
        """When the visit is to begin, as the diary has it at ``now``."""
        moved = self.moved_at is not None and self.moved_to is not None and self.moved_at <= now
        return self.moved_to if moved and self.moved_to is not None else self.start

    def in_diary(self, now: int) -> bool:
        """Whether the diary shows the appointment at ``now``."""
        made = self.visible_from is None or self.visible_from <= now
        gone = self.removed_at is not None and self.removed_at <= now
        return made and not gone

    def stage_at(self, now: int) -> Stage:
        """Where the appointment stands at ``now``."""
        start = self.start_at(now)
        passed: tuple[tuple[int | None, Stage], ...] = (
            (self.cancelled_at, Stage.CANCELLED),
            (start + 30 if self.no_show else None, Stage.NO_SHOW),
            (None if self.no_show else start + self.minutes + 5, Stage.CHECKED_OUT),
            (None if self.no_show else start - 5, Stage.ARRIVED),
            (self.confirmed_at, Stage.CONFIRMED),
        )
        for moment, stage in passed:
            if moment is not None and moment <= now:
                return stage
        return Stage.SCHEDULED


@dataclass(frozen=True, slots=True)
class Entry:
    """A booking as the diary shows it at one moment."""

    booking: Booking
    start: int
    stage: Stage


def local_minute(profile: Profile, moment: datetime) -> int:
    """Read a moment off the clinic's wall clock, in minutes since the beginning of year 1."""
    local = moment.astimezone(profile.zone)
    return local.toordinal() * DAY + local.hour * 60 + local.minute


def _is_working_day(ordinal: int) -> bool:
    return date.fromordinal(ordinal).weekday() < 5


def _lead(chance: "random.Random", least_days: float, most_days: float) -> int:
    return chance.randint(int(least_days * DAY), int(most_days * DAY))


def _standing(booking: Booking, chance: "random.Random") -> Booking:
    """Give a booking that has always been there, with a birthday that is always past."""
    entered = min(
        booking.start - _lead(chance, 31, 120), IMPORTED_FROM + chance.randrange(365 * DAY)
    )
    return replace(booking, created=entered)


def _late_comer(booking: Booking, chance: "random.Random") -> Booking:
    """Give a booking that appears between 30 days and 2 hours before the visit."""
    made = booking.start - _lead(chance, 1 / 12, 30)
    return replace(booking, created=made, visible_from=made)


@lru_cache(maxsize=8192)
def plan(seed: int, profile: Profile, provider: int, ordinal: int) -> tuple[Booking, ...]:
    """Give every booking ever made for a provider's day, whatever becomes of it.

    12 to 18 standing bookings and up to 4 that come late; at most one of the standing ones moves
    within the day, one to the same weekday of the next week, and one is taken out without a trace.
    """
    if not _is_working_day(ordinal):
        return ()
    name = profile.name
    chance = dice(seed, name, "day", provider, ordinal)
    standing = chance.randint(12, 18)
    count = standing + chance.randint(0, 4)
    slots = chance.sample(SLOTS, count + 1)
    patients = chance.sample(range(POOL), count)
    bookings = []
    for index in range(count):
        start = ordinal * DAY + slots[index]
        booking = Booking(
            key=digest(seed, name, provider, ordinal, index, length=16),
            provider=provider,
            patient=patients[index],
            visit_type=chance.randrange(len(VISIT_TYPES)),
            start=start,
            created=start,
            confirmed_at=start - _lead(chance, 1, 3) if chance.random() < 0.5 else None,
            no_show=chance.random() < 0.05,
        )
        booking = (_standing if index < standing else _late_comer)(booking, chance)
        cancelled = start - _lead(chance, 1 / 24, 10)
        if chance.random() < 0.08 and cancelled > (booking.visible_from or 0):
            booking = replace(booking, cancelled_at=cancelled)
        bookings.append(booking)
    within, across, removed = range(3)
    if chance.random() < 0.6:
        bookings[within] = replace(
            bookings[within],
            moved_at=bookings[within].start - _lead(chance, 1, 7),
            moved_to=ordinal * DAY + slots[count],
        )
    if chance.random() < 0.4 and ordinal + 7 <= date.max.toordinal():
        bookings[across] = replace(
            bookings[across],
            moved_at=bookings[across].start - _lead(chance, 1, 7),
            moved_to=(ordinal + 7) * DAY + MOVED_IN_AT,
        )
    if chance.random() < 0.4:
        bookings[removed] = replace(
            bookings[removed], removed_at=bookings[removed].start - _lead(chance, 1, 5)
        )
    return tuple(bookings)


def day_of(seed: int, profile: Profile, provider: int, ordinal: int, now: int) -> list[Entry]:
    """Give a provider's day as it stands at ``now``, in order of time."""
    candidates = plan(seed, profile, provider, ordinal)
    if candidates and ordinal > 7:
        candidates += plan(seed, profile, provider, ordinal - 7)
    entries = [
        Entry(booking, start, booking.stage_at(now))
        for booking in candidates
        if booking.in_diary(now) and (start := booking.start_at(now)) // DAY == ordinal
    ]
    return sorted(entries, key=lambda entry: (entry.start, entry.booking.key))


def days(start: date, end: date) -> Iterator[int]:
    """Give the ordinals of a window of days, both ends included."""
    return iter(range(start.toordinal(), end.toordinal() + 1))


def window(
    seed: int,
    profile: Profile,
    start: date,
    end: date,
    now: int,
    wanted: Iterable[int] | None = None,
) -> list[Entry]:
    """Give all entries of a window: its days one after another, each in order of time.

    ``wanted`` are indexes of providers; without it, everybody's day is given.
    """
    indexes = tuple(range(len(providers(seed, profile))) if wanted is None else wanted)
    entries: list[Entry] = []
    for ordinal in days(start, end):
        of_the_day = [
            entry for index in indexes for entry in day_of(seed, profile, index, ordinal, now)
        ]
        entries += sorted(of_the_day, key=lambda entry: (entry.start, entry.booking.key))
    return entries


PATIENT_DAYS_BACK = 30
PATIENT_DAYS_AHEAD = 60


def of_patient(seed: int, profile: Profile, index: int, today: date, now: int) -> list[Entry]:
    """Give one patient's entries from 30 days back to 60 days ahead: what a chart view shows."""
    start = max(today.toordinal() - PATIENT_DAYS_BACK, date.min.toordinal())
    end = min(today.toordinal() + PATIENT_DAYS_AHEAD, date.max.toordinal())
    whole = window(seed, profile, date.fromordinal(start), date.fromordinal(end), now)
    return [entry for entry in whole if entry.booking.patient == index]


def local_text(profile: Profile, minute: int) -> str:
    """Write a wall-clock minute with its offset, as in ``2025-01-15T10:00:00-05:00``.

    Before standard time a zone's offset has seconds, which ISO 8601 cannot write; the offset of the
    year 2000 stands in for it. Minutes outside the calendar are brought to its nearest end.
    """
    least, most = DAY, date.max.toordinal() * DAY + DAY - 1
    clamped = min(max(minute, least), most)
    naive = datetime.fromordinal(clamped // DAY) + timedelta(minutes=clamped % DAY)
    modern = naive if naive.year >= 1900 else naive.replace(year=2000)
    offset = modern.replace(tzinfo=profile.zone).strftime("%z")
    return f"{naive.isoformat()}{offset[:3]}:{offset[3:5]}"
