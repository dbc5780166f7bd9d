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
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import batched, islice, takewhile
from typing import Any

from pydantic import ValidationError

from cobalt_relay.adapters.layout import (
    DUE_SHARDS,
    announcement,
    due_attributes,
    holding,
    move,
    range_of,
    set_expression,
    values_of,
)
from cobalt_relay.adapters.table import ConditionFailedError, Item, Key, Put, Table, Update, wrote
from cobalt_relay.errors import RelayError, TableFault
from cobalt_relay.models import (
    JOB_MOVES,
    LIVE_FETCH_COMPLETED,
    LIVE_FETCH_EMR,
    LOGIN_REQUIRED,
    REQUEST_MOVES,
    Announced,
    Completion,
    Connection,
    ConnectionChange,
    ConnectionState,
    Due,
    EventRecord,
    FetchRange,
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

_DUE = "due"
_BY_CONNECTION = "by_connection"
_JOBS_AT_ONCE = 25
_READ_AT_ONCE = 100
"""Keys of one BatchGetItem."""

FIRST_LOOK = timedelta(minutes=1)
REQUEST_LOOK = timedelta(minutes=5)
"""When an unanswered request is looked at: later than any call can take."""
ANNOUNCING = timedelta(seconds=1)
"""How long one deliverer has the announcement for itself. Cobalt's retry comes 1 s after the first
answer, so a retry after a crash finds it free."""
OPEN_WITHIN = timedelta(minutes=45)
"""Up to when an open job is looked at again: the longest pause, jittered, and some."""
AFTERWARDS = timedelta(days=2)
"""How long a row is kept beyond the deadline of its job at least: an expired one is still due."""

MOST_CONNECTIONS = 200
"""Whose settings are asked for in one run at most."""

_ALWAYS = "attribute_not_exists(pk) OR attribute_exists(pk)"
_UNTAKEN = ""
"""Sorts before every moment."""
_NEVER = "~"
"""Sorts behind every moment."""


class Jobs:
    """The rows. Raises `TableFault` where DynamoDB fails."""

    def __init__(self, table: Table, retention: timedelta, deadline: timedelta) -> None:
        self._table = table
        self._kept = max(retention, deadline + AFTERWARDS)
        self._deadline = deadline

    # ------------------------------------------------------------------------------------- requests

    def record_request(self, request: Request, *holds: Hold) -> Hold | None:
        """Put a request on record before Cobalt hears of it, together with its holds.

        Gives the first hold that another request has; then nothing is written.
        """
        record = RequestRecord(
            **request.model_dump(),
            state=RequestState.REQUESTED,
            deadline=request.requested_at + self._deadline,
        )
        item = (
            record.model_dump(mode="json", exclude_none=True)
            | {"expires_at": self._expiry(request.requested_at)}
            | due_attributes(request.request_id, request.requested_at + REQUEST_LOOK)
        )
        holding = [_holding(request, hold) for hold in holds]
        try:
            self._table.write(Put(_request_key(request.request_id), item), *holding)
        except ConditionFailedError as condition:
            is_known, *taken = condition.failed
            if is_known:  # ids are unique: nothing may be sent for this one again
                raise TableFault from None
            return next(hold for hold, is_taken in zip(holds, taken, strict=True) if is_taken)
        return None

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
        self,
        request: Request,
        state: RequestState,
        error: RelayError,
        now: datetime,
        *,
        comes_again: bool = False,
    ) -> None:
        """Record that Cobalt gave no job.

        Refused (`FAILED`, to be announced unless it comes again), or nobody can tell (`UNKNOWN`, to
        be looked into).
        """
        subject = request.request_id
        changes: Item = {
            "state": state.value,
            "error_code": error.reason,
            "refused_as": error.code,
        }
        if error.retry_after:
            changes["retry_after"] = error.retry_after
        remove: tuple[str, ...] = ()
        if state is RequestState.UNKNOWN:
            changes |= due_attributes(subject, request.requested_at + FIRST_LOOK)
        elif comes_again:
            changes["closed_at"], remove = iso(now), ("due_shard", "due_at")
        else:
            changes |= {"closed_at": iso(now)} | announcement(subject, _UNTAKEN, now)
        states = before(REQUEST_MOVES, state)
        wrote(self._table, move(_request_key(subject), states, changes, remove))

    def expire_request(self, request: RequestRecord, now: datetime) -> RequestRecord | None:
        """End a request of which nobody knows whether it ran; None where it has moved on."""
        changes = {"state": RequestState.EXPIRED, "closed_at": now}
        return self._close(request, before(REQUEST_MOVES, RequestState.EXPIRED), changes, now)

    def accept(
        self,
        request: Request,
        job_execution_id: str,
        accepted_at: datetime,
        *holds: Hold,
    ) -> bool:
        """Record Cobalt's 202: the job row appears and the request row closes, together.

        Where the webhook overtook the 202 the job is there already: then this request claims it,
        unless another one has. Where the request has another job already, the job is kept without
        it. The job of a request that had expired says so. The holds are taken with it, whoever has
        them: a flight for others to join, a robot for others to wait. Tells whether the job is the
        request's.
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
            range_id=request.range_id,
            trace_id=request.trace_id,
        )
        accepted = move(
            _request_key(request.request_id),
            before(REQUEST_MOVES, RequestState.ACCEPTED),
            {"state": RequestState.ACCEPTED.value, "job_execution_id": job_execution_id},
            remove=("due_shard", "due_at", "notification"),
        )
        item = self._job_item(job, accepted_at) | due_attributes(
            job_execution_id, accepted_at + FIRST_LOOK
        )
        born = Put(_job_key(job_execution_id), item)
        taken = [_holding(request, hold)._replace(condition=_ALWAYS, values={}) for hold in holds]
        try:
            self._table.write(born, accepted, *taken)
        except ConditionFailedError as condition:
            if condition.failed[0]:
                return self._claim(job, accepted)
            wrote(self._table, born)
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
            changes |= announcement(claimed.job_execution_id, _UNTAKEN, now)
        claim = Update(
            _job_key(claimed.job_execution_id),
            set_expression(changes),
            "attribute_exists(pk) AND attribute_not_exists(connection_id)",
            values_of(changes),
        )
        try:
            self._table.write(claim, accepted)
        except ConditionFailedError as condition:
            # Claimed before: by this request, or Cobalt gave two requests the same job.
            return condition.failed[0] and wrote(self._table, accepted)
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

    def rows(
        self, request_ids: Iterable[str] = (), job_ids: Iterable[str] = ()
    ) -> tuple[dict[str, RequestRecord], dict[str, Job]]:
        """Read several requests and jobs, by their ids; those that are not there are left out."""
        keys = [_request_key(each) for each in request_ids] + [_job_key(each) for each in job_ids]
        requests: dict[str, RequestRecord] = {}
        jobs: dict[str, Job] = {}
        for some in batched(keys, _READ_AT_ONCE, strict=False):
            for key, item in zip(some, self._table.get(*some), strict=True):
                if item and key.kind == "JOB":
                    jobs[key.id] = _job(item)
                elif item:
                    requests[key.id] = _request(item)
        return requests, jobs

    def of_connection(self, connection_id: str, now: datetime | None = None) -> Iterator[Job]:
        """Give the jobs of a connection, the newest first, as they are asked for.

        Without those whose time is over `now`. The index may lag behind by a moment.
        """
        alive = now.timestamp() if now else 0
        listed = self._table.keys_of_index(
            _BY_CONNECTION, ("connection_id", connection_id), backwards=True
        )
        keys = (key for key in map(Key.of, listed) if key.kind == "JOB")
        for some in batched(keys, _JOBS_AT_ONCE, strict=False):
            for item in self._table.get(*some):
                if item and item["expires_at"] > alive:
                    yield _job(item)

    def recent(
        self, connection_id: str, jobs_since: datetime, ranges_since: datetime
    ) -> Iterator[Job | FetchRange]:
        """Give the jobs and the ranges of a connection that were accepted since, newest first.

        The index may lag behind by a moment.
        """
        since = {"JOB": iso(jobs_since), "RANGE": iso(ranges_since)}
        listed = takewhile(
            lambda item: item["accepted_at"] > min(since.values()),
            self._table.keys_of_index(
                _BY_CONNECTION, ("connection_id", connection_id), backwards=True
            ),
        )
        keys = (
            Key.of(item) for item in listed if item["accepted_at"] > since.get(item["sk"], _NEVER)
        )
        for some in batched(keys, _JOBS_AT_ONCE, strict=False):
            for key, item in zip(some, self._table.get(*some), strict=True):
                if item:
                    yield _job(item) if key.kind == "JOB" else range_of(item)

    def give(self, row: Job | RequestRecord | FetchRange, connection_id: str) -> bool:
        """Give a row to another connection, which has taken its own one's place.

        False where it is not its own one's any more.
        """
        former = row.plan.connection_id if isinstance(row, FetchRange) else row.connection_id
        changes = {"connection_id": connection_id}
        expression, values = set_expression(changes), {**values_of(changes), ":former": former}
        return wrote(
            self._table, Update(_key_of(row), expression, "connection_id = :former", values)
        )

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

    def end(
        self, job: Job, completion: Completion, now: datetime, *, alone: bool = False
    ) -> tuple[Landing, Job]:
        """End an open job and open its announcement, in one write with the event's record.

        The announcement is the writer's own from `now` on, for as long as `ANNOUNCING`. Unless told
        to write `alone`, it notes the success or the failure with its connection too;
        `CONNECTION_DIFFERS` where more is to be done there. Gives the job as it is then.
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
            **announcement(job.job_execution_id, iso(now), now + FIRST_LOOK),
        }
        if ended.seconds_to_completion is not None:
            changes["seconds_to_completion"] = Decimal(str(ended.seconds_to_completion))
        if not job.may_become(JobState(completion.state)):
            return Landing.JOB_CHANGED, job
        key, was = _job_key(job.job_execution_id), [job.state.value]
        ending = move(key, was, changes, remove=("notified_at",))
        note = None if alone or not job.connection_id else _note(job.connection_id, completion)
        return self._land(completion, ending, note), ended

    def create_ended(self, completion: Completion, now: datetime) -> tuple[Landing, Job]:
        """Write the job of a result that no fetch of ours is known to have asked for (yet)."""
        job = Job(
            job_execution_id=completion.job_execution_id,
            state=completion.state,
            completion=completion,
            notification="open",
        )
        item = self._job_item(job, completion.completed_at) | announcement(
            completion.job_execution_id, iso(now), now + FIRST_LOOK
        )
        return self._land(completion, Put(_job_key(completion.job_execution_id), item)), job

    def _land(
        self, completion: Completion, job_write: Put | Update, note: Update | None = None
    ) -> Landing:
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
            self._table.write(event_write, job_write, *([note] if note else []))
        except ConditionFailedError as condition:
            outcomes = (Landing.EVENT_KNOWN, Landing.JOB_CHANGED, Landing.CONNECTION_DIFFERS)
            return next(
                outcome
                for outcome, failed in zip(outcomes, condition.failed, strict=False)
                if failed
            )
        return Landing.LANDED

    def record_event(self, event_id: str, record: EventRecord, now: datetime) -> Landing:
        """Record an event that ends no job, and open its announcement."""
        item = self._event_item(record) | announcement(event_id, iso(now), now + FIRST_LOOK)
        recorded = wrote(self._table, Put(_event_key(event_id), item))
        return Landing.LANDED if recorded else Landing.EVENT_KNOWN

    # ------------------------------------------------------------------------------- reconciliation

    def due(self, now: datetime, most: int) -> list[Due]:
        """Give the rows whose look is due, the longest overdue first, at most so many.

        The index may lag behind: each row is read again, consistently, and left out where its look
        is not due any more. Of connections there are a few only: a fleet's settings may all be due
        at once, and must not stand before what somebody waits for.
        """
        moment = iso(now)
        keys = islice(_few_connections(self._due_keys(up_to=moment)), most)
        return [row for row in self._read(keys) if row.due_at <= moment]

    def open_jobs(self, now: datetime, most: int) -> tuple[int, list[Job]]:
        """Give the jobs that wait for their result, and how many there may be beyond so many.

        All of them are looked at again within `OPEN_WITHIN`, and stand in the index for that.
        """
        listed = (key for key in self._due_keys(iso(now + OPEN_WITHIN)) if key.kind == "JOB")
        jobs: list[Job] = []
        for some in batched(islice(listed, most), _READ_AT_ONCE, strict=False):
            jobs += [_job(item) for item in self._table.get(*some) if item]
        beyond = sum(1 for _ in listed)
        return beyond, [job for job in jobs if job.state is JobState.ACCEPTED]

    def open_requests(self, up_to: datetime) -> list[RequestRecord]:
        """Give every request that may still get a job, and whose look is due up to a moment."""
        keys = (key for key in self._due_keys(iso(up_to)) if key.kind == "REQUEST")
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
        expression = set_expression(changes, remove)
        key = Key(due.kind, due.id)
        return wrote(self._table, Update(key, expression, condition, values | values_of(changes)))

    def contest(self, request: RequestRecord) -> None:
        """Record that a result fits the request and another question too."""
        changes = {"contested": True}
        key, expression = _key_of(request), set_expression(changes)
        wrote(self._table, Update(key, expression, "attribute_exists(pk)", values_of(changes)))

    def expire_job(self, job: Job, now: datetime) -> Job | None:
        """End a job of which nothing was heard; None where it has moved on."""
        changes = {"state": JobState.EXPIRED, "expired_at": now}
        return self._close(job, before(JOB_MOVES, JobState.EXPIRED), changes, now)

    def fail_job(self, job: Job, error_code: str, now: datetime) -> Job | None:
        """End an open job that cannot report any more; None where it has moved on."""
        changes = {"state": JobState.FAILED, "closed_at": now, "error_code": error_code}
        return self._close(job, before(JOB_MOVES, JobState.FAILED), changes, now)

    def _close[Row: (Job, RequestRecord)](
        self, row: Row, states: list[str], changes: dict[str, object], now: datetime
    ) -> Row | None:
        """End a row of which nothing more is awaited, and open its announcement."""
        key = _key_of(row)
        ended = row.model_copy(update={**changes, "looks": 0, "notification": "open"})
        item = ended.model_dump(mode="json", include={*changes, "looks"})
        item |= announcement(key.id, iso(now), now + FIRST_LOOK)
        return ended if wrote(self._table, move(key, states, item)) else None

    def _due_keys(self, up_to: str) -> Iterator[Key]:
        last = ("due_at", up_to)
        shards = [
            self._table.keys_of_index(_DUE, ("due_shard", str(shard)), last)
            for shard in range(DUE_SHARDS)
        ]
        for item in heapq.merge(*shards, key=lambda item: str(item["due_at"])):
            yield Key.of(item)

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
        self._move_announcement(announced, set_expression(changes, remove), "", values_of(changes))

    def _move_announcement(
        self, announced: Announced, expression: str, condition: str, values: dict[str, Any]
    ) -> bool:
        key = Key(announced.kind, announced.id)
        condition = "notification = :open" + condition
        values = {**values, ":open": "open"}
        if announced.state is not None:
            condition += " AND #state = :announced"
            values[":announced"] = announced.state
        return wrote(self._table, Update(key, expression, condition, values))

    # ---------------------------------------------------------------------------------------- items

    def _job_item(self, job: Job, born: datetime) -> Item:
        return job.model_dump(mode="json", exclude_none=True) | {"expires_at": self._expiry(born)}

    def _event_item(self, record: EventRecord) -> Item:
        return record.model_dump(mode="json", exclude_none=True) | {
            "expires_at": self._expiry(record.received_at)
        }

    def _expiry(self, born: datetime) -> int:
        return int((born + self._kept).timestamp())


def _few_connections(keys: Iterable[Key]) -> Iterator[Key]:
    """Leave out the connections beyond the first `MOST_CONNECTIONS`."""
    connections = 0
    for key in keys:
        connections += key.kind == "CONNECTION"
        if key.kind != "CONNECTION" or connections <= MOST_CONNECTIONS:
            yield key


def _note(connection_id: str, completion: Completion) -> Update:
    """Note with a connection how a job of it ended.

    A success tells its EMR too: Cobalt takes a live fetch of no other. A broken link is more than a
    note, but where the connection is suspended already.
    """
    at = iso(completion.completed_at)
    if completion.state is JobState.COMPLETED:
        changes: Item = {"last_success_at": at, "emr_name": LIVE_FETCH_EMR}
        condition, values = "#state = :active", {":active": ConnectionState.ACTIVE.value}
    else:
        code = completion.error_code or "fetch_failed"
        changes = {"last_failure_at": at, "last_failure_code": code}
        condition, values = "attribute_exists(pk)", {}
        if completion.error_code == LOGIN_REQUIRED:
            condition, values = (
                "#state = :suspended",
                {":suspended": ConnectionState.LOGIN_REQUIRED.value},
            )
    return Update(
        Key("CONNECTION", connection_id),
        set_expression(changes),
        condition,
        values | values_of(changes),
    )


def _key_of(row: Job | RequestRecord | FetchRange) -> Key:
    match row:
        case Job():
            return _job_key(row.job_execution_id)
        case RequestRecord():
            return _request_key(row.request_id)
        case FetchRange():
            return Key("RANGE", row.plan.range_id)


def _request_key(request_id: str) -> Key:
    return Key("REQUEST", request_id)


def _job_key(job_execution_id: str) -> Key:
    return Key("JOB", job_execution_id)


def _event_key(event_id: str) -> Key:
    return Key("EVENT", event_id)


def _holding(request: Request, hold: Hold) -> Put:
    return holding(request.request_id, request.fingerprint, request.requested_at, hold)


def _job(item: Item) -> Job:
    return Job.model_validate({name: item[name] for name in Job.model_fields if name in item})


def _request(item: Item) -> RequestRecord:
    fields = RequestRecord.model_fields
    return RequestRecord.model_validate({name: item[name] for name in fields if name in item})


_READERS: dict[str, Callable[[Item], Any]] = {
    "JOB": _job,
    "REQUEST": _request,
    "EVENT": EventRecord.model_validate,
    "CONNECTION": Connection.model_validate,
    "CHANGE": ConnectionChange.model_validate,
    "RANGE": range_of,
}


def _due_row(key: Key, item: Item) -> Due:
    kind: Any = key.kind
    try:
        row = _READERS[kind](item)
    except ValidationError:
        row = None
    return Due(kind, key.id, item["due_at"], row)
