"""What the relay tells on its EventBridge bus.

Thin by design: ids, counts, times and the place of the result, never patient data, because a bus
has rules, archives and log groups that nobody cleared for it. The contracts are the JSON Schemas in
`docs/events/`.
"""

import uuid
from abc import abstractmethod
from datetime import date
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, computed_field

from cobalt_relay.models import (
    LOGIN_REQUIRED,
    Channel,
    ConnectionChange,
    ConnectionState,
    EventRecord,
    FetchRange,
    Instant,
    Job,
    JobState,
    Reporter,
    RequestRecord,
    RequestState,
    ResultLocation,
    SearchBy,
    Trigger,
    Window,
    iso,
)

SOURCE = "cobalt-relay"

_NAMESPACE = uuid.UUID("6b1f4a52-6a8e-5d0c-9f0e-3f1f6a3c9d11")


class RelayEvent(BaseModel):
    """What every event carries.

    `event_id` is derived from what is announced, so that each repeat of an announcement has the
    same one: consumers de-duplicate on it.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True
    )

    detail_type: ClassVar[str]

    version: Literal["1"] = "1"
    job_execution_id: str | None
    connection_id: str | None
    access_token_reference_id: str | None
    window: Window | None
    trace_id: str | None
    """What the log lines about it carry too; None where an edition without traces began it."""

    @property
    @abstractmethod
    def subject(self) -> str:
        """What is announced, unique within its detail-type."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def event_id(self) -> str:
        """The same for every repeat of this announcement."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.detail_type}\n{self.subject}"))


class _FetchEnded(RelayEvent):
    """What the events about the end of a fetch have in common."""

    request_id: str | None
    trigger: Trigger | None
    search_by: SearchBy | None
    accepted_at: Instant | None

    @property
    def subject(self) -> str:
        """The job, or the request where Cobalt gave it no job."""
        return self.job_execution_id or f"request {self.request_id}"


class _FetchReported(_FetchEnded):
    """What Cobalt said of a fetch, and how it reached the relay.

    `seconds_to_completion` is the time since `accepted_at`. `expired_at` tells that the fetch was
    announced as expired before. What Cobalt never said is null.
    """

    completed_at: Instant
    cobalt_event_id: str | None = None
    delivered_via: Channel | None = None
    seconds_to_completion: float | None = None
    expired_at: Instant | None = None
    result: ResultLocation | None = None


class AppointmentsFetched(_FetchReported):
    """A live fetch succeeded; `result` is where Cobalt's bytes are.

    `appointment_count` is counted; `declared_count` is what Cobalt says. Where they differ the list
    may be incomplete.
    """

    detail_type: ClassVar[str] = "Appointments Fetched"

    appointment_count: int
    declared_count: int | None


class AppointmentFetchFailed(_FetchReported):
    """A live fetch ended without appointments, or could not be started."""

    detail_type: ClassVar[str] = "Appointment Fetch Failed"

    error_code: str


class AppointmentFetchExpired(_FetchEnded):
    """Nothing was heard of a fetch by its deadline.

    A result that comes later is still taken in, and announced as such.
    """

    detail_type: ClassVar[str] = "Appointment Fetch Expired"

    deadline: Instant
    expired_at: Instant


class CobaltEventReceived(RelayEvent):
    """A webhook of another type arrived and is archived at `result`."""

    detail_type: ClassVar[str] = "Cobalt Event Received"

    cobalt_event_id: str
    event_type: str
    received_at: Instant
    result: ResultLocation

    @property
    def subject(self) -> str:
        """Cobalt's own event."""
        return self.cobalt_event_id


class _ConnectionChanged(RelayEvent):
    """What the events about a change of a connection have in common."""

    suspended_at: Instant

    @property
    def subject(self) -> str:
        """The connection, and since when it was suspended."""
        return f"{self.connection_id} {iso(self.suspended_at)}"


class ConnectionSuspended(_ConnectionChanged):
    """The clinic has to link its account again: schedules leave it out until a fetch succeeds.

    `reported_by` says whether Cobalt's answer to a fetch told so, its event or a fetch's result.
    """

    detail_type: ClassVar[str] = "Connection Suspended"

    reason: str
    reported_by: Reporter


class ConnectionResumed(_ConnectionChanged):
    """A fetch of a suspended connection succeeded: schedules fetch it again."""

    detail_type: ClassVar[str] = "Connection Resumed"

    resumed_at: Instant


class AppointmentRangeCompleted(RelayEvent):
    """Every piece of a range has ended; `job_execution_id` is the range's.

    `status` is `COMPLETED`, `PARTIAL` or `FAILED`. Each piece that became a job had an event of its
    own.
    """

    detail_type: ClassVar[str] = "Appointment Range Completed"

    request_id: str | None
    trigger: Trigger
    search_by: SearchBy
    accepted_at: Instant
    completed_at: Instant
    status: Literal["COMPLETED", "PARTIAL", "FAILED"]
    piece_count: int
    completed_count: int
    appointment_count: int
    error_codes: tuple[str, ...]

    @property
    def subject(self) -> str:
        """The range."""
        return str(self.job_execution_id)


class ChangedAppointment(BaseModel):
    """An appointment that is another than it was, and in which fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True
    )

    id: str
    fields: tuple[str, ...]


class AppointmentsChanged(RelayEvent):
    """What a fetch changed in the days that it saw, by the ids of the appointments.

    One that moved from day to day is changed, not gone and created. `baseline_days` are those that
    no fetch had seen as a whole before: nothing on them counts as created. `disappeared` are those
    that the fetch proves to be gone. The counts are of the whole; a long list is told in several
    parts, each an event of its own. `details` is where each change stands with what was before and
    after.
    """

    detail_type: ClassVar[str] = "Appointments Changed"

    as_of: Instant
    part: int
    parts: int
    baseline_days: tuple[date, ...]
    created: tuple[str, ...] = ()
    changed: tuple[ChangedAppointment, ...] = ()
    cancelled: tuple[str, ...] = ()
    disappeared: tuple[str, ...] = ()
    created_count: int
    changed_count: int
    cancelled_count: int
    disappeared_count: int
    details: ResultLocation

    @property
    def subject(self) -> str:
        """The fetch, and which part."""
        return f"{self.job_execution_id} {self.part}"


def connection_changed(change: ConnectionChange) -> RelayEvent:
    """Announce that a connection was suspended or resumed."""
    about = {
        "connection_id": change.connection_id,
        "access_token_reference_id": change.access_token_reference_id,
        "window": None,
        "trace_id": change.trace_id,
    }
    if change.state is ConnectionState.ACTIVE:
        return ConnectionResumed(
            **about,
            job_execution_id=change.job_execution_id,
            suspended_at=change.suspended_at or change.changed_at,
            resumed_at=change.changed_at,
        )
    return ConnectionSuspended(
        **about,
        job_execution_id=None,
        suspended_at=change.changed_at,
        reason=LOGIN_REQUIRED,
        reported_by=change.reported_by or "answer",
    )


def range_completed(found: FetchRange) -> RelayEvent | None:
    """Announce what came of a range; None for one that has not ended."""
    if found.completed_at is None:
        return None
    outcomes, plan = found.outcomes, found.plan
    status: Any = found.state.value
    return AppointmentRangeCompleted(
        job_execution_id=plan.range_id,
        connection_id=plan.connection_id,
        access_token_reference_id=None,
        window=plan.request.window,
        trace_id=plan.trace_id,
        request_id=found.request_id,
        trigger=plan.trigger,
        search_by=plan.request.search_by,
        accepted_at=plan.accepted_at,
        completed_at=found.completed_at,
        status=status,
        piece_count=len(outcomes),
        completed_count=sum(each.status == "COMPLETED" for each in outcomes),
        appointment_count=sum(each.appointment_count or 0 for each in outcomes),
        error_codes=tuple(sorted({each.error_code for each in outcomes if each.error_code})),
    )


def job_ended(job: Job) -> RelayEvent | None:
    """Announce how a job ended, from what is kept, so that a repeat says the same.

    None for one that has not ended.
    """
    fetch = {
        "job_execution_id": job.job_execution_id,
        "connection_id": job.connection_id,
        "trace_id": job.trace_id,
        "request_id": job.request_id,
        "trigger": job.trigger,
        "search_by": job.search_by,
        "accepted_at": job.accepted_at,
    }
    completion = job.completion
    if job.state is JobState.FAILED and job.closed_at:
        return AppointmentFetchFailed(
            **fetch,
            access_token_reference_id=None,
            window=job.window,
            completed_at=job.closed_at,
            error_code=job.error_code or "fetch_failed",
        )
    if job.state is JobState.EXPIRED and job.deadline and job.expired_at:
        return AppointmentFetchExpired(
            **fetch,
            access_token_reference_id=None,
            window=job.window,
            deadline=job.deadline,
            expired_at=job.expired_at,
        )
    if completion is None:
        return None
    report = {
        **fetch,
        "access_token_reference_id": completion.access_token_reference_id,
        "window": job.window or completion.window,
        "completed_at": completion.completed_at,
        "cobalt_event_id": completion.cobalt_event_id,
        "delivered_via": completion.delivered_via,
        "seconds_to_completion": job.seconds_to_completion,
        "expired_at": job.expired_at,
        "result": completion.result,
    }
    if completion.state is JobState.COMPLETED:
        return AppointmentsFetched(
            **report,
            appointment_count=completion.appointment_count,
            declared_count=completion.declared_count,
        )
    return AppointmentFetchFailed(**report, error_code=completion.error_code or "fetch_failed")


def request_ended(request: RequestRecord) -> RelayEvent | None:
    """Announce a request that came to no job; None for one that did, or that has not ended."""
    fetch = {
        "job_execution_id": None,
        "connection_id": request.connection_id,
        "access_token_reference_id": None,
        "window": request.window,
        "trace_id": request.trace_id,
        "request_id": request.request_id,
        "trigger": request.trigger,
        "search_by": request.search_by,
        "accepted_at": None,
    }
    if request.closed_at is None:
        return None
    if request.state is RequestState.EXPIRED:
        return AppointmentFetchExpired(
            **fetch, deadline=request.deadline, expired_at=request.closed_at
        )
    if request.state is RequestState.FAILED:
        return AppointmentFetchFailed(
            **fetch,
            completed_at=request.closed_at,
            error_code=request.error_code or "fetch_failed",
        )
    return None


def cobalt_event_received(event_id: str, record: EventRecord) -> RelayEvent | None:
    """Announce a webhook that ended no job of a live fetch; None for one that did."""
    if record.result is None:
        return None
    return CobaltEventReceived(
        job_execution_id=record.job_execution_id,
        connection_id=record.connection_id,
        access_token_reference_id=record.access_token_reference_id,
        window=None,
        trace_id=record.trace_id,
        cobalt_event_id=event_id,
        event_type=record.event_type,
        received_at=record.received_at,
        result=record.result,
    )
