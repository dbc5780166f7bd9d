"""What Schemathesis cannot know of the relay: signatures, jobs that there are, rules across fields."""

import hashlib
import hmac
import os
import zlib
from datetime import UTC, date, datetime, timedelta
from typing import Any

import requests
import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response

WEBHOOK_KEY = os.environ["FUZZ_WEBHOOK_KEY"].encode()
OWN_JOB, FOREIGN_JOB = os.environ["FUZZ_OWN_JOB"], os.environ["FUZZ_FOREIGN_JOB"]
FIRST_DAY, LAST_DAY = date(2000, 1, 1), date(2099, 12, 31)


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Finish a case: a genuine signature, and for a valid one what no schema can say."""
    operation = case.operation.definition.raw["operationId"]
    if operation == "receiveWebhook":
        kwargs["auth"] = sign_most
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if operation in {"fetchAppointments", "fetchRange"}:
        within = in_order if operation == "fetchAppointments" else in_range
        case.body = within(printable(case.body))
        if "Idempotency-Key" in case.headers:
            # Another body under a key that was used is a 422, and the generator repeats its keys.
            key = f"{number_of(str(case.body))}-{case.headers['Idempotency-Key']}"
            case.headers["Idempotency-Key"] = key[:255].rstrip()
    elif operation == "readJob":
        ids = (OWN_JOB, FOREIGN_JOB, case.path_parameters["job_execution_id"])
        case.path_parameters["job_execution_id"] = ids[number_of(ids[2]) % len(ids)]
        if "wait" in case.query:
            case.query["wait"] = (
                int(case.query["wait"]) % 2
            )  # its job stays open: nobody has the time
    elif operation == "readAppointments":
        case.query = within_a_year(printable(dict(case.query)))
    elif operation == "receiveWebhook":
        case.body = as_javascript_writes(printable(case.body)) | {"timestamp": now()}


def sign_most(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Sign the bytes that are sent, as Cobalt does; one in four gets no signature, or a wrong one."""
    body = body_of(request)
    request.headers.pop("cobalt-verification", None)
    number = number_of(body)
    if number % 8 == 0:
        request.headers["cobalt-verification"] = signature_of(body + b" ")
    elif number % 8 != 4:
        request.headers["cobalt-verification"] = signature_of(body)
    return request


@schemathesis.check
def webhooks_are_taken_only_when_signed(
    ctx: CheckContext, response: Response, case: Case[Any]
) -> None:
    """A genuine delivery is never a 401, anything else always is one.

    Of bytes that are no UTF-8 nothing can be said: API Gateway hands a body on as text.
    """
    if case.operation.definition.raw["operationId"] != "receiveWebhook" or case.method != "POST":
        return
    request = response.request
    body = body_of(request)
    is_text = body.decode(errors="replace").encode() == body
    is_genuine = request.headers.get("cobalt-verification") == signature_of(body)
    if (is_text or not is_genuine) and is_genuine == (response.status_code == 401):
        raise AssertionError("a genuine delivery is refused, or a forged one is not")


@schemathesis.check
def nobody_elses_job_is_read(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """The job of another connection is not there; the caller's own is, with its credentials."""
    if case.operation.definition.raw["operationId"] != "readJob":
        return
    asked = (case.path_parameters or {}).get("job_execution_id")
    if asked == FOREIGN_JOB and response.status_code == 200:
        raise AssertionError("a job was read that is not the caller's")
    if asked == OWN_JOB and response.status_code not in (200, 401):
        raise AssertionError("the caller's own job was not read")


def in_order(body: Any) -> Any:
    """Give dates of which the later one is within the reach of the earlier one."""
    if not isinstance(body, dict) or "start_date" not in body or body.get("search_by") == "mrn":
        return body
    start = min(max(date.fromisoformat(body["start_date"]), FIRST_DAY), LAST_DAY)
    several = len(body.get("provider_ids", ())) > 1 and body.get("search_by") == "provider"
    most = 5 if body.get("search_by") == "provider" else 7
    days = 0 if several else 1 + number_of(str(body)) % most
    return {**body, "start_date": str(start), "end_date": str(start + timedelta(days=days))}


def in_range(body: Any) -> Any:
    """Give dates of a range that has no more pieces than one may have."""
    if not isinstance(body, dict) or "start_date" not in body:
        return body
    start = min(max(date.fromisoformat(body["start_date"]), FIRST_DAY), LAST_DAY)
    several = len(body.get("provider_ids", ())) > 1 and body.get("search_by") == "provider"
    end = start + timedelta(days=1 + number_of(str(body)) % (40 if several else 366))
    return {**body, "start_date": str(start), "end_date": str(end)}


def within_a_year(query: dict[str, Any]) -> dict[str, Any]:
    """Give days of which the later one is within reach; no cursor, for it would be another query's."""
    if not {"start_date", "end_date"} <= query.keys():
        return query
    start = min(max(date.fromisoformat(query["start_date"]), FIRST_DAY), LAST_DAY)
    end = start + timedelta(days=number_of(str(query)) % 366)
    kept = {name: value for name, value in query.items() if name != "cursor"}
    return {**kept, "start_date": str(start), "end_date": str(end)}


def now() -> str:
    """Write the present time: a webhook of another one is taken for a replay."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def printable(value: Any) -> Any:
    """Put letters in place of what Unicode does not call printable: no JSON Schema can say that."""
    match value:
        case str():
            return "".join(each if each.isprintable() else "x" for each in value)
        case list():
            return [printable(each) for each in value]
        case dict():
            return {name: printable(each) for name, each in value.items()}
    return value


def as_javascript_writes(value: Any) -> Any:
    """Write 7.0 as 7: Cobalt's JSON is that of `JSON.stringify`."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [as_javascript_writes(each) for each in value]
        case dict():
            return {name: as_javascript_writes(each) for name, each in value.items()}
    return value


def signature_of(body: bytes) -> str:
    return hmac.new(WEBHOOK_KEY, body, hashlib.sha256).hexdigest()


def body_of(request: requests.PreparedRequest) -> bytes:
    body = request.body or b""
    return body if isinstance(body, bytes) else str(body).encode()


def number_of(value: str | bytes) -> int:
    """Draw a number that is the same in every run."""
    return zlib.crc32(value if isinstance(value, bytes) else value.encode(errors="replace"))
