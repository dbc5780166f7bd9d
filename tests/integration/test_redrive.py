"""The way back from the failure queues, on the deployed stack."""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from cobalt_relay.models import connection_id_of
from tests.integration.support import Item, Relay, eventually
from tools.local.eventlog import EventLog
from tools.local.stack import Stack
from tools.relay import redrive as tool
from tools.relay.redrive import Deployment, redrive

WEEK = {"start_date": "2025-01-06", "end_date": "2025-01-10"}


@pytest.fixture
def connection(relay: Relay, stack: Stack) -> str:
    """A connection that registered itself, and whose robot has nothing to do."""
    relay.ended_job(relay.fetch(WEEK).json()["job_execution_id"])
    relay.settle()
    return connection_id_of(stack.access_tokens["riverside"])


@pytest.fixture
def put_back(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Redrive the stack, whose failure queues are empty before the test."""
    monkeypatch.setattr(tool, "LOOK_SECONDS", 0)  # the local AWS sees every message at once
    for queue in ("ScheduleFailuresUrl", "EventFailuresUrl"):
        stack.aws.sqs.purge_queue(QueueUrl=stack.outputs[queue])
    deployment = Deployment(stack.outputs, stack.aws.sqs, stack.aws.functions)
    return lambda: redrive(deployment, dry_run=False)


def test_run_is_made_again_when_its_cause_is_mended(
    stack: Stack,
    relay: Relay,
    connection: str,
    put_back: Callable[[], int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = {"connections": [connection], "from_day": 11, "days": 2, "spread_minutes": 0}
    with _credentials_missing(stack):
        _start(stack, plan)
        eventually(lambda: _plan_failed(stack), 30)

    assert put_back() == 0

    job = _scheduled_job(relay, from_day=11)
    assert (job["state"], job["trigger"]) == ("COMPLETED", "schedule")
    shown = capsys.readouterr().out
    assert stack.outputs["PlanFetchesName"] in shown
    assert "invoked again" in shown


def test_run_is_kept_again_when_it_fails_again(stack: Stack, put_back: Callable[[], int]) -> None:
    _start(stack, {"connections": "some"})
    eventually(lambda: _plan_failed(stack), 30)

    assert put_back() == 0

    eventually(lambda: _plan_failed(stack), 30)


def test_run_is_made_when_the_scheduler_could_not_begin_it(
    stack: Stack, relay: Relay, connection: str, put_back: Callable[[], int]
) -> None:
    schedule = stack.aws.scheduler.get_schedule(Name=stack.outputs["ScheduleName"])
    _drop(
        stack,
        "ScheduleFailuresUrl",
        {"connections": [connection], "from_day": 13, "days": 2, "spread_minutes": 0},
        SCHEDULE_ARN=schedule["Arn"],
        TARGET_ARN="arn:aws:scheduler:::aws-sdk:lambda:invoke",
        ERROR_CODE="AccessDeniedException",
    )

    assert put_back() == 0

    assert _scheduled_job(relay, from_day=13)["trigger"] == "schedule"
    assert _waiting(stack, "ScheduleFailuresUrl") == 0


def test_event_is_in_the_event_log_when_its_rule_could_not_put_it_there(
    stack: Stack, events: EventLog, put_back: Callable[[], int]
) -> None:
    job = f"job_{uuid.uuid4().hex}"
    event = {
        "id": str(uuid.uuid4()),
        "source": "cobalt-relay",
        "detail-type": "Appointments Fetched",
        "detail": {"event_id": str(uuid.uuid4()), "job_execution_id": job},
    }
    log = stack.aws.sqs.get_queue_attributes(
        QueueUrl=stack.outputs["EventLogUrl"], AttributeNames=["QueueArn"]
    )["Attributes"]["QueueArn"]
    _drop(stack, "EventFailuresUrl", event, TARGET_ARN=log, ERROR_CODE="NO_PERMISSIONS")

    assert put_back() == 0

    assert eventually(lambda: events.of(job)) == [event]
    assert _waiting(stack, "EventFailuresUrl") == 0


def test_message_stays_visible_when_it_is_not_understood(
    stack: Stack, put_back: Callable[[], int], capsys: pytest.CaptureFixture[str]
) -> None:
    _drop(stack, "EventFailuresUrl", {"who": "knows"})

    assert put_back() == 1

    assert _waiting(stack, "EventFailuresUrl") == 1
    assert "stays: its body is no event" in capsys.readouterr().out


@contextmanager
def _credentials_missing(stack: Stack) -> Iterator[None]:
    secrets, secret = stack.aws.secretsmanager, stack.outputs["CobaltCredentialsArn"]
    before = secrets.get_secret_value(SecretId=secret)["SecretString"]
    secrets.put_secret_value(SecretId=secret, SecretString="{}")
    _forget_what_workers_remember(stack)
    try:
        yield
    finally:
        secrets.put_secret_value(SecretId=secret, SecretString=before)


def _forget_what_workers_remember(stack: Stack) -> None:
    """A function that is configured anew starts anew: secrets are remembered for minutes."""
    functions, name = stack.aws.functions, stack.outputs["PlanFetchesName"]
    variables = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    for extra in ({"ANEW": uuid.uuid4().hex}, {}):
        functions.update_function_configuration(
            FunctionName=name, Environment={"Variables": variables | extra}
        )


def _start(stack: Stack, plan: object) -> None:
    """Invoke plan_fetches as the scheduler does."""
    stack.aws.functions.invoke(
        FunctionName=stack.outputs["PlanFetchesName"],
        InvocationType="Event",
        Payload=json.dumps(plan).encode(),
    )


def _drop(stack: Stack, queue: str, body: object, **attributes: str) -> None:
    """Put a message there as AWS does; the local AWS knows no dead letters of schedules and rules."""
    stack.aws.sqs.send_message(
        QueueUrl=stack.outputs[queue],
        MessageBody=json.dumps(body),
        MessageAttributes={
            name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
        },
    )


def _plan_failed(stack: Stack) -> bool:
    """Tell whether a run of plan_fetches is in the queue, and leave it there."""
    messages = stack.aws.sqs.receive_message(
        QueueUrl=stack.outputs["ScheduleFailuresUrl"], MaxNumberOfMessages=10, VisibilityTimeout=0
    ).get("Messages", [])
    return any(stack.outputs["PlanFetchesName"] in message["Body"] for message in messages)


def _waiting(stack: Stack, queue: str) -> int:
    """How many messages of a queue can be received."""
    answer = stack.aws.sqs.get_queue_attributes(
        QueueUrl=stack.outputs[queue], AttributeNames=["ApproximateNumberOfMessages"]
    )
    return int(answer["Attributes"]["ApproximateNumberOfMessages"])


def _scheduled_job(relay: Relay, from_day: int) -> Item:
    """Wait for the end of the job whose window begins that many days from the clinic's today."""
    stack, start = relay.stack, relay.today("riverside") + timedelta(days=from_day)

    def of_the_day() -> str | None:
        pages = stack.aws.dynamodb.get_paginator("scan").paginate(
            TableName=stack.table,
            FilterExpression="begins_with(pk, :job) AND #window.start_date = :start",
            ExpressionAttributeNames={"#window": "window"},
            ExpressionAttributeValues={":job": {"S": "JOB#"}, ":start": {"S": start.isoformat()}},
        )
        found = [row["job_execution_id"]["S"] for page in pages for row in page["Items"]]
        return found[0] if found else None

    job = eventually(of_the_day, 30)
    assert job
    return relay.ended_job(job)
