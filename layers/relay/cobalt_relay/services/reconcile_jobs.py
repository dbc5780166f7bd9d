"""Look after everything that is open, every minute, so that each fetch reaches its end.

* An announcement that is not known to be sent is sent again.
* A request of which nobody knows whether Cobalt took it is looked for among the results of the day,
  by its connection's label, its window and its time (a sweep).
* A job that has not reported is asked after (a poll): after 1 minute, then after 2, 4, 8 ... more.
* What is not found by its deadline expires. An expired job is still asked after a few times.
* The open jobs of a connection that was suspended are asked after once more, and end with that.
* A new connection's settings are asked for; a range is queued whole, gathered, or ends.

What is found goes the way of a webhook. Each row is put off before it is looked at, and only by one
run: so runs may overlap, a run that is cut off is resumed by the next, and a row that always fails
stands in nobody's way.
"""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

from cobalt_relay import tracing
from cobalt_relay.errors import (
    AccessForbidden,
    AccessTokenRefused,
    OutOfTime,
    RateLimited,
    RelayError,
    UnknownConnection,
    UpstreamFault,
    UpstreamUnavailable,
)
from cobalt_relay.events import (
    RelayEvent,
    cobalt_event_received,
    connection_changed,
    job_ended,
    request_ended,
)
from cobalt_relay.models import (
    JOB_MOVES,
    LIVE_FETCH_EMR,
    LOGIN_REQUIRED,
    Announced,
    Channel,
    ClientCredentials,
    ClinicSettings,
    Connection,
    ConnectionChange,
    ConnectionState,
    Due,
    EventRecord,
    FetchRange,
    FetchResult,
    Job,
    JobState,
    ListedEvent,
    RequestRecord,
    RequestState,
    iso,
    utc_now,
)
from cobalt_relay.observability import count, failure, job_failed, logger
from cobalt_relay.services.anew import anew_where_refused
from cobalt_relay.services.announce import Announcer
from cobalt_relay.services.look_after_ranges import LookAfterRanges
from cobalt_relay.services.take_in import Delivery, TakeIn

if TYPE_CHECKING:
    from cobalt_relay.services.ports import (
        AskCobalt,
        CredentialStore,
        DueStore,
        KnownConnections,
        Measures,
    )

MOST_ROWS = 2_000
"""Looks of one run, at most."""
MOST_PER_CONNECTION = 20
"""Polls of one run for one connection; the others are not to wait behind its backlog."""
RESERVE_SECONDS = 75.0
"""What must be left of the run for one more look: a page takes up to 60 s, storing it 10 or so."""
POLLS_SECONDS = 60.0
"""What a sweep leaves to the polls that come after it."""
MOST_FAULTS = 3
"""Upstream faults in a row after which a run asks no more."""

LONGEST_PAUSE = timedelta(minutes=32)
RANGE_PAUSE = timedelta(minutes=5)
SETTINGS_LIFE = timedelta(days=7)
INCOMPLETE_LIFE = timedelta(days=1)
"""When a connection's settings are asked for again: sooner, where they lack label or time zone."""
OLDEST_OPEN = timedelta(days=2)
"""How old an open job can be: its deadline is within a day."""
LAST_LOOK = timedelta(minutes=3)
"""When a row comes up again whose last look was cut off: later than that run can last."""
ANNOUNCE_AGAIN = timedelta(minutes=1)
MAKE_WAY = timedelta(minutes=2)
UNREADABLE_PAUSE = timedelta(hours=1)
LATE_LOOKS = (timedelta(hours=1), timedelta(hours=6), timedelta(hours=24))
"""After its expiry. A timeout does not mean that the operation failed (docs: Webhook events)."""
LATE_END = timedelta(hours=36)
"""After its expiry, when even a last look that keeps failing is given up."""
CLOCK_SKEW = timedelta(minutes=1)
"""How far Cobalt's clock and ours may be apart."""
SETTLED = timedelta(minutes=5)
"""After that, the 202 of a job has been recorded or never will be."""

type SecondsLeft = Callable[[], float]


@dataclass
class _Run:
    """One run: what it did, and what it may still do."""

    seconds_left: SecondsLeft
    done: Counter[str] = field(default_factory=Counter)
    faults: int = 0
    kept_back: float = 0.0

    @property
    def has_time(self) -> bool:
        """Whether there is time for one more look, and for what is kept back."""
        return self.seconds_left() > RESERVE_SECONDS + self.kept_back

    @property
    def may_ask(self) -> bool:
        """Whether Cobalt is fit to be asked."""
        return self.faults < MOST_FAULTS

    def failed(self, error: RelayError) -> None:
        """Take note of a failure; a Cobalt that asks for patience is not asked again."""
        self.done["failed"] += 1
        if isinstance(error, RateLimited | UpstreamUnavailable):
            self.faults = MOST_FAULTS
        elif isinstance(error, UpstreamFault):
            self.faults += 1


class ReconcileJobs:
    """The use case. One object serves all invocations of a function."""

    def __init__(  # noqa: PLR0913, PLR0917 - all of its world
        self,
        cobalt: "AskCobalt",
        jobs: "DueStore",
        connections: "KnownConnections",
        secrets: "CredentialStore",
        take_in: TakeIn,
        announcer: Announcer,
        ranges: LookAfterRanges,
        watch: "Measures",
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._cobalt = cobalt
        self._jobs = jobs
        self._connections = connections
        self._secrets = secrets
        self._take_in = take_in
        self._announcer = announcer
        self._ranges = ranges
        self._watch = watch
        self._now = now

    def run(self, seconds_left: SecondsLeft, scheduled_at: object = None) -> dict[str, int]:
        """Look at what is due, the longest overdue first; tell how often which outcome was had.

        What is measured depends on the minute; it is the one that the run was `scheduled_at`, in
        ISO 8601, where that is told, for runs may begin late, and two in one minute.
        Whatever fails for one row is logged and leaves the others alone. Raises `StorageFault`
        where the rows cannot even be listed.
        """
        run = _Run(seconds_left)
        began = self._now()
        due = self._jobs.due(began, MOST_ROWS)
        sweeps = [each for each in due if _is_unknown(each.row)]
        polls = [each for each in due if _is_awaited(each.row)]
        rest = [each for each in due if not (_is_unknown(each.row) or _is_awaited(each.row))]
        looks = {"CHANGE": self._look_at_change, "RANGE": self._look_at_range}
        for each in rest:
            if run.has_time and each.kind != "CONNECTION":
                self._guarded(run, each, looks.get(each.kind, self._announce))
        if sweeps and run.has_time:
            self._sweep(run, sweeps)
        turns, beyond = _in_turns(polls)
        for each in turns:
            if run.has_time:
                self._guarded(run, each, self._poll)
        for each in beyond:
            if run.has_time:
                self._guarded(run, each, self._pass_over)
        for each in rest:
            if run.has_time and each.kind == "CONNECTION":  # nobody waits for its settings
                self._guarded(run, each, self._look_at_connection)
        self._measure(run, _moment_of(scheduled_at) or began)
        done = dict(run.done)
        logger.info("reconciled", extra={"due": len(due), "done": done})
        return {"due": len(due), **done}

    def _measure(self, run: _Run, minute: datetime) -> None:
        """Measure what is left; that it fails is nobody's affair who waits for a job."""
        try:
            self._watch.run(minute, lambda: run.has_time)
        except RelayError as error:
            run.done["not_measured"] += 1
            logger.warning("not_measured", extra={"error_code": error.code})
        except Exception as error:  # noqa: BLE001 - one unreadable row must not fail every run
            run.done["not_measured"] += 1
            logger.error("not_measured", extra=failure(error))

    def _guarded(self, run: _Run, due: Due, look: Callable[[_Run, Due], None]) -> None:
        """Look at one row, under its trace; whatever fails is its own affair."""
        with tracing.traced(_trace_of(due)):
            try:
                look(run, due)
            except RelayError as error:
                run.failed(error)
                count("LookFailed")
                logger.warning("look_failed", extra={**_ids(due), "error_code": error.code})
            except Exception as error:  # noqa: BLE001 - the other rows must not suffer from it
                run.done["failed"] += 1
                count("LookFailed")
                logger.error("unexpected_error", extra={**_ids(due), **failure(error)})

    # -------------------------------------------------------------------------------- announcements

    def _announce(self, run: _Run, due: Due) -> None:
        """Send an announcement that is open, for all we know."""
        now = self._now()
        if due.row is None:
            self._put_off_unreadable(due)
            return
        announced, event = _announcement(due)
        if event is None:
            self._jobs.put_off(due, None, looks=0)
        elif self._jobs.put_off(due, now + ANNOUNCE_AGAIN, looks=0):
            is_late = announced.state == JobState.EXPIRED
            self._announcer.resume(announced, event, now + LATE_LOOKS[0] if is_late else None)
            run.done["announced"] += 1
            if isinstance(due.row, Job | RequestRecord):  # whoever ended it may not have come to it
                self._ranges.gather_of(due.row)

    def _put_off_unreadable(self, due: Due) -> None:
        count("RowUnreadable")
        logger.error("row_unreadable", extra=_ids(due))
        self._jobs.put_off(due, self._now() + UNREADABLE_PAUSE, looks=0)

    def _tell_expired(self, announced: Announced, event: RelayEvent | None, run: _Run) -> None:
        count("FetchExpired")
        ids = {"kind": announced.kind, "id": announced.id}
        logger.warning("fetch_expired", extra=ids)
        run.done["expired"] += 1
        if event:
            self._announcer.announce(announced, event, self._now() + LATE_LOOKS[0])

    # ---------------------------------------------------------------------- connections and ranges

    def _look_at_change(self, run: _Run, due: Due) -> None:
        """Announce that a connection was suspended or resumed; end the jobs of a suspended one."""
        change, now = due.row, self._now()
        if not isinstance(change, ConnectionChange):
            self._put_off_unreadable(due)
            return
        until = now + LAST_LOOK
        if not self._jobs.put_off(due, until, looks=change.looks + 1):
            return
        if change.notification == "open":
            announced = Announced("CHANGE", due.id, change.state)
            self._announcer.resume(announced, connection_changed(change), until)
            run.done["announced"] += 1
        if change.state is ConnectionState.ACTIVE or self._end_open_jobs(run, change):
            self._jobs.put_off(due._replace(due_at=iso(until)), None, looks=0)

    def _end_open_jobs(self, run: _Run, change: ConnectionChange) -> bool:
        """End what a suspended connection has open, but for a result that is there already.

        Tells whether all of it could be looked at; one that could not leaves the others alone.
        """
        oldest, is_whole = change.changed_at - OLDEST_OPEN, True
        for job in self._jobs.of_connection(change.connection_id):
            if job.accepted_at and job.accepted_at < oldest:
                break
            is_before = job.accepted_at is None or job.accepted_at <= change.changed_at
            if job.state is not JobState.ACCEPTED or not is_before:
                continue
            if not run.has_time:
                raise OutOfTime
            with tracing.traced(job.trace_id):
                is_whole &= self._end_open_job(run, job)
        return is_whole

    def _end_open_job(self, run: _Run, job: Job) -> bool:
        """End an open job of a suspended connection; tell whether it could be looked at."""
        try:
            if run.may_ask and self._find(job, "poll"):
                return True
        except RelayError as error:
            run.failed(error)
            count("LookFailed")
            ids = {"job_execution_id": job.job_execution_id, "error_code": error.code}
            logger.warning("look_failed", extra=ids)
            return False
        failed = self._jobs.fail_job(job, LOGIN_REQUIRED, self._now())
        announcement = failed and job_ended(failed)
        if failed and announcement:
            job_failed(LOGIN_REQUIRED)
            run.done["ended"] += 1
            announced = Announced("JOB", job.job_execution_id, failed.state)
            self._announcer.announce(announced, announcement)
            self._ranges.gather_of(failed)
        return True

    def _look_at_connection(self, run: _Run, due: Due) -> None:
        """Ask Cobalt for the settings of a connection; once a day at least, where none answers."""
        connection, now = due.row, self._now()
        if not isinstance(connection, Connection):
            self._put_off_unreadable(due)
            return
        if not run.may_ask:
            return
        pause = min(timedelta(minutes=2 ** min(connection.looks, 12)), INCOMPLETE_LIFE)
        if not self._jobs.put_off(due, now + pause, looks=connection.looks + 1):
            return
        settings = anew_where_refused(
            partial(self._connections.token, connection.connection_id),
            self._settings_of,
            (AccessTokenRefused, AccessForbidden),
        )
        is_whole = settings.access_token_reference_id and settings.time_zone
        following = (SETTINGS_LIFE if is_whole else INCOMPLETE_LIFE) * random.uniform(0.75, 1.25)  # noqa: S311
        self._connections.note_settings(connection.connection_id, settings, self._now(), following)
        run.done["settled"] += 1

    def _look_at_range(self, run: _Run, due: Due) -> None:
        """Queue, gather or announce a range, whatever of it was left."""
        found, now = due.row, self._now()
        if not isinstance(found, FetchRange):
            self._put_off_unreadable(due)
            return
        pause = min(RANGE_PAUSE * 2 ** min(found.looks, 5), LONGEST_PAUSE)
        if not self._jobs.put_off(due, now + pause, looks=found.looks + 1):
            return
        self._ranges.look_after(found)
        run.done["ranges"] += 1

    # ------------------------------------------------------------------------------------ open jobs

    def _poll(self, run: _Run, due: Due) -> None:
        """Ask after a job, and take in what is found; at its deadline, or later, let it expire."""
        job, now = due.row, self._now()
        assert isinstance(job, Job)  # noqa: S101 - `_is_awaited` says so
        is_late = job.state is JobState.EXPIRED
        is_overdue = not is_late and (job.deadline is None or now >= job.deadline)
        if not run.may_ask and not is_overdue:
            self._pass_over(run, due)
            return
        until = _next_look(now, job)
        if not self._jobs.put_off(due, until, looks=job.looks + 1):
            return
        found = False
        try:
            found = run.may_ask and self._find(job, "sweep" if is_late else "poll")
        finally:
            if is_overdue and not found:
                self._expire_job(run, job)
        run.faults = 0 if run.may_ask else run.faults
        run.done["found" if found else "not_found"] += 1
        self._rest(due, job, until)

    def _rest(self, due: Due, row: Job | RequestRecord, until: datetime | None) -> None:
        """After its last late look, which has been made, look no more."""
        if until and row.expired_at and row.looks + 1 >= len(LATE_LOOKS):
            self._jobs.put_off(due._replace(due_at=iso(until)), None, looks=row.looks + 1)

    def _pass_over(self, run: _Run, due: Due) -> None:
        """Do not ask after a job now: it makes way for what is due behind it.

        Cobalt wants patience, or the connection has had its share. At its deadline a job expires
        all the same; the late looks find what there is to find.
        """
        job, now = due.row, self._now()
        assert isinstance(job, Job)  # noqa: S101 - `_is_awaited` says so
        pause = MAKE_WAY * random.uniform(0.75, 1.25)  # noqa: S311 - not a secret
        if not self._jobs.put_off(due, now + pause, looks=job.looks):
            return
        run.done["passed_over"] += 1
        if job.expired_at is None and job.deadline is not None and now >= job.deadline:
            self._expire_job(run, job)

    def _expire_job(self, run: _Run, job: Job) -> None:
        expired = self._jobs.expire_job(job, self._now())
        if expired:
            announced = Announced("JOB", job.job_execution_id, expired.state)
            self._tell_expired(announced, job_ended(expired), run)
            self._ranges.gather_of(job)

    def _find(self, job: Job, via: Channel) -> bool:
        """Take in the result of a job, if Cobalt has recorded one."""
        listing = partial(self._cobalt.events_of_job, job_execution_id=job.job_execution_id)
        for listed in self._listed(listing):
            self._take(listed, via)
            return True
        return False

    def _listed(
        self, listing: Callable[[ClientCredentials], Iterator[ListedEvent]]
    ) -> Iterator[ListedEvent]:
        """List with the credentials of now: a list begins to be read when it is asked for more."""

        def begin(credentials: ClientCredentials) -> Iterator[ListedEvent]:
            rows = listing(credentials)
            first = next(rows, None)
            return chain([first], rows) if first else rows

        return anew_where_refused(self._secrets.credentials, begin)

    def _take(self, listed: ListedEvent, via: Channel) -> None:
        body = listed.body()
        digest = hashlib.sha256(body).hexdigest()
        self._take_in.take_in(Delivery(listed.event, body, digest, self._now(), via))

    # ----------------------------------------------------------------------------- unknown requests

    def _sweep(self, run: _Run, sweeps: list[Due]) -> None:
        """Go through the results since the oldest of these requests, and see whose they are."""
        now = self._now()
        taken: dict[str, tuple[Due, RequestRecord, datetime | None]] = {}
        for due in sweeps:
            request = due.row
            assert isinstance(request, RequestRecord)  # noqa: S101 - `_is_unknown` says so
            until = _next_look(now, request)
            try:
                if self._jobs.put_off(due, until, looks=request.looks + 1):
                    taken[due.id] = due, request, until
            except RelayError as error:
                run.failed(error)
        if not taken:
            return
        open_ones = {name: request for name, (_, request, _) in taken.items()}
        has_looked = False
        run.kept_back = POLLS_SECONDS
        try:
            has_looked = run.may_ask and self._look_through(run, open_ones)
        except Exception as error:  # noqa: BLE001 - what is overdue must expire, and others be polled
            count("LookFailed")
            if isinstance(error, RelayError):
                run.failed(error)
                logger.warning("sweep_failed", extra={"error_code": error.code})
            else:
                run.done["failed"] += 1
                logger.error("unexpected_error", extra=failure(error))
        run.kept_back = 0.0
        for name, (due, request, until) in taken.items():
            if name not in open_ones:
                run.done["attached"] += 1
            elif request.expired_at is None and now >= request.deadline:
                self._guarded(run, due, self._expire_request)
            elif has_looked:
                self._rest(due, request, until)

    def _expire_request(self, run: _Run, due: Due) -> None:
        assert isinstance(due.row, RequestRecord)  # noqa: S101 - given so
        expired = self._jobs.expire_request(due.row, self._now())
        if expired:
            announced = Announced("REQUEST", expired.request_id, expired.state)
            self._tell_expired(announced, request_ended(expired), run)
            self._ranges.gather_of(expired)

    def _look_through(self, run: _Run, open_ones: dict[str, RequestRecord]) -> bool:
        """Take in what is found; take the requests that get their job out of `open_ones`.

        Tells whether all was seen that there is to see.
        """
        taken = dict(open_ones)
        for other in self._jobs.open_requests(self._now() + LATE_END):
            open_ones.setdefault(other.request_id, other)  # one of them may be meant
        settled = (each for each in open_ones.values() if not self._is_in_flight(each))
        connection_ids = dict.fromkeys(each.connection_id for each in settled)
        failed_before = run.done["failed"]
        references = {each: self._reference(run, each) for each in connection_ids}
        has_seen = run.done["failed"] == failed_before and run.may_ask
        since = min(request.requested_at for request in taken.values()) - CLOCK_SKEW
        for listed in self._listed(partial(self._cobalt.live_fetches_since, since=since)):
            with tracing.traced(None):
                try:
                    self._see_whose(listed, open_ones, references)
                except RelayError as error:
                    has_seen = False
                    run.done["failed"] += 1
                    ids = {"cobalt_event_id": listed.event.id, "error_code": error.code}
                    logger.warning("look_failed", extra=ids)
            if not run.has_time or not taken.keys() & open_ones.keys():
                return False
        return has_seen

    def _see_whose(
        self,
        listed: ListedEvent,
        open_ones: dict[str, RequestRecord],
        references: dict[str, str | None],
    ) -> None:
        """Give a listed result to the request that asked for it, and take it in.

        One that nobody here asked for is taken in as a webhook of it would be, but not before the
        202 of a fetch has had its time to be recorded.
        """
        event = listed.event
        job_execution_id = event.job_execution_id or ""
        known = self._jobs.look_up(event.id, job_execution_id)
        is_claimed = known.job is not None and known.job.connection_id is not None
        if not is_claimed:
            request = self._asked_by(listed, open_ones, references)
            if request:
                del open_ones[request.request_id]
                tracing.follow(request.trace_id)
                if self._jobs.accept(request, job_execution_id, request.requested_at):
                    self._claimed(request, job_execution_id)
            elif not listed.created_at or self._now() - listed.created_at < SETTLED:
                return
        if not known.event:
            self._take(listed, "sweep")

    def _asked_by(
        self,
        listed: ListedEvent,
        open_ones: dict[str, RequestRecord],
        references: dict[str, str | None],
    ) -> RequestRecord | None:
        """Find the request of a result: of its connection, for its window, made before it.

        The list comes newest first, so the newest of several equal requests is meant. A result must
        not answer another question than its own, so none is where different questions fit (two
        connections with one label among them) or once did, where one that fits still awaits its
        202, or where there is no window to go by (`search_by: mrn`).
        """
        event, created_at = listed.event, listed.created_at
        window = FetchResult.from_data(event.data).window
        if created_at is None or window is None or event.access_token_reference_id is None:
            return None
        fitting = [
            request
            for request in open_ones.values()
            if references.get(request.connection_id) == event.access_token_reference_id
            and request.window == window
            and request.requested_at - CLOCK_SKEW <= created_at
        ]
        if len({request.fingerprint for request in fitting}) > 1:
            for request in fitting:
                if not request.contested:
                    self._jobs.contest(request)
                    contested = request.model_copy(update={"contested": True})
                    open_ones[request.request_id] = contested
            return None
        if any(request.contested or self._is_in_flight(request) for request in fitting):
            return None
        return max(fitting, key=lambda request: request.requested_at, default=None)

    def _is_in_flight(self, request: RequestRecord) -> bool:
        """Whether its own 202 may still come."""
        is_recent = self._now() - request.requested_at < SETTLED
        return request.state is RequestState.REQUESTED and is_recent

    def _claimed(self, request: RequestRecord, job_execution_id: str) -> None:
        count("RequestAttached")
        ids = {"request_id": request.request_id, "connection_id": request.connection_id}
        logger.info("request_attached", extra={**ids, "job_execution_id": job_execution_id})
        try:
            self._connections.register(request.connection_id, self._now(), LIVE_FETCH_EMR)
        except RelayError as fault:
            logger.error("connection_not_registered", extra={**ids, "error_code": fault.code})

    def _reference(self, run: _Run, connection_id: str) -> str | None:
        """Ask for the label of a connection; None where it has none, or none can be had now."""
        if not (run.may_ask and run.has_time):
            return None
        try:
            return anew_where_refused(
                partial(self._connections.token, connection_id),
                self._settings_of,
                (AccessTokenRefused, AccessForbidden),
            ).access_token_reference_id
        except UnknownConnection:
            return None
        except RelayError as error:
            run.failed(error)
            ids = {"connection_id": connection_id, "error_code": error.code}
            logger.warning("reference_not_found", extra=ids)
            return None

    def _settings_of(self, access_token: str) -> ClinicSettings:
        return anew_where_refused(
            self._secrets.credentials,
            lambda credentials: self._cobalt.settings_of(credentials, access_token),
        )


def _trace_of(due: Due) -> str | None:
    """Give the trace of a row; a connection itself has none."""
    if isinstance(due.row, FetchRange):
        return due.row.plan.trace_id
    return getattr(due.row, "trace_id", None)


def _is_unknown(row: object) -> bool:
    """Whether it is a request that may still get a job, and has nothing left to announce."""
    return isinstance(row, RequestRecord) and row.is_open and row.notification != "open"


def _is_awaited(row: object) -> bool:
    """Whether it is a job that may still report, and has nothing left to announce."""
    return isinstance(row, Job) and bool(JOB_MOVES[row.state]) and row.notification != "open"


def _moment_of(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


def _announcement(due: Due) -> tuple[Announced, RelayEvent | None]:
    """Give what is left to announce about a row; None where it is announced."""
    event: RelayEvent | None = None
    match due.row:
        case Job() as job:
            announced = Announced("JOB", due.id, job.state)
            event = job_ended(job)
        case RequestRecord() as request:
            announced = Announced("REQUEST", due.id, request.state)
            event = request_ended(request)
        case EventRecord() as record:
            announced = Announced("EVENT", due.id)
            event = cobalt_event_received(due.id, record)
        case _:
            raise AssertionError(due.kind)  # the others have looks of their own
    return announced, event if due.row.notification == "open" else None


def _in_turns(polls: Iterable[Due]) -> tuple[list[Due], list[Due]]:
    """Give each connection its turn, and none more than its share; then what is beyond that."""
    by_connection: defaultdict[str | None, list[Due]] = defaultdict(list)
    for due in polls:
        by_connection[getattr(due.row, "connection_id", None)].append(due)
    rounds = zip_longest(*by_connection.values())
    turns = [[due for due in each if due is not None] for each in rounds]
    return (
        list(chain.from_iterable(turns[:MOST_PER_CONNECTION])),
        list(chain.from_iterable(turns[MOST_PER_CONNECTION:])),
    )


def _next_look(now: datetime, row: Job | RequestRecord) -> datetime | None:
    """When the row is looked at again, should this look tell nothing.

    Twice as late each time, jittered by a quarter, but not beyond the deadline; after that at the
    late looks. The last look of either kind is made again soon where it was cut off or failed;
    None where it has been for long enough.
    """
    if row.expired_at:
        following = LATE_LOOKS[row.looks + 1 :]
        if following:
            return row.expired_at + following[0]
        again = LAST_LOOK * 2 ** min(row.looks + 1 - len(LATE_LOOKS), 10)
        return now + again if now < row.expired_at + LATE_END else None
    if row.deadline is None or now >= row.deadline:
        return now + LAST_LOOK
    pause = min(timedelta(minutes=2 ** min(row.looks + 1, 10)), LONGEST_PAUSE)
    return min(now + pause * random.uniform(0.75, 1.25), row.deadline)  # noqa: S311 - not a secret


def _ids(due: Due) -> dict[str, str]:
    return {"kind": due.kind, "id": due.id}
