"""`make logs`: what the functions logged, in the order of time, and where the other logs lie."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tools.local import processes, stack
from tools.local.paths import LOCAL, ROOT, UP
from tools.local.stack import Stack

if TYPE_CHECKING:
    from mypy_boto3_logs.type_defs import OutputLogEventTypeDef

FOLLOW_SECONDS = 1.0
METRICS = LOCAL / "soak-metrics.jsonl"
"""What the last soak measured; `python -m tools.dashboard` draws it."""
SHOWN_FIRST = ("level", "message")
LEFT_OUT = frozenset(
    {
        *("timestamp", "location", "service", "cold_start", "xray_trace_id"),
        *("function_arn", "function_memory_size", "function_name", "function_request_id"),
    }
)
"""What Powertools writes into every line and nobody reads on a terminal."""
PLATFORM = ("START RequestId", "END RequestId", "REPORT RequestId")


@dataclass(frozen=True)
class Line:
    """One line of a function's log."""

    logged_ms: int
    """By the clock of CloudWatch Logs: for a local function the end of its invocation."""
    function: str
    text: str

    @property
    def at(self) -> datetime:
        """When it happened, by the line's own words where it has any."""
        with suppress(ValueError, TypeError, KeyError):
            fields = json.loads(self.text)
            if "_aws" in fields:
                return _moment(fields["_aws"]["Timestamp"])
            return datetime.fromisoformat(fields["timestamp"])  # 2026-01-31 12:00:00,123+0000
        return _moment(self.logged_ms)

    def __str__(self) -> str:
        at = self.at.astimezone()
        milliseconds = at.microsecond // 1000
        return f"{at:%H:%M:%S}.{milliseconds:03d} {self.function:<18} {readable(self.text)}"


def show(running: Stack, *, follow: bool) -> None:
    """Print the logs; with `follow`, go on until interrupted."""
    seen: set[str] = set()
    for line in new_lines(running, seen):
        print(line)
    if not seen:
        print("The functions have logged nothing yet.")
    for name in reversed(stack.SERVERS):
        print(f"{name}: {processes.log_of(UP, name).relative_to(ROOT)}", flush=True)
    while follow:
        time.sleep(FOLLOW_SECONDS)
        for line in new_lines(running, seen):
            print(line, flush=True)


def readable(text: str) -> str:
    """Turn a structured line into words: the level and the message, then everything else."""
    try:
        fields = json.loads(text)
    except ValueError:
        return text.strip()
    if not isinstance(fields, dict):
        return text.strip()
    if "_aws" in fields:  # CloudWatch's embedded metrics: the numbers stand beside the description
        fields = {"level": "METRIC", **fields}
        del fields["_aws"]
    first = [str(fields[name]) for name in SHOWN_FIRST if name in fields]
    rest = [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in fields.items()
        if name not in LEFT_OUT and name not in SHOWN_FIRST
    ]
    return " ".join(first + rest)


def new_lines(running: Stack, seen: set[str]) -> list[Line]:
    """Give the lines that are not in `seen` yet, in the order of time, and put them there.

    Each stream is read by itself: of a whole group the local AWS gives the first 10,000 lines and
    does not say that there are more.
    """
    prefix = f"/aws/lambda/{running.stack_name}/"
    groups = running.aws.logs.describe_log_groups(logGroupNamePrefix=prefix)["logGroups"]
    lines = []
    for group in groups:
        name = group["logGroupName"]
        for stream, event in _events(running, name):
            known = f"{stream} {event['timestamp']} {event['message']}"
            if known not in seen and not event["message"].startswith(PLATFORM):
                lines.append(Line(event["timestamp"], name.removeprefix(prefix), event["message"]))
            seen.add(known)
    return sorted(lines, key=lambda line: line.at)


def _events(running: Stack, group: str) -> Iterator[tuple[str, "OutputLogEventTypeDef"]]:
    streams = running.aws.logs.get_paginator("describe_log_streams").paginate(logGroupName=group)
    for stream in (each["logStreamName"] for page in streams for each in page["logStreams"]):
        read = partial(
            running.aws.logs.get_log_events,
            logGroupName=group,
            logStreamName=stream,
            startFromHead=True,
        )
        token, told = "", read()
        while told["nextForwardToken"] != token:  # it stays the same at the end
            yield from ((stream, event) for event in told["events"])
            token = told["nextForwardToken"]
            told = read(nextToken=token)


def keep_metrics(running: Stack, path: Path) -> None:
    """Write what the functions measured into a file, one line of embedded metrics each."""
    lines = (line.text.strip() for line in new_lines(running, set()))
    path.write_text("".join(f"{line}\n" for line in lines if '"_aws"' in line), encoding="utf-8")


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
