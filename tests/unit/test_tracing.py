"""One trace from a caller's request to the events about its job, whoever tells of it."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import requests

from cobalt_relay import tracing
from cobalt_relay.adapters.cobalt import Cobalt, headers_of
from cobalt_relay.errors import UpstreamFault
from cobalt_relay.models import ClientCredentials, utc_now
from functions.detect_changes.handler import lambda_handler as detect
from functions.fetch_appointments.handler import lambda_handler as fetch
from functions.plan_fetches.handler import lambda_handler as plan
from functions.read_appointments.handler import lambda_handler as read
from functions.receive_webhook.handler import lambda_handler as receive
from functions.reconcile_jobs.handler import lambda_handler as reconcile
from functions.run_fetches.handler import lambda_handler as run
from tests.unit.conftest import (
    HEADERS,
    LambdaContextStub,
    World,
    body_of,
    fetch_event,
    job_event,
    queue_event,
    range_event,
    webhook_event,
)

WEEK = {"start_date": "2025-01-06", "end_date": "2025-01-12"}
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
REQUEST = "0b5a1c5e-0000-4000-8000-000000000001"
OF_REQUEST = REQUEST.replace("-", "")


def traces_of(text: str) -> dict[str, str | None]:
    """Give the trace of each log line, by its message."""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return {line["message"]: line["trace_id"] for line in lines if "message" in line}


def start(**headers: str) -> str:
    answer = fetch(fetch_event(WEEK, {**HEADERS, **headers}), LambdaContextStub())
    return str(body_of(answer)["job_execution_id"])


# -------------------------------------------------------------------------------- which trace it is


@pytest.mark.parametrize(
    ("headers", "trace_id"),
    [
        ({"traceparent": TRACEPARENT}, TRACE),
        ({"traceparent": f" {TRACEPARENT} "}, TRACE),
        ({"traceparent": TRACEPARENT.replace("00-", "cc-", 1) + "-more"}, TRACE),
        ({"x-amzn-trace-id": "Root=1-5759e988-bd862e3fe1be46a994272793"}, "5759e988bd862e3fe1be46a994272793"),
        ({"x-amzn-trace-id": "Self=1-67891234-12456789abcdef012345678;Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1"}, "5759e988bd862e3fe1be46a994272793"),
        ({"traceparent": TRACEPARENT, "x-amzn-trace-id": "Root=1-5759e988-bd862e3fe1be46a994272793"}, TRACE),
        ({"traceparent": TRACEPARENT.replace("00-", "ff-", 1)}, None),
        ({"traceparent": f"00-{'0' * 32}-b7ad6b7169203331-01"}, None),
        ({"traceparent": TRACEPARENT.upper()}, None),
        ({"traceparent": "Andrew White"}, None),
        ({"x-amzn-trace-id": "Root=Andrew White"}, None),
        ({"traceparent": None}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_trace_is_read_from_what_a_caller_brings(
    headers: dict[str, str | None], trace_id: str | None
) -> None:
    assert tracing.of_headers(headers) == trace_id


def test_trace_is_named_for_a_request_when_none_is_brought() -> None:
    assert tracing.of_request(REQUEST) == OF_REQUEST
    assert tracing.of_request(REQUEST.upper()) == OF_REQUEST


@pytest.mark.parametrize("request_id", ["invocation-1", "", str(uuid.UUID(int=0))])
def test_trace_is_a_random_one_when_an_id_has_no_digits_for_it(request_id: str) -> None:
    one, other = tracing.of_request(request_id), tracing.of_request(request_id)

    assert one != other
    assert tracing.of_headers({"traceparent": f"00-{one}-b7ad6b7169203331-01"}) == one


def test_former_trace_counts_again_after_what_is_done_under_another() -> None:
    with tracing.traced(TRACE):
        with tracing.traced(None):
            tracing.follow(None)
            assert tracing.current() == TRACE
            tracing.follow(OF_REQUEST)
            assert tracing.current() == OF_REQUEST
        assert tracing.current() == TRACE
    assert tracing.current() is None


def test_trace_is_handed_on_to_cobalt_under_a_new_span_each_time() -> None:
    credentials = ClientCredentials(client_id="client", client_secret="sesame")

    with tracing.traced(TRACE):
        one, other = headers_of(credentials), headers_of(credentials)

    assert tracing.of_headers(one) == TRACE
    assert one["traceparent"] != other["traceparent"]
    assert "traceparent" not in headers_of(credentials)


# ------------------------------------------------------------------------------------- a job's story


@pytest.mark.parametrize(
    ("headers", "trace_id"), [({"TraceParent": TRACEPARENT}, TRACE), ({}, OF_REQUEST)]
)
def test_job_has_one_trace_from_its_request_to_its_events(
    world: World, logged: Callable[[], str], headers: dict[str, str], trace_id: str
) -> None:
    job_id = start(**headers)
    accepted = traces_of(logged())
    found = [{"id": "appt_1", "datetime": "2025-01-06T10:00:00-05:00"}]
    body = world.result(
        job_id, {"success": True, **WEEK, "appointment_count": 1, "appointments": found}
    )
    receive(webhook_event(body), LambdaContextStub())
    ended = traces_of(logged())
    detect({"detail": {"job_execution_id": job_id}}, LambdaContextStub())

    assert accepted["fetch_accepted"] == ended["job_ended"] == trace_id
    assert world.jobs.requests[REQUEST].trace_id == world.jobs.jobs[job_id].trace_id == trace_id
    assert [(kind, detail["trace_id"]) for kind, detail in world.bus.events] == [
        ("Appointments Fetched", trace_id),
        ("Appointments Changed", trace_id),
    ]
    assert traces_of(logged())["changes_detected"] == trace_id
    answer = read(job_event(job_id), LambdaContextStub())
    assert body_of(answer)["trace_id"] == trace_id


def test_line_of_a_caller_who_joins_names_both_traces(
    world: World, logged: Callable[[], str]
) -> None:
    start(traceparent=TRACEPARENT)
    logged()

    event = fetch_event(WEEK)
    event["requestContext"]["requestId"] = str(uuid.uuid4())
    fetch(event, LambdaContextStub())

    [line] = [json.loads(line) for line in logged().splitlines() if "fetch_joined" in line]
    assert line["trace_id_of_job"] == TRACE
    assert line["trace_id"] == event["requestContext"]["requestId"].replace("-", "")


def test_webhook_goes_by_its_jobs_trace_whatever_header_it_brings(
    world: World, logged: Callable[[], str]
) -> None:
    job_id = start(traceparent=TRACEPARENT)
    body = world.result(job_id)
    event = webhook_event(body)
    event["headers"]["traceparent"] = f"00-{'a' * 32}-b7ad6b7169203331-01"
    logged()

    receive(event, LambdaContextStub())

    assert set(traces_of(logged()).values()) == {TRACE}


def test_each_job_is_polled_under_its_own_trace(world: World, logged: Callable[[], str]) -> None:
    mine = start(traceparent=TRACEPARENT)
    other = {**WEEK, "end_date": "2025-01-10"}
    event = fetch_event(other, HEADERS)
    event["requestContext"]["requestId"] = str(uuid.uuid4())
    theirs = str(body_of(fetch(event, LambdaContextStub()))["job_execution_id"])
    world.record(mine)
    world.record(theirs)
    world.clock.sleep(90)
    logged()

    reconcile({}, LambdaContextStub())

    lines = [json.loads(line) for line in logged().splitlines() if "job_ended" in line]
    told = {line["job_execution_id"]: line["trace_id"] for line in lines}
    assert told == {
        mine: TRACE,
        theirs: event["requestContext"]["requestId"].replace("-", ""),
    }


def test_row_of_an_earlier_edition_has_no_trace_and_works(world: World) -> None:
    job_id = start(traceparent=TRACEPARENT)
    for kind, name in (("JOB", job_id), ("REQUEST", REQUEST)):
        del world.jobs.table.items[f"{kind}#{name}", kind]["trace_id"]

    body = world.result(job_id)
    receive(webhook_event(body), LambdaContextStub())

    assert world.jobs.jobs[job_id].trace_id is None
    assert [detail["trace_id"] for _, detail in world.bus.events] == [None]


def test_job_that_its_webhook_overtook_gets_the_trace_of_its_request(world: World) -> None:
    document = {
        "id": "evt_1",
        "type": "appointment.live_fetch_completed",
        "job_id": "job_1",
        "data": {"success": True, "appointments": []},
    }
    body = json.dumps(document).encode()
    receive(webhook_event(body), LambdaContextStub())
    assert world.jobs.jobs["job_1"].trace_id is None

    assert start(traceparent=TRACEPARENT) == "job_1"

    assert world.jobs.jobs["job_1"].trace_id == TRACE


# ------------------------------------------------------------------------------------ ranges, pieces


def test_pieces_of_a_range_have_its_trace(world: World, logged: Callable[[], str]) -> None:
    days = {"start_date": "2025-01-06", "end_date": "2025-01-20"}
    answer = fetch(range_event(days, {**HEADERS, "traceparent": TRACEPARENT}), LambdaContextStub())
    works = list(world.queue.sent)
    logged()

    for work in works:
        world.clock.sleep(200)
        run(queue_event(work), LambdaContextStub())
        for job_id in [job for job in world.jobs.jobs if not world.jobs.jobs[job].completion]:
            world.deliver(job_id)

    traces = {job.trace_id for job in world.jobs.jobs.values()}
    assert len(world.jobs.jobs) == len(works) > 1
    assert traces == {TRACE}
    assert {detail["trace_id"] for _, detail in world.bus.events} == {TRACE}
    assert traces_of(logged())["fetch_accepted"] == TRACE
    found = read(job_event(body_of(answer)["job_execution_id"]), LambdaContextStub())
    assert body_of(found)["trace_id"] == TRACE


def test_scheduled_range_has_the_trace_of_its_own_id_at_each_repetition(world: World) -> None:
    world.connections.add("token-1")
    schedule = {
        "connections": "all",
        "from_day": 0,
        "days": 14,
        "schedule": "s",
        "scheduled_at": "2025-01-02T10:00:00Z",
    }

    plan(schedule, LambdaContextStub())
    plan(schedule, LambdaContextStub())

    [range_id] = {work.plan.range_id for work in world.queue.sent}
    assert {f"range_{work.plan.trace_id}" for work in world.queue.sent} == {range_id}


def test_refused_fetch_is_told_under_its_trace(world: World, logged: Callable[[], str]) -> None:
    answer = fetch(fetch_event({}, {**HEADERS, "traceparent": TRACEPARENT}), LambdaContextStub())

    assert answer["statusCode"] == 400
    assert traces_of(logged()) == {"request_refused": TRACE}


def test_a_page_of_events_is_asked_for_under_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are loaded in a thread of their own, which knows of no trace."""
    asked: list[dict[str, str]] = []

    def refuse(_session: object, _method: str, _url: str, **options: Any) -> None:
        asked.append(options["headers"])
        raise requests.ConnectionError

    monkeypatch.setattr(requests.Session, "request", refuse)
    cobalt, now = Cobalt("https://cobalt.example.com"), utc_now()
    credentials = ClientCredentials(client_id="client", client_secret="sesame")

    with tracing.traced(TRACE), pytest.raises(UpstreamFault):
        list(cobalt.live_fetches_since(credentials, since=now))

    assert all(TRACE in headers["traceparent"] for headers in asked)
    assert asked
