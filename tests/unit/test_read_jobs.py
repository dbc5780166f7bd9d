"""GET /v1/appointments/fetch/{job_execution_id}, through its handler."""

import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import boto3
import pytest
from botocore.exceptions import ClientError

from cobalt_relay import bootstrap
from cobalt_relay.adapters.jobs import Jobs
from cobalt_relay.adapters.ranges import Ranges
from cobalt_relay.adapters.secrets import REFRESH_SECONDS, Secrets
from cobalt_relay.adapters.table import Table
from cobalt_relay.errors import SecretsFault, TableFault
from cobalt_relay.models import ClientCredentials, iso
from cobalt_relay.services.read_jobs import ReadJobs
from functions.fetch_appointments.handler import lambda_handler as fetch
from functions.read_appointments.handler import lambda_handler as read
from functions.receive_webhook.handler import lambda_handler as receive
from tests.unit.conftest import (
    HEADERS,
    LambdaContextStub,
    World,
    body_of,
    fetch_event,
    header,
    job_event,
    webhook_event,
)

WEEK = {"start_date": "2023-12-01", "end_date": "2023-12-07"}
NO_SUCH_JOB = {
    "success": False,
    "message": "No such job. The id must be one that a fetch with this access_token was answered "
    "with, within the time for which jobs are kept.",
}


def get(encoded_id: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = read(job_event(encoded_id, headers), LambdaContextStub())
    return answer


def start(headers: dict[str, str] | None = None, /, **more: str) -> str:
    event = fetch_event(WEEK, {**(headers or HEADERS), **more})
    event["requestContext"]["requestId"] = str(uuid.uuid4())
    answer = fetch(event, LambdaContextStub())
    job_execution_id: str = body_of(answer)["job_execution_id"]
    return job_execution_id


def deliver(job_execution_id: str, **data: Any) -> None:
    body = {
        "id": f"evt_{job_execution_id}",
        "type": "appointment.live_fetch_completed",
        "job_id": job_execution_id,
        "data": data,
    }
    answer = receive(webhook_event(json.dumps(body).encode()), LambdaContextStub())
    assert answer["statusCode"] == 200


# --------------------------------------------------------------------------------------- the answer


def test_open_job_is_told_and_when_to_ask_again(world: World) -> None:
    job_execution_id = start()
    world.clock.sleep(5)

    answer = get(job_execution_id)

    assert answer["statusCode"] == 200
    assert body_of(answer) == {
        "success": True,
        "job_execution_id": job_execution_id,
        "status": "ACCEPTED",
        "window": WEEK,
        "trigger": "api",
        "requested_at": "2025-01-02T10:00:00.000Z",
        "accepted_at": "2025-01-02T10:00:00.000Z",
        "completed_at": None,
        "expired_at": None,
        "deadline": "2025-01-02T12:00:00.000Z",
        "attempts": 0,
        "delivered_via": None,
        "appointment_count": None,
        "error_code": None,
    }
    assert header(answer, "Retry-After") == "2"
    assert header(answer, "Cache-Control") == "no-store"
    assert header(answer, "x-request-id")


@pytest.mark.parametrize(("waited", "pause"), [(0, "2"), (29, "2"), (100, "10"), (7000, "60")])
def test_pause_grows_with_the_time_waited(world: World, waited: int, pause: str) -> None:
    job_execution_id = start()
    world.clock.sleep(waited)

    answer = get(job_execution_id)

    assert header(answer, "Retry-After") == pause


def test_completed_job_tells_its_count_and_its_way(world: World) -> None:
    job_execution_id = start()
    world.clock.sleep(30)
    deliver(job_execution_id, appointments=[{"id": "1"}, {"id": "2"}])

    answer = get(job_execution_id)

    told = body_of(answer)
    assert (told["status"], told["appointment_count"]) == ("COMPLETED", 2)
    assert (told["delivered_via"], told["completed_at"]) == ("webhook", "2025-01-02T10:00:30.000Z")
    assert (told["attempts"], told["error_code"]) == (None, None)
    assert header(answer, "Retry-After") is None


def test_failed_job_tells_its_code_and_no_count(world: World) -> None:
    job_execution_id = start()
    deliver(job_execution_id, success=False, error="login_required")

    told = body_of(get(job_execution_id))

    assert (told["status"], told["error_code"]) == ("FAILED", "login_required")
    assert told["appointment_count"] is None


def test_expired_job_tells_when(world: World) -> None:
    job_execution_id = start()
    world.clock.sleep(7201)
    world.reconcile_jobs.run(seconds_left=lambda: 300)

    answer = get(job_execution_id)

    told = body_of(answer)
    assert (told["status"], told["expired_at"]) == ("EXPIRED", iso(world.clock.moment))
    assert told["completed_at"] is None
    assert header(answer, "Retry-After") is None


def test_looks_of_the_reconciler_are_counted(world: World) -> None:
    job_execution_id = start()
    world.clock.sleep(61)
    world.reconcile_jobs.run(seconds_left=lambda: 300)

    told = body_of(get(job_execution_id))

    assert told["attempts"] == 1


def test_search_without_days_has_no_window(world: World) -> None:
    answer = fetch(fetch_event({"search_by": "mrn", "mrn": "7"}), LambdaContextStub())

    told = body_of(get(body_of(answer)["job_execution_id"]))

    assert told["window"] is None


def test_request_whose_row_is_gone_leaves_its_time_open(world: World) -> None:
    job_execution_id = start()
    for place in [key for key in world.jobs.table.items if key[1] == "REQUEST"]:
        del world.jobs.table.items[place]

    told = body_of(get(job_execution_id))

    assert (told["status"], told["requested_at"]) == ("ACCEPTED", None)


def test_id_is_found_when_it_is_percent_encoded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.cobalt, "fetch_appointments", lambda *_: "job 1/ä:%")
    start()

    answer = get(quote("job 1/ä:%", safe=""))

    assert body_of(answer)["job_execution_id"] == "job 1/ä:%"


# --------------------------------------------------------------------------------- who may not see it


@pytest.mark.parametrize("missing", HEADERS)
def test_401_names_the_header_when_one_is_missing(world: World, missing: str) -> None:
    job_execution_id = start()

    answer = get(job_execution_id, {n: v for n, v in HEADERS.items() if n != missing})

    assert answer["statusCode"] == 401
    assert body_of(answer) == {"success": False, "message": f"Missing required headers: {missing}."}


IMPOSSIBLE = {
    "too many characters": "j" * 257,
    "far too many": "j" * 8000,
    "many bytes": quote("😀" * 257),
    "control characters": "job_1%00%0A%1B",
    "a line break": "job_1\n",
    "a slash": "job_1/..",
    "an encoded slash": "job_1%2F..%2Fjob_2",
    "a broken encoding": "%ff%fe%",
    "a lone surrogate": "job_\ud800",
    "another kind of row": "REQUEST%23r1",
    "nothing but a blank": "%20",
}
SOMEONE = {
    "another token": {"access_token": "token-9"},
    "no possible token": {"access_token": "tök en"},
    "a lone surrogate": {"access_token": "\ud800"},
    "the connection's id": {"access_token": "conn_8b1a9953c4611296a827abf8c47804d7"},
    "a wrong client_id": {"client_id": "stranger"},
    "a wrong client_secret": {"client_secret": "wrong"},
    "no ASCII": {"client_secret": "sésame"},
    "all wrong": {"client_id": "x", "client_secret": "x", "access_token": "x"},
}
CASES: dict[str, tuple[str, dict[str, str]]] = {
    "nothing there": ("job_99", {}),
    "a foreign job": ("job_2", {}),
    "nobody's job": ("job_unclaimed", {}),
    **{f"an id with {name}": (encoded_id, {}) for name, encoded_id in IMPOSSIBLE.items()},
    **{f"{name}, its job": ("job_1", wrong) for name, wrong in SOMEONE.items()},
    **{f"{name}, no job": ("job_99", wrong) for name, wrong in SOMEONE.items()},
    **{f"{name}, an impossible job": ("j" * 999, wrong) for name, wrong in SOMEONE.items()},
}


class Wire:
    """The use case on real adapters, whose AWS calls are recorded in order."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.seconds = 1000.0
        dynamodb, secretsmanager = boto3.client("dynamodb"), boto3.client("secretsmanager")
        monkeypatch.setattr(dynamodb, "_make_api_call", self._read_rows)
        monkeypatch.setattr(secretsmanager, "_make_api_call", self._read_secret)
        self._table = Table(dynamodb, "table")
        self._items = world.jobs.table.items
        service = ReadJobs(
            Jobs(self._table, timedelta(days=30), timedelta(hours=2)),
            Ranges(self._table, timedelta(days=30)),
            Secrets(secretsmanager, "arn:c", "arn:w", clock=lambda: self.seconds),
            now=world.clock,
        )
        monkeypatch.setattr(bootstrap, "read_jobs", lambda: service)

    def _read_rows(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        keys = arguments["RequestItems"]["table"]["Keys"]
        self.calls.append(f"{operation} {' '.join(key['sk']['S'] for key in keys)}")
        if any(len(key["pk"]["S"].encode()) > 2048 for key in keys):  # DynamoDB's own limit
            raise ClientError({"Error": {"Code": "ValidationException"}}, operation)
        found = [self._items.get((key["pk"]["S"], key["sk"]["S"])) for key in keys]
        return {"Responses": {"table": [self._table._serialize(item) for item in found if item]}}

    def _read_secret(self, operation: str, _arguments: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(operation)
        pair = {name: HEADERS[name] for name in ("client_id", "client_secret")}
        return {"SecretString": json.dumps(pair), "CreatedDate": None, "VersionId": "1"}


@pytest.fixture
def wire(world: World, monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Two jobs of `token-1`, one of `token-2`, one that is nobody's; and a warm function."""
    start()
    start({**HEADERS, "access_token": "token-2"})
    start(**{"Idempotency-Key": "another"})
    deliver("job_unclaimed", appointments=[])
    wire = Wire(world, monkeypatch)
    assert get("job_1")["statusCode"] == 200
    return wire


@pytest.mark.parametrize("owner", [lambda own: own[:-1], lambda own: own[:-1] + "x"])
def test_404_when_a_job_belongs_to_a_connection_of_nearly_the_same_name(
    world: World, owner: Callable[[str], str]
) -> None:
    job_execution_id = start()
    job = world.jobs.table.items[f"JOB#{job_execution_id}", "JOB"]
    job["connection_id"] = owner(job["connection_id"])

    answer = get(job_execution_id)

    assert answer["statusCode"] == 404


@pytest.mark.parametrize("case", CASES)
def test_404_and_its_calls_are_the_same_whatever_is_wrong(wire: Wire, case: str) -> None:
    encoded_id, wrong = CASES[case]
    wire.calls.clear()

    answer = get(encoded_id, {**HEADERS, **wrong})

    assert answer["statusCode"] == 404
    assert answer["body"] == json.dumps(NO_SUCH_JOB)
    assert answer["multiValueHeaders"] == {
        "x-request-id": ["0b5a1c5e-0000-4000-8000-000000000001"],
        "Cache-Control": ["no-store"],
        "X-Content-Type-Options": ["nosniff"],
        "Strict-Transport-Security": ["max-age=63072000"],
        "Content-Type": ["application/json"],
    }
    assert wire.calls == ["BatchGetItem JOB", "GetSecretValue"]


@pytest.mark.parametrize("case", CASES)
def test_secret_is_not_read_again_within_a_second_whatever_is_wrong(wire: Wire, case: str) -> None:
    encoded_id, wrong = CASES[case]
    get("job_99")
    wire.calls.clear()

    for _ in range(20):
        get(encoded_id, {**HEADERS, **wrong})
    wire.seconds += REFRESH_SECONDS
    get(encoded_id, {**HEADERS, **wrong})

    assert wire.calls == ["BatchGetItem JOB"] * 21 + ["GetSecretValue"]


def test_found_job_costs_its_two_rows_alone(wire: Wire) -> None:
    wire.calls.clear()

    found = [get("job_1"), get("job_3")]

    assert [answer["statusCode"] for answer in found] == [200, 200]
    assert wire.calls == ["BatchGetItem JOB", "BatchGetItem REQUEST"] * 2


def test_new_credentials_fit_at_once_when_the_operator_replaced_them(world: World) -> None:
    job_execution_id = start()
    world.secrets.refreshed = ClientCredentials(client_id="client", client_secret="new")

    answer = get(job_execution_id, {**HEADERS, "client_secret": "new"})

    assert answer["statusCode"] == 200


def test_job_is_gone_when_its_time_is_over_though_dynamodb_still_has_it(world: World) -> None:
    job_execution_id = start()
    world.clock.sleep(30 * 86_400)

    at_its_end = get(job_execution_id)
    world.clock.sleep(-1)
    before = get(job_execution_id)

    assert (before["statusCode"], at_its_end["statusCode"]) == (200, 404)


@pytest.mark.parametrize("wrong", [{}, *SOMEONE.values()])
def test_503_for_everybody_when_nothing_is_configured(world: World, wrong: dict[str, str]) -> None:
    job_execution_id = start()
    world.secrets.current = None

    answer = get(job_execution_id, {**HEADERS, **wrong})

    assert answer["statusCode"] == 503
    assert "put client_id and client_secret into the secret" in body_of(answer)["message"]


@pytest.mark.parametrize("case", CASES)
def test_503_for_everybody_when_the_table_fails(world: World, case: str) -> None:
    start()
    world.jobs.fail("job", TableFault())
    encoded_id, wrong = CASES[case]

    answer = get(encoded_id, {**HEADERS, **wrong})

    assert answer["statusCode"] == 503


@pytest.mark.parametrize("case", CASES)
def test_503_for_everybody_but_the_owner_when_the_secret_cannot_be_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    job_execution_id = start()
    known = world.secrets.credentials()
    encoded_id, wrong = CASES[case]

    def credentials(*, refresh: bool = False) -> ClientCredentials:
        if refresh:
            raise SecretsFault
        return known

    monkeypatch.setattr(world.secrets, "credentials", credentials)

    assert get(encoded_id, {**HEADERS, **wrong})["statusCode"] == 503
    assert get(job_execution_id)["statusCode"] == 200


# -------------------------------------------------------------------- keys and flights are bound too


def test_one_key_is_another_job_for_another_connection(world: World) -> None:
    other = {**HEADERS, "access_token": "token-2"}

    jobs = [start(headers, **{"Idempotency-Key": "same"}) for headers in (HEADERS, other) * 2]

    assert jobs == ["job_1", "job_2", "job_1", "job_2"]
    assert len([key for key in world.jobs.table.items if key[1] == "IDEMPOTENCY"]) == 2


def test_key_with_another_body_is_no_misuse_for_another_connection(world: World) -> None:
    start(**{"Idempotency-Key": "same"})
    headers = {**HEADERS, "access_token": "token-2", "Idempotency-Key": "same"}

    event = fetch_event({**WEEK, "end_date": "2023-12-03"}, headers)
    event["requestContext"]["requestId"] = "another"

    answer = fetch(event, LambdaContextStub())

    assert answer["statusCode"] == 202


def test_equal_question_of_another_connection_joins_nothing(world: World) -> None:
    jobs = [start(), start(access_token="token-2"), start(), start(access_token="token-2")]

    assert jobs == ["job_1", "job_2", "job_1", "job_2"]


def test_key_and_token_cannot_be_shifted_into_each_other(world: World) -> None:
    """A hold is named for the connection's id, which is of one length, and the key."""
    first = start(access_token="token-1", **{"Idempotency-Key": "2 key"})
    second = start(access_token="token-12", **{"Idempotency-Key": "key"})

    assert first != second
