"""Use cases on fakes, and API Gateway's events."""

import base64
import hashlib
import hmac
import json
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn
from urllib.parse import parse_qs
from zoneinfo import ZoneInfo

import pytest
from aws_lambda_powertools.utilities.typing import LambdaContext

from cobalt_relay import bootstrap, tracing
from cobalt_relay.models import CobaltEvent, FetchWork, ListedEvent
from cobalt_relay.observability import logger
from cobalt_relay.services.announce import Announcer
from cobalt_relay.services.detect_changes import Clinics, DetectChanges
from cobalt_relay.services.fetch_appointments import FetchAppointments
from cobalt_relay.services.fetch_range import FetchRanges
from cobalt_relay.services.freshen import Freshen
from cobalt_relay.services.gather_ranges import GatherRanges
from cobalt_relay.services.look_after_ranges import LookAfterRanges
from cobalt_relay.services.plan_fetches import PlanFetches
from cobalt_relay.services.read_appointments import ReadAppointments
from cobalt_relay.services.read_jobs import ReadJobs
from cobalt_relay.services.receive_webhook import ReceiveWebhook
from cobalt_relay.services.reconcile_jobs import ReconcileJobs
from cobalt_relay.services.run_fetches import RunFetches
from cobalt_relay.services.standing import Standing
from cobalt_relay.services.take_in import TakeIn
from cobalt_relay.services.watch import Watch
from tests.unit.fakes import (
    FakeBus,
    FakeClock,
    FakeCobalt,
    FakeConnections,
    FakeJobs,
    FakeQueue,
    FakeRanges,
    FakeResultLinks,
    FakeResults,
    FakeSecrets,
    FakeSnapshots,
)

WEBHOOK_KEY = b"webhook-key"
SINGLE_FLIGHT = timedelta(seconds=60)
RETENTION = timedelta(days=30)
HEADERS = {"client_id": "client", "client_secret": "sesame", "access_token": "token-1"}


class LambdaContextStub(LambdaContext):
    """A Lambda context, with as much time left as a test wants."""

    def __init__(self, remaining_seconds: float = 300.0) -> None:
        self._function_name = "function"
        self._memory_limit_in_mb = 512
        self._invoked_function_arn = "arn:aws:lambda:us-east-1:000000000000:function:function"
        self._aws_request_id = "invocation-1"
        self._remaining_seconds = remaining_seconds

    def get_remaining_time_in_millis(self) -> int:  # type: ignore[override]
        return int(self._remaining_seconds * 1000)


@dataclass
class World:
    """Everything a use case meets, faked, and the use cases on it."""

    jobs: FakeJobs = field(default_factory=FakeJobs)
    results: FakeResults = field(default_factory=FakeResults)
    bus: FakeBus = field(default_factory=FakeBus)
    secrets: FakeSecrets = field(default_factory=FakeSecrets)
    cobalt: FakeCobalt = field(default_factory=FakeCobalt)
    clock: FakeClock = field(default_factory=FakeClock)
    queue: FakeQueue = field(default_factory=FakeQueue)
    snapshots: FakeSnapshots = field(default_factory=FakeSnapshots)
    robots: int = 1
    silent: set[str] = field(default_factory=set)
    """Jobs that are not to report."""
    said: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What jobs report, where it is not just a success."""

    def __post_init__(self) -> None:
        table = self.jobs.table
        self.connections = FakeConnections(table)
        self.ranges = FakeRanges(table)
        self.standing = Standing(self.connections, now=self.clock)
        self.announcer = Announcer(self.jobs, self.bus, now=self.clock)
        self.gathering = GatherRanges(self.ranges, self.jobs, self.announcer, now=self.clock)
        self.fetch_ranges = FetchRanges(
            self.cobalt, self.ranges, self.queue, self.connections, self.secrets, now=self.clock
        )
        self.fetch_appointments = FetchAppointments(
            self.cobalt,
            self.jobs,
            self.connections,
            self.secrets,
            self.standing,
            SINGLE_FLIGHT,
            now=self.clock,
            sleep=self.clock.sleep,
        )
        self.links = FakeResultLinks(self.clock)
        self.read_jobs = ReadJobs(
            self.jobs,
            self.ranges,
            self.secrets,
            self.links,
            RETENTION,
            now=self.clock,
            sleep=self.clock.sleep,
        )
        self.freshen = Freshen(
            self.fetch_appointments, self.fetch_ranges, self.jobs, now=self.clock
        )
        self.read_appointments = ReadAppointments(
            self.snapshots,
            self.connections,
            self.secrets,
            lambda: self.freshen,
            now=self.clock,
        )
        self.take_in = TakeIn(
            self.jobs,
            self.results,
            self.announcer,
            self.standing,
            self.gathering,
            now=self.clock,
            sleep=self.clock.sleep,
        )
        self.receive_webhook = ReceiveWebhook(self.take_in, self.secrets, now=self.clock)
        self.reconcile_jobs = ReconcileJobs(
            self.cobalt,
            self.jobs,
            self.connections,
            self.secrets,
            self.take_in,
            self.announcer,
            LookAfterRanges(self.fetch_ranges, self.gathering, self.announcer),
            Watch(self.jobs, self.connections, now=self.clock),
            now=self.clock,
        )
        self.detect_changes = DetectChanges(
            self.jobs,
            Clinics(self.connections, ZoneInfo("America/New_York")),
            self.results,
            self.snapshots,
            self.bus,
            now=self.clock,
            sleep=self.clock.sleep,
            each=map,
        )
        self.plan_fetches = PlanFetches(
            self.fetch_appointments,
            self.connections,
            self.queue,
            self.bus,
            "America/New_York",
            now=self.clock,
        )
        self.run_fetches = RunFetches(
            self.fetch_appointments,
            self.connections,
            self.jobs,
            self.ranges,
            self.gathering,
            self.queue,
            self.bus,
            self.robots,
            now=self.clock,
        )

    def result(self, job_id: str, data: dict[str, Any] | None = None) -> bytes:
        """The webhook of a job, signed or not."""
        job = self.jobs.jobs[job_id]
        days = job.window.model_dump(mode="json") if job.window else {}
        success = {"success": True, **days, "appointments": [{}, {}]}
        document = {
            "id": f"evt_{job_id}",
            "type": "appointment.live_fetch_completed",
            "job_id": job_id,
            "timestamp": self.clock().isoformat(),
            "data": data or success,
        }
        return json.dumps(document).encode()

    def deliver(self, job_id: str, data: dict[str, Any] | None = None) -> None:
        """Let Cobalt deliver a job's result."""
        body = self.result(job_id, data)
        self.receive_webhook.receive(body, sign(body))

    def record(self, job_id: str, data: dict[str, Any] | None = None) -> None:
        """Let Cobalt record a job's result that it could not deliver."""
        body = self.result(job_id, data)
        event = CobaltEvent.read(json.loads(body))
        self.cobalt.listed.insert(0, ListedEvent(event, self.clock(), lambda: body))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A world of fakes that the handlers are bound to."""
    world = World()
    for name in (
        "fetch_appointments",
        "read_jobs",
        "read_appointments",
        "receive_webhook",
        "plan_fetches",
        "run_fetches",
        "fetch_ranges",
        "reconcile_jobs",
        "detect_changes",
    ):
        monkeypatch.setattr(bootstrap, name, partial(getattr, world, name))
    return world


class CurrentStdout:
    """Standard output as it is at the moment of writing: pytest changes it, the logger keeps its own."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


@pytest.fixture
def logged(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], str]:
    """Give what was written to standard output since: log lines and metrics."""
    monkeypatch.setattr(logger.registered_handler, "stream", CurrentStdout())
    return lambda: capsys.readouterr().out


@pytest.fixture(autouse=True)
def _aws_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of nobody, so that no client looks for real ones."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture(autouse=True)
def _trace_of_its_own() -> Iterator[None]:
    """A use case that is called without its handler follows a trace to the end of the test."""
    with tracing.traced(None):
        yield


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit tests reach nothing but what they started themselves on loopback."""

    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if not (isinstance(address, tuple) and address[0] == "127.0.0.1"):
            _refuse_network()
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def _refuse_network() -> NoReturn:
    raise AssertionError("a unit test went to the network")


def api_event(
    path: str,
    body: bytes | str | None,
    headers: dict[str, str],
    *,
    encode: bool = False,
    method: str = "POST",
) -> dict[str, Any]:
    """API Gateway's proxy event."""
    raw = body.encode() if isinstance(body, str) else body
    return {
        "resource": path,
        "path": path,
        "httpMethod": method,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": None,
        "stageVariables": None,
        "requestContext": {
            "requestId": "0b5a1c5e-0000-4000-8000-000000000001",
            "stage": "v1",
            "path": f"/v1{path}",
            "httpMethod": method,
            "resourcePath": path,
        },
        "body": base64.b64encode(raw or b"").decode()
        if encode
        else (None if raw is None else raw.decode()),
        "isBase64Encoded": encode,
    }


def fetch_event(
    body: bytes | str | dict[str, Any] | None, headers: dict[str, str] | None = None
) -> dict[str, Any]:
    """A call of POST /v1/appointments/fetch."""
    text = json.dumps(body) if isinstance(body, dict) else body
    return api_event("/appointments/fetch", text, HEADERS if headers is None else headers)


def range_event(
    body: bytes | str | dict[str, Any] | None, headers: dict[str, str] | None = None
) -> dict[str, Any]:
    """A call of POST /v1/appointments/fetch/range."""
    text = json.dumps(body) if isinstance(body, dict) else body
    return api_event("/appointments/fetch/range", text, HEADERS if headers is None else headers)


def queue_event(*bodies: str | FetchWork, receives: int = 1) -> dict[str, Any]:
    """Messages of the queue, as Lambda hands them on; their ids are their numbers."""
    return {
        "Records": [
            {
                "messageId": str(number),
                "receiptHandle": f"receipt-{number}",
                "body": body if isinstance(body, str) else body.model_dump_json(),
                "attributes": {"ApproximateReceiveCount": str(receives)},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:fetches",
                "awsRegion": "us-east-1",
            }
            for number, body in enumerate(bodies)
        ]
    }


def job_event(
    encoded_id: str, headers: dict[str, str] | None = None, wait: str | list[str] | None = None
) -> dict[str, Any]:
    """A call of GET /v1/appointments/fetch/{job_execution_id}."""
    given = HEADERS if headers is None else headers
    event = api_event(f"/appointments/fetch/{encoded_id}", None, given, method="GET")
    event["pathParameters"] = {"job_execution_id": encoded_id}
    if wait is not None:
        waits = wait if isinstance(wait, list) else [wait]
        event["queryStringParameters"] = {"wait": "".join(waits[-1:])}
        event["multiValueQueryStringParameters"] = {"wait": waits}
    return event


def appointments_event(
    query: str | Mapping[str, str | list[str]], headers: dict[str, str] | None = None
) -> dict[str, Any]:
    """A call of GET /v1/appointments."""
    given = parse_qs(query, keep_blank_values=True) if isinstance(query, str) else query
    values = {name: [each] if isinstance(each, str) else each for name, each in given.items()}
    event = api_event("/appointments", None, HEADERS if headers is None else headers, method="GET")
    return {
        **event,
        "queryStringParameters": {name: each[-1] for name, each in values.items()} or None,
        "multiValueQueryStringParameters": values or None,
    }


def sign(body: bytes, key: bytes = WEBHOOK_KEY) -> str:
    """Cobalt's signature of a body."""
    return hmac.new(key, body, hashlib.sha256).hexdigest()


def webhook_event(
    body: bytes, signature: str | None = None, *, encode: bool = False
) -> dict[str, Any]:
    """A delivery to POST /v1/webhooks/cobalt, signed unless told otherwise."""
    headers = {"cobalt-verification": sign(body) if signature is None else signature}
    return api_event("/webhooks/cobalt", body, headers, encode=encode)


def body_of(answer: dict[str, Any]) -> Any:
    """The JSON of an answer."""
    return json.loads(answer["body"])


def header(answer: dict[str, Any], name: str) -> str | None:
    """A header of an answer."""
    values = answer["multiValueHeaders"].get(name)
    return values[0] if values else None
