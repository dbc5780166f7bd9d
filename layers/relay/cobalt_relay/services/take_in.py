"""Take in what Cobalt has to tell: keep the bytes, end the job, tell the bus.

The one way in, whichever channel brings it. The order is what keeps a result: the bytes are in S3
before a row says so, and the row says that an announcement is open before it is sent. Whatever step
fails, doing it all again finds what is done and does the rest.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from cobalt_relay import tracing
from cobalt_relay.errors import StaleDelivery
from cobalt_relay.events import cobalt_event_received, job_ended
from cobalt_relay.models import (
    Announced,
    Channel,
    CobaltEvent,
    Completion,
    EventRecord,
    FetchResult,
    Job,
    JobState,
    Landing,
    ResultLocation,
    utc_now,
)
from cobalt_relay.observability import count, job_failed, logger, measure_seconds
from cobalt_relay.places import appointments_place, event_place
from cobalt_relay.services.announce import Announcer
from cobalt_relay.services.gather_ranges import GatherRanges
from cobalt_relay.services.standing import Standing

if TYPE_CHECKING:
    from cobalt_relay.services.ports import DeliveryStore, ResultStore

LATEST_DELIVERY = timedelta(hours=24)
"""How long after it was made a webhook may come.

The row of one that was taken in is kept for longer, so up to here a replay is known as a repeat.
What is not known was never here: Cobalt was slow, and sends what is refused never again.
"""
CLOCK_SKEW = timedelta(minutes=5)
"""How far Cobalt's clock may be ahead of ours."""
AWAIT_JOB_SECONDS = (0.05, 0.1, 0.2, 0.25)
"""Pauses before looking again for a job whose 202 the webhook overtook.

Seconds; 0.6 in all, well within the one that an answer may take.
"""
AWAIT_RIVAL_SECONDS = (0.05, 0.1, 0.15, 0.2)
"""Pauses before looking again for an event whose place is taken: a rival is through by then."""


class Verdict(StrEnum):
    """What became of a genuine delivery."""

    RECEIVED = "received"
    REPEATED = "repeated"
    CONFLICTING = "conflicting"
    VERIFIED = "verified"


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that is surely Cobalt's: what it says, its bytes, and how it was received."""

    event: CobaltEvent
    body: bytes = field(repr=False)
    body_sha256: str
    received_at: datetime
    via: Channel

    @property
    def ids(self) -> dict[str, str | None]:
        """What a log line may say of it."""
        return {
            "cobalt_event_id": self.event.id,
            "cobalt_event_type": self.event.type,
            "job_execution_id": self.event.job_execution_id,
            "delivered_via": self.via,
        }


class TakeIn:
    """The way in. One object serves all invocations of a function."""

    def __init__(
        self,
        jobs: "DeliveryStore",
        results: "ResultStore",
        announcer: Announcer,
        standing: Standing,
        ranges: GatherRanges,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._jobs = jobs
        self._results = results
        self._announcer = announcer
        self._standing = standing
        self._ranges = ranges
        self._now = now
        self._sleep = sleep

    def take_in(self, delivery: Delivery) -> Verdict:
        """Take in one delivery, or finish what an earlier one of the same event left.

        Raises `StorageFault`; doing it again does the rest. Raises `StaleDelivery` for a webhook
        that may be a replay; nothing is stored then.
        """
        event = delivery.event
        known = self._jobs.look_up(event.id, event.job_execution_id)
        if known.job:
            tracing.follow(known.job.trace_id)
        if known.event:
            return self._repeat(delivery, known.event, known.job)
        if delivery.via == "webhook":
            _refuse_replay(delivery, known.job)
        if event.is_live_fetch_result:
            return self._land(delivery, known.job)
        return self._archive(delivery)

    # ----------------------------------------------------------------------------- a fetch's result

    def _land(self, delivery: Delivery, job: Job | None) -> Verdict:
        """Store a live fetch's result, end its job, announce it.

        A job that changes between our look and our write (the 202 arrives, or a rival delivery) is
        looked at once more.
        """
        job = job or self._await_job(delivery)
        fetched = FetchResult.from_data(delivery.event.data)
        if job and not job.may_become(fetched.state):
            return self._superfluous(delivery)
        place = appointments_place(
            job.connection_id if job else None,
            delivery.received_at.date(),
            delivery.event.job_execution_id or "",
        )
        location = self._store(delivery, place)
        if not location:
            return _repeated(delivery)
        completion = _completion(delivery, fetched, location)
        for _ in range(2):
            if job:
                landing, ended = self._end(delivery, job, completion)
            else:
                landing, ended = self._jobs.create_ended(completion, self._now())
            match landing:
                case Landing.LANDED:
                    return self._landed(delivery, ended)
                case Landing.EVENT_KNOWN:
                    return _repeated(delivery)
                case Landing.JOB_CHANGED:
                    job = self._jobs.look_up(delivery.event.id, completion.job_execution_id).job
        return self._superfluous(delivery)

    def _end(self, delivery: Delivery, job: Job, completion: Completion) -> tuple[Landing, Job]:
        """End a job; what it tells of a suspended or broken connection goes before."""
        landing, ended = self._jobs.end(job, completion, self._now())
        if landing is not Landing.CONNECTION_DIFFERS:
            return landing, ended
        self._standing.job_ended(ended, delivery.event.created_at)
        return self._jobs.end(job, completion, self._now(), alone=True)

    def _superfluous(self, delivery: Delivery) -> Verdict:
        """Archive a result whose job has ended without it: a terminal state never changes."""
        count("ResultSuperfluous")
        logger.warning("result_superfluous", extra=delivery.ids)
        return self._archive(delivery)

    def _await_job(self, delivery: Delivery) -> Job | None:
        """Wait briefly for a job whose 202 is under way; None for one that is not of ours."""
        for pause in AWAIT_JOB_SECONDS:
            self._sleep(pause)
            job = self._jobs.look_up(delivery.event.id, delivery.event.job_execution_id).job
            if job:
                tracing.follow(job.trace_id)
                return job
        logger.info("job_unclaimed", extra=delivery.ids)
        return None

    def _landed(self, delivery: Delivery, job: Job) -> Verdict:
        completion = job.completion
        announcement = job_ended(job)
        assert completion  # noqa: S101 - it has just ended
        assert announcement  # noqa: S101
        if job.state is JobState.COMPLETED:
            count("JobCompleted")
        else:
            job_failed(completion.error_code)
        count(f"DeliveredBy{delivery.via.capitalize()}")
        if job.expired_at:
            count("JobCompletedLate")
        if job.seconds_to_completion is not None:
            measure_seconds("TimeToCompletion", job.seconds_to_completion)
        logger.info(
            "job_ended",
            extra={
                **delivery.ids,
                "connection_id": job.connection_id,
                "request_id": job.request_id,
                "state": job.state,
                "error_code": completion.error_code,
                "appointment_count": completion.appointment_count,
                "seconds_to_completion": job.seconds_to_completion,
            },
        )
        self._announcer.announce(Announced("JOB", job.job_execution_id, job.state), announcement)
        if job.range_id:
            self._ranges.gather_soon(job.range_id)
        return Verdict.RECEIVED

    def _store(self, delivery: Delivery, place: str) -> ResultLocation | None:
        """Store the bytes and tell where; None where a rival took this very event in meanwhile.

        A taken place has a rival at it at this moment, or had an attempt that crashed: a rival is
        awaited briefly, to spare a second copy.
        """
        location = self._results.create(place, delivery.body)
        if location:
            return location
        for pause in AWAIT_RIVAL_SECONDS:
            self._sleep(pause)
            if self._jobs.look_up(delivery.event.id, None).event:
                return None
        return self._results.put_beside(place, delivery.body)

    # ------------------------------------------------------------------------------ any other event

    def _archive(self, delivery: Delivery) -> Verdict:
        """Keep an event that ends no job, and announce it."""
        event, received_at = delivery.event, delivery.received_at
        place = event_place(event.type, received_at.date(), event.id)
        location = self._store(delivery, place)
        if not location:
            return _repeated(delivery)
        record = EventRecord(
            body_sha256=delivery.body_sha256,
            received_at=received_at,
            event_type=event.type,
            delivered_via=delivery.via,
            job_execution_id=event.job_execution_id,
            connection_id=self._standing.heard(event, received_at),
            access_token_reference_id=event.access_token_reference_id,
            trace_id=tracing.current(),
            notification="open",
            result=location,
        )
        if self._jobs.record_event(event.id, record, self._now()) is not Landing.LANDED:
            return _repeated(delivery)
        count("CobaltEventReceived")
        logger.info("cobalt_event_archived", extra=delivery.ids)
        announcement = cobalt_event_received(event.id, record)
        assert announcement  # noqa: S101 - it has a place
        self._announcer.announce(Announced("EVENT", event.id), announcement)
        return Verdict.RECEIVED

    # ---------------------------------------------------------------------------------- repetitions

    def _repeat(self, delivery: Delivery, record: EventRecord, job: Job | None) -> Verdict:
        """Finish what an earlier delivery of the same event left, and change nothing else.

        Only bodies that were delivered are compared: one that was listed is put together anew.
        """
        was_delivered = delivery.via == record.delivered_via == "webhook"
        if was_delivered and record.body_sha256 != delivery.body_sha256:
            count("EventIdConflict")
            logger.warning("event_id_conflict", extra=delivery.ids)
            return Verdict.CONFLICTING
        if record.notification == "open":
            announcement = cobalt_event_received(delivery.event.id, record)
            if announcement:
                self._announcer.resume(Announced("EVENT", delivery.event.id), announcement)
        elif job and record.result is None and job.notification == "open":
            announcement = job_ended(job)
            if announcement:
                self._announcer.resume(
                    Announced("JOB", job.job_execution_id, job.state), announcement
                )
        return _repeated(delivery)


def _refuse_replay(delivery: Delivery, job: Job | None) -> None:
    """Refuse a webhook that was made too long ago, or not yet, unless its job waits for just this.

    Whoever got hold of a delivery can send it again, and its signature fits for as long as the key
    lives. While its row is kept it is a repeat and changes nothing; this is for the time after.
    """
    event = delivery.event
    if event.created_at is None:
        count("SignedTimeMissing")
        return
    age = delivery.received_at - event.created_at
    is_far_off = not -CLOCK_SKEW <= age <= LATEST_DELIVERY
    is_awaited = (
        job is not None
        and event.is_live_fetch_result
        and job.may_become(FetchResult.from_data(event.data).state)
    )
    if is_far_off and not is_awaited:
        count("DeliveryStale")
        logger.warning("delivery_stale", extra=delivery.ids)
        raise StaleDelivery


def _completion(delivery: Delivery, fetched: FetchResult, location: ResultLocation) -> Completion:
    """Tell how the delivery ends its job."""
    event = delivery.event
    assert event.job_execution_id is not None  # noqa: S101 - `is_live_fetch_result` says so
    if fetched.declared_count not in {None, fetched.appointment_count}:
        count("AppointmentCountMismatch")
        logger.warning("appointment_count_mismatch", extra=delivery.ids)
    return Completion(
        job_execution_id=event.job_execution_id,
        state=fetched.state,
        cobalt_event_id=event.id,
        body_sha256=delivery.body_sha256,
        access_token_reference_id=event.access_token_reference_id,
        window=fetched.window,
        appointment_count=fetched.appointment_count,
        declared_count=fetched.declared_count,
        error_code=fetched.error_code,
        result=location,
        delivered_via=delivery.via,
        completed_at=delivery.received_at,
    )


def _repeated(delivery: Delivery) -> Verdict:
    logger.info("delivery_repeated", extra=delivery.ids)
    return Verdict.REPEATED
