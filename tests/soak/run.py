"""A soak: many fetches at once while much goes wrong, then time passes, then the books are read."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import requests
from boto3.dynamodb.types import TypeDeserializer
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.integration.support import Relay, eventually
from tests.soak.books import UNANSWERED, Answer, Books, Brought, Day, Digest, Json, behind
from tests.soak.callers import provider_of
from tests.soak.plan import CLINICS, FIRST_MONDAY, Order, Scale, orders
from tools.local.aws import CREDENTIALS, REGION
from tools.local.eventlog import CHANGED, EventLog
from tools.local.stack import Stack

if TYPE_CHECKING:
    from mypy_boto3_sqs.literals import QueueAttributeNameType

DEAD_LETTERS: list["QueueAttributeNameType"] = [
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
]
"""Those that a reader has received and not deleted yet are there still."""
FAILURES = "FailuresUrl"
RESULT = "appointment.live_fetch_completed"
FETCH_PATH = "/v1/appointments/fetch"
IDLE_SECONDS = 120.0
INVOCATION_SECONDS = 300
STALL_SECONDS = 2.0
QUIET_ROUNDS = 2
"""After so many looks that change nothing, nothing is left that looking could change."""
MOST_ROUNDS = 60
LATE_RESULTS = 2
EVENTS_SECONDS = 20.0
READERS = 8
PAST, AWAY = timedelta(seconds=-1), timedelta(hours=1)
JOBS = "JOB#"
OPEN = frozenset({"REQUESTED", "UNKNOWN", "ACCEPTED"})

type Say = Callable[[str], None]


def silent(_: str) -> None:
    """Say nothing."""


@dataclass
class Soak:
    """One run on a stack that nothing else uses meanwhile.

    The sandbox keeps its clock and the relay its own. In place of waiting, the rows are changed as
    if time had gone by: their next look, and at last their deadline, is put into the past.
    """

    stack: Stack
    scale: Scale
    log: EventLog
    say: Say = silent
    seconds: dict[str, float] = field(default_factory=dict)
    invocations: int = 0
    faults_of_lambda: list[str] = field(default_factory=list)
    """What `reconcile_jobs` itself failed with."""
    _began: float = field(default_factory=time.monotonic)
    _known_rows: set[str] = field(default_factory=set)
    _known_jobs: set[str] = field(default_factory=set)
    _known_calls: int = 0
    _known_dead: int = 0
    _known_events: int = 0
    _late: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._relay = Relay(self.stack)
        self._connections = {
            clinic: _connection_id_of(self.stack.access_tokens[clinic]) for clinic in CLINICS
        }
        # A look may take minutes, and one that is cut off must not be repeated unseen.
        make: Any = boto3.client
        self._functions = make(
            "lambda",
            endpoint_url=self.stack.aws.endpoint,
            region_name=REGION,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            config=Config(read_timeout=INVOCATION_SECONDS, retries={"total_max_attempts": 1}),
        )

    def run(self) -> Books:
        """Do all of it; give the books."""
        box = self.stack.sandbox
        self._prepare()
        self._begin()
        try:
            for fault in self.scale.faults:
                box.add_fault(**fault)
            answers = self._send()
            self._await_sandbox()
            self._lap("sending")
            self._settle(JOBS)  # a sweep would bring what a poll can
            self._settle()
            self._lap("recovering")
        finally:
            box.clear_faults()
        self._expire()
        self._lap("expiring")
        self._send_late_results()
        self._lap("late results")
        books = self._read(answers)
        self._lap("comparing")
        return books

    # --------------------------------------------------------------------------------------- sending

    def _prepare(self) -> None:
        """Give every clinic the label by which its events are told from another's."""
        for clinic in CLINICS:
            settings = f"{self.stack.sandbox_url}/v1/settings"
            headers = self.stack.headers(clinic)
            if requests.get(settings, headers=headers, timeout=10).status_code == 404:
                label = {"access_token_reference_id": f"user_{clinic}"}
                requests.post(settings, headers=headers, json=label, timeout=10).raise_for_status()

    def _begin(self) -> None:
        """Remember what was there before: it is not ours."""
        self._known_jobs = {job["id"] for job in self.stack.sandbox.jobs()}
        self._await_sandbox()
        rows = self._rows()
        for row in rows:  # a sweep for an older request would bring what our polls are to bring
            if "due_at" in row and row.get("state") in OPEN:
                self._move(row, AWAY, "due_at")
        self._known_rows = {row["pk"] for row in rows}
        self._known_dead = self._dead_letters()
        self._known_calls = len(self.stack.sandbox.requests(FETCH_PATH))
        self._known_events = len(self.log.all())
        self._began = time.monotonic()

    def _send(self) -> list[Answer]:
        providers = {clinic: provider_of(self.stack, clinic, FIRST_MONDAY) for clinic in CLINICS}
        answers = []
        callers = ThreadPoolExecutor(self.scale.callers)
        try:
            calls: list[Future[list[Answer]]] = [
                callers.submit(self._call, number, order)
                for number, order in enumerate(orders(self.scale.fetches, providers), 1)
                for _ in range(order.callers)
            ]
            pending, answered = set(calls), 0
            while pending:
                done, pending = wait(pending, STALL_SECONDS, FIRST_COMPLETED)
                answers += [answer for call in done for answer in call.result()]
                self.say(f"{len(calls) - len(pending)} of {len(calls)} callers have their answer")
                if not done and answered != len(answers):  # what is left hangs: use the time
                    answered = len(answers)
                    self._settle(JOBS)
        finally:
            callers.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C there are some left
        return answers

    def _call(self, number: int, order: Order) -> list[Answer]:
        answers = [self._fetch(number, order, order.key)]
        if order.asks_again and answers[0].status in UNANSWERED:
            answers.append(self._fetch(number, order, f"once more {number}"))
        return answers

    def _fetch(self, number: int, order: Order, key: str | None) -> Answer:
        headers = self.stack.headers(order.clinic)
        if key:
            headers |= {"Idempotency-Key": key}
        began = time.monotonic()
        answer = self._relay.fetch(dict(order.body), headers=headers)
        body = answer.json()
        window = (str(order.body["start_date"]), str(order.body["end_date"]))
        return Answer(
            order=number,
            matter=(self._connections[order.clinic], *window),
            has_key=key is not None,
            status=answer.status_code,
            message=body["message"],
            request_id=answer.headers.get("x-request-id", ""),
            job_id=body.get("job_execution_id"),
            is_joined=answer.headers.get("x-relay-joined") == "true",
            seconds=time.monotonic() - began,
        )

    def _await_sandbox(self) -> None:
        """Wait until no robot and no delivery is under way, but for jobs of earlier tests."""

        def is_idle() -> bool:
            running = {job["id"] for job in self.stack.sandbox.jobs() if job["state"] == "running"}
            health = requests.get(f"{self.stack.sandbox_url}/_sandbox/health", timeout=10).json()
            return bool(health["pending"] <= len(running & self._known_jobs))

        eventually(is_idle, IDLE_SECONDS)

    # ---------------------------------------------------------------------------------- time goes by

    def _settle(self, kind: str = "") -> None:
        """Look at what is open, again and again, until that changes nothing any more."""
        quiet = 0
        before = self._open(kind)
        for _ in range(MOST_ROUNDS):
            if not before or quiet == QUIET_ROUNDS:
                return
            for row in before.values():
                self._move(row, PAST, "due_at")
            self._look()
            after = self._open(kind)
            quiet = 0 if after.keys() != before.keys() else quiet + 1
            before = after
            self.say(f"{len(after)} rows are open after {self.invocations} looks")

    def _expire(self) -> None:
        """Let the deadline pass of whatever is open still."""
        for row in self._open().values():
            self._move(row, PAST, "due_at", "deadline")
        self._look()
        self._settle()

    def _send_late_results(self) -> None:
        """Have results come for jobs that have expired: one by webhook, one for a late look."""
        box = self.stack.sandbox
        known = {row["pk"].removeprefix(JOBS) for row in self._due()}
        gone = [
            job
            for job in self._jobs_of_sandbox()
            if job["state"] == "silent" and job["id"] in known
        ]
        for number, job in enumerate(gone[:LATE_RESULTS]):
            data = {
                "success": True,
                "appointment_count": 0,
                "start_date": job["start_date"],
                "end_date": job["end_date"],
                "appointments": [],
            }
            if number % 2:
                box.add_fault("lost", count=1)
            self._late[job["id"]] = box.emit(RESULT, job["clinic"], data, job_id=job["id"])
        self._await_sandbox()
        for row in self._due():
            if row["pk"].removeprefix("JOB#") in self._late:
                self._move(row, PAST, "due_at")
        self._look()

    def _look(self) -> None:
        """Run `reconcile_jobs` once, as its schedule does every minute."""
        name = self.stack.outputs["ReconcileJobsName"]
        answer = self._functions.invoke(FunctionName=name, Payload=b"{}")
        said = answer["Payload"].read().decode()
        self.invocations += 1
        if "FunctionError" in answer:
            self.faults_of_lambda.append(said)

    def _move(self, row: Json, by: timedelta, *names: str) -> None:
        """Set moments of a row to so much from now, unless it changed meanwhile."""
        moment = (datetime.now(UTC) + by).isoformat(timespec="milliseconds")
        with suppress(self.stack.aws.dynamodb.exceptions.ConditionalCheckFailedException):
            self.stack.aws.dynamodb.update_item(
                TableName=self.stack.table,
                Key={"pk": {"S": row["pk"]}, "sk": {"S": row["sk"]}},
                UpdateExpression="SET " + ", ".join(f"{name} = :moment" for name in names),
                ConditionExpression="due_at = :seen",
                ExpressionAttributeValues={
                    ":moment": {"S": moment.replace("+00:00", "Z")},
                    ":seen": {"S": row["due_at"]},
                },
            )

    def _open(self, kind: str = "") -> dict[str, Json]:
        """Give the rows that are due and not terminal: open requests, jobs, announcements."""
        return {
            row["pk"]: row
            for row in self._due()
            if row["pk"].startswith(kind)
            and (row.get("state") in OPEN or row.get("notification") == "open")
        }

    # --------------------------------------------------------------------------------------- reading

    def _read(self, answers: list[Answer]) -> Books:
        jobs = self._jobs_of_sandbox()
        rows = self._new(self._rows())
        job_rows = [row for row in rows if row["pk"].startswith("JOB#")]
        with ThreadPoolExecutor(READERS) as readers:
            event_ids = [event for job in jobs if (event := self._event_of(job))]
            sent = dict(zip(event_ids, readers.map(self._sent, event_ids), strict=True))
            ids = [row["job_execution_id"] for row in job_rows]
            bodies = dict(zip(ids, readers.map(self._stored, job_rows), strict=True))
        stored = {job: _digest(body) for job, body in bodies.items() if body is not None}
        brought = {
            row["job_execution_id"]: found
            for row in job_rows
            if (found := _brought(row, bodies[row["job_execution_id"]]))
        }
        wanted = sum(row["state"] in ("COMPLETED", "FAILED", "EXPIRED") for row in job_rows)
        with suppress(AssertionError):  # then the comparison says what is missing
            eventually(lambda: len(self._events()) >= wanted, EVENTS_SECONDS)
            eventually(lambda: not list(behind(brought, self._days())), EVENTS_SECONDS)
        return Books(
            answers=answers,
            sandbox_jobs=jobs,
            calls=self.stack.sandbox.requests(FETCH_PATH)[self._known_calls :],
            deliveries=[
                delivery
                for delivery in self.stack.sandbox.deliveries()
                if delivery["job_id"] not in self._known_jobs
            ],
            connections=self._connections,
            sent={event: digest for event, digest in sent.items() if digest},
            requests=[row for row in rows if row["pk"].startswith("REQUEST#")],
            jobs=job_rows,
            stored=stored,
            brought=brought,
            days=self._days(),
            changes=self._events(changes=True),
            due=self._due(),
            events=self._events(),
            late=self._late,
            dead_letters=self._dead_letters() - self._known_dead,
        )

    def _event_of(self, job: Json) -> str | None:
        event: str | None = self._late.get(job["id"]) or job["event_id"]
        return event

    def _sent(self, event_id: str) -> Digest | None:
        try:
            return _digest(self.stack.sandbox.event_body(event_id))
        except requests.HTTPError:
            return None

    def _days(self) -> dict[str, Day]:
        """Read what is kept of the clinics' days."""
        found = {}
        for connection in self._connections.values():
            for key in self._relay.object_keys(f"snapshots/connection={connection}/"):
                head, *items = map(json.loads, self._relay.object(key).splitlines())
                ids = frozenset(item["id"] for item in items)
                found[f"{connection} {head['day']}"] = Day(head["fetched_by"], ids)
        return found

    def _stored(self, row: Json) -> bytes | None:
        place: Mapping[str, str] | None = row.get("completion", {}).get("result")
        if place is None:
            return None
        exact: Any = {"VersionId": place["version_id"]} if "version_id" in place else {}
        try:
            answer = self.stack.aws.s3.get_object(Bucket=place["bucket"], Key=place["key"], **exact)
        except ClientError:
            return None
        body: bytes = answer["Body"].read()
        return body

    def _jobs_of_sandbox(self) -> list[Json]:
        return [job for job in self.stack.sandbox.jobs() if job["id"] not in self._known_jobs]

    def _events(self, *, changes: bool = False) -> list[Json]:
        """Give what was announced since the beginning, but for what others had begun.

        Either the ends of fetches, or what these changed.
        """
        return [
            event
            for event in self.log.all()[self._known_events :]
            if (event["detail-type"] == CHANGED) is changes
            and f"JOB#{event['detail'].get('job_execution_id')}" not in self._known_rows
            and f"REQUEST#{event['detail'].get('request_id')}" not in self._known_rows
        ]

    def _dead_letters(self) -> int:
        """Count what the queues for failures hold."""
        found = 0
        for output, url in self.stack.outputs.items():
            if output.endswith(FAILURES):
                answer = self.stack.aws.sqs.get_queue_attributes(
                    QueueUrl=url, AttributeNames=DEAD_LETTERS
                )
                found += sum(int(answer["Attributes"][each]) for each in DEAD_LETTERS)
        return found

    def _rows(self) -> list[Json]:
        pages = self.stack.aws.dynamodb.get_paginator("scan").paginate(
            TableName=self.stack.table, ConsistentRead=True
        )
        return _plain(item for page in pages for item in page["Items"])

    def _due(self) -> list[Json]:
        """Give the rows that stand in the sparse index: those with its keys."""
        return [row for row in self._new(self._rows()) if "due_shard" in row]

    def _new(self, rows: Iterable[Json]) -> list[Json]:
        return [row for row in rows if row["pk"] not in self._known_rows]

    def _lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name], self._began = now - self._began, now


def _connection_id_of(access_token: str) -> str:
    """Name a connection as the relay promises to."""
    return "conn_" + hashlib.sha256(access_token.encode()).hexdigest()[:32]


def _plain(items: Iterable[Mapping[str, Any]]) -> list[Json]:
    plain = TypeDeserializer()
    return [{name: plain.deserialize(value) for name, value in item.items()} for item in items]


def _brought(row: Json, body: bytes | None) -> Brought | None:
    """Read what a result says, if it is of all appointments of its days and lists them all."""
    if row["state"] != "COMPLETED" or row.get("search_by") != "date_range" or body is None:
        return None
    event, end = json.loads(body), row["completion"]["completed_at"]
    data = event["data"]
    if data["appointment_count"] != len(data["appointments"]):
        return None
    first, last = (date.fromisoformat(row["window"][each]) for each in ("start_date", "end_date"))
    days: dict[str, set[str]] = {
        str(first + timedelta(days=number)): set() for number in range((last - first).days + 1)
    }
    for item in data["appointments"]:
        moment = item.get("datetime") or item["date_time"]
        if moment[:10] in days:
            days[moment[:10]].add(str(item["id"]))
    made, done = (datetime.fromisoformat(each).timestamp() for each in (_made(event, end), end))
    ids = {day: frozenset(found) for day, found in days.items()}
    return Brought(row["connection_id"], min(made, done), ids)


def _made(event: Json, otherwise: str) -> str:
    return str(event.get("timestamp") or event.get("created") or otherwise)


def _digest(body: bytes) -> Digest:
    return Digest(hashlib.sha256(body).hexdigest(), len(body))
