"""POST /v1/appointments/fetch, through its handler."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from cobalt_relay.errors import (
    AccessForbidden,
    RateLimited,
    RequestRefused,
    TableFault,
    TokensFault,
    UpstreamBroken,
    UpstreamMalformed,
    UpstreamUnanswered,
    UpstreamUnreachable,
)
from cobalt_relay.models import ClientCredentials, JobState, RequestState, connection_id_of
from functions.fetch_appointments.handler import lambda_handler
from tests.unit.conftest import HEADERS, LambdaContextStub, World, body_of, fetch_event, header

WEEK = {"start_date": "2023-12-01", "end_date": "2023-12-07"}
REQUEST_ID = "0b5a1c5e-0000-4000-8000-000000000001"


def call(event: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = lambda_handler(event, LambdaContextStub())
    return answer


def test_founding_contract_is_answered_when_cobalt_accepts(world: World) -> None:
    answer = call(fetch_event(WEEK))

    assert answer["statusCode"] == 202
    assert body_of(answer) == {
        "success": True,
        "message": "Live fetch request accepted. Results will be sent via webhook when ready.",
        "job_execution_id": "job_1",
    }
    assert header(answer, "x-request-id") == REQUEST_ID
    assert header(answer, "Cache-Control") == "no-store"
    assert header(answer, "Content-Type") == "application/json"


def test_request_and_job_are_on_record_when_cobalt_accepts(world: World) -> None:
    call(fetch_event(WEEK))

    request, job = world.jobs.requests[REQUEST_ID], world.jobs.jobs["job_1"]
    assert request["state"] is RequestState.ACCEPTED
    assert (job.state, job.trigger, job.request_id) == (JobState.ACCEPTED, "api", REQUEST_ID)
    assert job.connection_id == connection_id_of("token-1")
    assert job.window is not None
    assert job.window.model_dump(mode="json") == WEEK
    assert world.cobalt.calls[0][1:] == ("token-1", request_of(world))


def request_of(world: World) -> Any:
    return world.cobalt.calls[0][2]


def test_connection_registers_itself_once_when_cobalt_accepts(world: World) -> None:
    for _ in range(3):
        call(fetch_event(WEEK))

    assert world.connections.tokens == {connection_id_of("token-1"): "token-1"}
    assert world.connections.looked_up == 1


@pytest.mark.parametrize(
    ("headers", "missing"),
    [
        ({}, "client_id, client_secret, access_token"),
        ({"client_id": "client", "client_secret": "sesame"}, "access_token"),
        ({"client_id": "client", "access_token": "t"}, "client_secret"),
        ({"client_secret": "sesame", "access_token": "t"}, "client_id"),
        ({**HEADERS, "access_token": ""}, "access_token"),
        ({**HEADERS, "client_id": "  "}, "client_id"),
        (
            {"client-id": "client", "client-secret": "sesame", "access-token": "t"},
            "client_id, client_secret, access_token",
        ),
    ],
)
def test_401_names_the_headers_when_they_are_missing_or_empty(
    world: World, headers: dict[str, str], missing: str
) -> None:
    answer = call(fetch_event("not even JSON", headers))

    assert answer["statusCode"] == 401
    assert body_of(answer) == {"success": False, "message": f"Missing required headers: {missing}."}
    assert world.jobs.requests == {}


@pytest.mark.parametrize("spell", [str.upper, str.title, str.lower])
def test_headers_are_found_when_their_names_are_in_any_case(world: World, spell: Any) -> None:
    answer = call(fetch_event(WEEK, {spell(name): value for name, value in HEADERS.items()}))

    assert answer["statusCode"] == 202


@pytest.mark.parametrize(
    "wrong",
    [
        {"client_secret": "wrong"},
        {"client_id": "wrong"},
        {"client_secret": "sésame"},
        {"client_secret": "\ud800"},
        {"client_id": "client", "client_secret": "Sesame"},
    ],
)
def test_401_comes_before_the_body_when_credentials_are_wrong(
    world: World, wrong: dict[str, str]
) -> None:
    answer = call(fetch_event("not even JSON", {**HEADERS, **wrong}))

    assert answer["statusCode"] == 401
    assert body_of(answer) == {
        "success": False,
        "message": "Invalid client_id or client_secret.",
    }
    assert world.cobalt.calls == []


@pytest.mark.parametrize("token", ["tok en", "tökên", "t" * 4097])
def test_401_when_a_token_cannot_be_one(world: World, token: str) -> None:
    answer = call(fetch_event(WEEK, {**HEADERS, "access_token": token}))

    assert answer["statusCode"] == 401
    assert body_of(answer)["message"] == "Invalid access_token."


def test_new_credentials_fit_at_once_when_the_operator_replaced_them(world: World) -> None:
    world.secrets.refreshed = ClientCredentials(client_id="client", client_secret="new")

    answer = call(fetch_event(WEEK, {**HEADERS, "client_secret": "new"}))

    assert answer["statusCode"] == 202


def test_503_tells_the_operator_what_to_do_when_nothing_is_configured(world: World) -> None:
    world.secrets.current = None

    answer = call(fetch_event(WEEK))

    assert answer["statusCode"] == 503
    assert body_of(answer)["success"] is False
    assert "put client_id and client_secret into the secret" in body_of(answer)["message"]


@pytest.mark.parametrize(
    "body",
    [
        None,
        "",
        "   ",
        "start_date=2023-12-01",
        "[]",
        '"2023-12-01"',
        "null",
        '{"start_date": "2023-12-01", "start_date": "2023-12-02", "end_date": "2023-12-07"}',
        '{"start_date": NaN, "end_date": "2023-12-07"}',
        '{"start_date": "2023-12-01", "end_date": "2023-12-07", "x": Infinity}',
        '{"start_date": "2023-12-01", "end_date": "2023-12-07", "x": 1e999}',
        '{"start_date": "2023-12-01", "end_date": "2023-12-07", "x": {"a": 1, "\\u0061": 2}}',
        '{"x": ' + "[" * 30_000 + "]" * 30_000 + "}",
        '{"x": ' + "9" * 5_000 + "}",
        '\ufeff{"start_date": "2023-12-01", "end_date": "2023-12-07"}',
    ],
)
def test_400_when_a_body_is_no_json_object_to_every_parser(world: World, body: str | None) -> None:
    answer = call(fetch_event(body))

    assert answer["statusCode"] == 400
    assert body_of(answer) == {
        "success": False,
        "message": "The request body must be a JSON object, in UTF-8, without duplicate keys.",
    }


@pytest.mark.parametrize("encoded", ["//79", "not base64!"])
def test_400_when_a_base64_body_is_no_utf8_or_no_base64(world: World, encoded: str) -> None:
    event = {**fetch_event("x"), "body": encoded, "isBase64Encoded": True}

    answer = call(event)

    assert answer["statusCode"] == 400


def test_413_when_a_body_is_a_megabyte(world: World) -> None:
    answer = call(fetch_event({**WEEK, "x": "y" * 1_000_000}))

    assert answer["statusCode"] == 413
    assert "at most 65536 bytes" in body_of(answer)["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "Missing required parameters: start_date, end_date."),
        (
            {"start_date": "2023-12-01", "end_date": "7 Dec"},
            "Invalid date format. Use ISO format (YYYY-MM-DD).",
        ),
        (
            {"start_date": "2023-12-07", "end_date": "2023-12-01"},
            "end_date must be after start_date.",
        ),
        (
            {"start_date": "2023-12-01", "end_date": "2023-12-09"},
            "Date range cannot exceed 7 days.",
        ),
    ],
)
def test_400_with_the_documented_text_when_a_check_fails(
    world: World, body: dict[str, Any], message: str
) -> None:
    answer = call(fetch_event(body))

    assert answer["statusCode"] == 400
    assert body_of(answer) == {"success": False, "message": message}
    assert world.cobalt.calls == []
    assert world.jobs.requests == {}


EMR = "Live fetch for appointments is not supported for athenahealth. Currently supported: eClinicalWorks."
LINK = "Account link expired. Please go through the integration setup again."


@pytest.mark.parametrize(
    ("error", "status", "body", "retry_after"),
    [
        (RequestRefused(EMR), 400, {"message": EMR}, None),
        (
            AccessForbidden(LINK, error="login_required"),
            403,
            {"message": LINK, "error": "login_required"},
            None,
        ),
        (RateLimited("Slow down.", retry_after="30"), 429, {"message": "Slow down."}, "30"),
        (RateLimited(), 429, {"message": RateLimited.message}, None),
        (UpstreamUnreachable(), 502, {"message": UpstreamUnreachable.message}, None),
    ],
)
def test_refusal_keeps_its_status_and_text_when_cobalt_starts_nothing(
    world: World, error: Any, status: int, body: dict[str, Any], retry_after: str | None
) -> None:
    world.cobalt.errors["token-1"] = error

    answer = call(fetch_event(WEEK))

    assert answer["statusCode"] == status
    assert body_of(answer) == {"success": False, **body}
    assert header(answer, "Retry-After") == retry_after
    assert world.jobs.requests[REQUEST_ID]["state"] is RequestState.FAILED
    assert world.connections.tokens == {}


@pytest.mark.parametrize(
    ("error", "status"),
    [(UpstreamUnanswered(), 504), (UpstreamBroken(), 502), (UpstreamMalformed(), 502)],
)
def test_request_is_unknown_and_sent_once_when_cobalt_may_have_started(
    world: World, error: Any, status: int
) -> None:
    world.cobalt.errors["token-1"] = error

    answer = call(fetch_event(WEEK))

    assert answer["statusCode"] == status
    assert body_of(answer) == {"success": False, "message": error.message}
    assert world.jobs.requests[REQUEST_ID]["state"] is RequestState.UNKNOWN
    assert len(world.cobalt.calls) == 1


def test_refusal_is_answered_when_its_record_cannot_be_written(world: World) -> None:
    world.cobalt.errors["token-1"] = RequestRefused(EMR)
    world.jobs.fail("close_request", TableFault())

    answer = call(fetch_event(WEEK))

    assert answer["statusCode"] == 400


def test_503_and_no_call_when_the_request_cannot_be_recorded(world: World) -> None:
    world.jobs.fail("record_request", TableFault())

    answer = call(fetch_event(WEEK))

    assert answer["statusCode"] == 503
    assert world.cobalt.calls == []


@pytest.mark.parametrize("call_name", ["accept"])
def test_202_all_the_same_when_the_job_cannot_be_recorded(world: World, call_name: str) -> None:
    world.jobs.fail(call_name, TableFault())

    answer = call(fetch_event(WEEK))

    assert answer["statusCode"] == 202


def test_registration_is_tried_again_when_it_failed(world: World) -> None:
    world.connections.fail("register", TokensFault())

    answers = [call(fetch_event(WEEK)) for _ in range(2)]

    assert [answer["statusCode"] for answer in answers] == [202, 202]
    assert list(world.connections.tokens.values()) == ["token-1"]


def test_500_says_nothing_of_the_cause_when_something_unforeseen_happens(
    world: World, logged: Callable[[], str]
) -> None:
    world.cobalt.errors["token-1"] = ZeroDivisionError("Jane Doe, MRN 4711")

    answer = call(fetch_event(WEEK))

    assert answer["statusCode"] == 500
    assert body_of(answer)["success"] is False
    assert header(answer, "x-request-id") == REQUEST_ID
    lines = logged()
    assert "ZeroDivisionError" in lines
    assert "4711" not in answer["body"] + lines


def test_404_in_our_form_when_a_route_is_none_of_ours(world: World) -> None:
    event = fetch_event(WEEK) | {"path": "/nothing"}

    answer = call(event)

    assert answer["statusCode"] == 404
    assert body_of(answer)["success"] is False


def test_route_is_found_when_a_domain_of_its_own_hands_on_the_base_path(world: World) -> None:
    event = fetch_event(WEEK) | {"path": "/v1/appointments/fetch"}

    answer = call(event)

    assert answer["statusCode"] == 202


def test_logs_hold_neither_tokens_nor_secrets_nor_an_mrn(
    world: World, logged: Callable[[], str]
) -> None:
    headers = {**HEADERS, "access_token": "token-canary"}

    call(fetch_event({"search_by": "mrn", "mrn": "MRN-canary"}, headers))

    lines = [json.loads(line) for line in logged().splitlines()]
    assert any(line.get("message") == "fetch_accepted" for line in lines)
    assert "canary" not in json.dumps(lines)
    assert "sesame" not in json.dumps(lines)
