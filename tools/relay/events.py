"""`relay events tail`: the bus, live, through a queue and a rule that live as long as the tail.

Both are named `<stack>-tail-<random>`. A tail that was killed leaves them; the next one removes
what has shown no sign of life for an hour. The sign of life is a tag of the queue.
"""

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import islice
from typing import Any

import typer
from botocore.exceptions import BotoCoreError, ClientError

from cobalt_relay.snapshots import KINDS
from tools.local import processes
from tools.relay import rows
from tools.relay.faults import Interrupted
from tools.relay.output import Output, plain
from tools.relay.session import Deployment

ALIVE = "relay-tail-alive"
SIGN_SECONDS = 600
LEFTOVER_SECONDS = 3600
WAIT_SECONDS = 10
AT_ONCE = 10


def tail(
    deployment: Deployment,
    output: Output,
    types: list[str],
    connection: str | None,
    count: int | None,
) -> None:
    """Show events until the wanted number has come, or somebody ends it."""
    pattern: dict[str, Any] = {"source": ["cobalt-relay"]}
    if types:
        pattern["detail-type"] = types
    if connection:
        [row] = rows.find_in_use(deployment, connection)
        pattern["detail"] = {"connection_id": [row.connection_id]}
    try:
        _remove_leftovers(deployment)
        with _listening(deployment, pattern) as url:
            output.note("Listening; Ctrl-C ends it." if count is None else "Listening.")
            for event in islice(_received(deployment, url), count):
                _tell(output, event)
    except (KeyboardInterrupt, SystemExit) as early:
        # The documented end: a document about it would stand among the events.
        end = Interrupted.by(early)
        output.note(f"\n{end.message}")
        raise typer.Exit(end.exit_code) from early


def _tell(output: Output, event: dict[str, Any]) -> None:
    if output.as_json:
        output.line(event)
        return
    detail = event.get("detail") or {}
    window = detail.get("window") or {}
    days = f"{window['start_date']} to {window['end_date']}" if window else ""
    said = [
        _clock(str(event.get("time", ""))),
        event.get("detail-type"),
        detail.get("job_execution_id"),
        detail.get("access_token_reference_id") or detail.get("connection_id"),
        days,
        detail.get("error_code") or counted(detail),
    ]
    output.say("  ".join(plain(each) for each in said if each))
    output.out.file.flush()


def counted(detail: dict[str, Any]) -> str:
    """Say how many appointments it is about, or how many of them are new, other or gone."""
    if detail.get("appointment_count") is not None:
        return f"{detail['appointment_count']} appointments"
    counts = [(detail.get(f"{kind}_count"), kind) for kind in KINDS]
    told = [f"{number} {kind}" for number, kind in counts if number]
    told += [f"{len(days)} new days" for days in (detail.get("baseline_days"),) if days]
    return ", ".join(told)


def _clock(text: str) -> str:
    with suppress(ValueError):
        return f"{datetime.fromisoformat(text).astimezone():%H:%M:%S}"
    return ""


def _received(deployment: Deployment, url: str) -> Iterator[dict[str, Any]]:
    sqs, signed_at = deployment.client("sqs"), time.monotonic()
    while True:
        if time.monotonic() - signed_at > SIGN_SECONDS:
            sqs.tag_queue(QueueUrl=url, Tags=_alive())
            signed_at = time.monotonic()
        answer = sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=AT_ONCE, WaitTimeSeconds=WAIT_SECONDS
        )
        for message in answer.get("Messages", []):
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            with suppress(ValueError):
                yield json.loads(message["Body"])


@contextmanager
def _listening(deployment: Deployment, pattern: dict[str, Any]) -> Iterator[str]:
    """Make the queue, then the rule; remove both, whatever was made, however it ends."""
    name = f"{_prefix(deployment)}{secrets.token_hex(6)}"
    sqs, bus = deployment.client("sqs"), deployment.output("EventBusName")
    events = deployment.client("events")
    try:
        url = sqs.create_queue(
            QueueName=name,
            Attributes={
                "KmsMasterKeyId": deployment.output("KeyArn"),
                "MessageRetentionPeriod": str(LEFTOVER_SECONDS),
            },
            tags=_alive(),
        )["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]
        rule = events.put_rule(
            Name=name,
            EventBusName=bus,
            EventPattern=json.dumps(pattern),
            Description="Temporary: relay events tail",
        )["RuleArn"]
        sqs.set_queue_attributes(
            QueueUrl=url, Attributes={"Policy": json.dumps(_policy(arn, rule))}
        )
        put = events.put_targets(Rule=name, EventBusName=bus, Targets=[{"Id": "tail", "Arn": arn}])
        if put.get("FailedEntryCount"):
            raise BotoCoreError
        yield url
    finally:
        with processes.undisturbed():
            _remove(deployment, name)


def _policy(queue: str, rule: str) -> dict[str, Any]:
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "events.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": queue,
                "Condition": {"ArnEquals": {"aws:SourceArn": rule}},
            }
        ],
    }


def _prefix(deployment: Deployment) -> str:
    return f"{deployment.stack_name[:50]}-tail-"


def _alive() -> dict[str, str]:
    return {ALIVE: str(int(time.time()))}


def _remove(deployment: Deployment, name: str) -> None:
    """Remove a rule and a queue; what is not there is as good as removed."""
    events, sqs = deployment.client("events"), deployment.client("sqs")
    bus = deployment.output("EventBusName")
    with suppress(ClientError, BotoCoreError):
        events.remove_targets(Rule=name, EventBusName=bus, Ids=["tail"])
    with suppress(ClientError, BotoCoreError):
        events.delete_rule(Name=name, EventBusName=bus)
    with suppress(ClientError, BotoCoreError):
        sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=name)["QueueUrl"])


def _remove_leftovers(deployment: Deployment) -> None:
    """Remove what tails left that were killed, queue and rule alike."""
    sqs, prefix = deployment.client("sqs"), _prefix(deployment)
    for url in sqs.list_queues(QueueNamePrefix=prefix, MaxResults=1000).get("QueueUrls", []):
        with suppress(ClientError):  # it may end at this very moment
            sign = sqs.list_queue_tags(QueueUrl=url).get("Tags", {}).get(ALIVE, "")
            if sign.isdecimal() and time.time() - int(sign) > LEFTOVER_SECONDS:
                _remove(deployment, url.rpartition("/")[2])
