"""`make demo`: the main job as a story that checks itself, on a stack that nothing else uses.

Every step compares what happened with what is promised; the first difference ends the demo with a
sentence and status 1. Nothing is left behind, whatever the end.
"""

import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import requests
from boto3.dynamodb.types import TypeDeserializer
from rich.console import Console
from rich.table import Table

from tools.local import logs, processes
from tools.local import stack as stacks
from tools.local.errors import LocalError
from tools.local.eventlog import CHANGED, Event, EventLog
from tools.local.paths import DEMO
from tools.local.stack import Stack
from tools.local.up import Ports, bring_up, curl

CLINIC = "riverside"
LOSER = "lakeside"
SUPPORTED_EMR = "eClinicalWorks"
ACCEPTED = "Live fetch request accepted. Results will be sent via webhook when ready."
RESULT_SECONDS = 60.0
AT_ONCE = {"days": 7, "spread_minutes": 0}
"""What the demo has no time for: a second piece, and the spreading of the fetches."""
SCHEDULE_AHEAD = timedelta(seconds=3)
POLL_SECONDS = 0.2
SHOWN_APPOINTMENTS = 5
SHOWN_LOG_LINES = 12

APPOINTMENT_COLUMNS = {
    "When": (16, ("datetime", "date_time")),
    "Patient": (18, ("patient_name", "patient_id")),
    "Provider": (12, ("provider_name", "provider_id", "provider_ehr_id")),
    "Type": (12, ("appointment_type",)),
    "Status": (6, ("status",)),
}
"""Width on 80 columns, and names: editions of Cobalt name the same thing differently, and the first
name that is there counts."""

type Json = dict[str, Any]


class BrokenPromiseError(LocalError):
    """Something is not as the README promises; the message says what."""


def expect(promise: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Raise `BrokenPromiseError` unless the promise is kept."""
    if not promise:
        raise BrokenPromiseError(f"Not as promised: {otherwise}")


def run() -> int:
    """Tell the story; give 0 where all of it is as promised."""
    console = Console(highlight=False)
    began = time.monotonic()
    with processes.exclusive(DEMO.with_suffix(".lock"), "make demo"):
        stacks.stop(DEMO)
        story = None
        try:
            console.rule("Cobalt Relay: one live fetch, from curl to S3 and EventBridge")
            stack = bring_up(
                DEMO, Ports(), say=console.print, leashed=True, ScheduleState="DISABLED"
            )
            story = Story(console, stack)
            story.tell()
        except BrokenPromiseError:
            if story:
                story.show_logs()
            raise
        finally:
            with console.status("Stopping the stack ..."):
                stacks.stop(DEMO)
    console.print(f"\nThe stack is stopped. Everything was as promised, in "
                  f"{time.monotonic() - began:.0f} s.", style="bold green")  # fmt: skip
    console.print("Next: make up keeps a stack running for you to try; make down stops it.")
    return 0


@dataclass
class Story:
    """The chapters, in order. Each raises `BrokenPromiseError` where it ends differently."""

    console: Console
    stack: Stack
    events: EventLog = field(init=False)
    _chapter: int = 0

    def __post_init__(self) -> None:
        self.events = EventLog(self.stack.aws, self.stack.outputs["EventLogUrl"])

    def tell(self) -> None:
        """Tell all of it."""
        job = self.request()
        self.webhook(job)
        row = self.job_row(job)
        self.result(row)
        self.event(row)
        self.days(row)
        self.lost()
        self.schedule()
        self.errors()

    # ------------------------------------------------------------------------------------ chapters

    def request(self) -> str:
        """Send the documented request; give the job of its 202."""
        self.chapter("The request, as Cobalt documents it; only the host name is ours")
        command = curl(self.stack, CLINIC)
        self.console.print(command, style="cyan", markup=False, soft_wrap=True)
        status, body = self.send(command)
        self.console.print(f"\nHTTP {status}", style="bold")
        self.console.print(json.dumps(body, indent=2), markup=False, soft_wrap=True)
        expect(status == 202, f"the answer is {status} instead of 202.")
        job = body.get("job_execution_id")
        expect(
            body == {"success": True, "message": ACCEPTED, "job_execution_id": job},
            "the answer is not the documented one.",
        )
        expect(isinstance(job, str) and bool(job), "job_execution_id is not a text.")
        return str(job)

    def webhook(self, job: str) -> None:
        """Wait for the robot in the clinic's EMR, and for Cobalt's webhook."""
        self.chapter("Cobalt works in the clinic's EMR, then calls our webhook")
        delivery = self.wait(
            "for Cobalt's webhook", lambda: next(iter(self.stack.sandbox.deliveries(job)), None)
        )
        self.facts(
            {
                "POST": delivery["url"],
                "event": f"{delivery['event_type']}  {delivery['event_id']}",
                "body": f"{delivery['bytes']:,} bytes, signed",
                "our answer": f"{delivery['response_status']} in {delivery['seconds']:.2f} s "
                "(Cobalt hangs up after 5 s)",
            }
        )
        expect(
            delivery["response_status"] == 200,
            f"the relay answered the webhook with {delivery['response_status']}.",
        )

    def job_row(self, job: str) -> Json:
        """Read the job's row in DynamoDB."""
        self.chapter("The job's row in DynamoDB: what an operator sees")
        row = self.wait("for the job to end", lambda: self.ended(job))
        completion = row["completion"]
        self.facts(
            {
                "key": f"{row['pk']}",
                "state": row["state"],
                "trigger": row["trigger"],
                "window": f"{row['window']['start_date']} to {row['window']['end_date']}",
                "connection": row["connection_id"],
                "accepted": row["accepted_at"],
                "completed": completion["completed_at"],
                "delivered via": completion["delivered_via"],
                "appointments": completion["appointment_count"],
            }
        )
        expect(row["state"] == "COMPLETED", f"the job ended as {row['state']}.")
        return row

    def result(self, row: Json) -> None:
        """Read the object in S3: Cobalt's bytes as they came."""
        self.chapter("The result in S3: Cobalt's bytes, as they came")
        place = row["completion"]["result"]
        body = self.stack.aws.s3.get_object(Bucket=place["bucket"], Key=place["key"])["Body"].read()
        sent = self.stack.sandbox.event_body(row["completion"]["cobalt_event_id"])
        self.console.print(f"s3://{place['bucket']}/{place['key']}\n", markup=False, soft_wrap=True)
        data = json.loads(body)["data"]
        self.console.print(appointments_table(data["appointments"][:SHOWN_APPOINTMENTS]))
        self.console.print(
            f"the first of {data['appointment_count']} appointments; {len(body):,} bytes"
        )
        expect(body == sent, "the object in S3 is not what Cobalt sent, byte for byte.")
        expect(bool(data["appointments"]), "the result has no appointments.")

    def event(self, row: Json) -> None:
        """Read the event on the bus: thin, without patient data."""
        self.chapter("The event on EventBridge: where the result is, and no patient data")
        job = str(row["job_execution_id"])
        (event, *others) = self.wait("for the event", lambda: self.events.of(job))
        self.show_event(event)
        expect(
            event["detail-type"] == "Appointments Fetched" and not others,
            "the job was not announced by one event, Appointments Fetched.",
        )
        expect(
            event["detail"]["result"] == row["completion"]["result"],
            "the event names another object than the job.",
        )

    def days(self, row: Json) -> None:
        """Read the clinic's days by one GET, in each form, and the event that tells what is new."""
        self.chapter("The clinic's days: what changed as an event, the newest state as one GET")
        job, window = str(row["job_execution_id"]), row["window"]
        (event, *_) = self.wait("for what changed", lambda: self.events.changes_of(job))
        detail = event["detail"]
        read = self.read(window, "application/json")
        answer = read.json()
        lines = self.read(window, "application/x-ndjson").text.splitlines()
        bundle = self.read(window, "application/fhir+json").json()
        unchanged = self.read(window, "application/json", read.headers["ETag"])
        self.facts(
            {
                "event": f"{event['detail-type']}, the first sight of "
                f"{len(detail['baseline_days'])} days",
                "details": detail["details"]["key"],
                "GET": read.url,
                "JSON": f"{len(answer['appointments'])} appointments of {len(answer['days'])} "
                f"days, as of {answer['days'][0]['as_of']}",
                "NDJSON": f"{len(lines)} lines",
                "FHIR": f"{bundle['resourceType']} of {len(bundle['entry'])} "
                f"{bundle['entry'][0]['resource']['resourceType']}s",
                "asked again": f"HTTP {unchanged.status_code}, nothing new since",
            }
        )
        count = row["completion"]["appointment_count"]
        expect(len(answer["appointments"]) == count, "the days do not hold what was fetched.")
        expect(not answer["days_never_fetched"], "a day of the window was not fetched.")
        told = len(lines), len(bundle["entry"]), unchanged.status_code
        expect(told == (count, count, 304), "the forms do not tell the same.")

    def lost(self) -> None:
        """Lose a webhook, and let the reconciler find its result."""
        self.chapter("A webhook that never comes: the reconciler asks for the result")
        box = self.stack.sandbox
        box.add_fault("lost", count=1, clinic=LOSER)
        status, body = self.send(curl(self.stack, LOSER))
        expect(status == 202, f"the answer is {status} instead of 202.")
        job = str(body["job_execution_id"])
        found = self.wait("for Cobalt's robot", lambda: box.job(job)["event_id"])
        self.stack.let_time_pass(f"JOB#{job}")  # a minute, which nobody wants to wait for
        self.stack.reconcile()
        row = self.wait("for the job to end", lambda: self.ended(job))
        completion = row["completion"]
        self.facts(
            {
                "deliveries": len(box.deliveries(job)),
                "job": f"{row['state']}, delivered via {completion['delivered_via']}",
                "result": completion["result"]["key"],
            }
        )
        expect(completion["delivered_via"] == "poll", "the result did not come by a poll.")
        place = completion["result"]
        stored = self.stack.aws.s3.get_object(Bucket=place["bucket"], Key=place["key"])
        expect(
            stored["Body"].read() == box.event_body(found),
            "the object in S3 is not what Cobalt would have sent, byte for byte.",
        )
        self.wait("for the event", lambda: self.events.of(job))

    def schedule(self) -> None:
        """Let EventBridge Scheduler fetch, as the stack's own schedule does."""
        self.chapter("The schedule: the same fetch without a caller")
        scheduler = self.stack.aws.scheduler
        own = scheduler.get_schedule(Name=self.stack.outputs["ScheduleName"])["Target"]
        known = {event["id"] for event in self.events.all()}

        def is_new(event: Event) -> bool:
            return event["id"] not in known and event["detail-type"] != CHANGED

        plan = json.dumps(json.loads(own["Input"]) | AT_ONCE)
        at = datetime.now(UTC) + SCHEDULE_AHEAD
        name = f"demo-{uuid.uuid4().hex[:12]}"
        scheduler.create_schedule(
            Name=name,
            ScheduleExpression=f"at({at:%Y-%m-%dT%H:%M:%S})",
            FlexibleTimeWindow={"Mode": "OFF"},
            ActionAfterCompletion="DELETE",
            Target={"Arn": own["Arn"], "RoleArn": own["RoleArn"], "Input": plan},
        )
        self.facts(
            {
                "the stack's own": self.stack.outputs["ScheduleName"],
                "once more at": f"{at:%H:%M:%S} UTC",
                "input": plan,
            }
        )
        event = self.wait(
            "for the scheduled fetch",
            lambda: next((each for each in self.events.all() if is_new(each)), None),
        )
        self.show_event(event)
        detail = event["detail"]
        expect(
            event["detail-type"] == "Appointments Fetched" and detail["trigger"] == "schedule",
            "the schedule did not lead to fetched appointments.",
        )
        place = detail["result"]
        stored = self.stack.aws.s3.head_object(Bucket=place["bucket"], Key=place["key"])
        expect(stored["ContentLength"] > 0, "the scheduled fetch left no object.")

    def errors(self) -> None:
        """Provoke the five documented refusals."""
        self.chapter("The five documented errors, word by word")
        other = next(
            each
            for each in self.stack.sandbox.clinics()
            if each["emr_name"] != SUPPORTED_EMR and each["linked"]
        )
        cases: list[tuple[Json, str, str]] = [
            ({}, CLINIC, "Missing required parameters: start_date, end_date."),
            (
                {"start_date": "2023-02-30", "end_date": "2023-03-02"},
                CLINIC,
                "Invalid date format. Use ISO format (YYYY-MM-DD).",
            ),
            (
                {"start_date": "2023-12-07", "end_date": "2023-12-01"},
                CLINIC,
                "end_date must be after start_date.",
            ),
            (
                {"start_date": "2023-12-01", "end_date": "2023-12-09"},
                CLINIC,
                "Date range cannot exceed 7 days.",
            ),
            (
                {"start_date": "2023-12-01", "end_date": "2023-12-07"},
                other["name"],
                (
                    f"Live fetch for appointments is not supported for {other['emr_name']}. "
                    f"Currently supported: {SUPPORTED_EMR}."
                ),
            ),
        ]
        for body, clinic, message in cases:
            answer = requests.post(
                f"{self.stack.api_url}/appointments/fetch",
                json=body,
                headers=self.stack.headers(clinic),
                timeout=RESULT_SECONDS,
            )
            self.console.print(f"{clinic}  {json.dumps(body)}", style="cyan", markup=False)
            self.console.print(
                f"  HTTP {answer.status_code}  {answer.text}\n", markup=False, soft_wrap=True
            )
            expect(
                answer.status_code == 400
                and answer.json() == {"success": False, "message": message},
                f"the documented answer is 400 with {message!r}.",
            )

    # --------------------------------------------------------------------------------------- means

    def chapter(self, title: str) -> None:
        """Begin a chapter."""
        self._chapter += 1
        self.console.print(f"\n{self._chapter}. {title}", style="bold")

    def facts(self, facts: Json) -> None:
        """Show names and values."""
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in facts.items():
            grid.add_row(name, str(value))
        self.console.print(grid)

    def show_event(self, event: Event) -> None:
        """Show what a rule on the bus would match."""
        detail = event["detail"]
        window = detail.get("window") or {}
        self.facts(
            {
                "source": event["source"],
                "detail-type": event["detail-type"],
                "event_id": detail["event_id"],
                "job_execution_id": detail["job_execution_id"],
                "trigger": detail.get("trigger"),
                "window": f"{window.get('start_date')} to {window.get('end_date')}",
                "appointments": detail.get("appointment_count"),
                "result": (detail.get("result") or {}).get("key"),
            }
        )

    def send(self, command: str) -> tuple[int, Json]:
        """Send the request that was shown: with curl where there is one."""
        if shutil.which("curl"):
            # The very text that was shown, so that what a reader pastes is what was tried.
            done = subprocess.run(
                [
                    "sh",
                    "-c",
                    f"{command} \\\n  --silent --show-error --write-out '\\n%{{http_code}}'",
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            expect(done.returncode == 0, f"curl failed: {done.stderr.strip()}")
            text, _, status = done.stdout.rpartition("\n")
            code = int(status)
        else:
            self.console.print("(curl is not installed: sent by Python instead)")
            today = date.today()  # noqa: DTZ011 - as in the command
            answer = requests.post(
                f"{self.stack.api_url}/appointments/fetch",
                json={
                    "start_date": today.isoformat(),
                    "end_date": (today + timedelta(days=6)).isoformat(),
                },
                headers=self.stack.headers(CLINIC),
                timeout=RESULT_SECONDS,
            )
            text, code = answer.text, answer.status_code
        try:
            body = json.loads(text)
        except ValueError:
            body = None
        expect(isinstance(body, dict), f"the answer ({code}) is not a JSON object: {text[:200]}")
        return code, body

    def read(self, window: Json, form: str, etag: str = "") -> requests.Response:
        """Read the appointments of a window's days in a form."""
        headers = self.stack.headers(CLINIC) | {"Accept": form}
        answer = requests.get(
            f"{self.stack.api_url}/appointments",
            params={name: str(day) for name, day in window.items()},
            headers=headers | ({"If-None-Match": etag} if etag else {}),
            timeout=RESULT_SECONDS,
        )
        expect(answer.status_code in {200, 304}, f"the answer is {answer.status_code}.")
        return answer

    def ended(self, job: str) -> Json | None:
        """Give the row of a job that has ended."""
        answer = self.stack.aws.dynamodb.query(
            TableName=self.stack.table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": f"JOB#{job}"}},
            ConsistentRead=True,
        )
        plain = TypeDeserializer()
        rows = [
            {name: plain.deserialize(value) for name, value in row.items()}
            for row in answer["Items"]
        ]
        return next((row for row in rows if "completion" in row), None)

    def wait[T](self, what: str, probe: Callable[[], T | None]) -> T:
        """Poll until there is something, with a sign of life."""
        if found := probe():
            return found
        began = time.monotonic()
        if not self.console.is_terminal:
            self.console.print(f"waiting {what} ...")
        with self.console.status(f"waiting {what} ...") as status:
            while not (found := probe()):
                seconds = time.monotonic() - began
                expect(seconds < RESULT_SECONDS, f"waited {seconds:.0f} s {what}, in vain.")
                status.update(f"waiting {what} ... {seconds:.0f} s")
                time.sleep(POLL_SECONDS)
        self.console.print(f"after {time.monotonic() - began:.1f} s:", style="dim")
        return found

    def show_logs(self) -> None:
        """Show the end of the functions' logs, which go with the stack."""
        lines = logs.new_lines(self.stack, set())[-SHOWN_LOG_LINES:]
        self.console.print("\nThe last that the functions logged:", style="bold")
        for line in lines:
            self.console.print(str(line), markup=False, soft_wrap=True)


def appointments_table(appointments: list[Json]) -> Table:
    """Show appointments of any edition."""
    table = Table(padding=(0, 1))
    for title, (width, _) in APPOINTMENT_COLUMNS.items():
        table.add_column(title, no_wrap=True, overflow="ellipsis", width=width)
    for appointment in appointments:
        when, *others = (
            next((str(appointment[name]) for name in names if appointment.get(name)), "")
            for _, names in APPOINTMENT_COLUMNS.values()
        )
        table.add_row(when[:16].replace("T", " "), *others)
    return table
