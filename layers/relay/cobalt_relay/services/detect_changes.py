"""Tell what a fetch changed: bring the days that it saw up to date, and announce the difference.

The order is what keeps a change: a day is written together with what made it so, and its former
version stays. Should the run end before its event is sent, the next one finds in the versions what
the day was before, and tells the very same.
"""

import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from cobalt_relay import tracing
from cobalt_relay.appointments import Clinic, Fetched
from cobalt_relay.clinic_time import zone_named
from cobalt_relay.errors import MalformedNotice, ResultsFault, UnreadableResult
from cobalt_relay.events import AppointmentsChanged, ChangedAppointment, RelayEvent
from cobalt_relay.models import Completion, Job, JobState, ResultLocation, Window, iso, utc_now
from cobalt_relay.observability import count, logger
from cobalt_relay.places import changes_place
from cobalt_relay.snapshots import (
    KINDS,
    Change,
    Kind,
    Known,
    SeenAppointment,
    Sight,
    Snapshot,
    StoredSnapshot,
    Turn,
    Version,
    changes_of,
)

if TYPE_CHECKING:
    from cobalt_relay.services.ports import (
        ConnectionReader,
        EventBus,
        ResultReader,
        RowReader,
        SnapshotStore,
    )

WRITE_TRIES = 10
"""Of a day that other fetches keep writing; each of them lets one through."""
CLOCK_SKEW = timedelta(seconds=10)
"""How far the clocks of two runs of ours may be apart."""
DAYS_AT_ONCE = 8
"""That are brought up to date side by side: a week waits for S3 as long as a day does."""
PART_BYTES = 200_000
"""Of the ids in one event: EventBridge takes entries of 256 KB, all counted (docs: PutEvents)."""


type Each = Callable[
    [Callable[[Sight], tuple[Turn, int]], Iterable[Sight]], Iterable[tuple[Turn, int]]
]


def side_by_side(
    work: Callable[[Sight], tuple[Turn, int]], sights: Iterable[Sight]
) -> list[tuple[Turn, int]]:
    """Do the work of all days, several at once; where one fails, the others are through before."""
    with ThreadPoolExecutor(DAYS_AT_ONCE) as pool:
        return list(pool.map(work, sights))


class Notice(BaseModel):
    """The event `Appointments Fetched`, as far as it is needed: everything else is in the rows."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", hide_input_in_errors=True, defer_build=True
    )

    job_execution_id: str

    @classmethod
    def parse(cls, event: Mapping[str, Any]) -> Self:
        """Read an event of EventBridge; `MalformedNotice` where it is another."""
        try:
            return cls.model_validate(event.get("detail"))
        except ValidationError:
            raise MalformedNotice from None


class DetectChanges:
    """The use case. One object serves all invocations of a function."""

    def __init__(
        self,
        jobs: "RowReader",
        clinics: "Clinics",
        results: "ResultReader",
        snapshots: "SnapshotStore",
        bus: "EventBus",
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
        each: Each = side_by_side,
    ) -> None:
        self._each = each
        self._jobs = jobs
        self._clinics = clinics
        self._results = results
        self._snapshots = snapshots
        self._bus = bus
        self._now = now
        self._sleep = sleep

    def run(self, notice: Notice) -> None:
        """Take in what a job fetched, and tell what that changed; doing it again changes nothing.

        A job that nobody has claimed is left alone: its event comes again when somebody has. Raises
        `UnreadableResult` and `StorageFault`; the run is to be repeated then.
        """
        _, found = self._jobs.rows(job_ids=[notice.job_execution_id])
        job = found.get(notice.job_execution_id)
        tracing.follow(job.trace_id if job else None)
        completion, connection_id = (job.completion, job.connection_id) if job else (None, None)
        ids = {"job_execution_id": notice.job_execution_id, "connection_id": connection_id}
        if not job or not completion or not connection_id or job.state is not JobState.COMPLETED:
            count("ChangesOfNoJob")
            logger.info("changes_not_looked_for", extra=ids)
            return
        body = self._results.read(completion.result)
        if body is None:
            count("ResultGone")
            logger.warning("result_gone", extra=ids)
            return
        try:
            fetched = Fetched.read(body)
        except (ValueError, RecursionError):
            raise UnreadableResult from None
        del body
        fetch = _Fetch(job, completion, connection_id, _seen_at(job, completion, fetched))
        sights = self._sights(fetch, fetched)
        del fetched
        turns = self._take_in(fetch, sights)
        changes = changes_of(turns)
        baseline = tuple(sorted(turn.day for turn in turns if turn.is_baseline))
        _tell(ids, changes, baseline, len(turns))
        if changes or baseline:
            location = self._keep(fetch, changes, baseline)
            for event in _events(fetch, changes, baseline, location):
                self._bus.publish(event)

    # ------------------------------------------------------------------------------- what was seen

    def _sights(self, fetch: "_Fetch", fetched: Fetched) -> list[Sight]:
        """Sort what was fetched by the clinic's days; an id that comes twice is as it came last.

        What has no readable day counts to the first one that was asked for. A day that was asked
        for is there in any case: an appointment may have left it.
        """
        clinic = self._clinics.of(fetch.connection_id)
        window = fetch.window
        by_id: dict[str, tuple[date, SeenAppointment]] = {}
        as_of, fetched_by = fetch.version
        for item in fetched.items:
            seen = SeenAppointment.read(item, clinic, as_of=as_of, fetched_by=fetched_by)
            if seen.day:
                by_id[seen.id] = (seen.day, seen)
                continue
            count("AppointmentUndated")
            if window:
                by_id[seen.id] = (window.start_date, seen)
        days: dict[date, dict[str, SeenAppointment]] = defaultdict(dict)
        for name, (day, seen) in by_id.items():
            days[day][name] = seen
        asked, proven = fetch.job.window, fetch.proven_window
        whole = set(proven.days) if proven and fetched.is_complete else set()
        return [
            Sight(day, fetch.version, day in whole, days.get(day, {}))
            for day in sorted(days.keys() | set(asked.days if asked else ()))
        ]

    # --------------------------------------------------------------------------- what becomes of it

    def _take_in(self, fetch: "_Fetch", sights: list[Sight]) -> list[Turn]:
        """Bring each day up to date."""
        if not sights:
            return []
        span = Window(start_date=sights[0].day, end_date=sights[-1].day)
        stored = {each.day for each in self._snapshots.stored(fetch.connection_id, span)}

        def turn(sight: Sight) -> tuple[Turn, int]:
            return self._turn(fetch, sight, is_new=sight.day not in stored)

        turns = list(self._each(turn, sights))
        count("DaysSeen", len(turns))
        count("SnapshotConflict", sum(conflicts for _, conflicts in turns))
        return [turn for turn, _ in turns]

    def _turn(self, fetch: "_Fetch", sight: Sight, *, is_new: bool) -> tuple[Turn, int]:
        """Bring a day up to date, on condition that it is still what was read.

        Tells how often it was not.
        """
        for conflicts in range(WRITE_TRIES):
            stored = None if is_new else self._snapshots.read(fetch.connection_id, sight.day)
            former = stored.snapshot if stored else None
            done = self._done_before(fetch, former) if former else None
            if done:
                return done, conflicts
            before = Known.of(former)
            after = before.with_sight(sight)
            if after == before or self._snapshots.write(
                self._snapshot(fetch, sight.day, after, stored), stored
            ):
                return Turn(sight.day, before, after), conflicts
            is_new = False
            self._sleep(random.uniform(0.02, 0.2))  # noqa: S311 - only to part rivals
        raise ResultsFault

    def _done_before(self, fetch: "_Fetch", newest: Snapshot) -> Turn | None:
        """Find in a day's versions what this very job made of it, in a run that did not end.

        The search ends with the first version that is older than the job's result. Where the
        version before the job's own is not kept any more, what it changed is not known either.
        """
        version: Snapshot | None = newest
        while version and version.written_at >= fetch.completed_at - CLOCK_SKEW:
            former = self._former(version)
            if version.written_by == fetch.job.job_execution_id:
                after = Known.of(version)
                is_lost = former is None and version.previous_version is not None
                return Turn(version.day, after if is_lost else Known.of(former), after)
            version = former
        return None

    def _former(self, snapshot: Snapshot) -> Snapshot | None:
        """Read the version that a snapshot took the place of."""
        version_id = snapshot.previous_version
        if version_id is None:
            return None
        owner = snapshot.copied_from or snapshot.connection_id
        former = self._snapshots.read(owner, snapshot.day, version_id)
        return former.snapshot if former else None

    def _snapshot(
        self, fetch: "_Fetch", day: date, after: Known, replaced: StoredSnapshot | None
    ) -> Snapshot:
        as_of, fetched_by = after.version or (None, None)
        appointments = after.in_order()
        return Snapshot(
            format="1",
            connection_id=fetch.connection_id,
            day=day,
            as_of=as_of,
            fetched_by=fetched_by,
            written_at=self._now(),
            written_by=fetch.job.job_execution_id,
            previous_version=replaced.version_id if replaced else None,
            appointment_count=len(appointments),
            appointments=appointments,
        )

    def _keep(
        self, fetch: "_Fetch", changes: list[Change], baseline: tuple[date, ...]
    ) -> ResultLocation:
        """Keep the changes with what was before and after; the same ones at the same place."""
        document = {
            "format": "1",
            "job_execution_id": fetch.job.job_execution_id,
            "connection_id": fetch.connection_id,
            "window": fetch.window.model_dump(mode="json") if fetch.window else None,
            "as_of": iso(fetch.as_of),
            "baseline_days": [day.isoformat() for day in baseline],
            "changes": [each.model_dump(mode="json", exclude_unset=True) for each in changes],
        }
        place = changes_place(
            fetch.connection_id, fetch.completed_at.date(), fetch.job.job_execution_id
        )
        location = self._results.put_beside(place, json.dumps(document).encode())
        return location.model_copy(update={"version_id": None})


class Clinics:
    """Tells what is known of the clinic of a connection; the `default` zone is for all of them."""

    def __init__(self, connections: "ConnectionReader", default: tzinfo) -> None:
        self._connections = connections
        self._default = default

    def of(self, connection_id: str) -> Clinic:
        """Give what has to be known to read its appointments."""
        connection = self._connections.get(connection_id)
        zone = zone_named(connection.time_zone) if connection and connection.time_zone else None
        statuses = connection.visit_statuses if connection else None
        return Clinic(zone, self._default, statuses or {})


class _Fetch(NamedTuple):
    """A job that has a result; `as_of` is when it saw the clinic, in whole milliseconds."""

    job: Job
    completion: Completion
    connection_id: str
    as_of: datetime

    @property
    def version(self) -> Version:
        return self.as_of, self.job.job_execution_id

    @property
    def completed_at(self) -> datetime:
        return self.completion.completed_at

    @property
    def window(self) -> Window | None:
        """The days that were asked for."""
        return self.job.window or self.completion.window

    @property
    def proven_window(self) -> Window | None:
        """The days of which everything was asked for, and told as far as Cobalt says so."""
        asked, told = self.job.window, self.completion.window
        if self.job.search_by != "date_range" or asked is None:
            return None
        if told is None:
            return asked
        return Window(
            start_date=max(asked.start_date, told.start_date),
            end_date=min(asked.end_date, told.end_date),
        )


def _seen_at(job: Job, completion: Completion, fetched: Fetched) -> datetime:
    """Tell when a fetch saw the clinic: when Cobalt made its result, as far as that can be.

    Its robot was at work after the acceptance and before the result was here, whatever a clock
    says. A result that says nothing is as old as it may be, unless Cobalt brought it by itself.
    """
    latest = completion.completed_at
    earliest = job.accepted_at or latest
    told = fetched.created_at or (latest if completion.delivered_via == "webhook" else earliest)
    seen = min(max(told, earliest), latest)
    return seen.replace(microsecond=seen.microsecond // 1000 * 1000)


def _tell(
    ids: dict[str, str | None], changes: list[Change], baseline: tuple[date, ...], days: int
) -> None:
    for kind in KINDS:
        number = sum(each.kind == kind for each in changes)
        if number:
            count(f"Appointments{kind.capitalize()}", number)
    seen = {"day_count": days, "baseline_day_count": len(baseline)}
    logger.info("changes_detected", extra={**ids, **_counts(changes), **seen})


def _counts(changes: list[Change]) -> dict[str, Any]:
    return {f"{kind}_count": sum(each.kind == kind for each in changes) for kind in KINDS}


def _events(
    fetch: _Fetch, changes: list[Change], baseline: tuple[date, ...], details: ResultLocation
) -> list[RelayEvent]:
    """Announce the changes, in as many parts as the bus makes it take; always the same ones."""
    parts = list(_parts(changes)) or [[]]
    return [
        AppointmentsChanged(
            job_execution_id=fetch.job.job_execution_id,
            connection_id=fetch.connection_id,
            access_token_reference_id=fetch.completion.access_token_reference_id,
            window=fetch.window,
            trace_id=fetch.job.trace_id,
            as_of=fetch.as_of,
            part=number,
            parts=len(parts),
            baseline_days=baseline,
            created=_ids(part, "created"),
            changed=tuple(
                ChangedAppointment(id=each.id, fields=each.fields)
                for each in part
                if each.kind == "changed"
            ),
            cancelled=_ids(part, "cancelled"),
            disappeared=_ids(part, "disappeared"),
            **_counts(changes),
            details=details,
        )
        for number, part in enumerate(parts, 1)
    ]


def _parts(changes: Iterable[Change]) -> Iterator[list[Change]]:
    part: list[Change] = []
    size = 0
    for each in changes:
        length = len(json.dumps([each.id, *each.fields])) + len(b'{"id":,"fields":},')
        if part and size + length > PART_BYTES:
            yield part
            part, size = [], 0
        part.append(each)
        size += length
    if part:
        yield part


def _ids(changes: list[Change], kind: Kind) -> tuple[str, ...]:
    return tuple(each.id for each in changes if each.kind == kind)
