"""The books of a soak, the sandbox's and the relay's, and how they are compared: one by one."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

type Json = dict[str, Any]
type Matter = tuple[str, str | None, str | None]
"""What a fetch was about: its connection, and the first and last day of its window."""

ENDED = {"completed": "COMPLETED", "failed": "FAILED", "silent": "EXPIRED"}
"""How a job of the sandbox ends in the relay."""
CHANNELS = ("webhook", "poll", "sweep")
TERMINAL_REQUEST = frozenset({"ACCEPTED", "FAILED", "EXPIRED"})
EXPIRED = "Appointment Fetch Expired"
ANNOUNCED = {
    "COMPLETED": "Appointments Fetched",
    "FAILED": "Appointment Fetch Failed",
    "EXPIRED": EXPIRED,
}
UNANSWERED = (502, 504)
REFUSED = (429, 503)
NOT_STARTED = (429, 503)
"""With these Cobalt says that it has not started anything."""
UNCLAIMED = frozenset({"connection", "window", "time"})
"""What an event about a result may lack that overtook its 202."""
ROUNDING_SECONDS = 0.002
SAME_SECONDS = 1.0
"""Cobalt's times are whole seconds."""
DELIVERABLE_BYTES = 6 * 1024 * 1024
"""What a synchronous Lambda invocation takes."""


class Digest(NamedTuple):
    """The bytes of a result, as far as two of them have to be told apart."""

    sha256: str
    length: int


class Brought(NamedTuple):
    """What a result says of days that it has as a whole: when Cobalt made it, the ids of each."""

    connection: str
    seen_at: float
    days: Mapping[str, frozenset[str]]


class Day(NamedTuple):
    """A clinic's day as the relay keeps it."""

    fetched_by: str | None
    ids: frozenset[str]


@dataclass(frozen=True)
class Answer:
    """What one caller was told."""

    order: int
    matter: Matter
    has_key: bool
    status: int
    message: str
    request_id: str
    job_id: str | None
    is_joined: bool
    seconds: float


@dataclass
class Books:
    """Everything that both sides hold about one run, when it is over."""

    answers: Sequence[Answer]
    sandbox_jobs: Sequence[Json]
    calls: Sequence[Json]
    """The live fetches that the sandbox received."""
    deliveries: Sequence[Json]
    connections: Mapping[str, str]
    """By the clinic's name."""
    sent: Mapping[str, Digest]
    """By event."""
    requests: Sequence[Json]
    jobs: Sequence[Json]
    stored: Mapping[str, Digest]
    """By job: the object that its row names."""
    due: Sequence[Json]
    """What the sparse index lists."""
    events: Sequence[Json]
    late: Mapping[str, str] = field(default_factory=dict)
    """Results that the sandbox had only after their job expired: the event, by job."""
    brought: Mapping[str, Brought] = field(default_factory=dict)
    """By job, of those that asked for everything and got it."""
    days: Mapping[str, Day] = field(default_factory=dict)
    """By connection and day, with a blank between."""
    changes: Sequence[Json] = ()
    """The events about what a fetch changed."""
    dead_letters: int = 0
    """What the queues for failures got."""


def differences(books: Books) -> list[str]:
    """Compare the books; give a sentence for everything that does not hold."""
    checks = (_answers, _jobs, _times, _results, _requests, _calls, _due, _events, _dead_letters)
    found = [complaint for check in checks for complaint in check(books)]
    return [*found, *behind(books.brought, books.days), *_changes(books)]


def behind(brought: Mapping[str, Brought], days: Mapping[str, Day]) -> Iterator[str]:
    """Every day is as its newest result has it, whichever order they came in."""
    newest: dict[str, Brought] = {}
    for result in brought.values():
        for name in (f"{result.connection} {day}" for day in result.days):
            if name not in newest or newest[name].seen_at < result.seen_at:
                newest[name] = result
    for name, result in newest.items():
        kept, day = days.get(name), name.split()[1]
        source = brought.get(kept.fetched_by or "") if kept else None
        if kept is None or source is None:
            yield f"{name}: fetched, but not kept as a whole."
        elif source.seen_at < result.seen_at - SAME_SECONDS:
            yield f"{name}: kept as job {kept.fetched_by} had it, which is older."
        elif missing := source.days[day] - kept.ids:
            yield f"{name}: {len(missing)} appointment(s) are missing."


def _changes(books: Books) -> Iterator[str]:
    """What a fetch changed is told under one id for each part, and of fetches that succeeded."""
    completed = {row["job_execution_id"] for row in books.jobs if row["state"] == "COMPLETED"}
    ids: dict[tuple[str, int], set[str]] = defaultdict(set)
    for event in books.changes:
        detail = event["detail"]
        ids[detail["job_execution_id"], detail["part"]].add(detail["event_id"])
    for (job_id, part), found in ids.items():
        if job_id not in completed:
            yield f"job {job_id}: its changes are told, but it did not succeed."
        if len(found) > 1:
            yield f"job {job_id}: part {part} of its changes has {len(found)} event ids."


# ----------------------------------------------------------------------------------------- one by one


def _answers(books: Books) -> Iterator[str]:
    """Every caller was told of a job about what it asked for, of a refusal, or that nobody knows."""
    matters = {job["id"]: _matter_of_sandbox(books, job) for job in books.sandbox_jobs}
    requests = {row["request_id"]: row for row in books.requests}
    on_record = {answer.order for answer in books.answers if answer.request_id in requests}
    refused = {
        answer.order
        for answer in books.answers
        if requests.get(answer.request_id, {}).get("state") == "FAILED"
    }
    by_key: dict[int, set[str]] = defaultdict(set)
    for answer in books.answers:
        name = f"answer {answer.status} to order {answer.order}"
        if answer.status == 202:
            if matters.get(answer.job_id or "") != answer.matter:
                yield f"{name}: job {answer.job_id} is none of Cobalt's about what was asked."
            row = requests.get(answer.request_id)
            if row and row.get("job_execution_id") != answer.job_id:
                yield f"{name}: job {answer.job_id}, but its request names another one."
            if answer.has_key and answer.job_id:
                by_key[answer.order].add(answer.job_id)
        # One that waited for another caller's answer has no request of its own.
        elif answer.status in UNANSWERED:
            if answer.order not in on_record:
                yield f"{name}: request {answer.request_id} is not on record."
        elif answer.status not in REFUSED or answer.order not in refused:
            yield f"{name}: not accepted, unknown or refused by Cobalt: {answer.message}"
    for order, jobs in by_key.items():
        if len(jobs) > 1:
            yield f"order {order}: one key, but the jobs {', '.join(sorted(jobs))}."


def _jobs(books: Books) -> Iterator[str]:
    """Every job of the sandbox has a row that says the same, and no row is about another."""
    rows = {row["job_execution_id"]: row for row in books.jobs}
    unheard_of, expired = _unheard_of(books), _expired_requests(books)
    for job in books.sandbox_jobs:
        row = rows.pop(job["id"], None)
        if job["id"] in unheard_of:
            continue
        if row is None:
            yield f"job {job['id']} ({job['state']}): no row."
            continue
        for what, theirs, ours in _facts(books, job, row, expired):
            if theirs != ours:
                yield f"job {job['id']}: {what} is {ours!r}, at Cobalt {theirs!r}."
    for job_id, row in rows.items():
        yield f"job {job_id}: a row in state {row['state']}, but unknown to Cobalt."


def _facts(
    books: Books, job: Json, row: Json, expired: set[str]
) -> Iterator[tuple[str, object, object]]:
    """Give what the sandbox and the relay say about one job: name, theirs, ours."""
    late = books.late.get(job["id"])
    had_expired = late is not None or row.get("request_id") in expired
    completion = row.get("completion", {})
    state = "COMPLETED" if late else ENDED.get(job["state"], f"not ended ({job['state']})")
    yield "state", state, row["state"]
    yield "connection", books.connections[job["clinic"]], row.get("connection_id")
    window = row.get("window", {})
    yield "first day", job["start_date"], window.get("start_date")
    yield "last day", job["end_date"], window.get("end_date")
    yield "event", late or job["event_id"], completion.get("cobalt_event_id")
    if job["state"] == "completed":
        yield "count", job["appointment_count"], int(completion.get("appointment_count", -1))
    if job["state"] == "failed":
        yield "error code", "emr_record_locked", completion.get("error_code")
    if completion:
        yield "a known channel", True, completion.get("delivered_via") in CHANNELS
        yield "said to be late", had_expired, "expired_at" in row


def _times(books: Books) -> Iterator[str]:
    """Every result tells how long it took, none less than nothing."""
    for row in books.jobs:
        if "completion" not in row or "accepted_at" not in row:
            continue
        taken = max(0.0, _seconds(row["accepted_at"], row["completion"]["completed_at"]))
        said = row.get("seconds_to_completion")
        if said is None or abs(float(said) - taken) > ROUNDING_SECONDS:
            yield f"job {row['job_execution_id']}: took {taken:.3f} s, but its row says {said}."


def _results(books: Books) -> Iterator[str]:
    """Every result that the sandbox sent or could have sent is in S3, byte for byte."""
    for job in books.sandbox_jobs:
        event = books.late.get(job["id"]) or job["event_id"]
        if event is None:
            if stored := books.stored.get(job["id"]):
                yield f"job {job['id']}: Cobalt has no result, S3 has {stored.length} bytes."
            continue
        sent, stored = books.sent.get(event), books.stored.get(job["id"])
        if sent is None:
            yield f"job {job['id']}: the sandbox has forgotten event {event}: too much for it."
        elif stored is None:
            yield f"job {job['id']}: its result of {sent.length} bytes is not in S3."
        elif sent != stored:
            yield (
                f"job {job['id']}: the object is not what Cobalt sent: {stored.length} bytes "
                f"({stored.sha256[:12]}) instead of {sent.length} ({sent.sha256[:12]})."
            )
    for row in books.jobs:
        stored = books.stored.get(row["job_execution_id"])
        said = row.get("completion", {}).get("body_sha256")
        if stored and said != stored.sha256:
            yield f"job {row['job_execution_id']}: its row has another digest than the object."


def _requests(books: Books) -> Iterator[str]:
    """Every request is closed; each accepted one has a job of its own that says so too."""
    rows = {row["job_execution_id"]: row for row in books.jobs}
    owners: dict[str, str] = {}
    for request in books.requests:
        name, job_id = f"request {request['request_id']}", request.get("job_execution_id")
        if request["state"] not in TERMINAL_REQUEST:
            yield f"{name}: still {request['state']}."
        elif request["state"] != "ACCEPTED":
            if job_id:
                yield f"{name}: {request['state']}, but names job {job_id}."
        elif job_id is None or job_id not in rows:
            yield f"{name}: accepted, but there is no row of its job {job_id}."
        elif job_id in owners:
            yield f"{name}: names job {job_id}, as does request {owners[job_id]}."
        else:
            owners[job_id] = request["request_id"]
            if _matter(rows[job_id]) != _matter(request):
                yield f"{name}: names job {job_id}, which is about something else."
            if rows[job_id].get("request_id") != request["request_id"]:
                claimed = rows[job_id].get("request_id")
                yield f"{name}: names job {job_id}, whose row names request {claimed}."
    for job_id in rows.keys() - owners:
        yield f"job {job_id}: no request names it."


def _calls(books: Books) -> Iterator[str]:
    """Nothing was sent twice for one request, and what Cobalt ran was not given up.

    A request cannot be told from another one about the same matter, so they are counted.
    """
    sent = Counter(
        _matter_of_call(books, call) for call in books.calls if call["status"] not in NOT_STARTED
    )
    unheard_of = _unheard_of(books)
    ran = Counter(
        _matter_of_sandbox(books, job) for job in books.sandbox_jobs if job["id"] not in unheard_of
    )
    asked = Counter(map(_matter, books.requests))
    accepted = Counter(_matter(row) for row in books.requests if row["state"] == "ACCEPTED")
    for matter in sent.keys() | ran.keys() | asked.keys():
        if sent[matter] > asked[matter]:
            yield f"{matter}: sent to Cobalt {sent[matter]} times for {asked[matter]} request(s)."
        if ran[matter] != accepted[matter]:
            yield (
                f"{matter}: {ran[matter]} job(s) at Cobalt, {accepted[matter]} accepted request(s)."
            )


def _due(books: Books) -> Iterator[str]:
    """Nothing waits for another look but what has expired, and may still get a late result.

    And connections: their settings are asked for ever and again.
    """
    for row in books.due:
        if row["pk"].startswith("CONNECTION#"):
            continue
        if row.get("state") != "EXPIRED" or row.get("notification") == "open":
            yield f"{row['pk']}: still due, in state {row.get('state')}."


def _events(books: Books) -> Iterator[str]:
    """Every end was announced, under one id however often, and nothing else was."""
    announced = _announcements(books)
    for row in books.jobs:
        job_id = row["job_execution_id"]
        name, found = f"job {job_id}", announced.pop(("job", job_id), [])
        wanted = ANNOUNCED.get(row["state"])
        if not any(event["detail-type"] == wanted for event in found):
            yield f"{name}: {row['state']}, but there is no event {wanted!r}."
        for event in found:
            if event["detail-type"] not in (wanted, EXPIRED):
                yield f"{name}: {row['state']}, but announced as {event['detail-type']!r}."
            elif event["detail-type"] == wanted:
                yield from _misstatements(name, row, event["detail"])
        yield from _unstable(name, found)
    for request in books.requests:
        name, wanted = f"request {request['request_id']}", ANNOUNCED.get(request["state"])
        found = announced.pop(("request", request["request_id"]), [])
        if request["state"] == "ACCEPTED":
            # It may have expired before its job was found.
            if any(event["detail-type"] != EXPIRED for event in found):
                yield f"{name}: ACCEPTED, but announced as {found[0]['detail-type']!r}."
        elif not any(event["detail-type"] == wanted for event in found):
            yield f"{name}: {request['state']}, but there is no event {wanted!r}."
        yield from _unstable(name, found)
    for (kind, subject), found in announced.items():
        yield f"{kind} {subject}: announced as {found[0]['detail-type']!r}, but not ended so."


def _dead_letters(books: Books) -> Iterator[str]:
    """Nothing of all this is a fault of the relay's own."""
    if books.dead_letters:
        yield f"{books.dead_letters} message(s) in the queues for failures."


def _misstatements(name: str, row: Json, detail: Json) -> Iterator[str]:
    completion = row.get("completion", {})
    pairs = {
        "result": (completion.get("result"), detail.get("result")),
        "window": (row.get("window"), detail.get("window")),
        "connection": (row.get("connection_id"), detail.get("connection_id")),
        "channel": (completion.get("delivered_via"), detail.get("delivered_via")),
        "time": (_number(row, "seconds_to_completion"), _number(detail, "seconds_to_completion")),
    }
    for what, (held, told) in pairs.items():
        if held != told and not (what in UNCLAIMED and told is None):
            yield f"{name}: its row and its event name another {what}."


def _number(fields: Json, name: str) -> float | None:
    """Read a number, which is a decimal in a row and a float in an event."""
    value = fields.get(name)
    return None if value is None else float(value)


def _unstable(name: str, events: Iterable[Json]) -> Iterator[str]:
    ids: dict[str, set[str]] = defaultdict(set)
    for event in events:
        ids[event["detail-type"]].add(event["detail"]["event_id"])
    for detail_type, found in ids.items():
        if len(found) > 1:
            yield f"{name}: {detail_type!r} was announced under {len(found)} event ids."


# --------------------------------------------------------------------------------------------- numbers


@dataclass(frozen=True)
class Numbers:
    """What a run was about, for its reader."""

    fetches: int
    jobs: int
    states: Mapping[str, int]
    channels: Mapping[str, int]
    seconds_by_channel: Mapping[str, tuple[float, float, float]]
    """From acceptance to completion: median, 95th percentile, longest."""
    duplicates: int
    repeated_events: int
    joined: int
    same_key: int
    unknown_attached: int
    requests_expired: int
    refused: int
    late: int
    oversized: int
    undeliverable: int
    faults: Mapping[str, int]


def numbers(books: Books) -> Numbers:
    """Count."""
    ended = {
        row["job_execution_id"]: row["completion"] for row in books.jobs if "completion" in row
    }
    times: dict[str, list[float]] = {channel: [] for channel in CHANNELS}
    for row in books.jobs:
        is_late = row["job_execution_id"] in books.late
        if "completion" in row and "accepted_at" in row and not is_late:
            completion = row["completion"]
            times[completion["delivered_via"]].append(
                _seconds(row["accepted_at"], completion["completed_at"])
            )
    accepted = [answer for answer in books.answers if answer.status == 202]
    keyed = [answer for answer in accepted if answer.has_key]
    unanswered = {answer.request_id for answer in books.answers if answer.status in UNANSWERED}
    sizes = [sent.length for sent in books.sent.values()]
    return Numbers(
        fetches=len(books.answers),
        jobs=len(books.sandbox_jobs),
        states=Counter(row["state"] for row in books.jobs),
        channels=Counter(completion["delivered_via"] for completion in ended.values()),
        seconds_by_channel={channel: _spread(found) for channel, found in times.items() if found},
        duplicates=_duplicates(books, ended),
        repeated_events=sum(len(found) - 1 for found in _by_id(books.events).values()),
        joined=sum(answer.is_joined for answer in books.answers),
        same_key=len(keyed) - len({answer.order for answer in keyed}),
        unknown_attached=sum(
            row["request_id"] in unanswered and row["state"] == "ACCEPTED" for row in books.requests
        ),
        requests_expired=sum(row["state"] == "EXPIRED" for row in books.requests),
        refused=sum(row["state"] == "FAILED" for row in books.requests),
        late=len(books.late),
        oversized=sum(size > 3_000_000 for size in sizes),
        undeliverable=sum(size > DELIVERABLE_BYTES for size in sizes),
        faults=Counter(fault for job in books.sandbox_jobs for fault in job["faults"])
        + Counter(call["fault"] for call in books.calls if call["fault"]),
    )


def unshown(counted: Numbers) -> list[str]:
    """Name what a run was to show and did not: it was too short, or too lucky."""
    shown = {
        "no result came by webhook": counted.channels.get("webhook"),
        "no result came by polling": counted.channels.get("poll"),
        "no result was found by the sweep": counted.channels.get("sweep"),
        "no failure was reported": counted.states.get("FAILED"),
        "no job expired": counted.states.get("EXPIRED"),
        "no repeated delivery was absorbed": counted.duplicates,
        "no fetch joined another": counted.joined,
        "no fetch was answered from its key": counted.same_key,
        "no unanswered call got its job": counted.unknown_attached,
        "no unanswered call expired": counted.requests_expired,
        "no result came late": counted.late,
        "no result was larger than a webhook can be": counted.undeliverable,
    }
    return [sentence for sentence, count in shown.items() if not count]


def _duplicates(books: Books, ended: Mapping[str, Json]) -> int:
    """Count the deliveries that were acknowledged and changed nothing."""
    acknowledged = Counter(
        delivery["job_id"] for delivery in books.deliveries if delivery["response_status"] == 200
    )
    return sum(
        count - (1 if ended.get(job_id, {}).get("delivered_via") == "webhook" else 0)
        for job_id, count in acknowledged.items()
    )


def _spread(seconds: Sequence[float]) -> tuple[float, float, float]:
    ordered = sorted(seconds)
    return statistics.median(ordered), ordered[math.ceil(len(ordered) * 0.95) - 1], ordered[-1]


def _seconds(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


# ------------------------------------------------------------------------------------------- what is what


def _matter(row: Json) -> Matter:
    window = row.get("window") or {}
    return row.get("connection_id", "nobody"), window.get("start_date"), window.get("end_date")


def _matter_of_sandbox(books: Books, job: Json) -> Matter:
    return books.connections[job["clinic"]], job["start_date"], job["end_date"]


def _matter_of_call(books: Books, call: Json) -> Matter:
    body = call["body"]
    return books.connections[call["clinic"]], body["start_date"], body["end_date"]


def _unheard_of(books: Books) -> set[str]:
    """Find the jobs that nobody can know of: their call was never answered, nor did they report.

    Their request has expired.
    """
    known = {row["job_execution_id"] for row in books.jobs}
    unanswered = {_matter_of_call(books, call) for call in books.calls if call["fault"]}
    given_up = {_matter(row) for row in books.requests if row["state"] == "EXPIRED"}
    return {
        job["id"]
        for job in books.sandbox_jobs
        if job["state"] == "silent"
        and job["id"] not in known
        and _matter_of_sandbox(books, job) in unanswered & given_up
    }


def _announcements(books: Books) -> dict[tuple[str, str], list[Json]]:
    """Sort the events by what they announce: a job, or a request that never had one."""
    found: dict[tuple[str, str], list[Json]] = defaultdict(list)
    for event in books.events:
        detail = event["detail"]
        if job_id := detail.get("job_execution_id"):
            found["job", job_id].append(event)
        else:
            found["request", str(detail.get("request_id"))].append(event)
    return found


def _expired_requests(books: Books) -> set[str]:
    """Find the requests that were announced as expired, for good or not."""
    return {
        event["detail"]["request_id"]
        for event in books.events
        if event["detail-type"] == EXPIRED and not event["detail"].get("job_execution_id")
    }


def _by_id(events: Iterable[Json]) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = defaultdict(list)
    for event in events:
        found[event["detail"]["event_id"]].append(event)
    return found
