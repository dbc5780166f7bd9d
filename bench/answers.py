"""AWS and Cobalt behind the relay's own handlers, in place of the network: answered and counted.

The handlers, use cases and adapters are the real ones. What the SDK and the HTTP library do for a
call (serialising, signing, sending, parsing) is left out: it is the same for whoever makes the
call, and `throughput` measures it. There is as much of AWS as a fetch and its webhook need.
"""

import hashlib
import hmac
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import boto3
import requests

from bench.setting import environment_of
from cobalt_relay import bootstrap
from cobalt_relay.models import connection_id_of

type Json = dict[str, Any]
type Handler = Callable[[Json, Any], Json]

CLIENT_ID, CLIENT_SECRET, TOKEN = "client", "sesame", "token-of-the-bench"
KEY = b"webhook-key-of-the-bench"
DAYS = {"start_date": "2025-01-06", "end_date": "2025-01-12"}
MEBI = 1024 * 1024
BEGAN = datetime(2025, 1, 1, tzinfo=UTC)


class Context:
    """What Lambda tells a handler of its invocation."""

    function_name = "bench"
    memory_limit_in_mb = 1024
    invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:bench"
    aws_request_id = "0b5a1c5e-0000-4000-8000-000000000000"

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        """Give as much as there may be."""
        return 28_000


class Answers:
    """Answers every call; `calls` counts them, by operation, and `rows` those of the table."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self._jobs = 0

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the answers in the place of AWS and Cobalt, for use cases that are made in here."""
        make: Any = boto3.client

        def client(service: str, **options: Any) -> Any:  # noqa: ANN401 - one type per service
            made = make(service, **options)
            made._make_api_call = lambda operation, asked: self._aws(service, operation, asked)  # noqa: SLF001
            return made

        def request(_session: object, method: str, _url: str, **_: object) -> Any:  # noqa: ANN401
            self.calls[f"HTTP {method}"] += 1
            self._jobs += 1
            return _Accepted(f"job_{self._jobs:024x}")

        caches = [each for each in vars(bootstrap).values() if hasattr(each, "cache_clear")]
        with (
            patch.dict(os.environ, environment_of()),
            patch.object(boto3, "client", client),
            patch.object(requests.Session, "request", request),
        ):
            for each in caches:
                each.cache_clear()
            try:
                yield
            finally:
                for each in caches:
                    each.cache_clear()

    def _aws(self, service: str, operation: str, asked: Json) -> Json:
        self.calls[f"{service} {operation}"] += 1
        match operation:
            case "BatchGetItem":
                keys = asked["RequestItems"]["table"]["Keys"]
                self.rows["read"] += len(keys)
                rows = [row for key in keys if (row := _row(key))]
                return {"Responses": {"table": rows}, "UnprocessedKeys": {}}
            case "TransactWriteItems":
                self.rows["written"] += len(asked["TransactItems"])
            case "GetSecretValue":
                secret = {
                    "client_id": CLIENT_ID,
                    "client_secret": CLIENT_SECRET,
                    "webhook_secret_key": KEY.decode(),
                }
                return {
                    "SecretString": json.dumps(secret),
                    "VersionId": "v" * 32,
                    "CreatedDate": BEGAN,
                }
            case "PutObject":
                return {"VersionId": "v" * 32}
            case "PutEvents":
                return {"FailedEntryCount": 0, "Entries": [{"EventId": str(uuid4())}]}
        return {}


class _Accepted:
    """Cobalt's 202, as the HTTP library hands it on."""

    status_code = 202

    def __init__(self, job_execution_id: str) -> None:
        self.headers: dict[str, str] = {}
        self._body = json.dumps({"success": True, "job_execution_id": job_execution_id}).encode()

    def __enter__(self) -> "_Accepted":
        return self

    def __exit__(self, *_: object) -> None: ...

    def iter_content(self, _size: int) -> Iterator[bytes]:
        yield self._body


def _row(key: Json) -> Json | None:
    """Give the row that is there: the connection, and every job, open."""
    kind, _, name = key["pk"]["S"].partition("#")
    connection = connection_id_of(TOKEN)
    texts = {
        "CONNECTION": {
            "connection_id": connection,
            "state": "active",
            "registered_at": "2025-01-01T00:00:00.000Z",
        },
        "JOB": {
            "job_execution_id": name,
            "state": "ACCEPTED",
            "connection_id": connection,
            "request_id": "0b5a1c5e-0000-4000-8000-000000000001",
            "trigger": "api",
            "search_by": "date_range",
            "accepted_at": "2025-01-01T00:00:00.000Z",
            "deadline": "2125-01-01T00:00:00.000Z",
            "trace_id": "0b5a1c5e000040008000000000000001",
            "due_shard": "0",
            "due_at": "2025-01-01T00:01:00.000Z",
        },
    }.get(kind)
    if texts is None:
        return None
    window = {"window": {"M": {each: {"S": day} for each, day in DAYS.items()}}}
    more = window if kind == "JOB" else {}
    expiry = {"expires_at": {"N": "9999999999"}}
    return key | {each: {"S": text} for each, text in texts.items()} | more | expiry


# ------------------------------------------------------------------------------------- what is sent


def fetch_call() -> Json:
    """Give a call of POST /v1/appointments/fetch that joins no other."""
    headers = {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "access_token": TOKEN,
        "Idempotency-Key": str(uuid4()),
        "Content-Type": "application/json",
    }
    return _call("/appointments/fetch", json.dumps(DAYS), headers)


def webhook_call(body: bytes) -> Json:
    """Give a delivery of a body, signed."""
    signature = hmac.new(KEY, body, hashlib.sha256).hexdigest()
    headers = {"cobalt-verification": signature, "Content-Type": "application/json"}
    return _call("/webhooks/cobalt", body.decode(), headers)


def result(appointments: int = 42, size: int = 0) -> bytes:
    """Give the webhook of a job with so many appointments, or as many as it takes for a size."""
    job = f"job_{uuid4().hex[:24]}"
    listed = [_appointment(number) for number in range(appointments)]
    if size:
        listed *= -(-size // len(json.dumps(listed)))
    document = {
        "id": f"evt_{job}",
        "type": "appointment.live_fetch_completed",
        "access_token_reference_id": "user_1",
        "job_id": job,
        "timestamp": "2025-01-06T10:00:00.000Z",
        "data": {
            "success": True,
            "appointment_count": len(listed),
            **DAYS,
            "appointments": listed,
        },
    }
    return json.dumps(document).encode()


def _appointment(number: int) -> Json:
    """Give one that is as long as those of the documentation; about 1.2 KB."""
    return {
        "id": f"appt_{number:06}",
        "datetime": f"2025-01-{6 + number % 7:02}T{8 + number % 9:02}:30:00-05:00",
        "end_datetime": f"2025-01-{6 + number % 7:02}T{8 + number % 9:02}:45:00-05:00",
        "appointment_type": "Office Visit",
        "appointment_status": "Scheduled",
        "duration_minutes": 15,
        "reason": "Follow-up of the last visit, and a question about the medication",
        "notes": "Patient asked to be called back in the afternoon. " * 6,
        "provider": {"id": 1000 + number % 5, "name": "Dr. Sample", "npi": "1234567893"},
        "patient": {
            "id": 100000 + number,
            "mrn": f"MRN{number:06}",
            "first_name": "Sample",
            "last_name": f"Patient-{number}",
            "date_of_birth": "1980-01-01",
            "sex": "F",
            "address": {"line1": "1 Main Street", "city": "Springfield", "state": "IL"},
            "phones": [{"type": "home", "number": "555-0100"}],
        },
        "location": {"id": 7, "name": "Main Office", "room": "3"},
        "insurance": [{"payer": "Sample Health", "member_id": f"SH{number:08}"}],
        "metadata": {"source": "ecw", "version": 3, "flags": [1, 2, 3], "confirmed": True},
    }


def _call(path: str, body: str, headers: dict[str, str]) -> Json:
    """Give API Gateway's event, with what it has on AWS."""
    return {
        "resource": path,
        "path": path,
        "httpMethod": "POST",
        "headers": {**headers, "X-Amzn-Trace-Id": "Root=1-67891234-12456789abcdef0123456789"},
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {
            "requestId": str(uuid4()),
            "extendedRequestId": "abc=",
            "stage": "v1",
            "path": f"/v1{path}",
            "httpMethod": "POST",
            "resourcePath": path,
            "identity": {"sourceIp": "192.0.2.1"},
        },
        "body": body,
        "isBase64Encoded": False,
    }
