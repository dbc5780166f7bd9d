"""What the relay tells on its EventBridge bus.

Thin by design: ids, counts, times and the place of the result, never patient data, because a bus
has rules, archives and log groups that nobody cleared for it. The contracts are the JSON Schemas in
`docs/events/`.
"""

import uuid
from abc import abstractmethod
from datetime import datetime
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, computed_field

from cobalt_relay.models import (
    CobaltEvent,
    Completion,
    Instant,
    Job,
    JobState,
    ResultLocation,
    SearchBy,
    Trigger,
    Window,
)

SOURCE = "cobalt-relay"

_NAMESPACE = uuid.UUID("6b1f4a52-6a8e-5d0c-9f0e-3f1f6a3c9d11")


class RelayEvent(BaseModel):
    """What every event carries.

    `event_id` is derived from what is announced, so that each repeat of an announcement has the
    same one: consumers de-duplicate on it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    detail_type: ClassVar[str]

    version: Literal["1"] = "1"
    job_execution_id: str | None
    connection_id: str | None
    access_token_reference_id: str | None
    window: Window | None

    @property
    @abstractmethod
    def subject(self) -> str:
        """What is announced, unique within its detail-type."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def event_id(self) -> str:
        """The same for every repeat of this announcement."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.detail_type}\n{self.subject}"))


class _JobEnded(RelayEvent):
    """What the events about the end of a fetch have in common."""

    request_id: str | None
    trigger: Trigger | None
    search_by: SearchBy | None
    accepted_at: Instant | None
    completed_at: Instant
    cobalt_event_id: str | None
    delivered_via: Literal["webhook"] | None
    result: ResultLocation | None

    @property
    def subject(self) -> str:
        """The job, or the request where Cobalt gave it no job."""
        return self.job_execution_id or f"request {self.request_id}"


class AppointmentsFetched(_JobEnded):
    """A live fetch succeeded; `result` is where Cobalt's bytes are.

    `appointment_count` is counted; `declared_count` is what Cobalt says. Where they differ the list
    may be incomplete.
    """

    detail_type: ClassVar[str] = "Appointments Fetched"

    appointment_count: int
    declared_count: int | None


class AppointmentFetchFailed(_JobEnded):
    """A live fetch ended without appointments, or a scheduled one could not be started."""

    detail_type: ClassVar[str] = "Appointment Fetch Failed"

    error_code: str


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


def job_ended(job: Job, completion: Completion) -> AppointmentsFetched | AppointmentFetchFailed:
    """Announce how a job ended.

    Made from what is kept, so a repeat says the same, unless a fetch claimed the job meanwhile.
    """
    common = {
        "job_execution_id": job.job_execution_id,
        "connection_id": job.connection_id,
        "access_token_reference_id": completion.access_token_reference_id,
        "window": job.window or completion.window,
        "request_id": job.request_id,
        "trigger": job.trigger,
        "search_by": job.search_by,
        "accepted_at": job.accepted_at,
        "completed_at": completion.completed_at,
        "cobalt_event_id": completion.cobalt_event_id,
        "delivered_via": completion.delivered_via,
        "result": completion.result,
    }
    if completion.state is JobState.COMPLETED:
        return AppointmentsFetched(
            **common,
            appointment_count=completion.appointment_count,
            declared_count=completion.declared_count,
        )
    return AppointmentFetchFailed(**common, error_code=completion.error_code or "fetch_failed")


def cobalt_event_received(
    event: CobaltEvent, result: ResultLocation, received_at: datetime
) -> CobaltEventReceived:
    """Announce a webhook that is not the result of a live fetch."""
    return CobaltEventReceived(
        job_execution_id=event.job_execution_id,
        connection_id=None,
        access_token_reference_id=event.access_token_reference_id,
        window=None,
        cobalt_event_id=event.id,
        event_type=event.type,
        received_at=received_at,
        result=result,
    )
