"""Take in a webhook of Cobalt: verify, keep the bytes, end the job, tell the bus.

Cobalt sends a webhook twice at most, and never again after a timeout, so the order is what keeps a
result: the bytes are in S3 before a row says so, and the row says that an announcement is open
before it is sent. Whatever step fails, the answer is a prompt 503, which earns Cobalt's one retry;
the retry finds what is done and does the rest.
"""

import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NoReturn

from cobalt_relay.errors import BadSignature, DeliveryTooLarge, MalformedDelivery, StorageFault
from cobalt_relay.events import RelayEvent, cobalt_event_received, job_ended
from cobalt_relay.models import (
    MAX_ID_LENGTH,
    Announced,
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
from cobalt_relay.observability import count, logger
from cobalt_relay.places import appointments_place, event_place
from cobalt_relay.services.ports import DeliveryStore, EventBus, ResultStore, WebhookKeys

MAX_DELIVERY_BYTES = 6 * 1024 * 1024
"""What a synchronous Lambda invocation takes (Lambda quotas): no larger one gets here on AWS."""
AWAIT_JOB_SECONDS = (0.05, 0.1, 0.2, 0.25)
"""Pauses before looking again for a job whose 202 the webhook overtook.

Seconds; 0.6 in all, well within the one that an answer may take.
"""
AWAIT_RIVAL_SECONDS = (0.05, 0.1, 0.15, 0.2)
"""Pauses before looking again for an event whose place is taken: a rival is through by then."""

_SIGNATURE = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Verdict(StrEnum):
    """What became of a genuine delivery."""

    RECEIVED = "received"
    REPEATED = "repeated"
    CONFLICTING = "conflicting"


class ReceiveWebhook:
    """The use case. One object serves all invocations of a function."""

    def __init__(
        self,
        jobs: DeliveryStore,
        results: ResultStore,
        bus: EventBus,
        secrets: WebhookKeys,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._jobs = jobs
        self._results = results
        self._bus = bus
        self._secrets = secrets
        self._now = now
        self._sleep = sleep

    def receive(self, body: bytes, signature: str) -> Verdict:
        """Take in one delivery; `body` as it was on the wire, `signature` as the header had it.

        Raises `BadSignature`, `MalformedDelivery`, `DeliveryTooLarge` (nothing is stored),
        `NotConfigured` leaves, and `StorageFault` (a retry does the rest).
        """
        if len(body) > MAX_DELIVERY_BYTES:
            raise DeliveryTooLarge
        self._verify(body, signature)
        event = _parse(body)
        delivery = _Delivery(event, body, hashlib.sha256(body).hexdigest(), self._now())
        known = self._jobs.look_up(event.id, event.job_execution_id)
        if known.event:
            return self._repeat(delivery, known.event, known.job)
        if event.is_live_fetch_result:
            return self._land(delivery, known.job)
        return self._archive(delivery)

    def _verify(self, body: bytes, signature: str) -> None:
        """Hold the signature against every live key.

        A misfit reads the keys again (rate-limited) first.
        """
        if not _SIGNATURE.fullmatch(signature):
            _refuse("malformed")
        if not _fits(body, signature, self._secrets.webhook_keys()) and not _fits(
            body, signature, self._secrets.webhook_keys(refresh=True)
        ):
            _refuse("wrong")

    # ----------------------------------------------------------------------------- a fetch's result

    def _land(self, delivery: "_Delivery", job: Job | None) -> Verdict:
        """Store a live fetch's result, end its job, announce it.

        A job that changes between our look and our write (the 202 arrives, or a rival delivery) is
        looked at once more.
        """
        job = job or self._await_job(delivery)
        if job and not job.is_open:
            return self._superfluous(delivery)
        place = appointments_place(
            job.connection_id if job else None,
            delivery.received_at.date(),
            delivery.event.job_execution_id or "",
        )
        location = self._store(delivery, place)
        if not location:
            return _repeated(delivery)
        completion = _completion(delivery, location)
        for _ in range(2):
            write = self._jobs.end if job else self._jobs.create_ended
            match write(completion, self._now()):
                case Landing.LANDED:
                    return self._landed(delivery, job, completion)
                case Landing.EVENT_KNOWN:
                    return _repeated(delivery)
                case Landing.JOB_CHANGED:
                    job = self._jobs.look_up(delivery.event.id, completion.job_execution_id).job
        return self._superfluous(delivery)

    def _superfluous(self, delivery: "_Delivery") -> Verdict:
        """Archive a result whose job another event has ended: a terminal state never changes."""
        count("ResultSuperfluous")
        logger.warning("result_superfluous", extra=delivery.ids)
        return self._archive(delivery)

    def _await_job(self, delivery: "_Delivery") -> Job | None:
        """Wait briefly for a job whose 202 is under way; None for one that is not of ours."""
        for pause in AWAIT_JOB_SECONDS:
            self._sleep(pause)
            job = self._jobs.look_up(delivery.event.id, delivery.event.job_execution_id).job
            if job:
                return job
        logger.info("job_unclaimed", extra=delivery.ids)
        return None

    def _landed(self, delivery: "_Delivery", job: Job | None, completion: Completion) -> Verdict:
        job = job or Job(job_execution_id=completion.job_execution_id, state=completion.state)
        count("JobCompleted" if completion.state is JobState.COMPLETED else "JobFailed")
        logger.info(
            "job_ended",
            extra={
                **delivery.ids,
                "connection_id": job.connection_id,
                "request_id": job.request_id,
                "state": completion.state,
                "error_code": completion.error_code,
                "appointment_count": completion.appointment_count,
            },
        )
        self._announce(Announced("JOB", job.job_execution_id), job_ended(job, completion))
        return Verdict.RECEIVED

    def _store(self, delivery: "_Delivery", place: str) -> ResultLocation | None:
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

    def _archive(self, delivery: "_Delivery") -> Verdict:
        """Keep an event that ends no job, and announce it."""
        event, received_at = delivery.event, delivery.received_at
        place = event_place(event.type, received_at.date(), event.id)
        location = self._store(delivery, place)
        if not location:
            return _repeated(delivery)
        record = EventRecord(
            body_sha256=delivery.body_sha256,
            received_at=received_at,
            notification="open",
            result=location,
        )
        if self._jobs.record_event(event.id, record, self._now()) is not Landing.LANDED:
            return _repeated(delivery)
        count("CobaltEventReceived")
        logger.info("cobalt_event_archived", extra=delivery.ids)
        announcement = cobalt_event_received(event, location, received_at)
        self._announce(Announced("EVENT", event.id), announcement)
        return Verdict.RECEIVED

    # -------------------------------------------------------------------- repeats and announcements

    def _repeat(self, delivery: "_Delivery", record: EventRecord, job: Job | None) -> Verdict:
        """Finish what an earlier delivery of the same event left, and change nothing else."""
        if record.body_sha256 != delivery.body_sha256:
            count("EventIdConflict")
            logger.warning("event_id_conflict", extra=delivery.ids)
            return Verdict.CONFLICTING
        ended = job.completion if job and record.job_execution_id else None
        if job and ended and not job.notified_at:
            self._resume(Announced("JOB", job.job_execution_id), job_ended(job, ended))
        elif record.notification == "open" and record.result:
            event = cobalt_event_received(delivery.event, record.result, record.received_at)
            self._resume(Announced("EVENT", delivery.event.id), event)
        return _repeated(delivery)

    def _resume(self, announced: Announced, event: RelayEvent) -> None:
        """Announce what is open and what no rival is announcing at this moment."""
        if self._jobs.take_announcement(announced, self._now()):
            self._announce(announced, event)

    def _announce(self, announced: Announced, event: RelayEvent) -> None:
        try:
            self._bus.publish(event)
        except StorageFault:
            with suppress(StorageFault):
                self._jobs.release_announcement(announced)
            raise
        self._jobs.close_announcement(announced, self._now())


@dataclass(frozen=True, slots=True)
class _Delivery:
    """A genuine webhook: what it says, and how it was received."""

    event: CobaltEvent
    body: bytes = field(repr=False)
    body_sha256: str
    received_at: datetime

    @property
    def ids(self) -> dict[str, str | None]:
        return {
            "cobalt_event_id": self.event.id,
            "cobalt_event_type": self.event.type,
            "job_execution_id": self.event.job_execution_id,
        }


def _completion(delivery: _Delivery, location: ResultLocation) -> Completion:
    """Tell how the delivery ends its job."""
    event = delivery.event
    assert event.job_execution_id is not None  # noqa: S101 - `is_live_fetch_result` says so
    fetched = FetchResult.from_data(event.data)
    if fetched.declared_count not in {None, fetched.appointment_count}:
        count("AppointmentCountMismatch")
        logger.warning("appointment_count_mismatch", extra=delivery.ids)
    return Completion(
        job_execution_id=event.job_execution_id,
        state=JobState.COMPLETED if fetched.succeeded else JobState.FAILED,
        cobalt_event_id=event.id,
        body_sha256=delivery.body_sha256,
        access_token_reference_id=event.access_token_reference_id,
        window=fetched.window,
        appointment_count=fetched.appointment_count,
        declared_count=fetched.declared_count,
        error_code=fetched.error_code,
        result=location,
        delivered_via="webhook",
        completed_at=delivery.received_at,
    )


def _parse(body: bytes) -> CobaltEvent:
    """Read the body as JavaScript would: a repeated key's last value counts, NaN is no JSON."""
    try:
        return CobaltEvent.read(
            json.loads(body.decode(), parse_constant=_no_constant, parse_int=_whole_number)
        )
    except (ValueError, RecursionError):
        count("DeliveryMalformed")
        logger.warning("delivery_malformed")
        raise MalformedDelivery from None


def _whole_number(digits: str) -> int | float:
    """Read an integer; one longer than any id as JavaScript would, for Python refuses it."""
    return int(digits) if len(digits) <= MAX_ID_LENGTH else float(digits)


def _no_constant(_name: str) -> NoReturn:
    raise ValueError


def _fits(body: bytes, signature: str, keys: tuple[bytes, ...]) -> bool:
    """Try every key, without an early end that would tell which one fitted."""
    fits = [hmac.compare_digest(hmac.digest(key, body, "sha256").hex(), signature) for key in keys]
    return any(fits)


def _refuse(reason: str) -> NoReturn:
    count("BadSignature")
    logger.warning("delivery_refused", extra={"reason": reason})
    raise BadSignature


def _repeated(delivery: _Delivery) -> Verdict:
    count("DeliveryRepeated")
    logger.info("delivery_repeated", extra=delivery.ids)
    return Verdict.REPEATED
