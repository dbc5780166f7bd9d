"""The reconciler on the deployed stack: what the webhook did not bring."""

from functools import partial

import pytest

from tests.integration.support import Item, Relay, eventually
from tests.unit.fakes import validate_event
from tools.local.eventlog import EventLog
from tools.local.sandbox import Sandbox

WEEK = {"start_date": "2025-01-06", "end_date": "2025-01-10"}
RECOVERED = ("poll", "sweep")
"""A sweep for an unknown request takes in what it comes across."""


def fetched(relay: Relay, clinic: str = "riverside") -> str:
    answer = relay.fetch(WEEK, clinic=clinic)
    assert answer.status_code == 202
    job_id: str = answer.json()["job_execution_id"]
    return job_id


def finished(sandbox: Sandbox, job_id: str) -> Item:
    """Wait for the sandbox's robot; give its job."""

    def done() -> Item | None:
        job = sandbox.job(job_id)
        return job if job["state"] != "running" else None

    job = eventually(done)
    assert job
    return job


def announced(events: EventLog, job_id: str, kind: str) -> Item:
    def found() -> Item | None:
        return next((e for e in events.of(job_id) if e["detail-type"] == kind), None)

    envelope = eventually(found)
    assert envelope
    validate_event(kind, envelope["detail"])
    detail: Item = envelope["detail"]
    return detail


@pytest.mark.parametrize("edition", ["newest_edition", "oldest_edition"])
def test_lost_result_is_polled_byte_for_byte(
    relay: Relay, sandbox: Sandbox, events: EventLog, edition: str
) -> None:
    sandbox.add_fault("lost", count=1)
    sandbox.add_fault(edition, count=1)
    job_id = fetched(relay, "harbor")
    event_id = finished(sandbox, job_id)["event_id"]

    relay.stack.let_time_pass(f"JOB#{job_id}")
    relay.stack.reconcile()

    row = relay.ended_job(job_id)
    assert row["state"] == "COMPLETED"
    assert row["completion"]["delivered_via"] in RECOVERED
    assert relay.object(row["completion"]["result"]["key"]) == sandbox.event_body(event_id)
    assert row["seconds_to_completion"] > 0
    detail = announced(events, job_id, "Appointments Fetched")
    assert detail["delivered_via"] == row["completion"]["delivered_via"]
    assert detail["cobalt_event_id"] == event_id
    assert detail["seconds_to_completion"] == float(row["seconds_to_completion"])


def test_result_too_large_for_a_webhook_is_polled(
    relay: Relay, sandbox: Sandbox, events: EventLog
) -> None:
    sandbox.add_fault("oversized", count=1, megabytes=30)
    job_id = fetched(relay)
    event_id = finished(sandbox, job_id)["event_id"]
    eventually(lambda: [d["response_status"] for d in sandbox.deliveries(job_id)] == [413])

    relay.stack.let_time_pass(f"JOB#{job_id}")
    relay.stack.reconcile()

    row = relay.ended_job(job_id)
    assert row["completion"]["delivered_via"] in RECOVERED
    assert relay.object(row["completion"]["result"]["key"]) == sandbox.event_body(event_id)
    announced(events, job_id, "Appointments Fetched")


def test_failure_that_was_lost_is_an_outcome(
    relay: Relay, sandbox: Sandbox, events: EventLog
) -> None:
    sandbox.add_fault("lost", count=1)
    sandbox.add_fault("failed", count=1)
    job_id = fetched(relay)
    finished(sandbox, job_id)

    relay.stack.let_time_pass(f"JOB#{job_id}")
    relay.stack.reconcile()

    row = relay.ended_job(job_id)
    assert (row["state"], row["completion"]["error_code"]) == ("FAILED", "emr_record_locked")
    assert (
        announced(events, job_id, "Appointment Fetch Failed")["error_code"] == "emr_record_locked"
    )


def test_silent_job_expires_and_a_late_result_completes_it(
    relay: Relay, sandbox: Sandbox, events: EventLog
) -> None:
    sandbox.add_fault("lost", count=1)
    job_id = fetched(relay)
    sandbox.add_fault("html", path="/v1/webhook-events", count=1)  # at the very last look
    event_id = finished(sandbox, job_id)["event_id"]

    relay.stack.let_time_pass(f"JOB#{job_id}", to_the_deadline=True)
    relay.stack.reconcile()
    expired = relay.ended_job(job_id)
    announced(events, job_id, "Appointment Fetch Expired")
    sandbox.redeliver(event_id)

    assert expired["state"] == "EXPIRED"
    row = eventually(partial(_in_state, relay, job_id, "COMPLETED"))
    assert row
    assert row["expired_at"] == expired["expired_at"]
    assert announced(events, job_id, "Appointments Fetched")["expired_at"] == row["expired_at"]


def test_expired_job_is_looked_at_late(relay: Relay, sandbox: Sandbox) -> None:
    sandbox.add_fault("late", count=1, seconds=600)
    job_id = fetched(relay)
    relay.stack.let_time_pass(f"JOB#{job_id}", to_the_deadline=True)
    relay.stack.reconcile()

    row = relay.ended_job(job_id)

    assert (row["state"], row["notification"]) == ("EXPIRED", "sent")
    assert row["due_at"] > row["expired_at"]
    relay.stack.let_time_pass(f"JOB#{job_id}")
    told = relay.stack.reconcile()
    assert told["not_found"] >= 1
    assert relay.ended_job(job_id)["looks"] == 1


@pytest.mark.parametrize("outcome", ["lost", "delivered"])
def test_unanswered_fetch_gets_its_job_by_a_sweep(
    relay: Relay, sandbox: Sandbox, events: EventLog, outcome: str
) -> None:
    fetched(relay, "lakeside")
    sandbox.add_fault("hang_up", count=1)
    if outcome == "lost":
        sandbox.add_fault("lost", count=1)
    window = {"start_date": "2025-02-03", "end_date": f"2025-02-0{5 + (outcome == 'lost')}"}
    known = {job["id"] for job in sandbox.jobs()}
    answer = relay.fetch(window, clinic="lakeside", key=f"unanswered {outcome}")
    request = f"REQUEST#{answer.headers['x-request-id']}"
    [job_id] = {job["id"] for job in sandbox.jobs()} - known
    event_id = finished(sandbox, job_id)["event_id"]
    if outcome == "delivered":
        relay.ended_job(job_id)
    again = relay.fetch(window, clinic="lakeside", key=f"unanswered {outcome}")

    relay.stack.let_time_pass(request)
    relay.stack.reconcile()

    row, job = relay.item(request) or {}, relay.ended_job(job_id)
    assert (answer.status_code, again.status_code) == (504, 504)
    assert (row["state"], row["job_execution_id"]) == ("ACCEPTED", job_id)
    assert job["completion"]["delivered_via"] == ("sweep" if outcome == "lost" else "webhook")
    assert job["request_id"] == answer.headers["x-request-id"]
    assert relay.object(job["completion"]["result"]["key"]) == sandbox.event_body(event_id)
    announced(events, job_id, "Appointments Fetched")
    final = relay.fetch(window, clinic="lakeside", key=f"unanswered {outcome}")
    assert (final.status_code, final.json()["job_execution_id"]) == (202, job_id)
    assert len({job["id"] for job in sandbox.jobs()} - known) == 1


def test_fetch_that_never_ran_expires_by_its_request(
    relay: Relay, sandbox: Sandbox, events: EventLog
) -> None:
    sandbox.add_fault("hang_up", count=1, accepted=False)
    answer = relay.fetch({"start_date": "2024-06-03", "end_date": "2024-06-09"})  # nobody else's
    request_id = answer.headers["x-request-id"]

    relay.stack.let_time_pass(f"REQUEST#{request_id}", to_the_deadline=True)
    relay.stack.reconcile()

    row = relay.item(f"REQUEST#{request_id}") or {}
    assert (answer.status_code, row["state"]) == (504, "EXPIRED")
    assert row["due_at"] > row["closed_at"]

    def found() -> Item | None:
        return next((e for e in events.all() if e["detail"].get("request_id") == request_id), None)

    envelope = eventually(found)
    assert envelope
    assert envelope["detail-type"] == "Appointment Fetch Expired"
    validate_event(envelope["detail-type"], envelope["detail"])


def _in_state(relay: Relay, job_id: str, state: str) -> Item | None:
    row = relay.job(job_id)
    return row if row and row["state"] == state else None
