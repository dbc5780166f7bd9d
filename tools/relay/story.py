"""The whole story of a job: what each function logged under its trace, in the order of time."""

import json
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from tools.local.logs import PLATFORM, Line
from tools.relay.faults import NotFound
from tools.relay.session import Deployment

BEFORE, AFTER = timedelta(minutes=5), timedelta(hours=1)
"""How long before a job's first and after its last known moment its lines are looked for."""


def lines_of(deployment: Deployment, document: dict[str, Any]) -> list[Line]:
    """Give the lines that carry the trace of a job or range, as `jobs.read` tells it.

    Those of a call that joined it are among them. Raises `NotFound` for what has no trace: a job
    that the relay did not start, or that an edition without traces did.
    """
    trace_id = document["trace_id"]
    if not trace_id:
        raise NotFound("no_trace", "That job has no trace: the relay did not start it.")
    names = ("requested_at", "accepted_at", "completed_at", "expired_at")
    known = [datetime.fromisoformat(document[name]) for name in names if document.get(name)]
    search = {"filterPattern": f'"{trace_id}"', "startTime": _milliseconds(min(known) - BEFORE)}
    if document["completed_at"]:
        search["endTime"] = _milliseconds(max(known) + AFTER)
    prefix = f"/aws/lambda/{deployment.stack_name}/"
    logs = deployment.client("logs")
    groups = logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=prefix)
    found = []
    for name in [group["logGroupName"] for page in groups for group in page["logGroups"]]:
        for page in logs.get_paginator("filter_log_events").paginate(logGroupName=name, **search):
            found += [
                Line(event["timestamp"], name.removeprefix(prefix), event["message"])
                for event in page["events"]
                if not event["message"].startswith(PLATFORM)
            ]
    return sorted(found, key=lambda line: line.at)


def told(line: Line) -> dict[str, Any]:
    """Give a line as a document."""
    fields: Any = None
    with suppress(ValueError):
        fields = json.loads(line.text)
    said = fields if isinstance(fields, dict) else {"message": line.text.strip()}
    return {"at": line.at.isoformat(), "function": line.function, **said}


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
