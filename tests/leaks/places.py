"""Every place of a deployed relay where data can come to lie, as texts to be searched.

What belongs somewhere is not listed here: the bodies of S3's objects, the values of SSM's
parameters and of the secrets.
"""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from tests.leaks.search import Text
from tools.local import processes, sandbox
from tools.local.eventlog import EventLog
from tools.local.logs import PLATFORM
from tools.local.paths import TESTS
from tools.local.stack import FUNCTIONS, Stack


def all_of(stack: Stack, events: EventLog) -> Iterator[Text]:
    """Give every place of the stack."""
    yield from logs(stack)
    yield from rows(stack)
    yield from bus(stack, events)
    yield from queues(stack)
    yield from bucket(stack)
    yield from parameters_and_secrets(stack)
    yield from configuration(stack)
    yield from upstream(stack)


_OF_THE_LOCAL_AWS = re.compile(
    r"Traceback \(most recent call last\):|  .*|(cobalt_relay\.errors|botocore\.[a-z.]+)\.\w+: .*"
    r"|The above exception was the direct cause of the following exception:|Worker process died|"
)
"""What the local AWS writes of an error that left a function, line by line (AWS writes one line),
and of a worker that it ended because its function was changed."""


def lines(stack: Stack, since_ms: int) -> Iterator[str]:
    """Give what the functions themselves logged since: all but the words of the platform."""
    for group in _pages(stack.aws.logs, "describe_log_groups", "logGroups"):
        for event in _pages(
            stack.aws.logs,
            "filter_log_events",
            "events",
            logGroupName=group["logGroupName"],
            startTime=since_ms,
        ):
            line = event["message"].removesuffix("\n")
            if not line.startswith(PLATFORM) and not _OF_THE_LOCAL_AWS.fullmatch(line):
                yield line


def logs(stack: Stack) -> Iterator[Text]:
    for group in _pages(stack.aws.logs, "describe_log_groups", "logGroups"):
        name = group["logGroupName"]
        yield _text("log groups", group)
        for event in _pages(stack.aws.logs, "filter_log_events", "events", logGroupName=name):
            yield Text(f"log {name}", event["message"])


def rows(stack: Stack) -> Iterator[Text]:
    """Give all attributes of all rows, as the table has them and as every index has them."""
    described = stack.aws.dynamodb.describe_table(TableName=stack.table)["Table"]
    for index in described.get("GlobalSecondaryIndexes", []):
        found = _pages(
            stack.aws.dynamodb, "scan", "Items", TableName=stack.table, IndexName=index["IndexName"]
        )
        yield from (_text(f"index {index['IndexName']}", row) for row in found)
    for row in _pages(stack.aws.dynamodb, "scan", "Items", TableName=stack.table):
        yield _text(f"row {row['sk']['S']}", row)


def bus(stack: Stack, events: EventLog) -> Iterator[Text]:
    """Give what was published, and the rules and archives that could hold a copy of it."""
    yield from (_text("bus", event) for event in events.all())
    yield _text("rules", stack.aws.events.list_rules(EventBusName=stack.bus)["Rules"])


def queues(stack: Stack) -> Iterator[Text]:
    """Give the messages of every queue, and leave them there; but for the input of a failed run.

    AWS adds the input to the message of a run that failed, so that it can be made again. It is what
    the operator wrote into the schedule, and the one text that the relay has no say in.
    """
    for url in stack.aws.sqs.list_queues().get("QueueUrls", []):
        name = url.rsplit("/", 1)[1]
        yield _text(
            f"queue {name}",
            stack.aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"]),
        )
        for message in messages(stack, url):
            body = json.loads(message["Body"])
            body.pop("requestPayload", None)
            yield _text(f"queue {name}", [body, message.get("MessageAttributes")])


def messages(stack: Stack, url: str) -> list[dict[str, Any]]:
    """Give all messages of a queue: those that were received are hidden until all are."""
    found: list[dict[str, Any]] = []
    sqs: Any = stack.aws.sqs
    while some := sqs.receive_message(
        QueueUrl=url,
        MaxNumberOfMessages=10,
        VisibilityTimeout=30,
        MessageAttributeNames=["All"],
    ).get("Messages"):
        found += some
    for message in found:
        sqs.change_message_visibility(
            QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
        )
    return found


def bucket(stack: Stack) -> Iterator[Text]:
    """Give keys, metadata and tags of every version of every object; never its body."""
    s3 = stack.aws.s3
    for version in _pages(s3, "list_object_versions", "Versions", Bucket=stack.bucket):
        named = {"Bucket": stack.bucket, "Key": version["Key"], "VersionId": version["VersionId"]}
        head: Any = s3.head_object(**named)
        yield Text("S3 key", version["Key"])
        yield _text("S3 metadata", [head["Metadata"], head["ResponseMetadata"]["HTTPHeaders"]])
        if version["IsLatest"]:  # the local AWS finds no tags behind a delete marker
            yield _text("S3 tags", s3.get_object_tagging(**named)["TagSet"])


def parameters_and_secrets(stack: Stack) -> Iterator[Text]:
    """Give names, descriptions and tags; the values are where tokens and secrets belong."""
    for parameter in _pages(stack.aws.ssm, "describe_parameters", "Parameters"):
        yield _text("SSM", parameter)
    for secret in _pages(stack.aws.secretsmanager, "list_secrets", "SecretList"):
        yield _text("Secrets Manager", secret)


def configuration(stack: Stack) -> Iterator[Text]:
    """Give the environment of every function, the stack's parameters and outputs, schedules."""
    for logical_id in FUNCTIONS:
        name = stack.outputs[f"{logical_id}Name"]
        configured = stack.aws.functions.get_function_configuration(FunctionName=name)
        yield _text("Lambda configuration", configured)
    yield _text("stack", stack.aws.cloudformation.describe_stacks()["Stacks"])
    for listed in _pages(stack.aws.scheduler, "list_schedules", "Schedules"):
        yield _text("schedules", stack.aws.scheduler.get_schedule(Name=listed["Name"]))


def upstream(stack: Stack) -> Iterator[Text]:
    """Give the addresses that were called at Cobalt, and what the sandbox logged of it."""
    for call in stack.sandbox.requests():
        yield _text("URL upstream", [call["method"], call["path"], call["query"]])
    homes = [home for home in TESTS.iterdir() if processes.running(home, sandbox.NAME)]
    for home in homes:
        yield Text("log of the sandbox", processes.log_of(home, sandbox.NAME).read_text())


def objects(stack: Stack, prefix: str, since: datetime) -> Iterator[Any]:
    """Give what S3 lists of the objects of a run."""
    listed = _pages(stack.aws.s3, "list_objects_v2", "Contents", Bucket=stack.bucket, Prefix=prefix)
    return (entry for entry in listed if entry["LastModified"] >= since)


def bodies_upstream(stack: Stack) -> Iterator[Text]:
    """Give the bodies of fetches: an MRN belongs there, a token does not."""
    yield from (_text("body upstream", call["body"]) for call in stack.sandbox.requests())


def _text(place: str, value: object) -> Text:
    """Write a value so that every character can be found: plain, and with JSON's escapes undone."""
    return Text(place, json.dumps(value, ensure_ascii=False, default=repr))


def _pages(client: Any, operation: str, field: str, **arguments: object) -> Iterator[Any]:
    for page in client.get_paginator(operation).paginate(**arguments):
        yield from page.get(field, [])
