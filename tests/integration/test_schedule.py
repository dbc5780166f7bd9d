"""Schedules on the deployed stack: planned, queued, and worked off by Lambda itself."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from cobalt_relay.models import connection_id_of
from cobalt_relay.services.fetch_appointments import LEASE
from tests.integration.support import Item, Relay, eventually
from tests.unit.fakes import validate_event
from tools.local.eventlog import EventLog
from tools.local.stack import Stack

WEEK = {"start_date": "2025-01-06", "end_date": "2025-01-10"}
AT_ONCE = {"days": 7, "spread_minutes": 0}


@pytest.fixture
def fleet(relay: Relay, stack: Stack) -> dict[str, str]:
    """Two connections that registered themselves, by clinic; nothing is queued or under way."""
    clinics = ("riverside", "lakeside")
    for clinic in clinics:
        answer = relay.fetch(WEEK, clinic=clinic)
        assert answer.status_code == 202
        relay.ended_job(answer.json()["job_execution_id"])
    relay.settle()
    return {clinic: connection_id_of(stack.access_tokens[clinic]) for clinic in clinics}


def test_every_connection_is_fetched_with_its_kept_token_when_its_schedule_comes(
    relay: Relay, stack: Stack, events: EventLog, fleet: dict[str, str]
) -> None:
    before = _jobs(stack)
    today = {connection_id: relay.today(clinic) for clinic, connection_id in fleet.items()}

    told = relay.plan_fetches({"connections": "all", **AT_ONCE})

    started = eventually(partial(_of_all, stack, fleet, before))
    assert told["messages"] == told["planned"] >= len(fleet)
    for connection_id, job_id in started.items():
        job = relay.ended_job(job_id)
        assert (job["trigger"], job["connection_id"]) == ("schedule", connection_id)
        assert job["window"] == {
            "start_date": today[connection_id].isoformat(),
            "end_date": (today[connection_id] + timedelta(days=6)).isoformat(),
        }
        [event] = eventually(partial(events.of, job_id))
        validate_event(event["detail-type"], event["detail"])


def test_run_that_is_planned_twice_is_fetched_once(
    relay: Relay, stack: Stack, fleet: dict[str, str]
) -> None:
    moment = {"schedule": uuid.uuid4().hex, "scheduled_at": "2025-01-06T06:00:00Z"}
    plan = {"connections": [fleet["riverside"]], "from_day": 9, **AT_ONCE, **moment}
    before = _jobs(stack)

    told = [relay.plan_fetches(plan) for _ in range(2)]

    assert [each["messages"] for each in told] == [1, 1]
    eventually(lambda: _jobs(stack) - before)
    eventually(partial(_is_empty, stack), 2 * LEASE.total_seconds())
    assert len(_jobs(stack) - before) == 1


def test_scheduler_starts_a_fetch_by_itself(
    relay: Relay, stack: Stack, fleet: dict[str, str]
) -> None:
    scheduler = stack.aws.scheduler
    name = stack.outputs["ScheduleName"]
    template = scheduler.get_schedule(Name=name)
    target = template["Target"]
    plan = {"connections": [fleet["riverside"]], "from_day": 3, "days": 2, "spread_minutes": 0}
    before = _jobs(stack)
    soon = (datetime.now(UTC) + timedelta(seconds=2)).strftime("%Y-%m-%dT%H:%M:%S")

    scheduler.create_schedule(
        Name=f"{name}-once-{uuid.uuid4().hex[:8]}",
        ScheduleExpression=f"at({soon})",
        FlexibleTimeWindow={"Mode": "OFF"},
        ActionAfterCompletion="DELETE",
        Target={**target, "Input": json.dumps(plan)},
    )

    started = eventually(lambda: _jobs(stack) - before)
    job = relay.ended_job(started.pop())
    start = relay.today("riverside") + timedelta(days=3)
    assert job["window"] == {
        "start_date": start.isoformat(),
        "end_date": (start + timedelta(days=1)).isoformat(),
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

    envelope = eventually(failure)
    assert envelope is not None
    assert envelope["requestPayload"] == {"connections": "some"}


def _of_all(stack: Stack, fleet: dict[str, str], before: set[str]) -> dict[str, str]:
    """Give the new job of each connection, once each has one."""
    new = {each: _jobs(stack, {"": each}) - before for each in fleet.values()}
    assert all(len(jobs) == 1 for jobs in new.values())
    return {connection_id: jobs.pop() for connection_id, jobs in new.items()}


def _jobs(stack: Stack, fleet: dict[str, str] | None = None) -> set[str]:
    """Give the jobs of schedules, of some connections only where those are named."""
    rows = stack.aws.dynamodb.get_paginator("scan").paginate(
        TableName=stack.table,
        FilterExpression="begins_with(pk, :job) AND #trigger = :trigger",
        ExpressionAttributeNames={"#trigger": "trigger"},
        ExpressionAttributeValues={":job": {"S": "JOB#"}, ":trigger": {"S": "schedule"}},
    )
    found: list[Item] = [dict(item) for page in rows for item in page["Items"]]
    wanted = set(fleet.values()) if fleet else None
    return {
        item["job_execution_id"]["S"]
        for item in found
        if wanted is None or item["connection_id"]["S"] in wanted
    }


def _is_empty(stack: Stack) -> bool:
    """Whether no message is in the queue, nor with a function."""
    names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    told = stack.aws.sqs.get_queue_attributes(
        QueueUrl=stack.outputs["FetchQueueUrl"], AttributeNames=names
    )
    return {told["Attributes"][name] for name in names} == {"0"}
