"""HTTP.

The only module that knows it. Reads API Gateway's events, writes answers, turns errors into
statuses.
"""

import base64
import binascii
import json
import math
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, unquote
from uuid import NAMESPACE_OID, uuid5

from aws_lambda_powertools.event_handler import APIGatewayRestResolver, Response
from aws_lambda_powertools.event_handler.exceptions import ServiceError
from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEvent

from cobalt_relay import tracing
from cobalt_relay.errors import (
    AccessForbidden,
    AccessTokenRefused,
    BadSignature,
    BodyTooComplex,
    BodyTooLarge,
    CallerError,
    DeliveryTooLarge,
    FetchUnderWay,
    IdempotencyKeyReused,
    InvalidIdempotencyKey,
    InvalidWait,
    KeyNotYetKnown,
    MalformedBody,
    MalformedDelivery,
    MissingHeaders,
    NoSuchJob,
    NotAcceptable,
    NotConfigured,
    RateLimited,
    RelayError,
    RequestRefused,
    StaleDelivery,
    StorageFault,
    UnsupportedContent,
    UnusableAccessToken,
    UpstreamFault,
    UpstreamRefusal,
    UpstreamUnanswered,
    WrongClientCredentials,
)
from cobalt_relay.json_limits import is_within
from cobalt_relay.models import UnsignedHeaders
from cobalt_relay.observability import Context, count, failure, logger
from cobalt_relay.patterns import pattern

if TYPE_CHECKING:  # one route's alone
    from cobalt_relay.reading import Envelope, Query, Reading, Work

Answer = Response[str]

JOB_PATH = r"/appointments/fetch/[\s\S]+"
"""Takes whatever stands in an id's place: what can be no id is answered as an unknown one is."""
FETCH_HEADERS = ("client_id", "client_secret", "access_token")
MAX_FETCH_BODY_BYTES = 65_536
MAX_FETCH_BODY_DEPTH = 8
MAX_FETCH_BODY_VALUES = 100
"""The contract has 5 fields and 10 ids in a list, 2 deep; the rest is room for later editions."""
_UTF_8 = {"utf-8", "utf8", "us-ascii", "ascii"}
_CHARSET = pattern(r"""; *charset *= *["']?([^"';, ]+)""")
_UUID = pattern(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_TAG = pattern(r'"([^"]*)"')
MAX_KEY_LENGTH = 255
MAX_LINK_LENGTH = 4_096
"""API Gateway takes 10,240 bytes of headers; the cursor is in one of its own, too."""
MAX_WAIT_SECONDS = 20
"""For a job's end: API Gateway hangs up after 29, and the function may run for 28."""
_WAITS = {str(seconds): seconds for seconds in range(MAX_WAIT_SECONDS + 1)}

STATUS_OF: dict[type[RelayError], HTTPStatus] = {
    CallerError: HTTPStatus.BAD_REQUEST,
    MissingHeaders: HTTPStatus.UNAUTHORIZED,
    WrongClientCredentials: HTTPStatus.UNAUTHORIZED,
    UnusableAccessToken: HTTPStatus.UNAUTHORIZED,
    NoSuchJob: HTTPStatus.NOT_FOUND,
    NotAcceptable: HTTPStatus.NOT_ACCEPTABLE,
    BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedContent: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    IdempotencyKeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    BadSignature: HTTPStatus.UNAUTHORIZED,
    KeyNotYetKnown: HTTPStatus.SERVICE_UNAVAILABLE,
    StaleDelivery: HTTPStatus.BAD_REQUEST,
    MalformedDelivery: HTTPStatus.BAD_REQUEST,
    DeliveryTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    RequestRefused: HTTPStatus.BAD_REQUEST,
    AccessTokenRefused: HTTPStatus.UNAUTHORIZED,
    AccessForbidden: HTTPStatus.FORBIDDEN,
    RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    UpstreamFault: HTTPStatus.BAD_GATEWAY,
    UpstreamUnanswered: HTTPStatus.GATEWAY_TIMEOUT,
    FetchUnderWay: HTTPStatus.SERVICE_UNAVAILABLE,
    NotConfigured: HTTPStatus.SERVICE_UNAVAILABLE,
    StorageFault: HTTPStatus.SERVICE_UNAVAILABLE,
    RelayError: HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""The status of an error is that of its nearest ancestor in here."""

ACCEPTED_MESSAGE = "Live fetch request accepted. Results will be sent via webhook when ready."
RANGE_MESSAGE = (
    "Range fetch accepted. Its pieces are fetched one after the other; ask for it by its id."
)
AWAIT_MESSAGE = (
    "Some days are older than max_age. They are being fetched; ask again when the job has ended."
)
UNEXPECTED_MESSAGE = (
    "Internal error. Try again later and quote the x-request-id header if it stays."
)
NO_ROUTE_MESSAGE = "No such route. See the README for the routes of the relay."


def resolver() -> APIGatewayRestResolver:
    """Give a router that answers every error in our one form.

    Behind a domain of its own, API Gateway hands the base path on with the path: `v1` is cut off.
    """
    app = APIGatewayRestResolver(strip_prefixes=["/v1"], debug=False)

    def answer_relay_error(error: RelayError) -> Answer:
        return _refusal(app.current_event, error)

    def answer_service_error(error: ServiceError) -> Answer:
        return answer(app.current_event, error.status_code, _error_body(NO_ROUTE_MESSAGE))

    def answer_unexpected_error(error: Exception) -> Answer:
        count("UnexpectedError")
        logger.error("unexpected_error", extra=failure(error))
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        return answer(app.current_event, status, _error_body(UNEXPECTED_MESSAGE))

    app.exception_handler(RelayError)(answer_relay_error)
    app.exception_handler(ServiceError)(answer_service_error)
    app.exception_handler(Exception)(answer_unexpected_error)
    return app


def resolve(app: APIGatewayRestResolver, event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Answer a caller's request, under the trace that the caller brings or that is named for it."""
    request = APIGatewayProxyEvent(event)
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    tracing.follow(tracing.of_headers(headers) or tracing.of_request(request_id(request)))
    return app.resolve(event, context)


def answer(
    event: APIGatewayProxyEvent,
    status: int,
    body: dict[str, Any],
    headers: dict[str, str] | None = None,
) -> Answer:
    """Write an answer in JSON."""
    return _answer(event, status, json.dumps(body), "application/json", headers)


def _answer(
    event: APIGatewayProxyEvent,
    status: int,
    text: str,
    media_type: str | None,
    headers: dict[str, str] | None,
) -> Answer:
    """Write an answer; each carries the id of its request, and no cache keeps any."""
    return Response(
        status_code=int(status),
        content_type=media_type,
        body=text,
        headers={
            "x-request-id": request_id(event),
            "Cache-Control": "no-store",
            "Strict-Transport-Security": "max-age=63072000",
            "X-Content-Type-Options": "nosniff",
            **(headers or {}),
        },
    )


def accepted(event: APIGatewayProxyEvent, job_execution_id: str, *, joined: bool = False) -> Answer:
    """Write the 202 of the founding contract: three keys, these words.

    `joined` tells that an equal request had started the job.
    """
    body = {"success": True, "message": ACCEPTED_MESSAGE, "job_execution_id": job_execution_id}
    headers = {"x-relay-joined": "true"} if joined else None
    return answer(event, HTTPStatus.ACCEPTED, body, headers)


def range_accepted(event: APIGatewayProxyEvent, job_execution_id: str, pieces: int) -> Answer:
    """Tell that a range is on record: its id is asked for as a job's is."""
    body = {
        "success": True,
        "message": RANGE_MESSAGE,
        "job_execution_id": job_execution_id,
        "pieces": pieces,
    }
    return answer(event, HTTPStatus.ACCEPTED, body)


def job_found(
    event: APIGatewayProxyEvent,
    report: dict[str, Any],
    pause_seconds: int | None,
    progress: str | None,
) -> Answer:
    """Tell what is known of a job; where it is open, how far it is and when to ask again."""
    told = {"Retry-After": pause_seconds, "x-progress": progress}
    headers = {name: str(value) for name, value in told.items() if value is not None}
    return answer(event, HTTPStatus.OK, {"success": True, **report}, headers)


def appointments_read(event: APIGatewayProxyEvent, reading: "Reading") -> Answer:
    """Tell appointments, that the caller has them already, or which job brings them."""
    if reading.awaited:
        return _awaited(event, reading.awaited, reading)
    headers = {"ETag": f'"{reading.etag}"', "Vary": "Accept"}
    if reading.page is None or reading.envelope is None:
        return _answer(event, HTTPStatus.NOT_MODIFIED, "", None, headers)
    headers |= _facts(reading.envelope)
    return _answer(event, HTTPStatus.OK, reading.page, reading.media_type, headers)


def _awaited(event: APIGatewayProxyEvent, work: "Work", reading: "Reading") -> Answer:
    body = {
        "success": True,
        "message": AWAIT_MESSAGE,
        "jobs": [work.told()],
        "stale_days": [str(each) for each in reading.stale_days],
    }
    headers = {
        "Retry-After": str(work.pause_seconds),
        "Location": f"appointments/fetch/{quote(work.job_execution_id, safe='')}",
    }
    return answer(event, HTTPStatus.ACCEPTED, body, headers)


def _facts(envelope: "Envelope") -> dict[str, str]:
    """Tell in headers what not every form has room for."""
    headers = {
        "x-relay-as-of": envelope.as_of,
        "x-relay-days-never-fetched": envelope.never_fetched_spans,
        "x-relay-next-cursor": envelope.next_cursor,
        "Link": _link(envelope.next_page),
    }
    return {name: value for name, value in headers.items() if value}


def _link(next_page: str | None) -> str | None:
    """Link to the next page (RFC 8288), where a header has the room."""
    has_room = next_page is not None and len(next_page) <= MAX_LINK_LENGTH
    return f'<{next_page}>; rel="next"' if has_room else None


def received(event: APIGatewayProxyEvent, verdict: str) -> Answer:
    """Tell Cobalt that its delivery is in hand; 200, whatever there was to do."""
    return answer(event, HTTPStatus.OK, {"success": True, "message": f"Webhook {verdict}."})


def request_id(event: APIGatewayProxyEvent) -> str:
    """Name the request: API Gateway's id, so that its logs and ours speak of the same.

    A caller may choose that one, by the header `x-amzn-RequestId` (docs: CloudWatch logging for
    REST APIs), and it gets into rows, events and logs. So one that is no UUID gives way to one that
    is made from the id which no caller chooses.
    """
    context = event.request_context
    given, own = context.request_id or "", context.extended_request_id
    return given if _UUID.fullmatch(given) or not own else str(uuid5(NAMESPACE_OID, own))


def fetch_headers(event: APIGatewayProxyEvent) -> tuple[str, str, str]:
    """Give the three headers of the contract, whatever the case of their names.

    Raises `MissingHeaders`, which names those that are absent or empty, or contradict themselves:
    whatever stands before the relay may have looked at the other value.
    """
    given = {name.lower(): value for name, value in event.headers.items()}
    for name in FETCH_HEADERS:
        if len(set(_values_of(event, name))) > 1:
            given[name] = ""
    values = [(given.get(name) or "").strip() for name in FETCH_HEADERS]
    missing = [name for name, value in zip(FETCH_HEADERS, values, strict=True) if not value]
    if missing:
        raise MissingHeaders(missing)
    client_id, client_secret, access_token = values
    return client_id, client_secret, access_token


def job_id(event: APIGatewayProxyEvent) -> str:
    """Read a job's id from the path; API Gateway hands that on percent-encoded, as it came."""
    return unquote(event.path_parameters.get("job_execution_id", ""))


def query(event: APIGatewayProxyEvent) -> "Query":
    """Give all the values of each name in the query."""
    given: dict[str, list[str]] = event.get("multiValueQueryStringParameters") or {}
    return given


def accept(event: APIGatewayProxyEvent) -> str:
    """Give the `Accept` header; empty where there is none."""
    return ",".join(_values_of(event, "accept"))


def known_tags(event: APIGatewayProxyEvent) -> frozenset[str]:
    """Give the tags in `If-None-Match`, `*` for any; weak ones count too (RFC 9110, 13.1.2)."""
    given = ",".join(_values_of(event, "if-none-match"))
    return frozenset({"*"} if given.strip() == "*" else _TAG.findall(given))


def wait_seconds(event: APIGatewayProxyEvent) -> int:
    """Read for how long the caller wants to wait for a job's end; 0 where it does not say.

    Raises `InvalidWait`.
    """
    given = (event.get("multiValueQueryStringParameters") or {}).get("wait", ["0"])
    if len(given) != 1 or given[0] not in _WAITS:
        raise InvalidWait
    return _WAITS[given[0]]


def idempotency_key(event: APIGatewayProxyEvent) -> str | None:
    """Give the `Idempotency-Key`, None where there is none.

    Raises `InvalidIdempotencyKey`.
    """
    values = _values_of(event, "idempotency-key")
    if not values:
        return None
    key = values[0].strip()
    if len(values) > 1 or not 1 <= len(key) <= MAX_KEY_LENGTH or not key.isprintable():
        raise InvalidIdempotencyKey
    return key


def signature(event: APIGatewayProxyEvent) -> str:
    """Give the one `cobalt-verification` header; empty where there is none, or more than one."""
    values = _values_of(event, "cobalt-verification")
    return values[0] if len(values) == 1 else ""


def unsigned_headers(event: APIGatewayProxyEvent) -> UnsignedHeaders:
    """Give the headers that say of a delivery what its signed body says too."""
    ids, timestamps = _values_of(event, "webhook-id"), _values_of(event, "webhook-timestamp")
    return UnsignedHeaders(tuple(ids), tuple(timestamps))


def _values_of(event: APIGatewayProxyEvent, wanted: str) -> list[str]:
    headers = event.get("multiValueHeaders") or {}
    given = [values for name, values in headers.items() if name.lower() == wanted]
    return [value for several in given for value in several]


def raw_body(event: APIGatewayProxyEvent) -> bytes:
    """Give the body's bytes as they were on the wire.

    What is no base64 where it should be is empty.
    """
    body = event.get("body") or ""
    if not event.get("isBase64Encoded"):
        return body.encode(errors="surrogatepass")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return b""


def json_object(event: APIGatewayProxyEvent) -> dict[str, Any]:
    """Read a body that is one JSON object to every parser (RFC 8259 section 4).

    Raises `UnsupportedContent`, `BodyTooLarge`, `BodyTooComplex`, and `MalformedBody` for anything
    else: duplicate keys, NaN, numbers beyond a float, no UTF-8, an array.
    """
    _expect_plain_utf_8(event)
    body = raw_body(event)
    if len(body) > MAX_FETCH_BODY_BYTES:
        raise BodyTooLarge
    if not is_within(body, depth=MAX_FETCH_BODY_DEPTH, values=MAX_FETCH_BODY_VALUES):
        raise BodyTooComplex
    try:
        document = json.loads(
            body.decode(),
            object_pairs_hook=_unique,
            parse_constant=_no_number,
            parse_float=_finite,
        )
    except (ValueError, RecursionError):
        raise MalformedBody from None
    if not isinstance(document, dict):
        raise MalformedBody
    return document


def _expect_plain_utf_8(event: APIGatewayProxyEvent) -> None:
    """Refuse what its headers call compressed, or text in another encoding.

    The media type itself is not judged: Cobalt's own route is not known to, and a client of it is
    to change the host name and nothing else.
    """
    types, encodings = _values_of(event, "content-type"), _values_of(event, "content-encoding")
    charsets = [found for value in types for found in _CHARSET.findall(value.lower())]
    if {each.strip().lower() for each in encodings} - {"", "identity"} or set(charsets) - _UTF_8:
        raise UnsupportedContent


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError
    return fields


def _no_number(_name: str) -> NoReturn:
    raise ValueError


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _refusal(event: APIGatewayProxyEvent, error: RelayError) -> Answer:
    """Answer an error. Cobalt's `error` and `Retry-After` are passed on: clients act on them."""
    body = _error_body(error.message)
    headers: dict[str, str] = {}
    if isinstance(error, UpstreamRefusal) and error.error:
        body["error"] = error.error
    if error.retry_after:
        headers["Retry-After"] = error.retry_after
    status = next(STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF)
    count(f"Refused{int(status)}")
    ids = {"request_id": request_id(event), "error_code": error.code, "status": int(status)}
    logger.info("request_refused", extra=ids)
    return answer(event, status, body, headers)


def _error_body(message: str) -> dict[str, Any]:
    return {"success": False, "message": message}
