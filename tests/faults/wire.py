"""All that goes out of the relay, in one place: it is counted here, and made to go wrong here.

A call is one call of the SDK, with all its attempts, or one HTTP request to Cobalt. A process that
crashed is dead: what it would still say on its way out (`finally`, `with`) reaches nobody.
"""

import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import botocore.endpoint
import pytest
import requests
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.exceptions import ReadTimeoutError
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse

from cobalt_relay.adapters import jobs, layout, table

FETCH = "POST /v1/appointments/fetch"

type Json = dict[str, Any]
type Send = Callable[[AWSPreparedRequest], AWSResponse]


class Crash(BaseException):
    """The function is gone. No code of the relay may catch it."""


class Kind(StrEnum):
    """What befalls a call."""

    CRASH_BEFORE = "crash before"
    """The process dies, and the call was not sent."""
    CRASH_AFTER = "crash after"
    """The process dies when the call has taken effect."""
    ERROR = "error"
    """The service fails, at every attempt."""
    THROTTLE = "throttle"
    """The service takes no more, at every attempt."""
    TIMEOUT = "timeout"
    """The call takes effect and its answer is lost, once: the SDK's own repetition meets it."""


LASTING = {Kind.ERROR, Kind.THROTTLE}
"""Faults that the same call meets again where the relay itself repeats it at once."""


class Call(NamedTuple):
    """A call by the name that the table of cases shows, and what tells it from its like."""

    name: str
    content: str
    process: int = 0
    """The process that made it, counted from 0."""


class Fault(NamedTuple):
    """The call that is to go wrong, counted from 0, and how."""

    number: int
    kind: Kind


class Published(NamedTuple):
    """An event that the bus took."""

    detail_type: str
    detail: Json


@dataclass(slots=True)
class _Process:
    number: int = 0
    is_dead: bool = False


class Wire:
    """The way out of every process of one case. Processes run one at a time."""

    def __init__(self) -> None:
        self.begin(None)

    def begin(self, fault: Fault | None) -> None:
        """Start a case."""
        self.fault = fault
        self.calls: list[Call] = []
        self.met: Call | None = None
        """The call that the fault befell."""
        self.published: list[Published] = []
        self.accepted: list[Json] = []
        """What Cobalt really answered to live fetches that it took."""
        self.fetches_sent = 0
        """Live fetches that were sent and not turned away with 429."""
        self.meanwhile: Callable[[], None] | None = None
        """What happens between Cobalt's acceptance and its answer."""
        self._is_watched = False
        self._processes = count(1)
        self._process = _Process()

    @contextmanager
    def process(self) -> Iterator[None]:
        """Run one invocation, inside of another one where that waits for Cobalt."""
        waiting, self._process = self._process, _Process(next(self._processes))
        try:
            yield
        finally:
            self._process = waiting

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count the calls; one of them may go wrong."""
        self._is_watched = True
        try:
            yield
        finally:
            self._is_watched = False

    def next(self, describe: Callable[[], Call]) -> Kind | None:
        """Count a call, and tell what befalls it."""
        if self._process.is_dead:
            raise Crash
        if not self._is_watched:
            return None
        call = describe()._replace(process=self._process.number)
        self.calls.append(call)
        if not self.fault:
            return None
        if len(self.calls) - 1 == self.fault.number:
            self.met = call
            return self.fault.kind
        lasts = self.fault.kind in LASTING and call == self.met and call == self.calls[-2]
        return self.fault.kind if lasts else None

    def crash(self) -> Crash:
        """End the process that runs."""
        self._process.is_dead = True
        return Crash()


# ------------------------------------------------------------------------------------------------ AWS


_ERRORS = {
    "dynamodb": "InternalServerError",
    "s3": "InternalError",
    "events": "InternalException",
    "secretsmanager": "InternalServiceError",
    "ssm": "InternalServerError",
    "cloudwatch": "InternalServiceFault",
    "sqs": "InternalError",
}
_THROTTLES = {
    "dynamodb": "ProvisionedThroughputExceededException",
    "s3": "SlowDown",
    "events": "ThrottlingException",
    "secretsmanager": "ThrottlingException",
    "ssm": "ThrottlingException",
    "cloudwatch": "Throttling",
    "sqs": "RequestThrottled",
}


class Line:
    """One client's part of the wire: botocore's hooks, from the lowest there is."""

    def __init__(self, wire: Wire, client: Any) -> None:
        self._wire = wire
        self._service: str = client.meta.service_model.service_name
        self._send: Send = client._endpoint.http_session.send
        self._kind: Kind | None = None
        self._params: Json = {}
        self._operation = ""
        self._attempts = 0
        events = client.meta.events
        events.register_last("before-parameter-build", self._name)
        events.register_last("before-call", self._begin)
        events.register_last("before-send", self._attempt)

    def _name(self, params: Json, model: Any, **_: object) -> None:
        self._operation, self._params = model.name, params

    def _begin(self, **_: object) -> None:
        """Begin a call; its attempts follow."""
        self._attempts = 0
        self._kind = self._wire.next(self._call)

    def _call(self) -> Call:
        plain = {key: value for key, value in self._params.items() if key != "ClientRequestToken"}
        name = f"{self._service} {self._operation} {_subject(self._service, self._params)}"
        return Call(name.strip(), repr(plain))

    def _attempt(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        self._attempts += 1
        match self._kind:
            case Kind.CRASH_BEFORE:
                raise self._wire.crash()
            case Kind.CRASH_AFTER:
                self._effect(request)
                raise self._wire.crash()
            case Kind.ERROR:
                return _refusal(request, self._service, _ERRORS[self._service], 500)
            case Kind.THROTTLE:
                return self._throttle(request)
            case Kind.TIMEOUT if self._attempts == 1:
                self._effect(request)
                raise ReadTimeoutError(endpoint_url=request.url)
            case _:
                return self._effect(request)

    def _effect(self, request: AWSPreparedRequest) -> AWSResponse:
        """Send for good; what the bus took is noted whether or not the relay hears of it."""
        answer = self._send(request)
        if self._operation == "PutEvents" and answer.status_code == 200:
            outcomes = json.loads(answer.content)["Entries"]
            for entry, outcome in zip(self._params["Entries"], outcomes, strict=True):
                if "EventId" in outcome:
                    detail = json.loads(entry["Detail"])
                    self._wire.published.append(Published(entry["DetailType"], detail))
        return answer

    def _throttle(self, request: AWSPreparedRequest) -> AWSResponse:
        """Refuse as the service does: EventBridge by entry, DynamoDB by part of a transaction."""
        if self._operation == "PutEvents":
            refused = [{"ErrorCode": "ThrottlingException"} for _ in self._params["Entries"]]
            return _json_answer(request, 200, {"FailedEntryCount": 1, "Entries": refused})
        if self._operation == "TransactWriteItems":
            parts = len(self._params["TransactItems"])
            reasons = [{"Code": "ThrottlingError"}, *[{"Code": "None"}] * (parts - 1)]
            code = "TransactionCanceledException"
            return _json_answer(request, 400, {"__type": code, "CancellationReasons": reasons})
        status = 503 if self._service == "s3" else 400
        return _refusal(request, self._service, _THROTTLES[self._service], status)


def _refusal(request: AWSPreparedRequest, service: str, code: str, status: int) -> AWSResponse:
    if service == "s3":
        xml = f"<Error><Code>{code}</Code><Message>m</Message></Error>"
        return _answer(request, status, xml.encode())
    return _json_answer(request, status, {"__type": code, "message": "m"})


def _json_answer(request: AWSPreparedRequest, status: int, body: Json) -> AWSResponse:
    return _answer(request, status, json.dumps(body).encode())


def _answer(request: AWSPreparedRequest, status: int, body: bytes) -> AWSResponse:
    raw: Any = HTTPResponse(io.BytesIO(body), status=status, preload_content=False)
    return AWSResponse(request.url, status, raw.headers, raw)


def _subject(service: str, params: Json) -> str:
    """Say what a call is about, without its ids: equal cases have equal names in every run."""
    match service:
        case "dynamodb":
            return _rows(params)
        case "s3":
            return str(params.get("Key", "")).split("/")[0]
        case "events":
            return ", ".join(entry["DetailType"] for entry in params["Entries"])
        case "secretsmanager":
            named = re.search("CobaltCredentials|WebhookSecret", str(params["SecretId"]))
            return f"{named[0] if named else ''} {params.get('VersionStage', '')}"
        case _:
            return ""


def _rows(params: Json) -> str:
    """Name the kinds of rows: `Put EVENT + Update JOB`, or the index of a query."""
    if "IndexName" in params:
        return str(params["IndexName"])
    if "RequestItems" in params:
        (wanted,) = params["RequestItems"].values()
        return " + ".join(_kind_of(key) for key in wanted["Keys"])
    if "TransactItems" in params:
        parts = [next(iter(part.items())) for part in params["TransactItems"]]
        return " + ".join(f"{verb} {_kind_of(_key(part))}" for verb, part in parts)
    return _kind_of(_key(params))


def _key(params: Json) -> Json:
    key: Json = params.get("Key") or params.get("Item") or {}
    return key


def _kind_of(key: Json) -> str:
    return str(key.get("pk", {}).get("S", "")).split("#", maxsplit=1)[0]


# --------------------------------------------------------------------------------------------- Cobalt


class Upstream(HTTPAdapter):
    """Cobalt's part of the wire: mounted on the session of the real adapter."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(max_retries=0)
        self._wire = wire

    def send(  # type: ignore[override]
        self, request: requests.PreparedRequest, **options: Any
    ) -> requests.Response:
        name = f"{request.method} {urlsplit(request.url or '').path}"
        call = Call(f"cobalt {name}", f"{request.url} {request.body!r}")
        kind = self._wire.next(lambda: call)
        if name == FETCH and kind is not Kind.CRASH_BEFORE and kind is not Kind.THROTTLE:
            self._wire.fetches_sent += 1
        match kind:
            case Kind.CRASH_BEFORE:
                raise self._wire.crash()
            case Kind.ERROR:
                return self._made_up(request, 500)
            case Kind.THROTTLE:
                return self._made_up(request, 429)
            case None:
                return self._effect(name, request, options)
            case _:
                self._effect(name, request, options).close()
                if kind is Kind.CRASH_AFTER:
                    raise self._wire.crash()
                raise requests.ReadTimeout(request=request)

    def _effect(
        self, name: str, request: requests.PreparedRequest, options: Json
    ) -> requests.Response:
        answer = super().send(request, **options)
        if name == FETCH and answer.status_code == 429:
            self._wire.fetches_sent -= 1
        if name == FETCH and answer.status_code == 202:
            self._wire.accepted.append(answer.json())
            if self._wire.meanwhile:
                self._wire.meanwhile()
        return answer

    def _made_up(self, request: requests.PreparedRequest, status: int) -> requests.Response:
        body = io.BytesIO(b'{"success": false, "message": "m"}')
        raw = HTTPResponse(
            body, {"Content-Type": "application/json"}, status, preload_content=False
        )
        return self.build_response(request, raw)


# ------------------------------------------------------------------------------------------- patience


@contextmanager
def no_waiting() -> Iterator[None]:
    """Take away what waits between two attempts: the SDK's pauses and those of a transaction.

    One shard of the due index does for all: the others are asked by the very same call.
    """
    at_once = SimpleNamespace(sleep=lambda _: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.endpoint, "time", at_once)
        patch.setattr(table, "time", at_once)
        for module in (jobs, layout):
            patch.setattr(module, "DUE_SHARDS", 1)
        yield
