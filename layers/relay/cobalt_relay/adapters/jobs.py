"""Requests, jobs and received events: rows of the table, moved by conditional writes only.

    item      key                            holds
    request   REQUEST#<request id>           what was asked; REQUESTED before Cobalt is called
    job       JOB#<job_execution_id>         the truth about a job
    event     EVENT#<Cobalt's event id>      that a signed event was taken in, and the digest of its
    body

A row stands in the sparse index `due` while somebody has to look at it again: an open request or
job, and an announcement that is not known to be sent. `due_shard` spreads them, `due_at` is the
next look.
"""

import zlib
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from cobalt_relay.adapters.table import ConditionFailedError, Item, Key, Put, Table, Update
from cobalt_relay.models import (
    Announced,
    Completion,
    EventRecord,
    Job,
    JobState,
    Known,
    Landing,
    Request,
    RequestState,
    iso,
)

DUE_SHARDS = 8
FIRST_LOOK = timedelta(minutes=1)
REQUEST_LOOK = timedelta(minutes=5)
"""When an unanswered request is looked at: later than any call can take."""
ANNOUNCING = timedelta(seconds=1)
"""How long one deliverer has the announcement for itself. Cobalt's retry comes 1 s after the first
answer, so a retry after a crash finds it free."""

_UNTAKEN = ""
"""Sorts before every moment."""


class Jobs:
    """The job rows. Raises `TableFault` where DynamoDB fails."""

    def __init__(self, table: Table, retention: timedelta, deadline: timedelta) -> None:
        self._table = table
        self._retention = retention
        self._deadline = deadline

    # ------------------------------------------------------------------------------------- requests

    def record_request(self, request: Request) -> None:
        """Put a request on record, before Cobalt hears of it."""
        item = request.model_dump(mode="json", exclude_none=True) | {
            "state": RequestState.REQUESTED.value,
            "expires_at": self._expiry(request.requested_at),
            **_due(request.request_id, request.requested_at + REQUEST_LOOK),
        }
        self._table.put(_request_key(request.request_id), item)

    def close_request(
        self,
        request_id: str,
        state: RequestState,
        error_code: str,
    ) -> None:
        """Record that Cobalt gave no job.

        Refused (`FAILED`), or nobody can tell (`UNKNOWN`, still due).
        """
        no_longer_due = " REMOVE due_shard, due_at" if state is RequestState.FAILED else ""
        close = Update(
            _request_key(request_id),
            "SET #state = :state, error_code = :error_code" + no_longer_due,
            "#state = :requested",
            {
                ":state": state.value,
                ":error_code": error_code,
                ":requested": RequestState.REQUESTED.value,
            },
        )
        with suppress(ConditionFailedError):
            self._table.write(close)

    def accept(self, request: Request, job_execution_id: str, accepted_at: datetime) -> None:
        """Record Cobalt's 202: the job row appears and the request row closes, together.

        Where the webhook overtook the 202 the job is there already: then this request claims it,
        unless another one has.
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
        )
        accepted = Update(
            _request_key(request.request_id),
            "SET #state = :accepted, job_execution_id = :job REMOVE due_shard, due_at",
            "#state IN (:requested, :unknown)",
            {
                ":accepted": RequestState.ACCEPTED.value,
                ":job": job_execution_id,
                ":requested": RequestState.REQUESTED.value,
                ":unknown": RequestState.UNKNOWN.value,
            },
        )
        due = _due(job_execution_id, accepted_at + FIRST_LOOK)
        try:
            item = self._job_item(job, accepted_at) | due
            self._table.write(Put(_job_key(job_execution_id), item), accepted)
        except ConditionFailedError:
            self._claim(job, accepted)

    def _claim(self, job: Job, accepted: Update) -> None:
        claimed = job.model_dump(
            mode="json",
            exclude_none=True,
            exclude={"job_execution_id", "state", "completion", "notified_at"},
        )
        claim = Update(
            _job_key(job.job_execution_id),
            "SET " + ", ".join(f"#{name} = :{name}" for name in claimed),
            "attribute_exists(pk) AND attribute_not_exists(connection_id)",
            {f":{name}": value for name, value in claimed.items()},
        )
        for write in (claim, accepted):
            with suppress(ConditionFailedError):
                self._table.write(write)

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

    def end(self, completion: Completion, now: datetime) -> Landing:
        """End an open job and open its announcement, in one write with the event's record.

        The announcement is the writer's own from `now` on, for as long as `ANNOUNCING`.
        """
        announcement = self._announcement(completion.job_execution_id, now)
        try:
            self._table.write(
                self._record_of(completion),
                Update(
                    _job_key(completion.job_execution_id),
                    "SET #state = :ended, completion = :completion, due_at = :due_at, "
                    "due_shard = :due_shard, notification = :notification, "
                    "announced_from = :announced_from",
                    "#state IN (:accepted, :expired)",
                    {
                        ":ended": completion.state.value,
                        ":completion": completion.model_dump(mode="json", exclude_none=True),
                        ":accepted": JobState.ACCEPTED.value,
                        ":expired": JobState.EXPIRED.value,
                        **{f":{name}": value for name, value in announcement.items()},
                    },
                ),
            )
        except ConditionFailedError as condition:
            return Landing.EVENT_KNOWN if condition.failed[0] else Landing.JOB_CHANGED
        return Landing.LANDED

    def create_ended(self, completion: Completion, now: datetime) -> Landing:
        """Write the job of a result that no fetch of ours is known to have asked for (yet)."""
        job = Job(
            job_execution_id=completion.job_execution_id,
            state=completion.state,
            completion=completion,
        )
        item = self._job_item(job, completion.completed_at) | self._announcement(
            completion.job_execution_id, now
        )
        try:
            self._table.write(
                self._record_of(completion), Put(_job_key(completion.job_execution_id), item)
            )
        except ConditionFailedError as condition:
            return Landing.EVENT_KNOWN if condition.failed[0] else Landing.JOB_CHANGED
        return Landing.LANDED

    def record_event(self, event_id: str, record: EventRecord, now: datetime) -> Landing:
        """Record an event that ends no job, and open its announcement."""
        item = self._event_item(record) | self._announcement(event_id, now)
        try:
            self._table.write(Put(_event_key(event_id), item))
        except ConditionFailedError:
            return Landing.EVENT_KNOWN
        return Landing.LANDED

    # -------------------------------------------------------------------------------- announcements

    def take_announcement(self, announced: Announced, now: datetime) -> bool:
        """Take over an announcement that is open and that nobody else is at.

        False where there is none.
        """
        return self._move_announcement(
            announced,
            "SET announced_from = :now",
            "notification = :open AND announced_from < :free",
            {":now": iso(now), ":free": iso(now - ANNOUNCING)},
        )

    def release_announcement(self, announced: Announced) -> None:
        """Let the next delivery take it at once: this one could not send it."""
        self._move_announcement(
            announced,
            "SET announced_from = :untaken",
            "notification = :open",
            {":untaken": _UNTAKEN},
        )

    def close_announcement(self, announced: Announced, now: datetime) -> None:
        """Record that the event is on the bus; nothing is left to look at."""
        self._move_announcement(
            announced,
            "SET notification = :sent, notified_at = :now REMOVE due_shard, due_at",
            "notification = :open",
            {":now": iso(now), ":sent": "sent"},
        )

    def _move_announcement(
        self, announced: Announced, expression: str, condition: str, values: dict[str, Any]
    ) -> bool:
        key = Key(announced.kind, announced.id)
        try:
            self._table.write(Update(key, expression, condition, {**values, ":open": "open"}))
        except ConditionFailedError:
            return False
        return True

    # ---------------------------------------------------------------------------------------- items

    def _job_item(self, job: Job, born: datetime) -> Item:
        return job.model_dump(mode="json", exclude_none=True) | {"expires_at": self._expiry(born)}

    def _event_item(self, record: EventRecord) -> Item:
        return record.model_dump(mode="json", exclude_none=True) | {
            "expires_at": self._expiry(record.received_at)
        }

    def _record_of(self, completion: Completion) -> Put:
        record = EventRecord(
            body_sha256=completion.body_sha256,
            job_execution_id=completion.job_execution_id,
            received_at=completion.completed_at,
        )
        return Put(_event_key(completion.cobalt_event_id), self._event_item(record))

    def _announcement(self, subject_id: str, now: datetime) -> Item:
        return {
            "notification": "open",
            "announced_from": iso(now),
            **_due(subject_id, now + FIRST_LOOK),
        }

    def _expiry(self, born: datetime) -> int:
        return int((born + self._retention).timestamp())


def _request_key(request_id: str) -> Key:
    return Key("REQUEST", request_id)


def _job_key(job_execution_id: str) -> Key:
    return Key("JOB", job_execution_id)


def _event_key(event_id: str) -> Key:
    return Key("EVENT", event_id)


def _due(subject_id: str, look: datetime) -> Item:
    return {"due_shard": str(zlib.crc32(subject_id.encode()) % DUE_SHARDS), "due_at": iso(look)}


def _job(item: Item) -> Job:
    return Job.model_validate({name: item[name] for name in Job.model_fields if name in item})
