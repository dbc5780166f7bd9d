from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import diary, people
from sandbox.clinics import PROFILES, Profile
from sandbox.diary import DAY, Entry, day_of, local_text, plan, window

SEEDS = st.integers(0, 2**32)
DAYS = st.dates(date.min, date.max)
PROFILE = st.sampled_from(PROFILES)
LEADS = st.integers(-60 * DAY, 60 * DAY)


def _later(day: date, days: int) -> date:
    return date.fromordinal(min(day.toordinal() + days, date.max.toordinal()))


@given(SEEDS, PROFILE, DAYS, LEADS)
@settings(max_examples=40, deadline=None)
def test_same_day_when_it_is_made_again_from_the_seed(
    seed: int, profile: Profile, day: date, lead: int
) -> None:
    now = day.toordinal() * DAY + lead
    first = window(seed, profile, day, day, now)
    plan.cache_clear()
    people.patient.cache_clear()
    people.providers.cache_clear()

    again = window(seed, profile, day, day, now)

    assert again == first


@given(SEEDS, PROFILE, DAYS, st.integers(0, 8), LEADS)
@settings(max_examples=40, deadline=None)
def test_window_is_its_days_one_after_another_when_fetched_whole(
    seed: int, profile: Profile, start: date, length: int, lead: int
) -> None:
    now = start.toordinal() * DAY + lead
    end = _later(start, length)

    whole = window(seed, profile, start, end, now)

    each_day = [date.fromordinal(ordinal) for ordinal in diary.days(start, end)]
    parts: list[Entry] = []
    for day in each_day:
        parts += window(seed, profile, day, day, now)
    assert whole == parts
    assert [entry.start for entry in whole] == sorted(entry.start for entry in whole)
    keys = [entry.booking.key for entry in whole]
    assert len(set(keys)) == len(keys)


@given(SEEDS, PROFILE, DAYS, LEADS)
@settings(max_examples=60, deadline=None)
def test_ten_to_25_appointments_on_weekdays_and_none_else_when_a_day_is_read(
    seed: int, profile: Profile, day: date, lead: int
) -> None:
    now = day.toordinal() * DAY + lead

    entries = day_of(seed, profile, 0, day.toordinal(), now)

    if day.weekday() >= 5:
        assert entries == []
    else:
        assert 10 <= len(entries) <= 25


@given(SEEDS, PROFILE, DAYS)
@settings(max_examples=40, deadline=None)
def test_diary_stands_still_when_its_days_have_passed(
    seed: int, profile: Profile, day: date
) -> None:
    evening = (day.toordinal() + 1) * DAY

    entries = window(seed, profile, day, day, evening)

    assert window(seed, profile, day, day, evening + 365 * DAY) == entries


@pytest.mark.parametrize("minute", [0, DAY, date.max.toordinal() * DAY + DAY - 1, 10**12])
@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_offset_has_hours_and_minutes_when_a_time_is_written(profile: Profile, minute: int) -> None:
    text = local_text(profile, minute)

    assert len(text) == len("2025-01-15T10:00:00-05:00")
    assert text[-6] == "-"


def test_diaries_differ_when_the_seed_does() -> None:
    day, now = date(2026, 3, 2), date(2026, 3, 1).toordinal() * DAY

    first, second = (window(seed, PROFILES[0], day, day, now) for seed in (1, 2))

    assert {entry.booking.key for entry in first}.isdisjoint(entry.booking.key for entry in second)
