"""Ranges and the queue behind them on the deployed stack: pieces, pauses, messages that come twice."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from cobalt_relay.adapters.layout import range_of
from cobalt_relay.models import connection_id_of
from tests.integration.support import Item, Relay, eventually, work_for
from tests.unit.fakes import validate_event
from tools.local.eventlog import EventLog
from tools.local.sandbox import Sandbox
from tools.local.stack import Stack

FETCH = "/v1/appointments/fetch"
TEN_DAYS = {"start_date": "2025-02-03", "end_date": "2025-02-12"}


@pytest.fixture
def connection_id(relay: Relay, stack: Stack) -> str:
    """Riverside's, which is registered, and whose robot has nothing to do."""
    answer = relay.fetch({"start_date": "2025-01-06", "end_date": "2025-01-10"})
    relay.ended_job(answer.json()["job_execution_id"])
    relay.settle()
    return connection_id_of(stack.access_tokens["riverside"])


@pytest.fixture
def patience(relay: Relay) -> Iterator[None]:
    """Afterwards Cobalt is asked again."""
    yield
    relay.forget("PAUSE#cobalt")


@pytest.mark.usefixtures("connection_id")
def test_range_is_partial_when_one_of_two_pieces_fails(
    relay: Relay, sandbox: Sandbox, events: EventLog
) -> None:
    accepted = relay.fetch_range(TEN_DAYS)
    range_id = accepted.json()["job_execution_id"]
    first = eventually(partial(_piece, relay, range_id, 0, "COMPLETED"), 120.0)  # may be put off
    sandbox.add_fault("failed", count=1)
    found = range_of(relay.item(f"RANGE#{range_id}") or {})
    again = relay.run_fetches(list(found.plan.works(found.plan.accepted_at))[1])
    second = eventually(partial(_piece, relay, range_id, 1, "FAILED"))

    [event] = eventually(partial(events.of, range_id))

    told = relay.read(range_id)
    assert accepted.status_code == 202
    assert again == []
    assert told["status"] == event["detail"]["status"] == "PARTIAL"
    assert told["pieces"] == [first, second]
    detail = event["detail"]
    assert (detail["piece_count"], detail["completed_count"]) == (2, 1)
    assert detail["error_codes"] == [second["error_code"]]
    assert (first["window"]["start_date"], second["window"]["end_date"]) == tuple(TEN_DAYS.values())
    assert first["appointment_count"] == told["appointment_count"]
    assert event["detail-type"] == "Appointment Range Completed"
    validate_event(event["detail-type"], event["detail"])


def test_same_range_is_answered_when_its_key_comes_again(
    relay: Relay, connection_id: str, stack: Stack
) -> None:
    key = uuid.uuid4().hex

    first, again = (relay.fetch_range(TEN_DAYS, key=key) for _ in range(2))
    other = relay.fetch_range({**TEN_DAYS, "end_date": "2025-02-13"}, key=key)

    assert (first.status_code, again.status_code, other.status_code) == (202, 202, 422)
    assert first.json()["job_execution_id"] == again.json()["job_execution_id"]
    relay.settle()


def test_message_is_fetched_once_when_it_comes_twice_at_once(
    relay: Relay, sandbox: Sandbox, connection_id: str
) -> None:
    work = work_for(connection_id, "2025-03-03", "2025-03-07")
    before = len(sandbox.requests(FETCH))

    with ThreadPoolExecutor(2) as two:
        list(two.map(relay.run_fetches, [work, work]))
    relay.run_fetches(work)

    assert len(sandbox.requests(FETCH)) == before + 1
    request = relay.item(f"REQUEST#{work.request_id(0)}") or {}
    assert relay.ended_job(request["job_execution_id"])["state"] == "COMPLETED"


@pytest.mark.usefixtures("patience")
def test_queue_rests_and_the_message_comes_again_when_cobalt_takes_no_more(
    relay: Relay, sandbox: Sandbox, connection_id: str
) -> None:
    work = work_for(connection_id, "2025-03-10", "2025-03-14")
    other = work_for(connection_id, "2025-03-17", "2025-03-21")
    before = len(sandbox.requests(FETCH))
    sandbox.add_fault("rate_limited", count=1, retry_after=120)

    refused = relay.run_fetches(work)
    meanwhile = relay.run_fetches(work, other)

    assert refused == [0]
    assert meanwhile == []  # put off: sent anew, to come when the pause is over
    assert len(sandbox.requests(FETCH)) == before + 1
    assert relay.item("PAUSE#cobalt")

    relay.forget("PAUSE#cobalt")
    afterwards = relay.run_fetches(work)

    assert afterwards == []
    request = relay.item(f"REQUEST#{work.request_id(1)}") or {}
    assert relay.ended_job(request["job_execution_id"])["state"] == "COMPLETED"


def _piece(relay: Relay, range_id: str, number: int, status: str) -> Item:
    """Give a piece of a range as its caller sees it, once it is in a state."""
    piece: Any = relay.read(range_id)["pieces"][number]
    assert piece["status"] == status
    return dict(piece)
