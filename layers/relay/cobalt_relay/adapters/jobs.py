"""Requests, jobs, received events and holds: rows, moved by conditional writes only.

    item      key                            holds
    request   REQUEST#<request id>           what was asked; REQUESTED before Cobalt is called
    job       JOB#<job_execution_id>         the truth about a job
    event     EVENT#<Cobalt's event id>      that an event was taken in, and the digest of its body
    hold      IDEMPOTENCY#<digest>           the request that an idempotency key stands for
              FLIGHT#<fingerprint>           the request that asks this very question at the moment

A row stands in the sparse index `due` while somebody has to look at it again: an open request or
job, an announcement that is not known to be sent, and an expired job that may still report.
`due_shard` spreads them, `due_at` is the next look.
"""

import heapq
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import batched, islice
from typing import Any

from pydantic import ValidationError

from cobalt_relay.adapters.table import ConditionFailedError, Item, Key, Put, Table, Update
from cobalt_relay.errors import RelayError, TableFault
from cobalt_relay.models import (
    JOB_MOVES,
    LIVE_FETCH_COMPLETED,
    REQUEST_MOVES,
    Announced,
    Completion,
    Due,
    EventRecord,
    Hold,
    Holder,
    Job,
    JobState,
    Known,
    Landing,
    Request,
    RequestRecord,
    RequestState,
    before,
    iso,
)

DUE_SHARDS = 4
_DUE = "due"
_READ_AT_ONCE = 100
"""Keys of one BatchGetItem."""

FIRST_LOOK = timedelta(minutes=1)
REQUEST_LOOK = timedelta(minutes=5)
"""When an unanswered request is looked at: later than any call can take."""
ANNOUNCING = timedelta(seconds=1)
"""How long one deliverer has the announcement for itself. Cobalt's retry comes 1 s after the first
answer, so a retry after a crash finds it free."""
AFTERWARDS = timedelta(days=2)
"""How long a row is kept beyond the deadline of its job at least: an expired one is still due."""
HOLD_KEPT = timedelta(hours=1)

_ALWAYS = "attribute_not_exists(pk) OR attribute_exists(pk)"
_UNTAKEN = ""
"""Sorts before every moment."""


class Jobs:
    """The rows. Raises `TableFault` where DynamoDB fails."""

    def __init__(self, table: Table, retention: timedelta, deadline: timedelta) -> None:
        self._table = table
        self._kept = max(retention, deadline + AFTERWARDS)
        self._deadline = deadline

    # ------------------------------------------------------------------------------------- requests

    def record_request(self, request: Request, hold: Hold | None = None) -> bool:
        """Put a request on record before Cobalt hears of it, together with its hold.

        False, and nothing is written, where another request has the hold.
        """
        record = RequestRecord(
            **request.model_dump(),
            state=RequestState.REQUESTED,
            deadline=request.requested_at + self._deadline,
        )
        item = (
            record.model_dump(mode="json", exclude_none=True)
            | {"expires_at": self._expiry(request.requested_at)}
            | _due(request.request_id, request.requested_at + REQUEST_LOOK)
        )
        holding = [_holding(request, hold)] if hold else []
        try:
            self._table.write(Put(_request_key(request.request_id), item), *holding)
        except ConditionFailedError as condition:
            if condition.failed[0]:  # ids are unique: nothing may be sent for this one again
                raise TableFault from None
            return False
        return True

    def holder(self, hold: Hold) -> Holder | None:
        """Read who has the hold; None where nobody has."""
        (held,) = self._table.get(Key(hold.kind, hold.name))
        if not held:
            return None
        (item,) = self._table.get(_request_key(held["request_id"]))
        request = _request(item) if item else None
        job_item = None
        if request and request.job_execution_id:
            (job_item,) = self._table.get(_job_key(request.job_execution_id))
        job = _job(job_item) if job_item else None
        return Holder(held["fingerprint"], held["request_id"], request, job)

    def close_request(
        self, request: Request, state: RequestState, error: RelayError, now: datetime
    ) -> None:
        """Record that Cobalt gave no job.

        Refused (`FAILED`, to be announced), or nobody can tell (`UNKNOWN`, to be looked into).
        """
        subject = request.request_id
        changes: Item = {
            "state": state.value,
            "error_code": error.reason,
            "refused_as": error.code,
        }
        if error.retry_after:
            changes["retry_after"] = error.retry_after
        if state is RequestState.FAILED:
            changes |= {"closed_at": iso(now)} | _announcement(subject, _UNTAKEN, now)
        else:
            changes |= _due(subject, request.requested_at + FIRST_LOOK)
        self._try(_move(_request_key(subject), before(REQUEST_MOVES, state), changes))

    def expire_request(self, request: RequestRecord, now: datetime) -> RequestRecord | None:
        """End a request of which nobody knows whether it ran; None where it has moved on."""
        expired = request.model_copy(
            update={
                "state": RequestState.EXPIRED,
                "closed_at": now,
                "notification": "open",
                "looks": 0,
            }
        )
        changes = {
            "state": expired.state.value,
            "closed_at": iso(now),
            "looks": 0,
            **_announcement(request.request_id, iso(now), now + FIRST_LOOK),
        }
        states = before(REQUEST_MOVES, RequestState.EXPIRED)
        moved = self._try(_move(_request_key(request.request_id), states, changes))
        return expired if moved else None

    def accept(
        self,
        request: Request,
        job_execution_id: str,
        accepted_at: datetime,
        flight: Hold | None = None,
    ) -> bool:
        """Record Cobalt's 202: the job row appears and the request row closes, together.

        Where the webhook overtook the 202 the job is there already: then this request claims it,
        unless another one has. Where the request has another job already, the job is kept without
        it. The job of a request that had expired says so. A `flight` is taken with it, whoever has
        it, for others to join. Tells whether the job is the request's.
        """
        job = Job(
            job_execution_id=job_execution_id,
            state=JobState.ACCEPTED,
            connection_id=request.connection_id,
            request_id=request.request_id,
            trigger=request.trigger,
            search_by=request.search_by,
            window=request.window,
            accepted_at=accepted_at,
            deadline=accepted_at + self._deadline,
            expired_at=request.expired_at if isinstance(request, RequestRecord) else None,
        )
        accepted = _move(
            _request_key(request.request_id),
            before(REQUEST_MOVES, RequestState.ACCEPTED),
            {"state": RequestState.ACCEPTED.value, "job_execution_id": job_execution_id},
            remove=("due_shard", "due_at", "notification"),
        )
        item = self._job_item(job, accepted_at) | _due(job_execution_id, accepted_at + FIRST_LOOK)
        born = Put(_job_key(job_execution_id), item)
        taken = _holding(request, flight) if flight else None
        joinable = [replace(taken, condition=_ALWAYS, values={})] if taken else []
        try:
            self._table.write(born, accepted, *joinable)
        except ConditionFailedError as condition:
            if condition.failed[0]:
                return self._claim(job, accepted)
            self._try(born)
            return False
        return True

    def _claim(self, claimed: Job, accepted: Update) -> bool:
        """Give a job that is there already to its request.

        Its end was announced without telling whose it is, so it is announced again.
        """
        (item,) = self._table.get(_job_key(claimed.job_execution_id))
        completion = _job(item).completion if item else None
        seconds = claimed.seconds_until(completion.completed_at) if completion else None
        changes = claimed.model_dump(
            mode="json",
            exclude_none=True,
            exclude={"job_execution_id", "state", "looks"},
        )
        if seconds is not None and claimed.accepted_at:
            now = claimed.accepted_at
            changes["seconds_to_completion"] = Decimal(str(seconds))
            changes |= _announcement(claimed.job_execution_id, _UNTAKEN, now)
        claim = Update(
            _job_key(claimed.job_execution_id),
            _set(changes),
            "attribute_exists(pk) AND attribute_not_exists(connection_id)",
            _values(changes),
        )
        try:
            self._table.write(claim, accepted)
        except ConditionFailedError as condition:
            # Claimed before: by this request, or Cobalt gave two requests the same job.
            return condition.failed[0] and self._try(accepted)
        return True

    # -------------------------------------------------------------------------------------- reading

    def job(self, job_execution_id: str, now: datetime) -> Job | None:
        """Read a job; None where there is none, or where its time is over.

        DynamoDB removes what has expired within days, not at once.
        """
        (item,) = self._table.get(_job_key(job_execution_id))
        return _job(item) if item and item["expires_at"] > now.timestamp() else None

    def requested_at(self, request_id: str) -> datetime | None:
        """Tell when a request came; None where its row is gone."""
        (item,) = self._table.get(_request_key(request_id))
        return _request(item).requested_at if item else None

    # ----------------------------------------------------------------------------------- deliveries

    def look_up(self, event_id: str, job_execution_id: str | None) -> Known:
        """Read what is known about a delivery, in one call."""
        keys = [_event_key(event_id)]
        if job_execution_id is not None:
            keys.append(_job_key(job_execution_id))
        event, *job = self._table.get(*keys)
        return Known(
            EventRecord.model_validate(event) if event else None,
            _job(job[0]) if job and job[0] else None,
        )

    def end(self, job: Job, completion: Completion, now: datetime) -> tuple[Landing, Job]:
        """End an open job and open its announcement, in one write with the event's record.

        The announcement is the writer's own from `now` on, for as long as `ANNOUNCING`. Gives the
        job as it is then.
        """
        ended = job.model_copy(
            update={
                "state": completion.state,
                "completion": completion,
                "seconds_to_completion": job.seconds_until(completion.completed_at),
                "notification": "open",
                "notified_at": None,
                "looks": 0,
            }
        )
        changes = {
            "state": completion.state.value,
            "completion": completion.model_dump(mode="json", exclude_none=True),
            "looks": 0,
            **_announcement(job.job_execution_id, iso(now), now + FIRST_LOOK),
        }
        if ended.seconds_to_completion is not None:
            changes["seconds_to_completion"] = Decimal(str(ended.seconds_to_completion))
        if not job.may_become(JobState(completion.state)):
            return Landing.JOB_CHANGED, job
        key, was = _job_key(job.job_execution_id), [job.state.value]
        move = _move(key, was, changes, remove=("notified_at",))
        return self._land(completion, move), ended

    def create_ended(self, completion: Completion, now: datetime) -> tuple[Landing, Job]:
        """Write the job of a result that no fetch of ours is known to have asked for (yet)."""
        job = Job(
            job_execution_id=completion.job_execution_id,
            state=completion.state,
            completion=completion,
            notification="open",
        )
        item = self._job_item(job, completion.completed_at) | _announcement(
            completion.job_execution_id, iso(now), now + FIRST_LOOK
        )
        return self._land(completion, Put(_job_key(completion.job_execution_id), item)), job

    def _land(self, completion: Completion, job_write: Put | Update) -> Landing:
        record = EventRecord(
            body_sha256=completion.body_sha256,
            received_at=completion.completed_at,
            event_type=LIVE_FETCH_COMPLETED,
            delivered_via=completion.delivered_via,
            job_execution_id=completion.job_execution_id,
            access_token_reference_id=completion.access_token_reference_id,
        )
        event_write = Put(_event_key(completion.cobalt_event_id), self._event_item(record))
        try:
            self._table.write(event_write, job_write)
        except ConditionFailedError as condition:
            return Landing.EVENT_KNOWN if condition.failed[0] else Landing.JOB_CHANGED
        return Landing.LANDED

    def record_event(self, event_id: str, record: EventRecord, now: datetime) -> Landing:
        """Record an event that ends no job, and open its announcement."""
        item = self._event_item(record) | _announcement(event_id, iso(now), now + FIRST_LOOK)
        recorded = self._try(Put(_event_key(event_id), item))
        return Landing.LANDED if recorded else Landing.EVENT_KNOWN

    # ------------------------------------------------------------------------------- reconciliation

    def due(self, now: datetime, most: int) -> list[Due]:
        """Give the rows whose look is due, the longest overdue first, at most so many.

        The index may lag behind: each row is read again, consistently, and left out where its look
        is not due any more.
        """
        moment = iso(now)
        keys = islice(self._due_keys(up_to=moment), most)
        return [row for row in self._read(keys) if row.due_at <= moment]

    def open_requests(self) -> list[RequestRecord]:
        """Give every request that may still get a job."""
        keys = (key for key in self._due_keys() if key.kind == "REQUEST")
        rows = (due.row for due in self._read(keys))
        return [row for row in rows if isinstance(row, RequestRecord) and row.is_open]

    def put_off(self, due: Due, until: datetime | None, looks: int) -> bool:
        """Set the next look, before this one begins; None for no further one.

        False where another run has taken this look. A run that ends half-way loses nothing: the row
        comes up again. A request that is looked at is no longer waiting for its answer.
        """
        changes: Item = {"looks": looks}
        condition, values = "due_at = :seen", {":seen": due.due_at}
        if until is not None:
            changes["due_at"] = iso(until)
        if isinstance(due.row, RequestRecord) and due.row.state is RequestState.REQUESTED:
            changes["state"] = RequestState.UNKNOWN.value
            condition += " AND #state = :requested"
            values[":requested"] = RequestState.REQUESTED.value
        remove = () if until is not None else ("due_shard", "due_at")
        expression = _set(changes, remove)
        key = Key(due.kind, due.id)
        return self._try(Update(key, expression, condition, values | _values(changes)))

    def contest(self, request: RequestRecord) -> None:
        """Record that a result fits the request and another question too."""
        changes = {"contested": True}
        key = _request_key(request.request_id)
        self._try(Update(key, _set(changes), "attribute_exists(pk)", _values(changes)))

    def expire_job(self, job: Job, now: datetime) -> Job | None:
        """End a job of which nothing was heard; None where it has moved on."""
        expired = job.model_copy(
            update={
                "state": JobState.EXPIRED,
                "expired_at": now,
                "notification": "open",
                "looks": 0,
            }
        )
        changes = {
            "state": expired.state.value,
            "expired_at": iso(now),
            "looks": 0,
            **_announcement(job.job_execution_id, iso(now), now + FIRST_LOOK),
        }
        states = before(JOB_MOVES, JobState.EXPIRED)
        moved = self._try(_move(_job_key(job.job_execution_id), states, changes))
        return expired if moved else None

    def _due_keys(self, up_to: str | None = None) -> Iterator[Key]:
        last = ("due_at", up_to) if up_to else None
        shards = [
            self._table.keys_of_index(_DUE, ("due_shard", str(shard)), last)
            for shard in range(DUE_SHARDS)
        ]
        for item in heapq.merge(*shards, key=lambda item: str(item["due_at"])):
            yield Key(item["sk"], item["pk"].removeprefix(f"{item['sk']}#"))

    def _read(self, keys: Iterable[Key]) -> Iterator[Due]:
        for some in batched(keys, _READ_AT_ONCE, strict=False):
            for key, item in zip(some, self._table.get(*some), strict=True):
                if item and "due_at" in item:
                    yield _due_row(key, item)

    # -------------------------------------------------------------------------------- announcements

    def take_announcement(self, announced: Announced, now: datetime) -> bool:
        """Take over an announcement that is open and that nobody else is at.

        False where there is none.
        """
        return self._move_announcement(
            announced,
            "SET announced_from = :now",
            " AND announced_from < :free",
            {":now": iso(now), ":free": iso(now - ANNOUNCING)},
        )

    def release_announcement(self, announced: Announced) -> None:
        """Let the next delivery take it at once: this one could not send it."""
        self._move_announcement(
            announced, "SET announced_from = :untaken", "", {":untaken": _UNTAKEN}
        )

    def close_announcement(
        self, announced: Announced, now: datetime, next_look: datetime | None = None
    ) -> None:
        """Record that the event is on the bus. Nothing is left to look at, or a late look is."""
        changes = {"notification": "sent", "notified_at": iso(now)}
        if next_look is not None:
            changes["due_at"] = iso(next_look)
        remove = () if next_look is not None else ("due_shard", "due_at")
        self._move_announcement(announced, _set(changes, remove), "", _values(changes))

    def _move_announcement(
        self, announced: Announced, expression: str, condition: str, values: dict[str, Any]
    ) -> bool:
        key = Key(announced.kind, announced.id)
        condition = "notification = :open" + condition
        values = {**values, ":open": "open"}
        if announced.state is not None:
            condition += " AND #state = :announced"
            values[":announced"] = announced.state
        return self._try(Update(key, expression, condition, values))

    # ---------------------------------------------------------------------------------------- items

    def _try(self, write: Put | Update) -> bool:
        """Write, and tell whether the row was as wanted."""
        try:
            self._table.write(write)
        except ConditionFailedError:
            return False
        return True

    def _job_item(self, job: Job, born: datetime) -> Item:
        return job.model_dump(mode="json", exclude_none=True) | {"expires_at": self._expiry(born)}

    def _event_item(self, record: EventRecord) -> Item:
        return record.model_dump(mode="json", exclude_none=True) | {
            "expires_at": self._expiry(record.received_at)
        }

    def _expiry(self, born: datetime) -> int:
        return int((born + self._kept).timestamp())


def _request_key(request_id: str) -> Key:
    return Key("REQUEST", request_id)


def _job_key(job_execution_id: str) -> Key:
    return Key("JOB", job_execution_id)


def _event_key(event_id: str) -> Key:
    return Key("EVENT", event_id)


def _holding(request: Request, hold: Hold) -> Put:
    values = {":now": iso(request.requested_at)}
    condition = "attribute_not_exists(pk) OR held_until < :now"
    if hold.replacing is not None:
        condition += " OR request_id = :replacing"
        values[":replacing"] = hold.replacing
    item = {
        "request_id": request.request_id,
        "fingerprint": request.fingerprint,
        "held_until": iso(hold.until),
        "expires_at": int((hold.until + HOLD_KEPT).timestamp()),
    }
    return Put(Key(hold.kind, hold.name), item, condition, values)


def _due(subject_id: str, look: datetime) -> Item:
    return {"due_shard": str(zlib.crc32(subject_id.encode()) % DUE_SHARDS), "due_at": iso(look)}


def _announcement(subject_id: str, announced_from: str, look: datetime) -> Item:
    return {"notification": "open", "announced_from": announced_from, **_due(subject_id, look)}


def _move(key: Key, states: list[str], changes: Item, remove: tuple[str, ...] = ()) -> Update:
    """Change a row that is in one of the states."""
    origins = {f":from{number}": state for number, state in enumerate(states)}
    return Update(
        key,
        _set(changes, remove),
        f"#state IN ({', '.join(origins)})",
        {**origins, **_values(changes)},
    )


def _set(changes: Item, remove: tuple[str, ...] = ()) -> str:
    expression = "SET " + ", ".join(f"#{name} = :{name}" for name in changes)
    return f"{expression} REMOVE {', '.join(remove)}" if remove else expression


def _values(changes: Item) -> Item:
    return {f":{name}": value for name, value in changes.items()}


def _job(item: Item) -> Job:
    return Job.model_validate({name: item[name] for name in Job.model_fields if name in item})


def _request(item: Item) -> RequestRecord:
    fields = RequestRecord.model_fields
    return RequestRecord.model_validate({name: item[name] for name in fields if name in item})


_READERS: dict[str, Callable[[Item], Job | RequestRecord | EventRecord]] = {
    "JOB": _job,
    "REQUEST": _request,
    "EVENT": EventRecord.model_validate,
}


def _due_row(key: Key, item: Item) -> Due:
    kind: Any = key.kind
    try:
        row = _READERS[kind](item)
    except ValidationError:
        row = None
    return Due(kind, key.id, item["due_at"], row)
