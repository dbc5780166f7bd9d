"""Schedules, through their handler."""

from collections.abc import Callable
from typing import Any

import pytest

from cobalt_relay.errors import (
    AccessForbidden,
    AccessTokenRefused,
    BusFault,
    CredentialsNotConfigured,
    InvalidScheduleInput,
    TableFault,
    UpstreamUnanswered,
)
from cobalt_relay.models import connection_id_of
from functions.plan_fetches.handler import lambda_handler
from tests.unit.conftest import LambdaContextStub, World

ALL = {"connections": "all", "from_day": 0, "days": 7}
TOKENS = ["token-1", "token-2", "token-3"]
FIRST, SECOND, THIRD = [connection_id_of(token) for token in TOKENS]


def run(event: Any, **context: Any) -> dict[str, Any]:
    outcome: dict[str, Any] = lambda_handler(event, LambdaContextStub(**context))
    return outcome


@pytest.fixture
def fleet(world: World) -> World:
    """Three registered connections."""
    for token in TOKENS:
        world.connections.add(token)
    return world


def test_every_connection_is_fetched_when_all_are_meant(fleet: World) -> None:
    outcome = run(ALL)

    assert outcome["started"] == {FIRST: "job_1", SECOND: "job_2", THIRD: "job_3"}
    assert outcome["failed"] == {}
    assert [token for _, token, _ in fleet.cobalt.calls] == TOKENS
    assert {job.trigger for job in fleet.jobs.jobs.values()} == {"schedule"}


@pytest.mark.parametrize("error", [AccessTokenRefused(), AccessForbidden()])
def test_refused_token_is_not_kept_in_memory(fleet: World, error: Exception) -> None:
    fleet.cobalt.errors["token-1"] = error
    fleet.cobalt.errors["token-2"] = UpstreamUnanswered()

    run(ALL)

    assert fleet.connections.read_anew == [FIRST]


def test_window_counts_both_of_its_ends(fleet: World) -> None:
    run({"connections": [FIRST], "from_day": -1, "days": 2})

    [(_, _, request)] = fleet.cobalt.calls
    assert request.to_cobalt() == {"start_date": "2025-01-01", "end_date": "2025-01-02"}


def test_only_the_named_are_fetched_and_each_once(fleet: World) -> None:
    outcome = run({"connections": [SECOND, SECOND], "from_day": 0, "days": 7})

    assert list(outcome["started"]) == [SECOND]
    assert len(fleet.cobalt.calls) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AccessForbidden("expired", error="login_required"), "login_required"),
        (UpstreamUnanswered(), "upstream_unanswered"),
        (ZeroDivisionError("Jane Doe"), "unexpected_error"),
    ],
)
def test_others_are_fetched_when_one_fails(
    fleet: World, error: Exception, code: str, logged: Callable[[], str]
) -> None:
    fleet.cobalt.errors["token-1"] = error

    outcome = run(ALL)

    assert outcome["failed"] == {FIRST: code}
    assert sorted(outcome["started"]) == sorted([SECOND, THIRD])
    assert "Jane" not in logged()


def test_refusal_is_announced_by_the_reconciler_when_a_schedule_met_it(fleet: World) -> None:
    fleet.cobalt.errors["token-1"] = AccessForbidden("expired", error="login_required")

    run(ALL)
    fleet.clock.sleep(1)
    fleet.reconcile_jobs.run(lambda: 180.0)

    [(detail_type, detail)] = fleet.bus.events
    assert (detail_type, detail["connection_id"]) == ("Appointment Fetch Failed", FIRST)
    assert (detail["error_code"], detail["trigger"]) == ("login_required", "schedule")
    assert detail["request_id"] in fleet.jobs.requests


def test_failure_is_announced_at_once_when_there_is_no_request_of_it(fleet: World) -> None:
    fleet.jobs.fail("record_request", TableFault())

    outcome = run(ALL)

    [failed] = outcome["failed"]
    [(detail_type, detail)] = fleet.bus.events
    assert (detail_type, detail["connection_id"]) == ("Appointment Fetch Failed", failed)
    assert (detail["error_code"], detail["trigger"]) == ("table_fault", "schedule")


def test_unknown_connection_fails_alone(fleet: World) -> None:
    stranger = connection_id_of("stranger")

    outcome = run({"connections": [stranger, FIRST], "from_day": 0, "days": 7})

    assert outcome["failed"] == {stranger: "unknown_connection"}
    assert list(outcome["started"]) == [FIRST]


def test_outcome_is_told_when_the_bus_fails_too(fleet: World) -> None:
    fleet.jobs.fail("record_request", TableFault())
    fleet.bus.fail("publish", BusFault())

    outcome = run(ALL)

    assert list(outcome["failed"].values()) == ["table_fault"]


def test_rest_is_left_and_told_when_time_runs_out(fleet: World) -> None:
    outcome = run(ALL, remaining_seconds=29.0)

    assert outcome["started"] == {}
    assert set(outcome["failed"].values()) == {"out_of_time"}
    assert fleet.cobalt.calls == []


def test_nothing_to_do_when_no_connection_has_registered(world: World) -> None:
    outcome = run(ALL)

    assert (outcome["started"], outcome["failed"]) == ({}, {})


def test_run_fails_before_any_fetch_when_the_relay_is_not_configured(fleet: World) -> None:
    fleet.secrets.current = None

    with pytest.raises(CredentialsNotConfigured):
        run(ALL)

    assert fleet.cobalt.calls == []


def test_run_fails_before_any_fetch_when_connections_cannot_be_listed(fleet: World) -> None:
    fleet.connections.fail("ids", TableFault())

    with pytest.raises(TableFault):
        run(ALL)

    assert fleet.cobalt.calls == []


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
        {"days": 1},
        {"days": 9},
        {"days": "7"},
        {"days": 7.5},
        {"from_day": 366},
        {"from_day": True},
        {"dayz": 7},
    ],
)
def test_run_fails_with_the_form_when_the_input_is_not_of_it(fleet: World, event: Any) -> None:
    with pytest.raises(InvalidScheduleInput, match="from_day"):
        run(event)

    assert fleet.cobalt.calls == []
