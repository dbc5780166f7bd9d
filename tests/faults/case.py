"""One case: what happens to one live fetch, with one call of it going wrong."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from uuid import uuid4

from boto3.dynamodb.types import TypeDeserializer

from cobalt_relay.appointments import Clinic
from cobalt_relay.errors import RelayError
from cobalt_relay.models import (
    FetchRequest,
    FetchWork,
    RangePlan,
    RangeRequest,
    Window,
    range_id_of,
    utc_now,
)
from cobalt_relay.observability import metrics
from cobalt_relay.places import day_of_key, snapshot_key
from cobalt_relay.services.detect_changes import Notice
from cobalt_relay.services.run_fetches import Message
from cobalt_relay.snapshots import SeenAppointment, Snapshot
from tests.faults.lab import BROKEN_CLINIC, KNOWN_CLINIC, NEW_CLINIC, TOKEN_PATH, Lab
from tests.faults.wire import Crash, Fault, Json

LIVE_FETCH_COMPLETED = "appointment.live_fetch_completed"
WEEKEND = Window.parse("2026-03-07", "2026-03-08")
"""Days without appointments: small results, each with ids of its own."""
DAYS_BEFORE = {"2026-03-07": ("stays", "moves", "goes"), "2026-03-08": ()}
DAYS_AFTER = {"2026-03-07": ("stays",), "2026-03-08": ("moves", "comes")}
"""The ids of appointments, for a silent job that reports after all."""
RETRY_SECONDS = 1.0
"""Cobalt's pause before its one retry."""
MOST_RUNS = 40
"""Of the reconciler, until nothing is due; a row that is due after so many is stuck."""
EVENT_SECONDS = 5.0
RUN_SECONDS = 300.0

type Row = dict[str, Any]


def is_to_end(row: Row) -> bool:
    """Whether there is an end to it: a connection's settings are asked for ever and again."""
    kind: str = row["sk"]
    return kind != "CONNECTION"


def at(day: str, name: str) -> Json:
    """An appointment as Cobalt tells of it."""
    return {"id": name, "datetime": f"{day}T12:00:00-05:00"}


class Event(NamedTuple):
    """An event of Cobalt: a live fetch's result."""

    id: str
    body: bytes


class Case:
    """Drives the relay. Each invocation is a process of its own, which may crash."""

    def __init__(self, lab: Lab, number: int, fault: Fault | None, *, comes_again: bool) -> None:
        self.lab = lab
        self.comes_again = comes_again
        """Whether Cobalt delivers (once more) after the fault."""
        self.outcomes: list[str] = []
        """Of the invocations in which the fault lies."""
        self.unexpected: list[str] = []
        self.most_sent = 0
        """Live fetches that one request sent to Cobalt, at most."""
        self.rest: list[Row] = []
        """The rows when nothing is due any more."""
        self.is_silent = False
        self._emitted: str | None = None
        self._event: Event | None = None
        self._watched = False
        self._days: dict[str, list[Json]] = {}
        self._clinic = KNOWN_CLINIC
        self._token_path = TOKEN_PATH
        self._own_token_path = f"/{lab.site.table}/{number}"
        self._number = number
        metrics.clear_metrics()
        lab.clock.offset = timedelta()
        lab.box.reset()
        lab.wire.begin(fault)

    # --------------------------------------------------------------------------------- what happens

    @contextmanager
    def faulty(self) -> Iterator[None]:
        """Here are the calls that go wrong, one in each case."""
        self._watched = True
        try:
            with self.lab.wire.watched():
                yield
        finally:
            self._watched = False

    def use_new_connection(self) -> None:
        """Fetch from a clinic that the relay has not heard of."""
        self._clinic, self._token_path = NEW_CLINIC, self._own_token_path

    def use_broken_connection(self) -> None:
        """Fetch from a clinic that Cobalt has lost the link to."""
        self._clinic, self._token_path = BROKEN_CLINIC, self._own_token_path

    def fetch(self) -> None:
        """Ask the relay for a live fetch."""
        box, sent_before = self.lab.box, self.lab.wire.fetches_sent
        access_token = box.access_tokens[self._clinic]
        asked = FetchRequest(window=WEEKEND)

        def start() -> str:
            service = self.lab.fetch_appointments(self._token_path, cold=self._watched)
            service.admit(box.client_id, box.client_secret, access_token)
            request_id = str(uuid4())
            job, _ = service.start(access_token, asked, request_id=request_id, trigger="api")
            if [job] != self.jobs:
                self.unexpected.append(f"the answer was {job}, and Cobalt runs {self.jobs}")
            return "202"

        self._invoke(start)
        self.most_sent = max(self.most_sent, self.lab.wire.fetches_sent - sent_before)

    def fetch_unanswered(self) -> None:
        """Ask for a live fetch that Cobalt runs without ever saying so."""
        self.lab.box.set_fault("hang_up", count=1)
        self.fetch()
        self.lab.wire.accepted = [{"job_execution_id": each} for each in self.lab.box.jobs()]

    def fetch_vanished(self) -> None:
        """Ask for a live fetch that never gets to Cobalt, although nobody can tell."""
        self.lab.box.set_fault("hang_up", count=1, accepted=False)
        self.fetch()

    def fetch_overtaken(self) -> None:
        """Ask for a live fetch whose webhook overtakes the 202."""
        self.lab.wire.meanwhile = self.deliver
        self.fetch()
        self.lab.wire.meanwhile = None

    def queued_piece(self) -> FetchWork:
        """Give the message of a schedule's range that has one piece."""
        plan = RangePlan(
            range_id=range_id_of(self.lab.site.table, str(self._number)),
            connection_id=self.lab.known_connection,
            trigger="schedule",
            request=RangeRequest(window=WEEKEND),
            accepted_at=self.lab.clock(),
        )
        return next(plan.works(plan.accepted_at))

    def work_off(self, work: FetchWork) -> None:
        """Let the message come, for the first time or again."""
        message = Message("message", "receipt", work.model_dump_json())

        def run() -> str:
            service = self.lab.run_fetches(self._token_path, cold=self._watched)
            service._work_off(message, RUN_SECONDS)  # `run` would turn what fails into an id
            return "done"

        self._invoke(run)
        self.most_sent = self.lab.wire.fetches_sent  # by all deliveries of it

    def deliver(self) -> None:
        """Let Cobalt deliver the result, where there is one."""
        event = self.event()
        if not event:
            return

        def receive() -> str:
            service = self.lab.receive_webhook(cold=self._watched)
            return service.receive(event.body, self.lab.box.sign(event.body))

        self._invoke(receive)

    def deliver_again(self) -> None:
        """Let Cobalt's one retry come, in the half of the cases in which it does."""
        if self.comes_again:
            self.lab.clock.sleep(RETRY_SECONDS)
            self.deliver()

    def be_silent(self) -> None:
        """Let the job never report by itself."""
        self.lab.box.set_fault("silent")
        self.is_silent = True

    def report(self) -> None:
        """Let a silent job report after all."""
        if not self._emitted:
            days = WEEKEND.model_dump(mode="json")
            items = [at(day, each) for day, ids in DAYS_AFTER.items() for each in ids]
            counted = {"success": True, "appointment_count": len(items)}
            data = {**counted, **days, "appointments": items}
            self._emitted = self.lab.box.emit(
                LIVE_FETCH_COMPLETED, self._clinic, self.jobs[0], data
            )

    def know_days(self) -> None:
        """Let both days have been seen before, other than they are now."""
        former = {day: [at(day, each) for each in ids] for day, ids in DAYS_BEFORE.items()}
        self._days = {
            snapshot_key(self.lab.known_connection, date.fromisoformat(day)): items
            for day, items in former.items()
        }
        seen_at = utc_now() - timedelta(hours=1)
        clinic = Clinic(None, UTC, {})
        for key, items in self._days.items():
            seen = [
                SeenAppointment.read(item, clinic, as_of=seen_at, fetched_by="job_before")
                for item in items
            ]
            snapshot = Snapshot(
                format="1",
                connection_id=self.lab.known_connection,
                day=day_of_key(key),
                as_of=seen_at,
                fetched_by="job_before",
                written_at=seen_at,
                written_by="job_before",
                appointment_count=len(seen),
                appointments=tuple(seen),
            )
            body = snapshot.lines()
            self.lab.aws.s3.put_object(Bucket=self.lab.site.bucket, Key=key, Body=body)

    def detect(self) -> None:
        """Let the event that a result is there start the function for changes."""

        def run() -> str:
            self.lab.detect_changes().run(Notice(job_execution_id=self.jobs[0]))
            return "detected"

        self._invoke(run)

    def days(self) -> dict[str, list[str]]:
        """The appointments that are kept of the days that were known before, by their day."""
        bucket = self.lab.site.bucket
        found = {}
        for key in self._days:
            body = self.lab.aws.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
            snapshot = Snapshot.read(body)
            found[str(snapshot.day)] = [each.id for each in snapshot.appointments]
        return found

    def settle(self) -> None:
        """Let the reconciler run whenever something is due, until nothing is."""
        for _ in range(MOST_RUNS):
            self.rest = self.rows()
            due = [row["due_at"] for row in self.rest if "due_at" in row and is_to_end(row)]
            if not due:
                return
            self.lab.clock.advance_to(datetime.fromisoformat(min(due)))
            self.reconcile()
        self.unexpected.append("never quiet")
        self.rest = self.rows()

    def reconcile(self) -> None:
        """Let the reconciler run once."""

        def run() -> str:
            service = self.lab.reconcile_jobs(self._token_path, cold=self._watched)
            done = service.run(lambda: RUN_SECONDS)
            return " ".join(f"{name} {number}" for name, number in sorted(done.items()))

        self._invoke(run)

    def wait(self, pause: timedelta) -> None:
        """Let time pass."""
        self.lab.clock.sleep(pause.total_seconds())

    def _invoke(self, work: Callable[[], str]) -> str:
        """Run one invocation to its end, whatever that is."""
        with self.lab.wire.process():
            try:
                outcome = str(work())
            except Crash:
                outcome = "crash"
            except RelayError as error:
                outcome = error.code
            except Exception as error:  # noqa: BLE001 - nothing else may come out of a service
                outcome = f"{type(error).__name__}"
                self.unexpected.append(f"unexpected error: {error!r}")
        if self._watched:
            self.outcomes.append(outcome)
        return outcome

    # ----------------------------------------------------------------------------------- what there is

    @property
    def jobs(self) -> list[str]:
        """The jobs that Cobalt really runs for this case."""
        return [answer["job_execution_id"] for answer in self.lab.wire.accepted]

    def event(self) -> Event | None:
        """The result that Cobalt has for this case, whether or not it could be delivered."""
        if not self._event and self.jobs:
            event_id = self._emitted if self.is_silent else self._reported()
            if event_id:
                self._event = Event(event_id, self._body_of(event_id))
        return self._event

    def _reported(self) -> str:
        return str(self._poll(lambda: self.lab.box.job(self.jobs[0])["event_id"]))

    def _body_of(self, event_id: str) -> bytes:
        return self._poll(lambda: self.lab.box.event_body(event_id))

    def _poll[T](self, probe: Callable[[], T | None]) -> T:
        deadline = time.monotonic() + EVENT_SECONDS
        while time.monotonic() < deadline:
            if found := probe():
                return found
        raise AssertionError(f"the sandbox had no result after {EVENT_SECONDS:g} s")

    def rows(self) -> list[Row]:
        """Every row of the table: it holds this case alone."""
        plain = TypeDeserializer()
        answer = self.lab.aws.dynamodb.scan(TableName=self.lab.site.table, ConsistentRead=True)
        assert "LastEvaluatedKey" not in answer
        return [
            {name: plain.deserialize(value) for name, value in item.items()}
            for item in answer["Items"]
        ]

    def object(self, place: Json) -> bytes | None:
        """The bytes at a place that a row names; None where there are none."""
        version = {"VersionId": place["version_id"]} if place.get("version_id") else {}
        s3 = self.lab.aws.s3
        try:
            answer = s3.get_object(Bucket=place["bucket"], Key=place["key"], **version)
        except s3.exceptions.NoSuchKey:
            return None
        body: bytes = answer["Body"].read()
        return body

    def clear(self) -> None:
        """Make the table as it was, so that the next case sees nothing of this one."""
        for key in self._days:
            self.lab.aws.s3.delete_object(Bucket=self.lab.site.bucket, Key=key)
        deletions = [
            {"DeleteRequest": {"Key": {"pk": {"S": row["pk"]}, "sk": {"S": row["sk"]}}}}
            for row in self.rest or self.rows()
        ]
        if deletions:
            self.lab.aws.dynamodb.batch_write_item(
                RequestItems={self.lab.site.table: deletions}  # type: ignore[dict-item]
            )
        self.lab.register_known_clinic()
