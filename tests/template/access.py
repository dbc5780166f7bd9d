"""Who may do what: the one place where it is written down. SECURITY.md quotes the table."""

import re
from collections.abc import Iterator

from tests.template.document import Document, Json, listed, target

MATRIX = """
| role of | CobaltCredentials | WebhookSecret | Table | Results | tokens | EventBus | FetchQueue | ScheduleFailures | EventFailures | functions |
|---|---|---|---|---|---|---|---|---|---|---|
| FetchAppointments | GetSecretValue | | BatchGetItem, PutItem, UpdateItem | | DeleteParameter, PutParameter | | SendMessage | | | |
| ReadAppointments | GetSecretValue | | BatchGetItem, PutItem, Query index/by_connection, UpdateItem | GetObject appointments/\\*, GetObject snapshots/\\*, GetObjectVersion appointments/\\*, ListBucket | DeleteParameter, PutParameter | | SendMessage | | | |
| ReceiveWebhook | | DescribeSecret, GetSecretValue | BatchGetItem, PutItem, Query index/by_reference, UpdateItem | PutObject appointments/\\*, PutObject webhooks/\\* | | PutEvents | | | | |
| PlanFetches | GetSecretValue | | BatchGetItem, Query index/connections | | | PutEvents | SendMessage | SendMessage | | |
| RunFetches | GetSecretValue | | BatchGetItem, PutItem, UpdateItem | | GetParameter | PutEvents | ChangeMessageVisibility, DeleteMessage, GetQueueAttributes, ReceiveMessage, SendMessage | | | |
| ReconcileJobs | GetSecretValue | | BatchGetItem, PutItem, Query index/by_connection, Query index/connections, Query index/due, UpdateItem | PutObject appointments/\\*, PutObject webhooks/\\* | GetParameter | PutEvents | SendMessage | SendMessage | | |
| DetectChanges | | | BatchGetItem | GetObject appointments/\\*, GetObject snapshots/\\*, GetObjectVersion appointments/\\*, GetObjectVersion snapshots/\\*, ListBucket, PutObject changes/\\*, PutObject snapshots/\\* | | PutEvents | | | SendMessage | |
| RotateWebhookSecret | GetSecretValue | DescribeSecret, GetSecretValue, PutSecretValue, UpdateSecretVersionStage | | | | | | SendMessage | | |
| schedules | | | | | | | | SendMessage | | InvokeFunction PlanFetches, InvokeFunction ReconcileJobs |
"""
"""What each role may do with what the stack keeps. Beside that a function's role may write its own
log and its traces, and use the key through the services of its row."""

SCHEDULES = "SchedulerRole"
TOKENS = "parameter/cobalt-relay/${AWS::StackName}/tokens/*"
ASIDE = {"kms", "logs", "xray"}
"""Services that have rules of their own."""

type Grants = dict[str, set[str]]
"""What may be done, by the column of the matrix."""


def written_down() -> dict[str, Grants]:
    """Read the matrix."""
    header, _, *rows = [_cells(line) for line in MATRIX.strip().splitlines()]
    return {
        row[0]: {
            column: set(cell.replace("\\*", "*").split(", "))
            for column, cell in zip(header[1:], row[1:], strict=True)
            if cell
        }
        for row in rows
    }


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def roles(document: Document) -> dict[str, str]:
    """Give the role of each row of the matrix."""
    functions = document.of_type("AWS::Lambda::Function")
    return {name: document.role_of(name) for name in functions} | {"schedules": SCHEDULES}


def granted(document: Document, role: str) -> Grants:
    """Read from a role's policies what it may do."""
    grants: Grants = {}
    for action, resource in _allowed(document, role):
        service, _, verb = action.partition(":")
        if service not in ASIDE:
            column, part = _place(document, resource)
            grants.setdefault(column, set()).add(f"{verb} {part}".strip())
    return grants


def _allowed(document: Document, role: str) -> Iterator[tuple[str, Json]]:
    for statement in document.statements_of(role):
        for action in listed(statement["Action"]):
            for resource in listed(statement["Resource"]):
                yield action, resource


def _place(document: Document, resource: Json) -> tuple[str, str]:
    """Give a resource's column in the matrix, and which part of it."""
    match resource:
        case {"Fn::Sub": str(written)} if part := re.fullmatch(r"\$\{(\w+)\.Arn\}/(.+)", written):
            return part[1], part[2]
        case {"Fn::Sub": str(written)} if written.endswith(":" + TOKENS):
            return "tokens", ""
    name = target(resource)
    if name in document.of_type("AWS::Lambda::Function"):
        return "functions", str(name)
    return name or str(resource), ""
