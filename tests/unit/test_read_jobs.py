"""GET /v1/appointments/fetch/{job_execution_id}, through its handler."""

import json
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
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
from cobalt_relay.api import MAX_WAIT_SECONDS
from cobalt_relay.errors import InvalidWait, ResultsFault, SecretsFault, TableFault
from cobalt_relay.models import ClientCredentials, iso
from cobalt_relay.observability import logger
from cobalt_relay.services.read_jobs import ReadJobs
from functions.fetch_appointments.handler import lambda_handler as fetch
from functions.read_appointments.handler import lambda_handler as read
from functions.receive_webhook.handler import lambda_handler as receive
from functions.run_fetches.handler import lambda_handler as run_fetches
from tests.unit.conftest import (
    HEADERS,
    RETENTION,
    LambdaContextStub,
    World,
    body_of,
    fetch_event,
    header,
    job_event,
    queue_event,
    range_event,
    webhook_event,
)

WEEK = {"start_date": "2023-12-01", "end_date": "2023-12-07"}
NO_SUCH_JOB = {
    "success": False,
    "message": "No such job. The id must be one that a fetch with this access_token was answered "
    "with, within the time for which jobs are kept.",
}


def get(
    encoded_id: str,
    headers: dict[str, str] | None = None,
    wait: str | list[str] | None = None,
    *,
    seconds_left: float = 28.0,
) -> dict[str, Any]:
    event, context = job_event(encoded_id, headers, wait), LambdaContextStub(seconds_left)
    answer: dict[str, Any] = read(event, context)
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
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    job_execution_id = start(traceparent=f"00-{trace_id}-b7ad6b7169203331-01")
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
        "result_url": None,
        "result_url_expires_at": None,
        "trace_id": trace_id,
    }
    assert header(answer, "Retry-After") == "2"
    assert header(answer, "Cache-Control") == "no-store"
    assert (
        header(answer, "x-progress") == "accepted by Cobalt 5 s ago; looks for its result since: 0"
    )
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
    assert header(answer, "x-progress") is None


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

    answer = get(job_execution_id)

    assert body_of(answer)["attempts"] == 1
    assert "looks for its result since: 1" in (header(answer, "x-progress") or "")


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
            world.links,
            RETENTION,
            now=world.clock,
            sleep=self._sleep,
        )
        self._clock = world.clock
        monkeypatch.setattr(bootstrap, "read_jobs", lambda: service)

    def _sleep(self, seconds: float) -> None:
        self.calls.append("sleep")
        self._clock.sleep(seconds)

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


@pytest.mark.parametrize("wait", [None, "0", "20"])
@pytest.mark.parametrize("case", CASES)
def test_404_and_its_calls_are_the_same_whatever_is_wrong(
    wire: Wire, case: str, wait: str | None
) -> None:
    encoded_id, wrong = CASES[case]
    wire.calls.clear()

    answer = get(encoded_id, {**HEADERS, **wrong}, wait)

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


# ----------------------------------------------------------------------------- the link to the result


@pytest.mark.parametrize("version", ["v1", None])
def test_link_opens_the_very_version_when_the_job_has_completed(
    world: World, version: str | None
) -> None:
    job_execution_id = start()
    deliver(job_execution_id, appointments=[{"id": "1"}])
    stored = world.jobs.table.items[f"JOB#{job_execution_id}", "JOB"]["completion"]["result"]
    stored["version_id"] = version
    world.clock.sleep(60)

    told = body_of(get(job_execution_id))

    named = f"https://results.example/{stored['key']}"
    assert told["result_url"] == (f"{named}?versionId={version}" if version else named)
    assert told["result_url_expires_at"] == iso(world.clock.moment + timedelta(minutes=5))


def test_no_link_when_the_job_has_failed_or_expired(world: World) -> None:
    failed, expired = start(), start(access_token="token-2")
    deliver(failed, success=False, error="login_required")
    world.clock.sleep(7201)
    world.reconcile_jobs.run(seconds_left=lambda: 300)
    theirs = {**HEADERS, "access_token": "token-2"}

    told = [body_of(get(failed)), body_of(get(expired, theirs))]

    assert [each["status"] for each in told] == ["FAILED", "EXPIRED"]
    assert [each["result_url"] for each in told] == [None, None]
    assert [each["result_url_expires_at"] for each in told] == [None, None]


def test_no_link_when_the_row_outlives_the_result(world: World) -> None:
    job_execution_id = start()
    deliver(job_execution_id, appointments=[])
    world.jobs.table.items[f"JOB#{job_execution_id}", "JOB"]["expires_at"] *= 2

    world.clock.sleep(RETENTION.total_seconds() - 1)
    before = body_of(get(job_execution_id))
    world.clock.sleep(1)
    at_its_end = body_of(get(job_execution_id))

    assert before["result_url"]
    assert (at_its_end["status"], at_its_end["result_url"]) == ("COMPLETED", None)


def test_503_when_the_link_cannot_be_signed(world: World) -> None:
    job_execution_id = start()
    deliver(job_execution_id, appointments=[])
    world.links.fail("link", ResultsFault())

    answer = get(job_execution_id)

    assert answer["statusCode"] == 503


def test_link_is_neither_logged_nor_represented(
    world: World, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], str]
) -> None:
    job_execution_id = start()
    deliver(job_execution_id, appointments=[])
    monkeypatch.setattr(logger, "level", "DEBUG")
    logged()

    url = body_of(get(job_execution_id, wait="20"))["result_url"]
    credentials = (HEADERS["client_id"], HEADERS["client_secret"], HEADERS["access_token"])
    found = world.read_jobs.job(*credentials, job_execution_id)

    assert url not in logged()
    assert found.report.model_dump()["result_url"] == url
    assert url not in repr(found)
    assert url not in repr(world.links.link(world.jobs.jobs[job_execution_id].completion.result))  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------- waiting for it


class Sleeper:
    """Sleeps on the clock of a world, and lets something happen at a moment of the sleep."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.began = world.clock.moment
        self.pauses: list[float] = []
        self.happens: dict[float, Callable[[], None]] = {}
        monkeypatch.setattr(world.read_jobs, "_sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.world.clock.sleep(seconds)
        for due in [at for at in self.happens if at <= self.passed]:
            self.happens.pop(due)()

    @property
    def passed(self) -> float:
        return (self.world.clock.moment - self.began).total_seconds()


@pytest.fixture
def sleeper(world: World, monkeypatch: pytest.MonkeyPatch) -> Sleeper:
    return Sleeper(world, monkeypatch)


def test_wait_is_answered_soon_after_the_end_when_it_comes_meanwhile(
    world: World, sleeper: Sleeper
) -> None:
    job_execution_id = start()
    sleeper.happens[5.3] = lambda: deliver(job_execution_id, appointments=[{}])

    answer = get(job_execution_id, wait="20")

    told = body_of(answer)
    assert (told["status"], told["appointment_count"]) == ("COMPLETED", 1)
    assert told["result_url"]
    assert 5.3 <= sleeper.passed <= 6.3
    assert header(answer, "Retry-After") is None


@pytest.mark.parametrize("seconds", [1, 2, 19, 20])
def test_open_job_is_told_when_the_wait_is_over(
    world: World, sleeper: Sleeper, logged: Callable[[], str], seconds: int
) -> None:
    job_execution_id = start()
    logged()

    answer = get(job_execution_id, wait=str(seconds))

    assert body_of(answer)["status"] == "ACCEPTED"
    assert sleeper.passed == seconds
    assert sleeper.pauses[:2] == [0.25, 0.5]
    assert max(sleeper.pauses) <= 1
    progress = f"accepted by Cobalt {seconds} s ago; looks for its result since: 0"
    assert header(answer, "x-progress") == progress
    lines = [json.loads(line) for line in logged().splitlines()]
    [line] = [each for each in lines if each.get("message") == "end_awaited"]
    [metric] = [each for each in lines if "LongPollReads" in each]
    assert line["looks"] == len(sleeper.pauses) == metric["LongPollReads"][0]
    assert (line["seconds"], line["is_open"]) == (seconds, True)


def test_end_at_the_last_moment_is_told(world: World, sleeper: Sleeper) -> None:
    job_execution_id = start()
    sleeper.happens[3.0] = lambda: deliver(job_execution_id, appointments=[])

    told = body_of(get(job_execution_id, wait="3"))

    assert (told["status"], sleeper.passed) == ("COMPLETED", 3)


@pytest.mark.parametrize(("seconds_left", "waited"), [(28, 20), (17, 10), (7, 0), (3, 0)])
def test_wait_leaves_the_function_time_to_answer(
    world: World, sleeper: Sleeper, seconds_left: float, waited: float
) -> None:
    job_execution_id = start()

    answer = get(job_execution_id, wait="20", seconds_left=seconds_left)

    assert (answer["statusCode"], sleeper.passed) == (200, waited)


@pytest.mark.parametrize("wait", [None, "0"])
def test_nobody_waits_when_no_wait_is_asked_for(
    world: World, sleeper: Sleeper, wait: str | None
) -> None:
    job_execution_id = start()

    answer = get(job_execution_id, wait=wait)

    assert body_of(answer)["status"] == "ACCEPTED"
    assert sleeper.pauses == []


def test_nobody_waits_for_a_job_that_has_ended(
    world: World, sleeper: Sleeper, logged: Callable[[], str]
) -> None:
    job_execution_id = start()
    deliver(job_execution_id, success=False, error="x")

    answer = get(job_execution_id, wait="20")

    assert body_of(answer)["status"] == "FAILED"
    assert sleeper.pauses == []
    assert "end_awaited" not in logged()


def test_404_when_the_job_is_given_to_another_connection_meanwhile(
    world: World, sleeper: Sleeper
) -> None:
    job_execution_id = start()
    row = world.jobs.table.items[f"JOB#{job_execution_id}", "JOB"]
    sleeper.happens[2.0] = lambda: row.update(connection_id="conn_1", state="COMPLETED")

    answer = get(job_execution_id, wait="20")

    assert (answer["statusCode"], answer["body"]) == (404, json.dumps(NO_SUCH_JOB))
    assert sleeper.passed < 4


def test_404_when_the_row_goes_meanwhile(world: World, sleeper: Sleeper) -> None:
    job_execution_id = start()
    sleeper.happens[2.0] = world.jobs.table.items.clear

    answer = get(job_execution_id, wait="20")

    assert answer["statusCode"] == 404
    assert sleeper.passed < 4


def test_wait_reads_the_row_alone_again(wire: Wire) -> None:
    wire.calls.clear()

    answer = get("job_1", wait="2")

    assert answer["statusCode"] == 200
    looks = ["sleep", "BatchGetItem JOB"] * 4  # after 0.25, 0.75, 1.75 and 2 s
    assert wire.calls == ["BatchGetItem JOB", *looks, "BatchGetItem REQUEST"]


def test_wait_for_a_range_tells_its_pieces_when_the_wait_is_over(
    world: World, sleeper: Sleeper
) -> None:
    world.connections.add(HEADERS["access_token"])
    ten_days = {"start_date": "2024-01-01", "end_date": "2024-01-20"}
    accepted = body_of(fetch(range_event(ten_days), LambdaContextStub()))

    answer = get(accepted["job_execution_id"], wait="20")

    assert body_of(answer)["status"] == "ACCEPTED"
    assert accepted["pieces"] == 3
    assert header(answer, "x-progress") == "0 of 3 fetches have ended"
    assert sleeper.passed == 20


def test_range_that_ends_meanwhile_is_told(world: World, sleeper: Sleeper) -> None:
    world.connections.add(HEADERS["access_token"])
    accepted = body_of(fetch(range_event(WEEK), LambdaContextStub()))

    def end() -> None:
        run_fetches(queue_event(*world.queue.sent), LambdaContextStub())
        world.deliver("job_1")

    sleeper.happens[2.0] = end

    answer = get(accepted["job_execution_id"], wait="20")

    assert body_of(answer)["status"] == "COMPLETED"
    assert header(answer, "x-progress") is None
    assert 2 <= sleeper.passed <= 3
    assert "result_url" not in body_of(answer)


NO_WAITS: dict[str, str | list[str]] = {
    "too long": "21",
    "far too long": "9" * 5000,
    "negative": "-1",
    "negative nought": "-0",
    "signed": "+5",
    "empty": "",
    "none at all": [],
    "twice": ["5", "5"],
    "a fraction": "1.0",
    "an exponent": "1e1",
    "a leading nought": "05",
    "hexadecimal": "0x5",
    "grouped": "1_0",
    "Arabic digits": "٥",
    "full-width digits": "５",
    "a superscript": "²",
    "a blank before": " 5",
    "a line break after": "5\n",
    "a word": "true",
    "a unit": "5s",
    "two numbers": "5,5",
}


@pytest.mark.parametrize("wrong", [{}, {"access_token": "token-9"}])
@pytest.mark.parametrize("case", NO_WAITS)
def test_400_and_no_call_when_the_wait_is_no_number_of_seconds(
    wire: Wire, case: str, wrong: dict[str, str]
) -> None:
    wire.calls.clear()

    answers = [get(each, {**HEADERS, **wrong}, NO_WAITS[case]) for each in ("job_1", "job_99")]

    for answer in answers:
        assert answer["statusCode"] == 400
        assert body_of(answer) == {"success": False, "message": InvalidWait.message}
    assert wire.calls == []


def test_every_whole_number_of_seconds_may_be_waited(world: World, sleeper: Sleeper) -> None:
    job_execution_id = start()
    deliver(job_execution_id, appointments=[])

    answers = [get(job_execution_id, wait=str(each)) for each in range(MAX_WAIT_SECONDS + 1)]

    assert {answer["statusCode"] for answer in answers} == {200}
    assert f"0 to {MAX_WAIT_SECONDS}." in InvalidWait.message


@pytest.mark.parametrize("waited", [timedelta(0), timedelta(minutes=119), timedelta(days=9_000)])
def test_progress_is_short_ascii_however_long_it_takes(world: World, waited: timedelta) -> None:
    job_execution_id = start()
    row = world.jobs.table.items[f"JOB#{job_execution_id}", "JOB"]
    row["accepted_at"] = iso(datetime.fromisoformat(row["accepted_at"]) - waited)
    row["looks"] = 10**9

    progress = header(get(job_execution_id), "x-progress") or ""

    assert str(int(waited.total_seconds())) in progress
    assert 0 < len(progress) <= 100
    assert progress.isascii()
    assert progress.isprintable()


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
