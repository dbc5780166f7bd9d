"""Schedules on the deployed stack: `plan_fetches`, by hand and by EventBridge Scheduler."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from cobalt_relay.models import connection_id_of
from tests.integration.support import Relay, eventually
from tests.unit.fakes import validate_event
from tools.local.eventlog import EventLog
from tools.local.sandbox import Sandbox
from tools.local.stack import Stack

WEEK = {"start_date": "2025-01-06", "end_date": "2025-01-10"}


def run(stack: Stack, plan: dict[str, Any]) -> dict[str, Any]:
    """Invoke plan_fetches as the scheduler does, but wait for its outcome."""
    answer = stack.aws.functions.invoke(
        FunctionName=stack.outputs["PlanFetchesName"], Payload=json.dumps(plan).encode()
    )
    outcome: dict[str, Any] = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, outcome
    return outcome


@pytest.fixture
def fleet(relay: Relay, stack: Stack) -> dict[str, str]:
    """Two connections that registered themselves, by clinic."""
    clinics = ("riverside", "lakeside")
    for clinic in clinics:
        assert relay.fetch(WEEK, clinic=clinic).status_code == 202
    return {clinic: connection_id_of(stack.access_tokens[clinic]) for clinic in clinics}


def test_every_connection_is_fetched_with_its_kept_token(
    relay: Relay, stack: Stack, events: EventLog, fleet: dict[str, str]
) -> None:
    outcome = run(stack, {"connections": "all", "from_day": 0, "days": 7})

    today = datetime.now(UTC).date()
    assert set(fleet.values()) <= set(outcome["started"])
    assert outcome["window"] == {
        "start_date": today.isoformat(),
        "end_date": (today + timedelta(days=6)).isoformat(),
    }
    for connection_id in fleet.values():
        job = relay.ended_job(outcome["started"][connection_id])
        assert (job["trigger"], job["connection_id"]) == ("schedule", connection_id)
        [event] = eventually(partial(events.of, job["job_execution_id"]))
        validate_event(event["detail-type"], event["detail"])


def test_others_are_fetched_when_one_link_is_broken(
    relay: Relay, stack: Stack, sandbox: Sandbox, events: EventLog, fleet: dict[str, str]
) -> None:
    sandbox.set_linked("riverside", linked=False)
    try:
        outcome = run(stack, {"connections": list(fleet.values()), "from_day": 0, "days": 7})
    finally:
        sandbox.set_linked("riverside", linked=True)

    relay.stack.reconcile()

    assert outcome["failed"] == {fleet["riverside"]: "login_required"}
    assert list(outcome["started"]) == [fleet["lakeside"]]

    def announced() -> dict[str, Any] | None:
        return next(
            (
                e
                for e in events.all()
                if e["detail-type"] == "Appointment Fetch Failed"
                and e["detail"].get("connection_id") == fleet["riverside"]
                and e["detail"]["job_execution_id"] is None
                and e["detail"]["trigger"] == "schedule"
                and e["detail"]["error_code"] == "login_required"
            ),
            None,
        )

    event = eventually(announced)
    assert event is not None
    validate_event(event["detail-type"], event["detail"])


def test_scheduler_starts_a_fetch_by_itself(
    relay: Relay, stack: Stack, fleet: dict[str, str]
) -> None:
    scheduler = stack.aws.scheduler
    name = stack.outputs["ScheduleName"]
    template = scheduler.get_schedule(Name=name)
    target = template["Target"]
    plan = {"connections": [fleet["riverside"]], "from_day": 3, "days": 2}
    before = _jobs(stack, "schedule")
    soon = (datetime.now(UTC) + timedelta(seconds=2)).strftime("%Y-%m-%dT%H:%M:%S")

    scheduler.create_schedule(
        Name=f"{name}-once-{uuid.uuid4().hex[:8]}",
        ScheduleExpression=f"at({soon})",
        FlexibleTimeWindow={"Mode": "OFF"},
        ActionAfterCompletion="DELETE",
        Target={**target, "Input": json.dumps(plan)},
    )

    started = eventually(lambda: _jobs(stack, "schedule") - before, 30)
    job = relay.ended_job(started.pop())
    start = datetime.now(UTC).date() + timedelta(days=3)
    assert job["window"] == {
        "start_date": start.isoformat(),
        "end_date": (start + timedelta(days=1)).isoformat(),
    }


def test_schedule_of_the_template_asks_for_every_connection(stack: Stack) -> None:
    schedule = stack.aws.scheduler.get_schedule(Name=stack.outputs["ScheduleName"])

    assert json.loads(schedule["Target"]["Input"]) == {
        "connections": "all",
        "from_day": 0,
        "days": 7,
    }


def test_run_that_cannot_be_carried_out_is_kept_for_the_operator(stack: Stack) -> None:
    stack.aws.functions.invoke(
        FunctionName=stack.outputs["PlanFetchesName"],
        InvocationType="Event",
        Payload=json.dumps({"connections": "some"}).encode(),
    )

    def failure() -> dict[str, Any] | None:
        messages = stack.aws.sqs.receive_message(
            QueueUrl=stack.outputs["ScheduleFailuresUrl"], MaxNumberOfMessages=10
        ).get("Messages", [])
        return json.loads(messages[0]["Body"]) if messages else None

    envelope = eventually(failure, 30)
    assert envelope is not None
    assert envelope["requestPayload"] == {"connections": "some"}


def _jobs(stack: Stack, trigger: str) -> set[str]:
    pages = stack.aws.dynamodb.get_paginator("scan").paginate(
        TableName=stack.table,
        FilterExpression="begins_with(pk, :job) AND #trigger = :trigger",
        ExpressionAttributeNames={"#trigger": "trigger"},
        ExpressionAttributeValues={":job": {"S": "JOB#"}, ":trigger": {"S": trigger}},
    )
    return {item["job_execution_id"]["S"] for page in pages for item in page["Items"]}
