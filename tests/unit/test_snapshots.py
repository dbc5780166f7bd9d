"""A day is what all fetches together know of it, whichever order they come in."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from itertools import count
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from cobalt_relay.appointments import Clinic
from cobalt_relay.snapshots import Change, Known, SeenAppointment, Sight, Turn, changes_of

MONDAY, TUESDAY = date(2025, 1, 13), date(2025, 1, 14)
BEGIN = datetime(2025, 1, 13, 8, tzinfo=UTC)
CLINIC = Clinic(None, UTC, {})
NOTHING = Known(None, {})


def sight(
    minute: int, *items: dict[str, object], day: date = MONDAY, whole: bool = True, job: str = ""
) -> Sight:
    """What a fetch saw `minute` minutes after the first."""
    version = (BEGIN + timedelta(minutes=minute), job or f"job_{minute}")
    seen = [
        SeenAppointment.read(each, CLINIC, as_of=version[0], fetched_by=version[1])
        for each in items
    ]
    return Sight(day, version, whole, {each.id: each for each in seen})


def known(*sights: Sight) -> Known:
    """What is known after sights, one after the other."""
    found = NOTHING
    for each in sights:
        found = found.with_sight(each)
    return found


def statuses(found: Known) -> dict[str, str | None]:
    return {name: each.status for name, each in found.appointments.items()}


def a(name: str, status: str = "PEN", **fields: object) -> dict[str, object]:
    return {"id": name, "status": status, **fields}


# ------------------------------------------------------------------------------------ what is known

ITEMS = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["PEN", "ARR", "CHK"]), max_size=4)
FETCHES = st.lists(st.tuples(st.integers(0, 3), st.booleans(), ITEMS), max_size=6)
"""The minute, whether the day was seen as a whole, and each appointment's status."""


def all_of(fetches: Iterable[tuple[int, bool, dict[str, str]]]) -> list[Sight]:
    numbers = count()
    return [
        sight(
            minute, *(a(*each) for each in items.items()), whole=whole, job=f"job_{next(numbers)}"
        )
        for minute, whole, items in fetches
    ]


def oracle(sights: list[Sight]) -> Known:
    """Each appointment as it was last seen, unless a later look at the whole day did not see it."""
    whole = max((each.version for each in sights if each.is_whole), default=None)
    found: dict[str, SeenAppointment] = {}
    for each in sorted(sights, key=lambda each: each.version):
        if whole is None or each.version >= whole:
            found |= each.appointments
    return Known(whole, found)


@given(FETCHES, st.randoms(use_true_random=False))
def test_day_is_the_same_whatever_order_its_fetches_come_in(
    fetches: list[tuple[int, bool, dict[str, str]]], dice: Random
) -> None:
    sights = all_of(fetches)
    shuffled = sights + sights[: len(sights) // 2]
    dice.shuffle(shuffled)

    found = known(*shuffled)

    assert found == oracle(sights)


def test_older_fetch_changes_nothing_when_a_newer_one_came_first() -> None:
    newer = known(sight(5, a("x", "ARR")))

    assert newer.with_sight(sight(3, a("x"), a("y"))) is newer


def test_appointment_is_kept_when_a_search_saw_it_after_the_day_was_seen() -> None:
    found = known(sight(5, a("y"), whole=False), sight(3, a("x")))

    assert statuses(found) == {"x": "PEN", "y": "PEN"}
    assert found.version == (BEGIN + timedelta(minutes=3), "job_3")


def test_day_is_in_the_order_of_its_times() -> None:
    items = [
        a("late", datetime="2025-01-13T15:00Z"),
        a("none"),
        a("b", datetime="2025-01-13T09:00Z"),
    ]
    items.append(a("a", datetime="2025-01-13T10:00+01:00"))

    ordered = known(sight(1, *items)).in_order()

    assert [each.id for each in ordered] == ["a", "b", "late", "none"]


# -------------------------------------------------------------------------------- what has changed


def told(*turns: Turn) -> list[tuple[object, ...]]:
    return [(each.kind, each.id, *each.fields) for each in changes_of(turns)]


def turn(before: Known, after: Sight) -> Turn:
    return Turn(after.day, before, before.with_sight(after))


def test_every_kind_of_change_is_told() -> None:
    before = known(sight(1, a("same"), a("moved", reason="x"), a("off"), a("gone")))
    after = sight(2, a("same"), a("moved", reason="y"), a("off", "Cancelled"), a("new"))

    changes = told(turn(before, after))

    assert changes == [
        ("disappeared", "gone"),
        ("changed", "moved", "reason"),
        ("created", "new"),
        ("cancelled", "off", "status"),
    ]


def test_nothing_is_created_when_a_day_is_seen_for_the_first_time() -> None:
    first = turn(NOTHING, sight(1, a("x")))
    searched = turn(NOTHING, sight(1, a("x"), whole=False))

    assert first.is_baseline
    assert not searched.is_baseline
    assert told(first) == told(searched) == []


def test_what_was_known_is_compared_when_a_day_is_seen_for_the_first_time() -> None:
    before = known(sight(1, a("x"), a("y"), whole=False))

    changes = told(turn(before, sight(2, a("x", "ARR"), a("z"))))

    assert changes == [("changed", "x", "status"), ("disappeared", "y")]


def test_nothing_disappears_when_only_some_were_looked_for() -> None:
    before = known(sight(1, a("x"), a("y")))

    changes = told(turn(before, sight(2, a("x", "ARR"), a("new"), whole=False)))

    assert changes == [("created", "new"), ("changed", "x", "status")]


def test_appointment_that_goes_to_another_day_is_one_change() -> None:
    monday = known(sight(1, a("x", datetime="2025-01-13T09:00Z")))
    tuesday = known(sight(1, day=TUESDAY))

    changes = changes_of(
        [
            turn(monday, sight(2)),
            turn(tuesday, sight(2, a("x", datetime="2025-01-14T09:00Z"), day=TUESDAY)),
        ]
    )

    assert [(each.kind, each.fields) for each in changes] == [("changed", ("datetime",))]
    assert (changes[0].day_before, changes[0].day_after) == (MONDAY, TUESDAY)


def test_appointment_is_one_change_when_it_goes_to_a_day_that_was_never_seen() -> None:
    monday = known(sight(1, a("x", datetime="2025-01-13T09:00Z")))
    moved = a("x", datetime="2025-01-14T09:00Z")

    for whole in (True, False):
        later = sight(2, moved, day=TUESDAY, whole=whole)
        assert told(turn(monday, sight(2)), turn(NOTHING, later)) == [("changed", "x", "datetime")]


def test_nothing_is_told_when_only_the_zone_of_a_clinic_is_another() -> None:
    monday = known(sight(1, a("x", datetime="2025-01-13T23:30-05:00")))
    tuesday = known(sight(1, day=TUESDAY))

    there = sight(2, a("x", datetime="2025-01-14T04:30Z"), day=TUESDAY)

    assert told(turn(monday, sight(2)), turn(tuesday, there)) == []


def test_appointment_is_not_gone_when_a_newer_fetch_saw_it_on_another_day() -> None:
    monday = known(sight(1, a("x")))
    newer = known(sight(1, day=TUESDAY), sight(9, a("x"), day=TUESDAY))

    changes = told(turn(monday, sight(2)), turn(newer, sight(2, day=TUESDAY)))

    assert changes == []


def test_patient_is_not_shown_when_a_change_is_printed() -> None:
    [change] = changes_of([turn(known(sight(1)), sight(2, a("x", patient_name="Jane Doe")))])

    assert isinstance(change, Change)
    assert str(change) == repr(change) == "Change(created 'x')"
