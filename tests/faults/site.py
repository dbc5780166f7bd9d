"""A place for cases: a sandbox whose robot takes no time, and a table, a bucket and a bus of their own.

They are made like those of the stack but stand apart, so that no other test sees what the cases
leave, and the cases see nothing of other tests.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.local import processes, sandbox
from tools.local.stack import Stack


@dataclass(frozen=True)
class Site:
    """What a process has to know to work there."""

    endpoint: str
    """Of the local AWS."""
    sandbox: sandbox.Sandbox
    webhook_key: str
    credentials_arn: str
    webhook_arn: str
    table: str
    bucket: str
    bus: str
    queue: str
    """Of fetches: its URL. Nothing works it off but the cases."""


@contextmanager
def open_site(stack: Stack, home: Path, name: str) -> Iterator[Site]:
    """Make a site on the AWS of a stack, with the stack's secrets."""
    box = sandbox.start(home, None, fetch_seconds="0", leashed=True)
    try:
        yield Site(
            endpoint=stack.aws_endpoint,
            sandbox=box,
            webhook_key=stack.sandbox.webhook_secret()["current"],
            credentials_arn=stack.outputs["CobaltCredentialsArn"],
            webhook_arn=stack.outputs["WebhookSecretArn"],
            table=_make_table(stack, f"faults-{name}"),
            bucket=_make_bucket(stack, f"faults-{name}"),
            bus=_make_bus(stack, f"faults-{name}"),
            queue=stack.aws.sqs.create_queue(QueueName=f"faults-{name}")["QueueUrl"],
        )
    finally:
        processes.stop(home, sandbox.NAME)


def _make_table(stack: Stack, name: str) -> str:
    """Make an empty table with the keys and indexes of the stack's."""
    dynamodb: Any = stack.aws.dynamodb
    like = dynamodb.describe_table(TableName=stack.table)["Table"]
    dynamodb.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=like["KeySchema"],
        AttributeDefinitions=like["AttributeDefinitions"],
        GlobalSecondaryIndexes=[
            {part: index[part] for part in ("IndexName", "KeySchema", "Projection")}
            for index in like["GlobalSecondaryIndexes"]
        ],
    )
    return name


def _make_bucket(stack: Stack, name: str) -> str:
    stack.aws.s3.create_bucket(Bucket=name)
    stack.aws.s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return name


def _make_bus(stack: Stack, name: str) -> str:
    """Make a bus without rules: what it takes is read off the wire."""
    stack.aws.events.create_event_bus(Name=name)
    return name
