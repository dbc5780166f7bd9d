"""Schedules, through their handler: who is fetched, which days of their own, in which messages."""

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cobalt_relay.errors import (
    BusFault,
    CredentialsNotConfigured,
    InvalidScheduleInput,
    OutOfTime,
    QueueFault,
    TableFault,
)
from cobalt_relay.models import FetchWork, connection_id_of
from cobalt_relay.services.plan_fetches import SchedulePlan
from functions.plan_fetches.handler import lambda_handler
from tests.unit.conftest import LambdaContextStub, World

ALL = {"connections": "all", "from_day": 0, "days": 7, "spread_minutes": 0}
TOKENS = ["token-1", "token-2", "token-3"]
FIRST, SECOND, THIRD = [connection_id_of(token) for token in TOKENS]
ZONES = ["America/New_York", "America/Los_Angeles", None]
SCHEDULED = {"schedule": "morning", "scheduled_at": "2025-01-02T10:00:00Z"}


def run(event: Any, **context: Any) -> dict[str, Any]:
    outcome: dict[str, Any] = lambda_handler(event, LambdaContextStub(**context))
    return outcome


def days(work: FetchWork) -> tuple[str, str]:
    window = work.fetch.window
    assert window
    return window.start_date.isoformat(), window.end_date.isoformat()


def of(world: World, connection_id: str) -> list[FetchWork]:
    return [work for work in world.queue.sent if work.plan.connection_id == connection_id]


@pytest.fixture
def fleet(world: World) -> World:
    """Three registered connections: in New York, in Los Angeles, and where nobody knows."""
    for token, zone in zip(TOKENS, ZONES, strict=True):
        world.connections.add(token, time_zone=zone)
    return world


def test_every_connection_gets_a_message_when_all_are_meant(fleet: World) -> None:
    outcome = run(ALL)

    assert (outcome["connections"], outcome["planned"], outcome["messages"]) == (3, 3, 3)
    assert {work.plan.connection_id for work in fleet.queue.sent} == {FIRST, SECOND, THIRD}
    assert {work.plan.trigger for work in fleet.queue.sent} == {"schedule"}
    assert fleet.cobalt.calls == []


def test_window_is_cut_into_pieces_that_cobalt_allows(fleet: World) -> None:
    run({**ALL, "days": 14})

    assert [days(work) for work in of(fleet, FIRST)] == [
        ("2025-01-02", "2025-01-08"),
        ("2025-01-09", "2025-01-15"),
    ]
    assert [work.piece for work in of(fleet, FIRST)] == [0, 1]
    assert len({work.plan.range_id for work in of(fleet, FIRST)}) == 1


def test_window_by_provider_has_pieces_of_five_days(fleet: World) -> None:
    run({**ALL, "connections": [FIRST], "search_by": "provider", "provider_ids": [7], "days": 6})

    assert [days(work) for work in fleet.queue.sent] == [
        ("2025-01-02", "2025-01-04"),
        ("2025-01-05", "2025-01-07"),
    ]
    assert {work.fetch.provider_ids for work in fleet.queue.sent} == {(7,)}


@pytest.mark.parametrize(
    ("now", "first_days"),
    [
        # midnight lies between the clinics
        (datetime(2025, 1, 3, 6, 30, tzinfo=UTC), ["2025-01-03", "2025-01-02", "2025-01-03"]),
        # the night in which New York's clocks go on, and the one in which they go back
        (datetime(2025, 3, 9, 4, 30, tzinfo=UTC), ["2025-03-08", "2025-03-08", "2025-03-08"]),
        (datetime(2025, 3, 10, 4, 30, tzinfo=UTC), ["2025-03-10", "2025-03-09", "2025-03-10"]),
        (datetime(2025, 11, 3, 4, 30, tzinfo=UTC), ["2025-11-02", "2025-11-02", "2025-11-02"]),
    ],
)
def test_days_count_from_the_clinics_own_today(
    fleet: World, now: datetime, first_days: list[str]
) -> None:
    fleet.clock.moment = now

    outcome = run(ALL)

    assert [days(of(fleet, each)[0])[0] for each in (FIRST, SECOND, THIRD)] == first_days
    assert outcome["without_time_zone"] == 1  # the default one, which is New York's


def test_default_zone_counts_when_cobalts_is_none(world: World) -> None:
    world.connections.add("token-1", time_zone="Mars/Olympus")
    world.clock.moment = datetime(2025, 1, 3, 4, 30, tzinfo=UTC)

    outcome = run(ALL)

    assert outcome["without_time_zone"] == 1
    assert days(world.queue.sent[0])[0] == "2025-01-02"


def test_days_may_lie_in_the_past(fleet: World) -> None:
    run({**ALL, "connections": [FIRST], "from_day": -1, "days": 2})

    assert days(fleet.queue.sent[0]) == ("2025-01-01", "2025-01-02")


# --------------------------------------------------------------------------- where the clinics are


def quarters(
    world: World, plan: dict[str, Any], begin: datetime, hours: int
) -> dict[str, list[str]]:
    """Run a schedule each quarter of an hour; give the moments at which each was planned."""
    planned: dict[str, list[str]] = {}
    for number in range(hours * 4):
        world.clock.moment = begin + number * timedelta(minutes=15, seconds=0)
        world.queue.sent.clear()
        run({**plan, "scheduled_at": f"{world.clock.moment:%Y-%m-%dT%H:%M:%SZ}"})
        for work in world.queue.sent:
            planned.setdefault(work.plan.connection_id, []).append(f"{world.clock.moment:%d %H:%M}")
    return planned


def test_each_clinic_is_fetched_at_its_own_time_of_day(fleet: World) -> None:
    plan = {**ALL, "at": "06:00"}

    planned = quarters(fleet, plan, datetime(2025, 1, 6, 9, 0, tzinfo=UTC), hours=24)

    assert planned == {FIRST: ["06 11:00"], SECOND: ["06 14:00"], THIRD: ["06 11:00"]}


@pytest.mark.parametrize(
    ("at", "begin", "moments"),
    [
        ("06:00", datetime(2025, 3, 8, 9, 0, tzinfo=UTC), ["08 11:00", "09 10:00"]),
        ("02:30", datetime(2025, 3, 8, 6, 0, tzinfo=UTC), ["08 07:30", "09 07:30"]),
        ("01:30", datetime(2025, 11, 1, 4, 0, tzinfo=UTC), ["01 05:30", "02 05:30"]),
    ],
)
def test_each_day_has_one_fetch_when_the_clocks_change(
    world: World, at: str, begin: datetime, moments: list[str]
) -> None:
    world.connections.add("token-1", time_zone="America/New_York")

    planned = quarters(world, {**ALL, "at": at}, begin, hours=44)

    assert planned == {FIRST: moments}


def test_slot_counts_for_which_a_run_was_planned_when_it_comes_late(fleet: World) -> None:
    fleet.clock.moment = datetime(2025, 1, 6, 11, 40, tzinfo=UTC)

    outcome = run({**ALL, "at": "06:00", "scheduled_at": "2025-01-06T11:00:00Z"})

    assert (outcome["planned"], outcome["not_due"]) == (2, 1)


def test_days_are_those_of_the_moment_it_was_planned_for_when_a_run_comes_after_midnight(
    fleet: World,
) -> None:
    planned = {**ALL, "connections": [FIRST], "scheduled_at": "2025-01-10T04:45:00Z"}
    fleet.clock.moment = datetime(2025, 1, 10, 5, 5, tzinfo=UTC)

    run({**planned, "at": "23:45"})
    run({**planned, "schedule": "nightly"})

    assert [days(work)[0] for work in fleet.queue.sent] == ["2025-01-09"] * 2


def test_moment_of_the_run_counts_when_the_placeholder_is_handed_on(fleet: World) -> None:
    fleet.clock.moment = datetime(2025, 1, 6, 14, 2, tzinfo=UTC)

    run({**ALL, "at": "06:00", "scheduled_at": "<aws.scheduler.scheduled-time>"})

    assert {work.plan.connection_id for work in fleet.queue.sent} == {SECOND}


# ------------------------------------------------------------------------------------ who is left out


def test_suspended_connection_is_left_out(fleet: World) -> None:
    connection = fleet.connections.get(FIRST)
    assert connection
    fleet.connections.suspend(connection, "event", fleet.clock(), fleet.clock())

    outcome = run(ALL)

    assert (outcome["suspended"], outcome["planned"]) == (1, 2)
    assert of(fleet, FIRST) == []


def test_heir_is_fetched_once_when_the_replaced_one_is_named(fleet: World) -> None:
    fleet.connections.hand_over(FIRST, SECOND)

    named = run({**ALL, "connections": [FIRST]})
    everybody = run(ALL)

    assert (named["planned"], everybody["planned"]) == (1, 2)
    assert of(fleet, FIRST) == []


def test_replaced_connection_is_announced_when_its_heir_is_gone(fleet: World) -> None:
    fleet.connections.hand_over(FIRST, SECOND)
    fleet.connections.remove(SECOND)

    outcome = run({**ALL, "connections": [FIRST]})

    assert outcome["failed"] == {FIRST: "unknown_connection"}
    [(detail_type, detail)] = fleet.bus.events
    assert (detail_type, detail["connection_id"]) == ("Appointment Fetch Failed", FIRST)


def test_only_the_named_are_planned_and_each_once(fleet: World) -> None:
    run({**ALL, "connections": [SECOND, SECOND]})

    assert [work.plan.connection_id for work in fleet.queue.sent] == [SECOND]


def test_unknown_connection_is_announced_and_leaves_the_others_alone(fleet: World) -> None:
    stranger = connection_id_of("stranger")

    outcome = run({**ALL, "connections": [stranger, FIRST]})

    assert outcome["failed"] == {stranger: "unknown_connection"}
    assert outcome["planned"] == 1
    [(detail_type, detail)] = fleet.bus.events
    assert (detail_type, detail["connection_id"]) == ("Appointment Fetch Failed", stranger)
    assert (detail["error_code"], detail["trigger"]) == ("unknown_connection", "schedule")


def test_outcome_is_told_when_the_bus_fails_too(fleet: World) -> None:
    fleet.bus.fail("publish", BusFault())

    outcome = run({**ALL, "connections": [connection_id_of("stranger")]})

    assert list(outcome["failed"].values()) == ["unknown_connection"]


def test_nothing_to_do_when_no_connection_has_registered(world: World) -> None:
    assert run(ALL)["messages"] == 0


# -------------------------------------------------------------------------------------- the messages


def test_same_messages_come_again_when_a_run_is_repeated(fleet: World) -> None:
    run({**ALL, **SCHEDULED})
    fleet.clock.moment += timedelta(minutes=20)
    run({**ALL, **SCHEDULED})

    first, second = fleet.queue.sent[:3], fleet.queue.sent[3:]
    assert [each.request_id(0) for each in first] == [each.request_id(0) for each in second]


@pytest.mark.parametrize(
    "other",
    [{**SCHEDULED, "schedule": "noon"}, {**SCHEDULED, "scheduled_at": "2025-01-03T10:00:00Z"}],
)
def test_other_runs_have_other_messages(fleet: World, other: dict[str, str]) -> None:
    run({**ALL, **SCHEDULED})
    run({**ALL, **other})

    assert len({each.request_id(0) for each in fleet.queue.sent}) == 6


def test_fetches_begin_spread_over_the_time_given(world: World) -> None:
    for number in range(40):
        world.connections.add(f"token-{number}")

    run({**ALL, "spread_minutes": 20})

    delays = sorted((work.not_before - world.clock()).total_seconds() for work in world.queue.sent)
    assert 0 <= delays[0] < 300
    assert 900 < delays[-1] < 1200
    assert len(set(delays)) == 40


def test_messages_are_made_as_they_are_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than a hundred connections are read ahead of what is sent."""
    for number in range(350):
        world.connections.add(f"token-{number}")
    several, read, ahead = world.connections.several, 0, 0

    def counted(ids: Iterable[str]) -> Any:
        nonlocal read
        found = several(ids)
        read += len(found)
        return found

    def send(works: Iterable[FetchWork], _now: datetime) -> int:
        nonlocal ahead
        sent = 0
        for sent, _ in enumerate(works, start=1):
            ahead = max(ahead, read - sent)
        return sent

    monkeypatch.setattr(world.connections, "several", counted)
    monkeypatch.setattr(world.queue, "send", send)

    outcome = run(ALL)

    assert outcome["messages"] == 350
    assert ahead < 100
    assert read == 350


def test_run_fails_when_not_all_could_be_queued(fleet: World) -> None:
    fleet.queue.fail("send", QueueFault())

    with pytest.raises(QueueFault):
        run(ALL)


def test_run_fails_when_time_runs_out(fleet: World) -> None:
    with pytest.raises(OutOfTime):
        run(ALL, remaining_seconds=19.0)


def test_run_fails_when_the_relay_is_not_configured(fleet: World) -> None:
    fleet.secrets.current = None

    with pytest.raises(CredentialsNotConfigured):
        run(ALL)

    assert fleet.queue.sent == []


def test_run_fails_when_connections_cannot_be_listed(fleet: World) -> None:
    fleet.connections.fail("ids", TableFault())

    with pytest.raises(TableFault):
        run(ALL)


def test_log_tells_numbers_and_no_connection(fleet: World, logged: Callable[[], str]) -> None:
    run(ALL)

    text = logged()
    assert "schedule_planned" in text
    assert not any(each in text for each in (FIRST, SECOND, THIRD))


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        {"connections": "some"},
        {"connections": [7]},
        {"connections": ["nope"]},
        {"connections": ["../x"]},
        {"connections": ["conn_" + "A" * 32]},
        {"days": 0},
        {"days": 1},
        {"days": 367},
        {"days": "7"},
        {"days": 7.5},
        {"from_day": 366},
        {"from_day": True},
        {"dayz": 7},
        {"at": "6:00"},
        {"at": "06:10"},
        {"at": "24:00"},
        {"at": "06:00\n"},
        {"at": 6},
        {"at": "106:00"},
        {"at": "06:000"},
        {"at": "\u0660\u0666:00"},
        {"scheduled_at": "this morning"},
        {"scheduled_at": "2025-01-02T10:00:00"},
        {"scheduled_at": ""},
        {"scheduled_at": 1735812000},
        {"spread_minutes": 721},
        {"spread_minutes": -1},
        {"search_by": "mrn"},
        {"search_by": "provider"},
        {"search_by": "provider", "provider_ids": [""]},
        {"search_by": "provider", "provider_ids": [-1]},
        {"search_by": "provider", "provider_ids": [2**53]},
        {"search_by": "provider", "provider_ids": ["a\nb"]},
        {"search_by": "provider", "provider_ids": [True]},
        {"provider_ids": [7]},
        {"search_by": "provider", "provider_ids": [1.5]},
        {"search_by": "provider", "provider_ids": list(range(101))},
        {"search_by": "provider", "provider_ids": list(range(20)), "days": 366},
    ],
)
def test_run_fails_with_the_form_when_the_input_is_not_of_it(fleet: World, event: Any) -> None:
    with pytest.raises(InvalidScheduleInput, match="from_day"):
        run(event)

    assert fleet.queue.sent == []


@pytest.mark.parametrize("said", [{}, {"scheduled_at": None}])
def test_defaults_are_two_weeks_of_all(said: dict[str, Any]) -> None:
    plan = SchedulePlan.parse(said)

    assert (plan.connections, plan.from_day, plan.days) == ("all", 0, 14)
    assert math.isclose(plan.spread_minutes, 10)
