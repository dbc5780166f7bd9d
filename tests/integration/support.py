"""What integration tests share: polling, calls of the relay, and a look at what it keeps."""

import json
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import requests
from boto3.dynamodb.types import TypeDeserializer

from cobalt_relay.adapters.snapshots import Snapshots
from cobalt_relay.appointments import Clinic
from cobalt_relay.models import (
    FetchWork,
    RangePlan,
    RangeRequest,
    Window,
    connection_id_of,
    range_id_of,
    utc_now,
)
from cobalt_relay.snapshots import Known, SeenAppointment, Snapshot
from tools.local.stack import Stack

POLL_SECONDS = 0.05
CALL_SECONDS = 30.0
DEFAULT_ZONE = "America/New_York"
"""Where a clinic is of which Cobalt has not told it yet: the template's DefaultTimezone."""

type Item = dict[str, Any]


def eventually[T](probe: Callable[[], T], deadline_seconds: float = 15.0) -> T:
    """Call `probe` until it gives something truthy, and give that.

    An `AssertionError` inside the probe counts as not yet; the last one is raised at the deadline.
    """
    deadline = time.monotonic() + deadline_seconds
    while True:
        failure: AssertionError | None = None
        try:
            if found := probe():
                return found
        except AssertionError as error:
            failure = error
        if time.monotonic() > deadline:
            raise failure or AssertionError(f"nothing after {deadline_seconds:g} s")
        time.sleep(POLL_SECONDS)


def work_for(connection_id: str, start: str, end: str) -> FetchWork:
    """Make the message of a schedule's range of its own, which is one piece."""
    plan = RangePlan(
        range_id=range_id_of(uuid.uuid4().hex),
        connection_id=connection_id,
        trigger="schedule",
        request=RangeRequest(window=Window.parse(start, end)),
        accepted_at=utc_now(),
    )
    return FetchWork(plan=plan, piece=0, not_before=plan.accepted_at)


def record_of(body: str, message_id: str = "", receipt: str = "none") -> Item:
    """Give a message as Lambda hands it to `run_fetches` when it comes for the first time."""
    return {
        "messageId": message_id,
        "receiptHandle": receipt,
        "body": body,
        "attributes": {"ApproximateReceiveCount": "1"},
    }


def days_of(
    clinic: Clinic, connection_id: str, window: Window, items: Iterable[Item], as_of: datetime
) -> Iterator[Snapshot]:
    """Make the days of a window as they are after a fetch that saw these appointments, and all."""
    sights: dict[date, dict[str, SeenAppointment]] = defaultdict(dict)
    for item in items:
        seen = SeenAppointment.read(item, clinic, as_of=as_of, fetched_by="job_of_a_test")
        sights[seen.datetime.date() if seen.datetime else window.start_date][seen.id] = seen
    for part in window.parts(1):
        day = part.start_date
        yield Snapshot(
            connection_id=connection_id,
            day=day,
            as_of=as_of,
            fetched_by="job_of_a_test",
            written_at=as_of,
            written_by="job_of_a_test",
            appointment_count=len(sights[day]),
            appointments=Known(None, sights[day]).in_order(),
        )


@dataclass(frozen=True)
class Relay:
    """Calls of the deployed relay, and what it left in its table and bucket."""

    stack: Stack

    def fetch(
        self,
        body: object = None,
        *,
        clinic: str = "riverside",
        headers: dict[str, str] | None = None,
        data: bytes | None = None,
        key: str | None = None,
    ) -> requests.Response:
        """POST /v1/appointments/fetch; `data` sends bytes instead of JSON.

        With an `Idempotency-Key` of its own unless told otherwise, so that it joins no other job.
        """
        own = {"Idempotency-Key": key or str(uuid.uuid4())}
        sent = self.stack.headers(clinic) | own if headers is None else headers
        url = f"{self.stack.api_url}/appointments/fetch"
        if data is not None:
            return requests.post(url, data=data, headers=sent, timeout=CALL_SECONDS)
        return requests.post(url, json=body, headers=sent, timeout=CALL_SECONDS)

    def fetch_range(
        self, body: object, *, clinic: str = "riverside", key: str | None = None
    ) -> requests.Response:
        """POST /v1/appointments/fetch/range."""
        own = {"Idempotency-Key": key} if key else {}
        return requests.post(
            f"{self.stack.api_url}/appointments/fetch/range",
            json=body,
            headers=self.stack.headers(clinic) | own,
            timeout=CALL_SECONDS,
        )

    def read(self, job_execution_id: str, *, clinic: str = "riverside") -> Item:
        """GET /v1/appointments/fetch/…: the job, or the range."""
        answer = requests.get(
            f"{self.stack.api_url}/appointments/fetch/{job_execution_id}",
            headers=self.stack.headers(clinic),
            timeout=CALL_SECONDS,
        )
        assert answer.status_code == 200, answer.text
        told: Item = answer.json()
        return told

    def appointments(
        self,
        query: object,
        *,
        clinic: str = "riverside",
        headers: dict[str, str] | None = None,
    ) -> requests.Response:
        """GET /v1/appointments; the headers are beside the clinic's own."""
        return requests.get(
            f"{self.stack.api_url}/appointments",
            params=query,  # type: ignore[arg-type]
            headers=self.stack.headers(clinic) | (headers or {}),
            timeout=CALL_SECONDS,
        )

    def keep_days(
        self,
        clinic: str,
        window: dict[str, str],
        items: Iterable[Item] = (),
        as_of: datetime | None = None,
    ) -> None:
        """Put the days of a window into the bucket, in place of those that are there.

        A run that takes in a fetch may write them at this moment.
        """
        name = self.connection(clinic).get("time_zone", DEFAULT_ZONE)
        zone, days = ZoneInfo(name), Window.parse(*window.values())
        connection_id = connection_id_of(self.stack.access_tokens[clinic])
        snapshots = Snapshots(self.stack.aws.s3, self.stack.bucket)
        of_clinic = Clinic(zone, zone, {})
        for day in days_of(of_clinic, connection_id, days, items, as_of or utc_now()):
            assert any(
                snapshots.write(day, snapshots.read(connection_id, day.day)) for _ in range(5)
            )

    def run_fetches(self, *works: FetchWork) -> list[int]:
        """Hand messages to `run_fetches` as Lambda does; tell which of them are to come again."""
        records = [
            record_of(work.model_dump_json(), str(number)) for number, work in enumerate(works)
        ]
        told = self.invoke("RunFetches", {"Records": records})
        return [int(each["itemIdentifier"]) for each in told["batchItemFailures"]]

    def plan_fetches(self, plan: Item) -> Item:
        """Invoke `plan_fetches` as the scheduler does, but wait for what it tells."""
        return self.invoke("PlanFetches", plan)

    def invoke(self, function: str, event: Item) -> Item:
        """Invoke a function and give what it tells."""
        answer = self.stack.aws.functions.invoke(
            FunctionName=self.stack.outputs[f"{function}Name"], Payload=json.dumps(event).encode()
        )
        told: Item = json.loads(answer["Payload"].read())
        assert "FunctionError" not in answer, told
        return told

    def connection(self, clinic: str) -> Item:
        """Give the row of a clinic's connection; empty where there is none."""
        connection_id = connection_id_of(self.stack.access_tokens[clinic])
        return self.item(f"CONNECTION#{connection_id}") or {}

    def today(self, clinic: str) -> date:
        """Give the day that it is where a clinic is, as far as its row tells where that is."""
        name = self.connection(clinic).get("time_zone", DEFAULT_ZONE)
        return datetime.now(ZoneInfo(name)).date()

    def let_success_be_long_ago(self, clinic: str) -> None:
        """Let an event of now count: its time is in whole seconds, and may be before a success."""
        key = f"CONNECTION#{connection_id_of(self.stack.access_tokens[clinic])}"
        self.stack.aws.dynamodb.update_item(
            TableName=self.stack.table,
            Key={"pk": {"S": key}, "sk": {"S": "CONNECTION"}},
            UpdateExpression="SET last_success_at = :past",
            ExpressionAttributeValues={":past": {"S": "2025-01-01T00:00:00.000Z"}},
        )

    def forget(self, key: str) -> None:
        """Remove a row."""
        self.stack.aws.dynamodb.delete_item(
            TableName=self.stack.table,
            Key={"pk": {"S": key}, "sk": {"S": key.partition("#")[0]}},
        )

    def settle(self) -> None:
        """Empty the queue of fetches, and let nothing hold up what comes next."""
        self.stack.aws.sqs.purge_queue(QueueUrl=self.stack.outputs["FetchQueueUrl"])
        self.free_robots()

    def free_robots(self) -> None:
        """Let no clinic's robot be at work, and the queue not rest.

        Tests whose jobs are not to report leave robots that would be at it for half an hour.
        """
        dynamodb, table = self.stack.aws.dynamodb, self.stack.table
        pages = dynamodb.get_paginator("scan").paginate(
            TableName=table,
            FilterExpression="begins_with(pk, :robot) OR begins_with(pk, :pause)",
            ExpressionAttributeValues={":robot": {"S": "ROBOT#"}, ":pause": {"S": "PAUSE#"}},
            ProjectionExpression="pk, sk",
        )
        for row in (row for page in pages for row in page["Items"]):
            dynamodb.delete_item(TableName=table, Key=row)

    def webhook(self, body: bytes, headers: dict[str, str]) -> requests.Response:
        """POST /v1/webhooks/cobalt, as Cobalt would."""
        return requests.post(
            self.stack.webhook_url, data=body, headers=headers, timeout=CALL_SECONDS
        )

    def item(self, key: str) -> Item | None:
        """Give the row with this partition key, such as ``JOB#job_1``."""
        answer = self.stack.aws.dynamodb.query(
            TableName=self.stack.table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": key}},
            ConsistentRead=True,
        )
        plain = TypeDeserializer()
        rows = [
            {name: plain.deserialize(value) for name, value in row.items()}
            for row in answer["Items"]
        ]
        assert len(rows) < 2
        return rows[0] if rows else None

    def job(self, job_execution_id: str) -> Item | None:
        """Give the row of a job."""
        return self.item(f"JOB#{job_execution_id}")

    def ended_job(self, job_execution_id: str, deadline_seconds: float = 15.0) -> Item:
        """Wait for a job to end; give its row."""

        def ended() -> Item | None:
            row = self.job(job_execution_id)
            return row if row and row["state"] in ("COMPLETED", "FAILED", "EXPIRED") else None

        row = eventually(ended, deadline_seconds)
        assert row
        return row

    def object(self, key: str) -> bytes:
        """Give the newest version of an object."""
        body: bytes = self.stack.aws.s3.get_object(Bucket=self.stack.bucket, Key=key)["Body"].read()
        return body

    def object_keys(self, prefix: str = "") -> list[str]:
        """List the keys in the bucket."""
        pages = self.stack.aws.s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.stack.bucket, Prefix=prefix
        )
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]
