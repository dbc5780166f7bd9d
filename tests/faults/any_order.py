"""The relay between a Cobalt and an AWS that go wrong in any order, and what must hold meanwhile.

The use cases and the adapter of the rows are the real ones. What they call is a stand-in, and each
call goes through the `Wire`, where it may fail, take long, be the last one of its process, or be
overtaken by another process.
"""

import hashlib
import hmac
import json
import logging
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, NoReturn, cast

from cobalt_relay.adapters.connections import Registry
from cobalt_relay.adapters.jobs import Jobs
from cobalt_relay.adapters.ranges import Ranges
from cobalt_relay.adapters.table import Item, Write
from cobalt_relay.errors import (
    AccessForbidden,
    BusFault,
    IdempotencyKeyReused,
    RateLimited,
    RelayError,
    RequestRefused,
    ResultsFault,
    SecretsFault,
    TableFault,
    TokensFault,
    UpstreamBroken,
    UpstreamUnanswered,
    UpstreamUnreachable,
)
from cobalt_relay.events import RelayEvent
from cobalt_relay.models import (
    ClientCredentials,
    ClinicSettings,
    CobaltEvent,
    FetchRequest,
    ListedEvent,
    connection_id_of,
)
from cobalt_relay.services.announce import Announcer
from cobalt_relay.services.fetch_appointments import FetchAppointments
from cobalt_relay.services.fetch_range import FetchRanges
from cobalt_relay.services.gather_ranges import GatherRanges
from cobalt_relay.services.look_after_ranges import LookAfterRanges
from cobalt_relay.services.receive_webhook import ReceiveWebhook
from cobalt_relay.services.reconcile_jobs import ReconcileJobs
from cobalt_relay.services.standing import Standing
from cobalt_relay.services.take_in import TakeIn
from tests.faults.lab import NothingMeasured
from tests.unit.fakes import (
    FakeBus,
    FakeClock,
    FakeConnections,
    FakeQueue,
    FakeResults,
    FakeSecrets,
    FakeTable,
)

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)

LABELS = {"token-0": "user_0", "token-1": "user_1", "token-2": None}
"""The tokens of three clinics. The operator gave the last one no label."""
TOKENS = {connection_id_of(token): token for token in LABELS}
WEEK = {"start_date": "2025-01-06", "end_date": "2025-01-10"}
BODIES: tuple[dict[str, Any], ...] = (
    WEEK,
    {"start_date": "2025-01-13", "end_date": "2025-01-17"},
    {"search_by": "provider", "provider_ids": [7], **WEEK},
)
QUESTIONS = tuple(FetchRequest.from_body(body) for body in BODIES)
"""The third asks for the same days as the first, and is another question."""

FETCH, WEBHOOK, RECONCILER = timedelta(seconds=28), timedelta(seconds=10), timedelta(seconds=180)
"""How long the functions run at most (template.yaml)."""
PATIENCE = timedelta(seconds=20)
LEASE = timedelta(seconds=30)
SINGLE_FLIGHT = timedelta(seconds=60)
KEY_LIFE = timedelta(hours=24)
CLOCK_SKEW = timedelta(minutes=1)
SETTLED = timedelta(minutes=5)
ANNOUNCING = timedelta(seconds=1)
LATE_END = timedelta(hours=36)
"""After its expiry: from then on the last look at a row may be lost in a crash."""

MOVES = {
    "REQUEST": {
        "REQUESTED": {"ACCEPTED", "FAILED", "UNKNOWN"},
        "UNKNOWN": {"ACCEPTED", "EXPIRED"},
        "EXPIRED": {"ACCEPTED"},
    },
    "JOB": {"ACCEPTED": {"COMPLETED", "FAILED", "EXPIRED"}, "EXPIRED": {"COMPLETED"}},
}
UNDECIDED = {"REQUESTED", "UNKNOWN"}
OPEN = UNDECIDED | {"ACCEPTED"}
NAMESPACE = uuid.UUID("6b1f4a52-6a8e-5d0c-9f0e-3f1f6a3c9d11")
ANNOUNCEMENTS = {
    "COMPLETED": "Appointments Fetched",
    "FAILED": "Appointment Fetch Failed",
    "EXPIRED": "Appointment Fetch Expired",
}


class Gone(BaseException):
    """The process ended where it stood. Nothing of it goes on, so no code may catch this."""


# --------------------------------------------------------------------------------- what may happen


class Answer(StrEnum):
    """What Cobalt does with a fetch."""

    ACCEPTED = "accepted"
    OVERTAKEN = "accepted, and the webhook is there before the 202"
    RAN_UNANSWERED = "runs, and the answer is lost"
    RAN_BROKEN = "runs, and a gateway answers 502"
    LOST = "never arrived, and nothing comes back"
    REFUSED = "400"
    FORBIDDEN = "403"
    LIMITED = "429"
    UNREACHABLE = "no connection"

    @property
    def runs(self) -> bool:
        return self in {self.ACCEPTED, self.OVERTAKEN, self.RAN_UNANSWERED, self.RAN_BROKEN}

    @property
    def is_no(self) -> bool:
        """Whether it is sure that nothing was started."""
        return self in {self.REFUSED, self.FORBIDDEN, self.LIMITED, self.UNREACHABLE}

    @property
    def error(self) -> RelayError | None:
        error = ERRORS.get(self)
        return error() if error else None


ERRORS: dict[Answer, type[RelayError]] = {
    Answer.RAN_UNANSWERED: UpstreamUnanswered,
    Answer.RAN_BROKEN: UpstreamBroken,
    Answer.LOST: UpstreamUnanswered,
    Answer.REFUSED: RequestRefused,
    Answer.FORBIDDEN: AccessForbidden,
    Answer.LIMITED: RateLimited,
    Answer.UNREACHABLE: UpstreamUnreachable,
}


@dataclass(frozen=True)
class Fetch:
    """A caller asks. A `silent` job never reports."""

    token: int
    question: int
    key: str | None
    answer: Answer
    silent: bool = False


@dataclass(frozen=True)
class End:
    """A job that runs ends: Cobalt records its result."""

    job: int
    succeeds: bool
    is_old_edition: bool


@dataclass(frozen=True)
class Deliver:
    """Cobalt delivers a result, for the first time or again."""

    event: int


@dataclass(frozen=True)
class Wait:
    """Time goes by."""

    pause: timedelta


@dataclass(frozen=True)
class WaitUntilDue:
    """Time goes by until some row is due."""


@dataclass(frozen=True)
class Reconcile:
    """The reconciler runs, with so much time left."""

    seconds: int = 180


type Act = Fetch | End | Deliver | Wait | WaitUntilDue | Reconcile


class Kind(StrEnum):
    """How a call goes wrong."""

    CRASH_BEFORE = "the process ends before the call"
    CRASH_AFTER = "the process ends after the call"
    FAULT_BEFORE = "the call fails"
    FAULT_AFTER = "the call does its work and fails"
    OUTAGE = "the called service is down from here on"
    REPEATED = "the SDK sends the call again, for its answer was lost"
    SLOW = "the called service takes 40 s from here on"
    MEANWHILE = "something else happens before the call"


@dataclass(frozen=True)
class Trouble:
    """What happens at which call of a process."""

    call: int
    kind: Kind
    meanwhile: Act | None = None


@dataclass(eq=False)
class Process:
    """One invocation of a function."""

    name: str
    ends_at: datetime
    trouble: Trouble | None
    open_requests: list[Item]
    """Those that were undecided when it began."""
    calls: int = 0
    is_dead: bool = False
    is_disturbed: bool = False
    is_delayed: bool = False
    broken_service: str | None = None
    failed_calls: list[str] = field(default_factory=list)


class Wire:
    """What lies between a process and everything it calls."""

    def __init__(self, clock: FakeClock, act: Callable[[Act], None]) -> None:
        self._clock = clock
        self._act = act
        self.running: list[Process] = []

    def call[T](self, service: str, effect: Callable[[], T], fault: Callable[[], RelayError]) -> T:
        process = self.running[-1]
        process.calls += 1
        trouble = process.trouble
        kind = trouble.kind if trouble and trouble.call == process.calls else None
        if trouble and kind is Kind.MEANWHILE and trouble.meanwhile:
            began = self._clock()
            self._act(trouble.meanwhile)
            process.is_delayed |= self._clock() - began > ANNOUNCING
        elif kind:
            process.is_disturbed = True
        if kind in {Kind.OUTAGE, Kind.SLOW}:
            process.broken_service = service
        is_broken = trouble and process.broken_service == service
        if is_broken and trouble and trouble.kind is Kind.SLOW:
            self._clock.sleep(40)
        if kind is Kind.CRASH_BEFORE or process.is_dead or self._clock() > process.ends_at:
            self._end(process)
        if kind is Kind.FAULT_BEFORE or (is_broken and trouble and trouble.kind is Kind.OUTAGE):
            process.failed_calls.append(service)
            raise fault()
        done = effect()
        if kind is Kind.REPEATED and service in {"results", "bus"}:
            done = effect()
        if kind is Kind.CRASH_AFTER:
            self._end(process)
        if kind is Kind.FAULT_AFTER:
            process.failed_calls.append(service)
            raise fault()
        return done

    @staticmethod
    def _end(process: Process) -> NoReturn:
        process.is_dead = process.is_disturbed = True
        raise Gone


class Port:
    """A stand-in whose every call goes over the wire."""

    def __init__(
        self, wire: Wire, service: str, stand_in: object, fault: Callable[[], RelayError]
    ) -> None:
        self._wire, self._service, self._stand_in, self._fault = wire, service, stand_in, fault

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._stand_in, name)

        def call(*args: Any, **named: Any) -> Any:
            return self._wire.call(self._service, partial(method, *args, **named), self._fault)

        return call


class WatchedTable(FakeTable):
    """Shows every row that is written, before and after."""

    def __init__(self, watch: Callable[[Item | None, Item], None]) -> None:
        super().__init__()
        self._watch = watch

    def write(self, *writes: Write) -> None:
        places = [cast("tuple[str, str]", tuple(w.key.attributes().values())) for w in writes]
        before = [self.items.get(place) for place in places]
        super().write(*writes)
        for place, old in zip(places, before, strict=True):
            self._watch(old, self.items[place])

    def keys_of_index(self, *args: Any, **named: Any) -> Iterator[Item]:
        return iter(list(super().keys_of_index(*args, **named)))

    def row(self, kind: str, name: str | None) -> Item | None:
        return self.items.get((f"{kind}#{name}", kind))

    def rows(self, kind: str) -> list[Item]:
        return [item for (_, sk), item in self.items.items() if sk == kind]

    def undecided(self) -> list[Item]:
        """Give the requests that may still get a job."""
        return [
            row
            for row in self.rows("REQUEST")
            if row["state"] in UNDECIDED or (row["state"] == "EXPIRED" and "due_at" in row)
        ]

    def next_look(self) -> datetime | None:
        """When the next row is due that comes to an end; a connection is looked at for ever."""
        looks = [
            item["due_at"]
            for item in self.items.values()
            if "due_at" in item and item["sk"] != "CONNECTION"
        ]
        return datetime.fromisoformat(min(looks)) if looks else None


# ------------------------------------------------------------------------------------------ Cobalt


@dataclass(eq=False)
class Result:
    """What Cobalt recorded of a job. What it lists is put together anew: other bytes."""

    id: str
    body: bytes
    listed: bytes
    succeeds: bool
    created_at: datetime
    is_owed: bool
    """Whether the relay had no row of the job then, or one that it still looked at."""


@dataclass(eq=False)
class CobaltJob:
    """A job that Cobalt ran."""

    id: str
    asked: "Asked"
    silent: bool
    result: Result | None = None


@dataclass(eq=False)
class Asked:
    """A call of the relay's API."""

    request_id: str
    token: str
    fetch: FetchRequest
    key: str | None
    answer: Answer
    silent: bool
    at: datetime
    process: Process
    sent: int = 0
    job: CobaltJob | None = None
    told: str | None = None

    @property
    def label(self) -> str | None:
        return LABELS[self.token]


class Cobalt:
    """A simple Cobalt, as the relay meets it."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._wire = world.wire
        self.jobs: dict[str, CobaltJob] = {}

    @property
    def results(self) -> list[tuple[CobaltJob, Result]]:
        """The results on record, in the order of their making."""
        found = [(job, job.result) for job in self.jobs.values() if job.result]
        return sorted(found, key=lambda each: (each[1].created_at, each[1].id))

    @property
    def running(self) -> list[CobaltJob]:
        """The jobs that will report some day."""
        return [job for job in self.jobs.values() if not job.result and not job.silent]

    def fetch_appointments(
        self, _credentials: ClientCredentials, access_token: str, request: FetchRequest
    ) -> str:
        asked = self._world.asked[self._wire.running[-1].name]
        assert (asked.token, asked.fetch) == (access_token, request)
        return self._wire.call("fetch", partial(self._start, asked), UpstreamUnanswered)

    def _start(self, asked: Asked) -> str:
        asked.sent += 1
        error = asked.answer.error
        if asked.answer.runs:
            asked.job = CobaltJob(f"job_{len(self.jobs)}", asked, asked.silent)
            self.jobs[asked.job.id] = asked.job
        self._world.sent(asked)
        if asked.answer is Answer.OVERTAKEN and asked.job:
            result = self.record(asked.job, succeeds=True, is_old_edition=False)
            self._world.deliver(result, None)
        self._world.clock.sleep(PATIENCE.seconds if isinstance(error, UpstreamUnanswered) else 1)
        if error:
            raise error
        assert asked.job
        return asked.job.id

    def record(self, job: CobaltJob, *, succeeds: bool, is_old_edition: bool) -> Result:
        data: dict[str, Any] = {"success": succeeds, **_window(job.asked.fetch)}
        data |= {"appointments": [{"n": job.id}]} if succeeds else {"error": "emr_unavailable"}
        user, number = (
            ("user_id", "job_execution_id")
            if is_old_edition
            else ("access_token_reference_id", "job_id")
        )
        document: dict[str, Any] = {
            "id": f"evt_{job.id}",
            user: job.asked.label,
            number: job.id,
            "type": "appointment.live_fetch_completed",
            "data": data,
        }
        row = self._world.table.row("JOB", job.id)
        job.result = Result(
            document["id"],
            json.dumps(document).encode(),
            json.dumps(document, separators=(",", ":")).encode(),
            succeeds,
            self._world.clock(),
            is_owed=row is None or "due_at" in row,
        )
        return job.result

    def events_of_job(
        self, _credentials: ClientCredentials, job_execution_id: str
    ) -> Iterator[ListedEvent]:
        def found() -> list[ListedEvent]:
            return [_listed(result) for job, result in self.results if job.id == job_execution_id]

        yield from self._wire.call("list", found, UpstreamBroken)

    def live_fetches_since(
        self, _credentials: ClientCredentials, since: datetime
    ) -> Iterator[ListedEvent]:
        """Give pages of one row each."""
        results = [result for _, result in reversed(self.results) if result.created_at >= since]
        self._wire.call("list", lambda: None, UpstreamBroken)
        for number, result in enumerate(results):
            if number:
                self._wire.call("list", lambda: None, UpstreamUnanswered)
            yield _listed(result)

    def settings_of(self, _credentials: ClientCredentials, access_token: str) -> ClinicSettings:
        label = LABELS[access_token]
        found = ClinicSettings(access_token_reference_id=label, time_zone="America/New_York")
        return self._wire.call("settings", lambda: found, RateLimited)


def _listed(result: Result) -> ListedEvent:
    event = CobaltEvent.read(json.loads(result.listed))
    return ListedEvent(event, result.created_at, lambda: result.listed)


def _window(fetch: FetchRequest) -> dict[str, str]:
    assert fetch.window
    return fetch.window.model_dump(mode="json")


# --------------------------------------------------------------------------------------- the world


class Bus(FakeBus):
    """Tells what is published."""

    def __init__(self, told: Callable[[str, Item], None]) -> None:
        super().__init__()
        self._told = told

    def publish(self, event: RelayEvent) -> None:
        self._told(event.detail_type, json.loads(event.model_dump_json()))


@dataclass
class Services:
    """One instance of each function, with what it remembers."""

    fetch: FetchAppointments
    webhook: ReceiveWebhook
    reconciler: ReconcileJobs


class Unexpected(logging.Handler):
    """Notices what the relay logs as unexpected."""

    def __init__(self, notice: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._notice = notice

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == "unexpected_error":
            self._notice(f"unexpected error: {getattr(record, 'error_place', '')}")


class World:
    """Everything there is, what happened in it, and what was broken."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.wire = Wire(self.clock, self.act)
        self.table = WatchedTable(self._row_written)
        self.results = FakeResults()
        self.connections = FakeConnections(self.table)
        self.secrets = FakeSecrets()
        self.cobalt = Cobalt(self)
        self.asked: dict[str, Asked] = {}
        self.broken: list[str] = []
        self.published: defaultdict[str, list[tuple[str, str | None, Process, str | None]]] = (
            defaultdict(list)
        )
        self.unexpected = Unexpected(self.broken.append)
        self._services: dict[int, Services] = {}

    # ----------------------------------------------------------------------------------- what happens

    def act(self, act: Act, trouble: Trouble | None = None) -> None:
        """Let something happen; nothing where there is nothing that it could happen to."""
        match act:
            case Fetch():
                self._fetch(act, trouble)
            case End(number, succeeds, is_old_edition):
                running = self.cobalt.running
                if running:
                    job = running[number % len(running)]
                    self.cobalt.record(job, succeeds=succeeds, is_old_edition=is_old_edition)
            case Deliver(number):
                results = self.cobalt.results
                if results:
                    self.deliver(results[number % len(results)][1], trouble)
            case Wait(pause):
                self.clock.moment += pause
            case WaitUntilDue():
                due = self.table.next_look()
                self.clock.moment = max(self.clock(), due or self.clock())
            case Reconcile(seconds):
                self._reconcile(timedelta(seconds=seconds), trouble)

    def _fetch(self, fetch: Fetch, trouble: Trouble | None) -> None:
        token, question = f"token-{fetch.token}", QUESTIONS[fetch.question]
        name = f"request_{len(self.asked)}"
        process = self._process(name, FETCH, trouble)
        asked = Asked(
            name, token, question, fetch.key, fetch.answer, fetch.silent, self.clock(), process
        )
        self.asked[name] = asked

        def start(services: Services) -> None:
            try:
                started = services.fetch.start(
                    token, question, request_id=name, trigger="api", idempotency_key=fetch.key
                )
            except IdempotencyKeyReused:
                self._key_reused(asked)
            except RelayError as error:
                if isinstance(error, TableFault | SecretsFault) and not process.failed_calls:
                    self.broken.append(f"{name} failed by itself: {error.code}")
            else:
                asked.told = started.job_execution_id

        self._run(process, start)
        if asked.told and process.is_dead:
            asked.told = None
        if asked.told:
            self._told(asked, asked.told)

    def deliver(self, result: Result, trouble: Trouble | None) -> None:
        process = self._process(f"delivery of {result.id}", WEBHOOK, trouble)
        signature = hmac.digest(b"webhook-key", result.body, hashlib.sha256).hex()

        def receive(services: Services) -> None:
            try:
                services.webhook.receive(result.body, signature)
            except RelayError as error:
                if not process.failed_calls:
                    self.broken.append(f"{process.name} failed by itself: {error.code}")
            else:
                if not self._is_stored(result):
                    self.broken.append(f"{process.name} was answered, and its bytes are not stored")

        self._run(process, receive)

    def _reconcile(self, limit: timedelta, trouble: Trouble | None) -> None:
        process = self._process("reconciler", limit, trouble)

        def seconds_left() -> float:
            return (process.ends_at - self.clock()).total_seconds()

        def run(services: Services) -> None:
            try:
                services.reconciler.run(seconds_left)
            except RelayError as error:
                if not process.failed_calls:
                    self.broken.append(f"the reconciler failed by itself: {error.code}")

        self._run(process, run)

    def _process(self, name: str, limit: timedelta, trouble: Trouble | None) -> Process:
        return Process(name, self.clock() + limit, trouble, self.table.undecided())

    def _run(self, process: Process, invoke: Callable[[Services], None]) -> None:
        depth = len(self.wire.running)
        services = self._services.pop(depth, None) or self._instances()
        self.wire.running.append(process)
        try:
            invoke(services)
        except Gone:
            pass
        else:
            process.is_dead |= self.clock() > process.ends_at
        finally:
            self.wire.running.pop()
        if not process.is_dead:
            self._services[depth] = services

    def _instances(self) -> Services:
        table: Any = Port(self.wire, "table", self.table, TableFault)
        jobs = Jobs(table, timedelta(days=30), timedelta(minutes=120))
        ranges, standing = Ranges(table, timedelta(days=30)), Standing(Registry(table), self.clock)
        bus: Any = Port(self.wire, "bus", Bus(self._announced), BusFault)
        results: Any = Port(self.wire, "results", self.results, ResultsFault)
        connections: Any = Port(self.wire, "connections", self.connections, TokensFault)
        secrets: Any = Port(self.wire, "secrets", self.secrets, SecretsFault)
        announcer = Announcer(jobs, bus, now=self.clock)
        gathering = GatherRanges(ranges, jobs, announcer, now=self.clock)
        queueing = FetchRanges(
            self.cobalt, ranges, FakeQueue(), connections, secrets, now=self.clock
        )
        take_in = TakeIn(
            jobs,
            results,
            announcer,
            standing,
            gathering,
            now=self.clock,
            sleep=self.clock.sleep,
        )
        return Services(
            FetchAppointments(
                self.cobalt,
                jobs,
                connections,
                secrets,
                standing,
                SINGLE_FLIGHT,
                now=self.clock,
                sleep=self.clock.sleep,
            ),
            ReceiveWebhook(take_in, secrets, now=self.clock),
            ReconcileJobs(
                self.cobalt,
                jobs,
                connections,
                secrets,
                take_in,
                announcer,
                LookAfterRanges(queueing, gathering, announcer),
                NothingMeasured(),
                now=self.clock,
            ),
        )

    # ------------------------------------------------------------------------- what must hold always

    def _row_written(self, old: Item | None, new: Item) -> None:
        kind = new["sk"]
        name = new["pk"]
        if kind not in {"REQUEST", "JOB", "EVENT"}:
            return
        state, was = new.get("state"), old.get("state") if old else None
        if was and state != was and state not in MOVES[kind].get(was, set()):
            self.broken.append(f"{name} went from {was} to {state}")
        is_open = new.get("notification") == "open" or (
            kind != "EVENT" and state in (UNDECIDED if kind == "REQUEST" else OPEN)
        )
        if is_open and not {"due_at", "due_shard"} <= new.keys():
            self.broken.append(f"{name} is open, and nobody will look at it")
        if kind == "REQUEST" and old is None:
            self._recorded(new)
        if kind == "JOB":
            self._job_written(old, new)
        if state == was == "EXPIRED" and old and "due_at" in old and "due_at" not in new:
            self._gave_up(kind, old)

    def _job_written(self, old: Item | None, new: Item) -> None:
        job = self.cobalt.jobs[new["job_execution_id"]]
        if "connection_id" in new:
            is_its_own = (
                new["connection_id"] == connection_id_of(job.asked.token)
                and new["window"] == _window(job.asked.fetch)
                and new["search_by"] == job.asked.fetch.search_by
            )
            if not is_its_own:
                self.broken.append(f"{job.id} answers another question than its own")
        completion = new.get("completion")
        if not completion:
            if new["state"] in {"COMPLETED", "FAILED"}:
                self.broken.append(f"{job.id} is {new['state']} without a result")
            return
        if old and old.get("completion", completion) != completion:
            self.broken.append(f"{job.id} got another result than it had")
        result = job.result
        stored = self.results.objects.get(completion["result"]["key"])
        bodies = {"webhook": result.body} if result else {}
        expected = bodies.get(completion["delivered_via"], result.listed if result else b"")
        if not result or completion["cobalt_event_id"] != result.id or stored != expected:
            self.broken.append(f"{job.id} names bytes that are not its result's")
        elif new["state"] != ("COMPLETED" if result.succeeds else "FAILED"):
            self.broken.append(f"{job.id} is {new['state']}, against its result")

    def _recorded(self, row: Item) -> None:
        """See that no equal request without a key is under way or has a young job."""
        asked = self.asked[row["request_id"]]
        rivals = (r for r in self.asked.values() if r is not asked and _is_equal(r, asked))
        for rival in rivals:
            request = self.table.row("REQUEST", rival.request_id)
            if asked.key is not None or rival.key is not None or not request:
                continue
            job = self.table.row("JOB", request.get("job_execution_id"))
            accepted_at: str | None = job.get("accepted_at") if job else None
            is_under_way = request["state"] == "REQUESTED" and self.clock() - rival.at < LEASE
            is_young = (
                job is not None
                and job["state"] == "ACCEPTED"
                and accepted_at is not None
                and self.clock() - datetime.fromisoformat(accepted_at) < SINGLE_FLIGHT
            )
            if is_under_way or is_young:
                self.broken.append(f"{asked.request_id} did not join {rival.request_id}")

    def sent(self, asked: Asked) -> None:
        """See that a request is sent once, and a key's next one only where the first came to no."""
        if asked.sent > 1:
            self.broken.append(f"{asked.request_id} was sent {asked.sent} times")
        for earlier in self._of_key(asked):
            if earlier.fetch != asked.fetch:
                self.broken.append(f"{asked.request_id} has a key that stands for another question")
            elif not self._may_be_asked_again(earlier):
                self.broken.append(
                    f"{asked.request_id} repeats {earlier.request_id}, under its key"
                )

    def _of_key(self, asked: Asked) -> list[Asked]:
        """Those that were sent before under the same key, while it lasts."""
        return [
            earlier
            for earlier in self.asked.values()
            if earlier is not asked
            and earlier.sent
            and asked.key is not None
            and (earlier.token, earlier.key) == (asked.token, asked.key)
            and asked.at <= earlier.at + KEY_LIFE
        ]

    def _may_be_asked_again(self, earlier: Asked) -> bool:
        row = self.table.row("REQUEST", earlier.request_id)
        is_running = earlier.process in self.wire.running
        is_over = earlier.process.is_dead or (is_running and self.clock() > earlier.process.ends_at)
        return (
            earlier.answer.is_no
            or (is_over and self.clock() - earlier.at >= LEASE)
            or (row is not None and row["state"] == "EXPIRED")
        )

    def _key_reused(self, asked: Asked) -> None:
        keyed = [a for a in self.asked.values() if (a.token, a.key) == (asked.token, asked.key)]
        if all(each.fetch == asked.fetch for each in keyed):
            self.broken.append(
                f"{asked.request_id} was told of another question, and there is none"
            )

    def _told(self, asked: Asked, job_id: str) -> None:
        """See that a caller is told of the job of its own question, and that it is on record."""
        job = self.cobalt.jobs[job_id]
        if not _is_equal(job.asked, asked):
            self.broken.append(f"{asked.request_id} was told of the job of another question")
        row = self.table.row("JOB", job_id)
        if not asked.process.is_disturbed and (not row or "connection_id" not in row):
            self.broken.append(f"{asked.request_id} was told of {job_id}, which is not on record")
        for other in self._of_key(asked):
            if other.told and other.told != job_id:
                self.broken.append(f"{asked.request_id} was told of another job under the same key")

    def _announced(self, detail_type: str, detail: Item) -> None:
        """See that an event tells the truth, always the same, and once unless something went wrong."""
        event_id, job_id = detail["event_id"], detail["job_execution_id"]
        process = self.wire.running[-1]
        before = self.published[event_id]
        before.append((detail_type, job_id, process, detail["connection_id"]))
        if len({each[:2] for each in before}) > 1:
            self.broken.append(f"{detail_type} has the id of another event")
        is_excused = any(each[2].is_disturbed or each[2].is_delayed for each in before)
        owners = [each[3] for each in before]  # told once more when it is known whose job it is
        if len(owners) > len(set(owners)) and not is_excused:
            self.broken.append(f"{detail_type} of {job_id} was sent twice, and nothing went wrong")
        if detail_type == "Cobalt Event Received":
            return
        row = self.table.row("JOB", job_id) or self.table.row("REQUEST", detail["request_id"]) or {}
        states = {row.get("state"), "EXPIRED" if {"expired_at", "closed_at"} & row.keys() else None}
        if detail_type not in {ANNOUNCEMENTS.get(state or "") for state in states}:
            self.broken.append(f"{detail_type} of {job_id} is not true")
        result = row.get("completion", {}).get("result")
        if detail.get("result") and detail["result"]["key"] != result["key"]:
            self.broken.append(f"{detail_type} of {job_id} names another place")

    def _gave_up(self, kind: str, row: Item) -> None:
        """See that nobody looks any more only where Cobalt lists nothing that is surely wanted."""
        expired_at = datetime.fromisoformat(row["expired_at" if kind == "JOB" else "closed_at"])
        is_forgiven = self.wire.running[-1].is_disturbed and self.clock() >= expired_at + LATE_END
        if kind == "JOB":
            result = self.cobalt.jobs[row["job_execution_id"]].result
            if result and is_forgiven:
                result.is_owed = False
            return
        asked = self._asked(row)
        is_forgiven |= self._has_no_token(asked)
        for job, result in self.cobalt.results:
            job_row = self.table.row("JOB", job.id)
            is_claimed = job_row is not None and "connection_id" in job_row
            if not is_claimed and not is_forgiven and self._is_surely_of(row, job, result):
                self.broken.append(f"{asked.request_id} was given up, and {result.id} answers it")
        result = asked.job.result if asked.job else None
        if result and self.clock() - result.created_at >= SETTLED and not self._is_stored(result):
            self.broken.append(f"{asked.request_id} was given up, and {result.id} is not stored")

    def _has_no_token(self, asked: Asked) -> bool:
        """Whether its token could not be kept, without which nobody can ask for its label."""
        is_kept = connection_id_of(asked.token) in self.connections.tokens
        return not is_kept and "connections" in asked.process.failed_calls

    def _is_surely_of(self, request: Item, job: CobaltJob, result: Result) -> bool:
        if request.get("contested"):  # a result was seen that fits another question too
            return False
        undecided = [request, *self.wire.running[-1].open_requests, *self.table.undecided()]
        fitting = {
            each["fingerprint"] for each in undecided if _fits(self._asked(each), job, result)
        }
        return fitting == {request["fingerprint"]} and _fits(self._asked(request), job, result)

    def _asked(self, request: Item) -> Asked:
        return self.asked[request["request_id"]]

    def _is_stored(self, result: Result) -> bool:
        return not {result.body, result.listed}.isdisjoint(self.results.objects.values())

    # --------------------------------------------------------------------- what must hold in the end

    def come_to_rest(self) -> None:
        """Let Cobalt finish, deliver nothing more, and run the reconciler until nothing is due."""
        while self.cobalt.running:
            self.act(End(0, succeeds=True, is_old_edition=True))
        for _ in range(600):
            if not self.table.next_look():
                return
            self.act(WaitUntilDue())
            self.act(Reconcile())
        self.broken.append("the reconciler comes to no end")

    def look_back(self) -> None:
        """See that everything reached its end, and that nothing was lost."""
        for row in self.table.rows("REQUEST"):
            if row["state"] not in {"ACCEPTED", "FAILED", "EXPIRED"}:
                self.broken.append(f"{row['pk']} ended {row['state']}")
            elif row["state"] != "ACCEPTED":
                self._expect_event(row, f"request {row['request_id']}")
            elif not self.table.row("JOB", row["job_execution_id"]):
                self.broken.append(f"{row['pk']} was accepted, and its job is not on record")
        for row in self.table.rows("JOB"):
            job = self.cobalt.jobs[row["job_execution_id"]]
            if row["state"] not in ANNOUNCEMENTS:
                self.broken.append(f"{job.id} ended {row['state']}")
                continue
            self._expect_event(row, job.id)
            if not job.result or not job.result.is_owed:
                continue
            if not self._is_stored(job.result):
                self.broken.append(f"{job.id} has a result at Cobalt, and its bytes are not stored")
            elif job.result.succeeds and row["state"] != "COMPLETED":
                self.broken.append(f"{job.id} has a result, and ended {row['state']}")

    def _expect_event(self, row: Item, subject: str) -> None:
        detail_type = ANNOUNCEMENTS[row["state"]]
        event_id = str(uuid.uuid5(NAMESPACE, f"{detail_type}\n{subject}"))
        if event_id not in self.published:
            self.broken.append(f"{row['pk']} is {row['state']}, and nobody was told")


def _is_equal(one: Asked, other: Asked) -> bool:
    return (one.token, one.fetch) == (other.token, other.fetch)


def _fits(asked: Asked, job: CobaltJob, result: Result) -> bool:
    return (
        job.asked.label is not None
        and asked.label == job.asked.label
        and asked.fetch.window == job.asked.fetch.window
        and asked.at - CLOCK_SKEW <= result.created_at
    )
