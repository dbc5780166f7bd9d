"""Connections on the deployed stack: their settings, and what a broken link does to them."""

from collections.abc import Iterator
from functools import partial

import pytest

from cobalt_relay.models import connection_id_of
from tests.integration.flows import Flows
from tests.integration.support import Item, Relay, eventually
from tests.unit.fakes import validate_event
from tools.local.eventlog import EventLog
from tools.local.sandbox import Sandbox
from tools.local.stack import Stack

CLINIC = "harbor"
"""No other test breaks its link."""
WEEK = {"start_date": "2025-01-06", "end_date": "2025-01-10"}


@pytest.fixture
def connection_id(relay: Relay, stack: Stack, sandbox: Sandbox, events: EventLog) -> Iterator[str]:
    """A connection that is registered, with what Cobalt knows of its clinic; active afterwards."""
    found = connection_id_of(stack.access_tokens[CLINIC])
    fetched(relay)
    if relay.item(f"CONNECTION#{found}") is None:  # forgotten by a test, remembered by the function
        Flows(stack, relay, events).restart("FetchAppointments")
        fetched(relay)
    stack.let_time_pass(f"CONNECTION#{found}")
    stack.reconcile()
    relay.let_success_be_long_ago(CLINIC)
    yield found
    sandbox.set_linked(CLINIC, linked=True)
    fetched(relay)
    assert relay.connection(CLINIC)["state"] == "active"


def fetched(relay: Relay) -> str:
    """Fetch, wait for the end, and give the job."""
    answer = relay.fetch(WEEK, clinic=CLINIC)
    assert answer.status_code == 202, answer.text
    job_id = str(answer.json()["job_execution_id"])
    relay.ended_job(job_id)
    return job_id


def test_label_and_time_zone_are_known_when_a_connection_was_looked_at(
    relay: Relay, sandbox: Sandbox, connection_id: str
) -> None:
    [clinic] = [each for each in sandbox.clinics() if each["name"] == CLINIC]

    row = relay.connection(CLINIC)

    assert row["time_zone"] == clinic["timezone"]
    assert row["access_token_reference_id"] == clinic["access_token_reference_id"]
    assert row["emr_name"] == clinic["emr_name"]
    assert row["last_success_at"]


def test_schedule_passes_over_a_connection_until_it_is_linked_when_cobalt_refuses_it(
    relay: Relay, stack: Stack, sandbox: Sandbox, events: EventLog, connection_id: str
) -> None:
    told = partial(changes, events, connection_id)
    before = len(told())
    sandbox.set_linked(CLINIC, linked=False)
    refused = [relay.fetch(WEEK, clinic=CLINIC).status_code for _ in range(2)]
    stack.reconcile()

    suspended = relay.connection(CLINIC)
    plan = relay.plan_fetches({"connections": [connection_id], "days": 2})

    assert refused == [403, 403]
    assert (suspended["state"], suspended["suspended_by"]) == ("login_required", "answer")
    assert (plan["suspended"], plan["messages"]) == (1, 0)
    [event] = eventually(lambda: told()[before:])
    assert event["detail-type"] == "Connection Suspended"
    assert event["detail"]["reported_by"] == "answer"

    sandbox.set_linked(CLINIC, linked=True)
    fetched(relay)
    stack.reconcile()

    resumed = relay.connection(CLINIC)
    assert resumed["state"] == "active"
    assert "suspended_at" not in resumed
    eventually(lambda: len(told()) > before + 1)
    kinds = [each["detail-type"] for each in told()[before:]]
    assert kinds == ["Connection Suspended", "Connection Resumed"]
    for each in told()[before:]:
        validate_event(each["detail-type"], each["detail"])


def test_open_job_ends_when_an_event_tells_that_the_link_is_broken(
    relay: Relay, stack: Stack, sandbox: Sandbox, events: EventLog, connection_id: str
) -> None:
    told = partial(changes, events, connection_id)
    before = len(told())
    sandbox.add_fault("silent", count=1)
    job_id = relay.fetch(WEEK, clinic=CLINIC).json()["job_execution_id"]

    sandbox.emit("access_token.login_required", CLINIC, {"message": "expired"})
    eventually(lambda: relay.connection(CLINIC)["state"] == "login_required")
    stack.reconcile()

    job = relay.ended_job(job_id)
    assert (job["state"], job["error_code"]) == ("FAILED", "login_required")
    [failed] = eventually(partial(events.of, job_id))
    assert failed["detail-type"] == "Appointment Fetch Failed"
    assert failed["detail"]["error_code"] == "login_required"
    validate_event(failed["detail-type"], failed["detail"])
    [event] = eventually(lambda: told()[before:])
    assert (event["detail-type"], event["detail"]["reported_by"]) == (
        "Connection Suspended",
        "event",
    )


def test_warning_is_noted_and_passed_on_when_a_password_is_about_to_change(
    relay: Relay, sandbox: Sandbox, events: EventLog, connection_id: str
) -> None:
    event_id = sandbox.emit("access_token.password_change_warning", CLINIC, {"days": 7})

    eventually(lambda: "password_warning_at" in relay.connection(CLINIC))

    [event] = eventually(
        lambda: [e for e in events.all() if e["detail"].get("cobalt_event_id") == event_id]
    )
    assert event["detail-type"] == "Cobalt Event Received"
    assert event["detail"]["connection_id"] == connection_id
    assert relay.connection(CLINIC)["state"] == "active"


def changes(events: EventLog, connection_id: str) -> list[Item]:
    """Give what was announced of a connection, oldest first."""
    return [
        each
        for each in events.all()
        if each["detail-type"] in {"Connection Suspended", "Connection Resumed"}
        and each["detail"]["connection_id"] == connection_id
    ]
