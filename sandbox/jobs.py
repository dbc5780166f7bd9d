"""Jobs: the robot that reads a clinic's diary and reports what it found (docs: Live fetch)."""

import asyncio
import logging
import secrets
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum

from sandbox.appointments import Item, oldest, render, with_author
from sandbox.cache import Cache
from sandbox.clinics import Clinic
from sandbox.clock import Clock, iso_millis
from sandbox.deliveries import Courier
from sandbox.diary import Entry, local_minute, of_patient, window
from sandbox.dice import dice
from sandbox.events import LIVE_FETCH_COMPLETED, EventLog, Head, compose
from sandbox.faults import Fault, FaultBook
from sandbox.fetching import FetchRequest
from sandbox.people import patient, patient_index, providers
from sandbox.ring import KeyedRing
from sandbox.settings import Edition, Settings
from sandbox.signing import stringify
from sandbox.webhooks import WebhookBook

logger = logging.getLogger(__name__)

MOST_JOBS = 20_000
LATE_SECONDS = 30.0
OVERSIZED_MEGABYTES = 5.0
PADDING = (
    "Patient reports feeling better since the last visit. Denies fever, chills or shortness of"
    " breath. Vital signs within normal limits. Discussed diet and exercise. "
)


class JobState(StrEnum):
    """Where a job stands, as only the sandbox knows it: Cobalt has no job status."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SILENT = "silent"


@dataclass(slots=True)
class Job:
    """One accepted live fetch."""

    id: str
    clinic: str
    request: FetchRequest
    accepted_at: datetime
    robot_seconds: float
    faults: list[str]
    state: JobState = JobState.RUNNING
    event_id: str | None = None
    appointment_count: int | None = None
    finished_at: datetime | None = None

    def public(self) -> dict[str, object]:
        """Show the job on the control interface."""
        window_of_job = self.request.window()
        return {
            "id": self.id,
            "clinic": self.clinic,
            "search_by": self.request.search_by,
            "start_date": window_of_job.get("start_date"),
            "end_date": window_of_job.get("end_date"),
            "mrn": self.request.mrn,
            "provider_ids": list(self.request.provider_ids),
            "state": self.state.value,
            "accepted_at": iso_millis(self.accepted_at),
            "finished_at": iso_millis(self.finished_at) if self.finished_at else None,
            "robot_seconds": round(self.robot_seconds, 3),
            "event_id": self.event_id,
            "faults": self.faults,
            "appointment_count": self.appointment_count,
        }


@dataclass(frozen=True, slots=True)
class Acceptance:
    """An accepted job, and the faults that bend the 202."""

    job: Job
    faults: Mapping[str, Fault]


class Robot:
    """Works the jobs off, each in a task of its own, and delivers other events."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        faults: FaultBook,
        events: EventLog,
        courier: Courier,
        webhooks: WebhookBook,
        cache: Cache,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._faults = faults
        self._events = events
        self._courier = courier
        self._webhooks = webhooks
        self._cache = cache
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = 0
        self.jobs: KeyedRing[Job] = KeyedRing(MOST_JOBS)

    @property
    def pending(self) -> int:
        """Jobs and deliveries under way."""
        return len(self._tasks)

    async def accept(
        self, clinic: Clinic, request: FetchRequest, *, numeric_id: bool = False
    ) -> Acceptance:
        """Take a job on; it runs on its own unless the fault ``early`` wants it done first."""
        faults = self._faults.for_job(clinic.name)
        self._started += 1
        shortest, longest = self._settings.fetch_seconds
        seconds = dice(self._settings.seed, "robot", self._started).uniform(shortest, longest)
        job = Job(
            _new_job_id(numeric=numeric_id or "numeric_ids" in faults),
            clinic.name,
            request,
            datetime.now(UTC),
            0.0 if "early" in faults else seconds,
            list(faults),
        )
        self.jobs.put(job.id, job)
        if "early" in faults:
            await self._work(job, clinic, faults)
        else:
            self._spawn(self._work(job, clinic, faults))
        return Acceptance(job, faults)

    def announce(self, head: Head, data: object, faults: Mapping[str, Fault]) -> str:
        """Record an event that no job made, deliver it, and give its id."""
        event = compose(head, data)

        async def work() -> None:
            await _wait_if_late(faults)
            self._events.record(event, self._urls())
            await self._courier.deliver(event, faults)

        self._spawn(work())
        return event.key

    def redeliver(self, event_id: str) -> bool:
        """Deliver a recorded event once more, to the URLs it was recorded for, without faults.

        Where none was registered at the time, the URLs of now get it. Tells whether it was found.
        """
        event = self._events.get(event_id)
        if event is None:
            return False
        if event.receipts[0].url is None and self._webhooks.registrations:
            event.receipts.clear()
            self._events.record(event, self._urls())
        self._spawn(self._courier.deliver(event, {}))
        return True

    def cancel(self) -> None:
        """Stop every job and delivery where it stands."""
        for task in self._tasks:
            task.cancel()

    def reset(self) -> None:
        """Stop everything and forget every job."""
        self.cancel()
        self.jobs.clear()
        self._started = 0

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("task_failed", exc_info=task.exception())

    def _urls(self) -> list[str]:
        return [registration.url for registration in self._webhooks.registrations]

    async def _work(self, job: Job, clinic: Clinic, drawn: Mapping[str, Fault]) -> None:
        await asyncio.sleep(job.robot_seconds)
        faults = {**drawn, **self._faults.for_running_job(job.id)}
        job.faults = list(faults)
        if "early" not in faults:
            await _wait_if_late(faults)
        job.finished_at = datetime.now(UTC)
        if "silent" in faults:
            job.state = JobState.SILENT
            logger.info("job_silent", extra={"job_id": job.id, "clinic": clinic.name})
            return
        is_oldest = speaks_oldest(self._settings.edition, faults)
        data = self._data(job, clinic, faults, is_oldest=is_oldest)
        numeric = "numeric_ids" in faults
        head = Head(
            id=new_event_id(numeric=numeric),
            type=LIVE_FETCH_COMPLETED,
            clinic=clinic.name,
            reference=clinic.access_token_reference_id,
            job_id=int(job.id) if numeric and job.id.isdigit() else job.id,
            created_at=datetime.now(UTC),
            oldest_edition=is_oldest,
        )
        if "oversized" in faults:
            megabytes = faults["oversized"].spec.megabytes or OVERSIZED_MEGABYTES
            _pad(data, int(megabytes * 1_000_000) - len(stringify(head.fields())))
        event = compose(head, data)
        job.event_id = event.key
        job.state = JobState.FAILED if "failed" in faults else JobState.COMPLETED
        self._events.record(event, self._urls())
        logger.info(
            "job_reported",
            extra={
                "job_id": job.id,
                "clinic": clinic.name,
                "event_id": event.key,
                "state": job.state.value,
                "appointments": job.appointment_count,
                "faults": ",".join(job.faults) or None,
            },
        )
        await self._courier.deliver(event, faults)

    def _data(
        self, job: Job, clinic: Clinic, faults: Mapping[str, Fault], *, is_oldest: bool
    ) -> dict[str, object]:
        if "failed" in faults:
            return self._failure(job, clinic)
        entries = [] if "empty" in faults else self._read(job.request, clinic)
        items = render(self._settings.seed, clinic, entries)
        if job.request.search_by == "mrn":
            items = [with_author(item) for item in items]
        if "numeric_ids" in faults:
            items = [_with_numeric_ids(item) for item in items]
        if is_oldest:
            items = [oldest(item) for item in items]
        job.appointment_count = len(items)
        if "count_mismatch" in faults:
            job.appointment_count = max(1, len(items))
            items = items[: -max(1, len(items) // 10)]
        return {
            "success": True,
            "appointment_count": job.appointment_count,
            **job.request.window(),
            "appointments": items,
        }

    def _read(self, request: FetchRequest, clinic: Clinic) -> list[Entry]:
        """Read the diary as it stands now, and refresh the cache with it."""
        seed, profile = self._settings.seed, clinic.profile
        moment = self._clock.now()
        now = local_minute(profile, moment)
        if request.mrn is not None:
            is_worded = request.mrn == clinic.wording.get("patient_mrn")
            index = 0 if is_worded else patient_index(request.mrn)
            today = moment.astimezone(profile.zone).date()
            found = [] if index is None else of_patient(seed, profile, index, today, now)
            self._cache.refresh_days_of(clinic, found, now)
            return found
        start, end = request.start or date.min, request.end or date.min
        known = [provider.ehr_id for provider in providers(seed, profile)]
        wanted = request.provider_ids or known
        who = [index for index, ehr_id in enumerate(known) if ehr_id in wanted]
        self._cache.refresh(clinic, start, end, now, who)
        return window(seed, profile, start, end, now, who)

    def _failure(self, job: Job, clinic: Clinic) -> dict[str, object]:
        """Report a failure; the descriptions quote a patient, as Cobalt's may (docs: Webhooks)."""
        person, worded = patient(self._settings.seed, clinic.profile, 0), clinic.wording.get
        name, dob, mrn = (
            worded("patient_name", person.name),
            worded("patient_dob", person.dob),
            worded("patient_mrn", person.mrn),
        )
        return {
            "success": False,
            **job.request.window(),
            "failure_reason": "The EMR did not show the appointments.",
            "reasons": [
                {
                    "code": "EMR_RECORD_LOCKED",
                    "description": f"Chart of {name} (DOB {dob}, MRN {mrn})"
                    " is locked by another user.",
                }
            ],
        }


def speaks_oldest(edition: Edition, faults: Mapping[str, Fault]) -> bool:
    """Whether a payload follows the oldest edition; a fault overrides the run's edition."""
    if "oldest_edition" in faults or "newest_edition" in faults:
        return "oldest_edition" in faults
    return edition is Edition.OLDEST


def job_key(edition: Edition, faults: Mapping[str, Fault]) -> str:
    """Name the key under which a 202 carries the job (docs: Live fetch)."""
    if "oldest_edition" in faults or "newest_edition" in faults:
        return "job_execution_id" if "oldest_edition" in faults else "job_id"
    return "job_id" if edition is Edition.NEWEST else "job_execution_id"


def new_event_id(*, numeric: bool) -> str | int:
    """Give an id that no other run of the sandbox gives."""
    return _new_number() if numeric else f"evt_{secrets.token_hex(12)}"


def _new_job_id(*, numeric: bool) -> str:
    return str(_new_number()) if numeric else f"job_{secrets.token_hex(12)}"


def _new_number() -> int:
    return 10**12 + secrets.randbelow(8 * 10**12)


def _with_numeric_ids(item: Item) -> Item:
    numeric = ("ehr_appointment_id", "patient_ehr_id", "provider_ehr_id")
    return {
        **item,
        "id": int(str(item["id"]).removeprefix("appt_")[:12], 16),
        **{key: int(str(item[key])) for key in numeric},
    }


async def _wait_if_late(faults: Mapping[str, Fault]) -> None:
    if "late" in faults:
        await asyncio.sleep(faults["late"].seconds(LATE_SECONDS))


def _pad(data: dict[str, object], target: int) -> None:
    """Lengthen the notes until the data is about ``target`` bytes as JSON."""
    items = data.get("appointments")
    missing = target - len(stringify(data))
    if missing <= 0:
        return
    if not isinstance(items, list) or not items:
        data["notes"] = _prose(missing)
        return
    share = missing // len(items) + 1
    for item in items:
        item["note"] = f"{item['note']} {_prose(share)}"


def _prose(length: int) -> str:
    return (PADDING * (length // len(PADDING) + 1))[:length]
