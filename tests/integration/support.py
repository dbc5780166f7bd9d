"""What integration tests share: polling, calls of the relay, and a look at what it keeps."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests
from boto3.dynamodb.types import TypeDeserializer

from tools.local.stack import Stack

POLL_SECONDS = 0.05
CALL_SECONDS = 30.0

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
