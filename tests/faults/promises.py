"""What must hold when a case has come to rest, whatever went wrong in it."""

import json
import uuid
from collections.abc import Iterator
from functools import cache

import jsonschema

from tests.faults.case import DAYS_AFTER, Case, Row, is_to_end
from tests.unit.fakes import SCHEMAS

NAMESPACE = uuid.UUID("6b1f4a52-6a8e-5d0c-9f0e-3f1f6a3c9d11")
"""Of the ids of events: changed, every consumer would see every repeat as something new."""
FETCHED = "Appointments Fetched"
FAILED = "Appointment Fetch Failed"
EXPIRED = "Appointment Fetch Expired"
RANGE_COMPLETED = "Appointment Range Completed"
CHANGED = "Appointments Changed"
TOLD = {
    "created": ["comes"],
    "changed": [{"id": "moves", "fields": ["datetime"]}],
    "cancelled": [],
    "disappeared": ["goes"],
    "baseline_days": [],
}
"""What is other between the days of a case before and after."""
ANNOUNCEMENTS = {"COMPLETED": FETCHED, "FAILED": FAILED, "EXPIRED": EXPIRED}

type Announcement = tuple[str, str]
"""Detail-type and event id."""


def broken(case: Case) -> list[str]:
    """Name every promise that the case broke."""
    rows = case.rest
    return [
        *case.unexpected,
        *_stuck(rows),
        *_requests(case, _of_kind(rows, "REQUEST")),
        *_jobs(case, _of_kind(rows, "JOB")),
        *_ranges(rows),
        *_announcements(case, rows),
        *_upstream(case),
        *_changes(case),
    ]


def _stuck(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        if is_to_end(row) and ("due_at" in row or "due_shard" in row):
            yield f"{row['sk']} is still due"
        if row.get("notification") == "open":
            yield f"the notification of {row['sk']} is still open"


def _requests(case: Case, rows: list[Row]) -> Iterator[str]:
    """A request ends once: with its job where Cobalt ran one, else refused or expired.

    But for an attempt at a piece that Cobalt surely did not begin: another one follows it.
    """
    last = [row for row in rows if not _comes_again(row)]
    if rows and not last:
        yield "no attempt followed"
    for row in last:
        has_result = case.event() is not None
        if row["state"] not in {"ACCEPTED", "FAILED", "EXPIRED"}:
            yield f"the request is {row['state']}"
        elif has_result and (row["state"], row.get("job_execution_id")) != (
            "ACCEPTED",
            case.jobs[0],
        ):
            yield f"Cobalt ran the job, and the request is {row['state']}"
    if case.jobs and not rows:
        yield "Cobalt ran a job of which no request is on record"


def _comes_again(row: Row) -> bool:
    """Whether it is an attempt at a piece that was closed for another one to follow."""
    return "range_id" in row and row["state"] == "FAILED" and "notification" not in row


def _jobs(case: Case, rows: list[Row]) -> Iterator[str]:
    """A job of Cobalt's has one row, in one terminal state, and its bytes are in S3."""
    event = case.event()
    if event and [row["job_execution_id"] for row in rows] != case.jobs:
        yield f"Cobalt ran {len(case.jobs)} job and the table has {len(rows)}"
    for row in rows:
        if row["state"] not in ANNOUNCEMENTS:
            yield f"the job is {row['state']}"
        elif (row["state"] == "EXPIRED") is (event is not None):
            yield f"the job is {row['state']}, with{'' if event else 'out'} a result at Cobalt"
        elif event and (completion := row["completion"]):
            if completion["cobalt_event_id"] != event.id:
                yield "the job was ended by another event"
            if completion["state"] != row["state"]:
                yield f"the job is {row['state']} and its completion {completion['state']}"
            stored = case.object(completion["result"])
            if stored is None:
                yield "the bytes are not in S3"
            elif stored != event.body:
                yield "the bytes in S3 are not the result"


def _ranges(rows: list[Row]) -> Iterator[str]:
    """A range ends when its pieces have, and says of each what its job or its request says."""
    for row in _of_kind(rows, "RANGE"):
        requests = [each for each in _of_kind(rows, "REQUEST") if not _comes_again(each)]
        ended = [each["state"] for each in _of_kind(rows, "JOB") or requests]
        told = [outcome["status"] for outcome in json.loads(row.get("outcomes", "[]"))]
        if told != ended:
            yield f"the range is {row['state']} and tells {told}, and its pieces are {ended}"


def _announcements(case: Case, rows: list[Row]) -> Iterator[str]:
    """Every end is announced at least once, under its own id, and nothing else is."""
    due = set(_due_announcements(rows))
    if case.days():
        due.add(_announcement(CHANGED, f"{case.jobs[0]} 1"))
    sent = {(event.detail_type, str(event.detail["event_id"])) for event in case.lab.wire.published}
    yield from (f"no event {kind!r} with the right id" for kind, _ in sorted(due - sent))
    allowed = due | set(_earlier_announcements(rows))
    yield from (f"an event {kind!r} that announces nothing" for kind, _ in sorted(sent - allowed))
    for event in case.lab.wire.published:
        for error in _schema(event.detail_type).iter_errors(event.detail):
            yield f"an event {event.detail_type!r} is not as its schema says: {error.message[:80]}"
    places = {_place(row["completion"]["result"]) for row in rows if "completion" in row}
    told = {
        _place(event.detail["result"])
        for event in case.lab.wire.published
        if event.detail.get("result")
    }
    yield from ("an event names another place than the row" for _ in told - places)


@cache
def _schema(detail_type: str) -> jsonschema.Draft202012Validator:
    name = detail_type.lower().replace(" ", "-")
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())


def _place(result: Row) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in result.items() if value is not None)


def _due_announcements(rows: list[Row]) -> Iterator[Announcement]:
    for row in _of_kind(rows, "JOB"):
        if row["state"] in ANNOUNCEMENTS:
            yield _announcement(ANNOUNCEMENTS[row["state"]], row["job_execution_id"])
    for row in _of_kind(rows, "REQUEST"):
        if row["state"] in {"FAILED", "EXPIRED"} and not _comes_again(row):
            yield _announcement(ANNOUNCEMENTS[row["state"]], f"request {row['request_id']}")

    for row in _of_kind(rows, "RANGE"):
        yield _announcement(RANGE_COMPLETED, row["pk"].removeprefix("RANGE#"))


def _earlier_announcements(rows: list[Row]) -> Iterator[Announcement]:
    """A late result follows an expiry, of the job or of its request, which was announced too."""
    for row in _of_kind(rows, "JOB"):
        if "expired_at" in row:
            yield _announcement(EXPIRED, row["job_execution_id"])
            yield _announcement(EXPIRED, f"request {row.get('request_id')}")


def _announcement(detail_type: str, subject: str) -> Announcement:
    return detail_type, str(uuid.uuid5(NAMESPACE, f"{detail_type}\n{subject}"))


def _changes(case: Case) -> Iterator[str]:
    """Of days that were known before: each is as the result says, and the change is told once."""
    days = case.days()
    if not days:
        return
    if days != {day: sorted(ids) for day, ids in DAYS_AFTER.items()}:
        yield f"the days hold {days}"
    told = [event.detail for event in case.lab.wire.published if event.detail_type == CHANGED]
    if len({json.dumps(each, sort_keys=True) for each in told}) != 1:
        yield f"{len(told)} events tell of changes, and not the same"
    for detail in told[:1]:
        lists = {name: detail[name] for name in TOLD}
        if lists != TOLD:
            yield f"the changes are told as {lists}"
        details = case.object(detail["details"])
        kept = {each["id"] for each in json.loads(details or b'{"changes": []}')["changes"]}
        if kept != {"moves", "comes", "goes"}:
            yield f"the details are of {kept}"


def _upstream(case: Case) -> Iterator[str]:
    if case.most_sent > 1:
        yield f"one request was sent to Cobalt {case.most_sent} times"


def _of_kind(rows: list[Row], kind: str) -> list[Row]:
    return [row for row in rows if row["sk"] == kind]
