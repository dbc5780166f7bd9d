"""POST /v1/appointments/fetch, through its handler."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from cobalt_relay.errors import (
    AccessForbidden,
    AccessTokenRefused,
    RateLimited,
    RelayError,
    RequestRefused,
    TableFault,
    TokensFault,
    UpstreamBroken,
    UpstreamMalformed,
    UpstreamUnanswered,
    UpstreamUnreachable,
)
from cobalt_relay.models import ClientCredentials, JobState, Request, RequestState, connection_id_of
from functions.fetch_appointments.handler import lambda_handler
from tests.unit.conftest import HEADERS, LambdaContextStub, World, body_of, fetch_event, header

WEEK = {"start_date": "2023-12-01", "end_date": "2023-12-07"}
REQUEST_ID = "0b5a1c5e-0000-4000-8000-000000000001"


def call(event: dict[str, Any], number: int = 1) -> dict[str, Any]:
    event["requestContext"]["requestId"] = REQUEST_ID[:-1] + str(number)
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
    assert header(answer, "X-Content-Type-Options") == "nosniff"
    assert header(answer, "Strict-Transport-Security") == "max-age=63072000"
    assert header(answer, "Content-Type") == "application/json"


def test_request_and_job_are_on_record_when_cobalt_accepts(world: World) -> None:
    call(fetch_event(WEEK))

    request, job = world.jobs.requests[REQUEST_ID], world.jobs.jobs["job_1"]
    assert request.state is RequestState.ACCEPTED
    assert (job.state, job.trigger, job.request_id) == (JobState.ACCEPTED, "api", REQUEST_ID)
    assert job.connection_id == connection_id_of("token-1")
    assert job.window is not None
    assert job.window.model_dump(mode="json") == WEEK
    assert world.cobalt.calls[0][1:] == ("token-1", request_of(world))


def request_of(world: World) -> Any:
    return world.cobalt.calls[0][2]


def test_connection_registers_itself_once_when_cobalt_accepts(world: World) -> None:
    for number in range(3):
        call(fetch_event(WEEK), number)
        world.clock.sleep(61)

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


@pytest.mark.parametrize("chosen", ["Jane Doe", "test-invoke-request", "", REQUEST_ID + "0"])
def test_request_gets_a_name_of_its_own_when_its_caller_chose_one_that_is_no_id(
    world: World, logged: Callable[[], str], chosen: str
) -> None:
    named = []
    for own in ("AbCdEf=", "GhIjKl="):
        event = fetch_event(WEEK, {**HEADERS, "Idempotency-Key": own})
        event["requestContext"] |= {"requestId": chosen, "extendedRequestId": own}
        named.append(header(lambda_handler(event, LambdaContextStub()), "x-request-id"))

    assert named == list(world.jobs.requests)
    assert len(set(named)) == 2
    assert all(name and re.fullmatch("[0-9a-f-]{36}", name) for name in named)
    assert "Jane" not in logged()


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("is_spelt_alike", [True, False])
@pytest.mark.parametrize(("second", "status"), [("another", 401), (None, 202)])
def test_401_when_a_header_has_two_different_values(
    world: World, name: str, is_spelt_alike: bool, second: str | None, status: int
) -> None:
    event, own = fetch_event(WEEK), HEADERS[name]
    spelt = name if is_spelt_alike else name.title()
    several = event["multiValueHeaders"]
    several[spelt] = [*several[spelt], second or own] if is_spelt_alike else [second or own]

    answer = call(event)

    assert answer["statusCode"] == status
    assert len(world.cobalt.calls) == (status == 202)
    if status == 401:
        assert body_of(answer)["message"] == f"Missing required headers: {name}."


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


def week_and(text: str) -> str:
    """A request with one more field, which no edition documents."""
    return json.dumps(WEEK)[:-1] + f', "x": {text}}}'


@pytest.mark.parametrize(
    "body",
    [
        week_and("[" * 30_000 + "]" * 30_000),
        week_and("[" * 8 + "]" * 8),
        week_and('{"a":' * 8 + "1" + "}" * 8),
        week_and("[" + "1," * 96 + "1]"),
        week_and("{" + ",".join(f'"{n}":1' for n in range(97)) + "}"),
        "{" + ",".join(f'"{n}":1' for n in range(6000)) + "}",
        "[" * 60_000,
    ],
)
def test_400_before_a_body_is_parsed_when_it_is_deeper_or_fuller_than_a_request(
    world: World, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    parsed: list[str] = []
    monkeypatch.setattr("cobalt_relay.api._unique", parsed.append)

    answer = call(fetch_event(body))

    assert answer["statusCode"] == 400
    assert "too complex" in body_of(answer)["message"]
    assert (world.cobalt.calls, parsed) == ([], [])


@pytest.mark.parametrize(
    "more",
    [
        "[" * 7 + "]" * 7,
        "[" + "1," * 95 + "1]",
        '"' + "[[,{" * 5000 + '"',
        '"' + r"\"[" * 5000 + '"',
    ],
)
def test_202_when_a_body_is_just_within_its_limits(world: World, more: str) -> None:
    answer = call(fetch_event(week_and(more)))

    assert answer["statusCode"] == 202


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json"},
        {"Content-Type": "application/json; charset=UTF-8"},
        {"content-type": 'application/json;charset="utf-8"'},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "text/plain; charset=us-ascii"},
        {"Content-Type": "nonsense"},
        {"Content-Encoding": "identity"},
    ],
)
def test_202_whatever_the_content_type_is_called(world: World, headers: dict[str, str]) -> None:
    answer = call(fetch_event(WEEK, {**HEADERS, **headers}))

    assert answer["statusCode"] == 202


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json; charset=utf-16"},
        {"CONTENT-TYPE": "application/json;x=y; CHARSET = 'ISO-8859-1'"},
        {"Content-Type": "application/json; charset=utf-8; charset=utf-7"},
        {"Content-Encoding": "gzip"},
        {"content-encoding": "identity, br"},
    ],
)
def test_415_when_a_body_is_said_to_be_compressed_or_of_another_encoding(
    world: World, headers: dict[str, str]
) -> None:
    answer = call(fetch_event(WEEK, {**HEADERS, **headers}))

    assert answer["statusCode"] == 415
    assert body_of(answer)["success"] is False
    assert world.cobalt.calls == []


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
    assert world.connections.registered == {}
    assert world.jobs.requests[REQUEST_ID].state is RequestState.FAILED


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
    assert world.jobs.requests[REQUEST_ID].state is RequestState.UNKNOWN
    assert len(world.cobalt.calls) == 1


@pytest.mark.parametrize("error", [RateLimited(), AccessForbidden(LINK, error="login_required")])
def test_refusal_is_counted_by_its_class(
    world: World, logged: Callable[[], str], error: Any
) -> None:
    world.cobalt.errors["token-1"] = error

    call(fetch_event(WEEK))

    metric = json.loads(logged().splitlines()[-1])
    assert metric["FetchRefused"] == [1.0]
    assert metric[f"FetchRefused{type(error).__name__}"] == [1.0]


def test_refusal_is_answered_when_its_record_cannot_be_written(world: World) -> None:
    world.cobalt.errors["token-1"] = RequestRefused(EMR)
    world.jobs.fail("close_request", *[TableFault()] * 3)

    answer = call(fetch_event(WEEK))

    assert answer["statusCode"] == 400


def test_503_and_no_call_when_the_request_cannot_be_recorded(world: World) -> None:
    world.jobs.fail("record_request", TableFault())

    answer = call(fetch_event(WEEK))

    assert answer["statusCode"] == 503
    assert world.cobalt.calls == []


@pytest.mark.parametrize("call_name", ["accept"])
def test_202_all_the_same_when_the_job_cannot_be_recorded(world: World, call_name: str) -> None:
    world.jobs.fail(call_name, *[TableFault()] * 3)

    answer = call(fetch_event(WEEK))

    assert answer["statusCode"] == 202
    assert world.jobs.jobs == {}


def test_what_came_of_a_request_is_written_again_when_a_write_fails(world: World) -> None:
    world.jobs.fail("accept", TableFault(), TableFault())

    call(fetch_event(WEEK))

    assert world.jobs.requests[REQUEST_ID].state is RequestState.ACCEPTED


@pytest.mark.parametrize(
    ("call_name", "fault"),
    [("register", TableFault()), ("keep_token", TokensFault()), ("is_registered", TableFault())],
)
def test_registration_is_tried_again_when_it_failed(
    world: World, call_name: str, fault: RelayError
) -> None:
    world.connections.fail(call_name, fault)

    answers = [call(fetch_event(WEEK))]
    was_registered = bool(world.connections.registered)
    world.clock.sleep(61)
    answers.append(call(fetch_event(WEEK), 2))

    assert [answer["statusCode"] for answer in answers] == [202, 202]
    assert not was_registered
    assert list(world.connections.tokens.values()) == ["token-1"]
    assert list(world.connections.registered) == [connection_id_of("token-1")]


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


# ------------------------------------------------------------------------- one question, put only once


def ask(world: World, number: int, key: str | None = None, body: Any = None) -> dict[str, Any]:
    headers = HEADERS | ({"Idempotency-Key": key} if key is not None else {})
    return call(fetch_event(WEEK if body is None else body, headers), number)


def jobs_of(*answers: dict[str, Any]) -> list[Any]:
    return [body_of(answer).get("job_execution_id") for answer in answers]


OTHER_WEEK = {"start_date": "2023-12-08", "end_date": "2023-12-14"}


def test_same_key_and_body_give_the_same_job_for_a_day(world: World) -> None:
    first = ask(world, 1, "k")
    world.clock.moment += timedelta(hours=23, minutes=59)
    second = ask(world, 2, "k", {"search_by": "date_range", **WEEK})
    world.clock.moment += timedelta(minutes=2)
    third = ask(world, 3, "k")

    assert jobs_of(first, second, third) == ["job_1", "job_1", "job_2"]
    assert header(second, "x-relay-joined") is None
    assert "k" not in json.dumps([pk for pk, _ in world.jobs.table.items])


def test_422_when_a_key_comes_with_another_body(world: World) -> None:
    ask(world, 1, "k")

    answers = [ask(world, 2, "k", OTHER_WEEK), ask(world, 3, "other", OTHER_WEEK)]

    assert [answer["statusCode"] for answer in answers] == [422, 202]
    assert len(world.cobalt.calls) == 2


def test_keys_of_two_connections_have_nothing_to_do_with_each_other(world: World) -> None:
    mine = ask(world, 1, "k")
    theirs = call(
        fetch_event(WEEK, {**HEADERS, "access_token": "token-2", "Idempotency-Key": "k"}), 2
    )

    assert jobs_of(mine, theirs) == ["job_1", "job_2"]


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "a\tb", "a\x00"])
def test_400_when_a_key_is_none(world: World, key: str) -> None:
    answer = ask(world, 1, key)

    assert answer["statusCode"] == 400
    assert "Idempotency-Key" in body_of(answer)["message"]
    assert world.cobalt.calls == []


def test_400_when_there_are_two_keys(world: World) -> None:
    event = fetch_event(WEEK)
    event["multiValueHeaders"]["idempotency-key"] = ["a", "b"]

    assert call(event)["statusCode"] == 400


def test_equal_request_joins_a_job_that_is_open_and_young(world: World) -> None:
    first = ask(world, 1)
    world.clock.sleep(59)
    second, other = ask(world, 2), ask(world, 3, body=OTHER_WEEK)
    world.clock.sleep(1)
    third = ask(world, 4)

    assert jobs_of(first, second, other, third) == ["job_1", "job_1", "job_2", "job_3"]
    assert [header(answer, "x-relay-joined") for answer in (first, second, third)] == [
        None,
        "true",
        None,
    ]
    assert list(world.jobs.requests) == [REQUEST_ID[:-1] + n for n in "134"]


def test_equal_request_starts_its_own_when_the_job_has_ended(world: World) -> None:
    ask(world, 1)
    job = world.jobs.jobs["job_1"]
    world.clock.sleep(5)
    world.jobs.expire_job(job, world.clock())

    answer = ask(world, 2)

    assert jobs_of(answer) == ["job_2"]


def test_call_with_a_key_joins_nobody_but_can_be_joined(world: World) -> None:
    answers = [ask(world, 1), ask(world, 2, "k"), ask(world, 3)]

    assert jobs_of(*answers) == ["job_1", "job_2", "job_2"]
    assert header(answers[2], "x-relay-joined") == "true"


def test_nobody_joins_when_single_flight_is_off(world: World) -> None:
    world.fetch_appointments._single_flight = timedelta(0)

    assert jobs_of(ask(world, 1), ask(world, 2)) == ["job_1", "job_2"]


@pytest.mark.parametrize("key", ["k", None])
def test_call_waits_for_an_equal_one_and_gets_its_answer(world: World, key: str | None) -> None:
    answers = []

    def sleep(seconds: float) -> None:
        """The first call is being answered while the second one waits."""
        world.clock.moment += timedelta(seconds=seconds)
        if world.clock() - began > timedelta(seconds=2):
            world.jobs.accept(first, "job_1", world.clock())

    began = world.clock()
    world.jobs.fail("accept", *[TableFault()] * 3)
    ask(world, 1, key)  # as far as the table knows, it is still under way
    first = world.jobs.requests[REQUEST_ID]
    world.fetch_appointments._sleep = sleep
    answers.append(ask(world, 2, key))

    assert jobs_of(*answers) == ["job_1"]
    assert len(world.cobalt.calls) == 1
    assert world.clock() - began < timedelta(seconds=4)


@pytest.mark.parametrize("key", ["k", None])
def test_503_when_an_equal_call_takes_too_long(world: World, key: str | None) -> None:
    world.jobs.fail("accept", *[TableFault()] * 3)
    ask(world, 1, key)

    answer = ask(world, 2, key)

    assert (answer["statusCode"], header(answer, "Retry-After")) == (503, "5")
    assert len(world.cobalt.calls) == 1


@pytest.mark.parametrize("key", ["k", None])
def test_hold_of_a_call_that_died_is_free_after_its_lease(world: World, key: str | None) -> None:
    world.jobs.fail("accept", *[TableFault()] * 3)
    ask(world, 1, key)
    world.clock.sleep(30)

    answer = ask(world, 2, key)

    assert jobs_of(answer) == ["job_2"]


@pytest.mark.parametrize("key", ["k", None])
@pytest.mark.parametrize(
    "error", [RateLimited(retry_after="30"), UpstreamUnreachable(), RequestRefused(EMR)]
)
def test_refusal_is_not_remembered(world: World, key: str | None, error: Any) -> None:
    world.cobalt.errors["token-1"] = error
    refused = ask(world, 1, key)
    world.cobalt.errors.clear()

    answer = ask(world, 2, key)

    assert refused["statusCode"] >= 400
    assert jobs_of(answer) == ["job_2"]


def test_unanswered_request_is_never_sent_again_for_its_key(world: World) -> None:
    world.cobalt.errors["token-1"] = UpstreamUnanswered()
    first = ask(world, 1, "k")
    world.cobalt.errors.clear()
    world.clock.sleep(600)
    second = ask(world, 2, "k")
    unknown = world.jobs.requests[REQUEST_ID]

    world.jobs.accept(unknown, "job_9", world.clock())
    third = ask(world, 3, "k")

    assert [each["statusCode"] for each in (first, second, third)] == [504, 504, 202]
    assert jobs_of(third) == ["job_9"]
    assert len(world.cobalt.calls) == 1


def test_unanswered_request_is_not_sent_again_for_its_key_when_it_expired(world: World) -> None:
    world.cobalt.errors["token-1"] = UpstreamUnanswered()
    ask(world, 1, "k")
    world.cobalt.errors.clear()
    world.jobs.expire_request(world.jobs.requests[REQUEST_ID], world.clock())

    same, new = ask(world, 2, "k"), ask(world, 3, "new")

    assert (same["statusCode"], jobs_of(new)) == (504, ["job_2"])


@pytest.mark.parametrize("minutes", [1, 10, 130])
def test_key_of_a_call_that_died_stays_free_whatever_the_reconciler_makes_of_it(
    world: World, minutes: int
) -> None:
    world.jobs.fail("accept", *[TableFault()] * 3)
    ask(world, 1, "k")
    for _ in range(minutes):
        world.clock.sleep(60)
        world.reconcile_jobs.run(lambda: 180.0)

    assert jobs_of(ask(world, 2, "k")) == ["job_2"]


@pytest.mark.parametrize("key", ["k", None])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RateLimited("Slow down.", retry_after="30"), 429),
        (AccessForbidden(LINK, error="login_required"), 403),
        (UpstreamUnreachable(), 502),
    ],
)
def test_callers_that_wait_for_a_refusal_get_it_too(
    world: World, key: str | None, error: Any, status: int
) -> None:
    asked: list[Any] = []

    def sleep(seconds: float) -> None:
        world.clock.moment += timedelta(seconds=seconds)
        world.jobs.close_request(asked[0], RequestState.FAILED, error, world.clock())

    world.jobs.fail("accept", *[TableFault()] * 3)
    ask(world, 1, key)  # as far as the table knows, it is still under way
    asked.append(world.jobs.requests[REQUEST_ID])
    world.fetch_appointments._sleep = sleep

    answer = ask(world, 2, key)

    assert answer["statusCode"] == status
    assert body_of(answer).get("error") == getattr(error, "error", None)
    assert header(answer, "Retry-After") == error.retry_after
    assert len(world.cobalt.calls) == 1


def test_mrn_is_asked_for_once_too(world: World) -> None:
    by_mrn = {"search_by": "mrn", "mrn": "MRN-1"}

    answers = [ask(world, 1, "k", by_mrn), ask(world, 2, "k", by_mrn), ask(world, 3, None, by_mrn)]

    assert jobs_of(*answers) == ["job_1", "job_1", "job_1"]


def test_second_request_with_the_same_job_keeps_it(world: World) -> None:
    """Cobalt may know better than we do that two fetches are one."""
    ask(world, 1, "a")
    request = world.jobs.requests[REQUEST_ID].model_copy(update={"request_id": "r2"})
    world.jobs.record_request(Request.model_validate(_fields(request, Request)))

    accepted = world.jobs.accept(request, "job_1", world.clock())

    assert accepted
    assert world.jobs.requests["r2"].job_execution_id == "job_1"
    assert world.jobs.jobs["job_1"].request_id == REQUEST_ID


def test_job_of_a_request_that_has_another_job_is_kept_alone(world: World) -> None:
    ask(world, 1, "a")
    request = world.jobs.requests[REQUEST_ID]

    accepted = world.jobs.accept(request, "job_9", world.clock())

    assert not accepted
    assert world.jobs.jobs["job_9"].state is JobState.ACCEPTED
    assert world.jobs.requests[REQUEST_ID].job_execution_id == "job_1"


def _fields(row: Any, model: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in model.model_fields}


def test_equal_request_without_a_key_is_held_off_while_the_first_may_be_answered(
    world: World,
) -> None:
    world.cobalt.errors["token-1"] = UpstreamUnanswered()
    ask(world, 1)
    world.cobalt.errors.clear()

    at_once = ask(world, 2)
    world.clock.sleep(30)
    later = ask(world, 3)

    assert (at_once["statusCode"], jobs_of(later)) == (504, ["job_2"])


def test_hold_is_free_when_the_row_of_its_request_is_gone(world: World) -> None:
    ask(world, 1, "k")
    del world.jobs.table.items[f"REQUEST#{REQUEST_ID}", "REQUEST"]

    assert jobs_of(ask(world, 2, "k")) == ["job_2"]


def test_503_when_a_request_id_comes_twice(world: World) -> None:
    ask(world, 1, "a")

    answer = ask(world, 1, "b")

    assert answer["statusCode"] == 503
    assert len(world.cobalt.calls) == 1


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        (RateLimited(), True),
        (UpstreamUnanswered(), True),
        (RequestRefused(EMR), True),
        (AccessTokenRefused(), False),
        (AccessForbidden(LINK, error="login_required"), False),
    ],
)
def test_token_is_kept_beforehand_and_forgotten_where_cobalt_refuses_it(
    world: World, error: Any, is_kept: bool
) -> None:
    world.cobalt.errors["token-1"] = error

    ask(world, 1)

    assert bool(world.connections.tokens) is is_kept
    assert world.connections.registered == {}


@pytest.mark.parametrize(("seconds", "status"), [(0, 202), (4, 401)])
def test_replaced_credentials_are_tried_while_there_is_time_when_cobalt_refuses_ours(
    world: World, monkeypatch: pytest.MonkeyPatch, seconds: float, status: int
) -> None:
    world.secrets.refreshed = ClientCredentials(client_id="client", client_secret="new")
    world.cobalt.outdated_secrets = {"sesame"}
    fetch = world.cobalt.fetch_appointments

    def take_a_while(*asked: Any) -> str:
        world.clock.sleep(seconds)
        return fetch(*asked)

    monkeypatch.setattr(world.cobalt, "fetch_appointments", take_a_while)

    answer = ask(world, 1)

    assert answer["statusCode"] == status
    assert [each.client_secret for each, *_ in world.cobalt.calls] == ["new"] * (status == 202)
    states = {request.state for request in world.jobs.requests.values()}
    assert states == {RequestState.ACCEPTED if status == 202 else RequestState.FAILED}


def test_refusal_stands_when_the_secret_cannot_be_read_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.cobalt.errors["token-1"] = AccessTokenRefused()
    world.secrets.refreshed = None

    answer = ask(world, 1)

    assert answer["statusCode"] == 401
    assert len(world.cobalt.calls) == 1


def test_token_of_a_registered_connection_outlives_a_broken_link(world: World) -> None:
    ask(world, 1, "a")
    world.cobalt.errors["token-1"] = AccessForbidden(LINK, error="login_required")

    ask(world, 2, "b")

    assert list(world.connections.tokens.values()) == ["token-1"]


def test_refusal_is_answered_when_the_token_cannot_be_forgotten(world: World) -> None:
    world.cobalt.errors["token-1"] = AccessTokenRefused()
    world.connections.fail("forget_token", TokensFault())

    assert ask(world, 1)["statusCode"] == 401


def test_token_outlives_a_refusal_when_an_unanswered_fetch_needs_it(world: World) -> None:
    world.cobalt.errors["token-1"] = UpstreamUnanswered()
    ask(world, 1, "a")
    world.cobalt.errors["token-1"] = AccessForbidden(LINK, error="login_required")

    ask(world, 2, "b")

    assert list(world.connections.tokens.values()) == ["token-1"]


@pytest.mark.parametrize("moment", ["before it forgets", "after it looked"])
def test_registered_connection_has_its_token_when_another_first_call_was_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The first call is refused while the second, which found the token kept, is accepted."""
    answers = []
    fetch, forget = world.cobalt.fetch_appointments, world.connections.forget_token
    register = world.connections.register

    def refuse(*asked: Any) -> str:
        if moment == "after it looked":
            monkeypatch.setattr(world.connections, "register", register_late)
        monkeypatch.setattr(world.cobalt, "fetch_appointments", fetch)
        answers.append(ask(world, 2, "b"))
        raise AccessForbidden(LINK, error="login_required")

    def register_late(connection_id: str, *others: Any) -> None:
        forget(connection_id)
        register(connection_id, *others)

    monkeypatch.setattr(world.cobalt, "fetch_appointments", refuse)
    if moment == "after it looked":
        monkeypatch.setattr(world.connections, "forget_token", lambda _connection_id: None)

    answers.append(ask(world, 1, "a"))

    assert [answer["statusCode"] for answer in answers] == [202, 403]
    assert world.connections.registered.keys() == {connection_id_of("token-1")}
    assert world.connections.tokens == {connection_id_of("token-1"): "token-1"}


def test_202_when_the_token_cannot_be_kept_again(
    world: World, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], str]
) -> None:
    world.cobalt.errors["token-1"] = UpstreamUnanswered()
    ask(world, 1, "a")
    world.cobalt.errors.clear()
    register = world.connections.register

    def fail_afterwards(*arguments: Any) -> None:
        register(*arguments)
        world.connections.fail("keep_token", TokensFault())

    monkeypatch.setattr(world.connections, "register", fail_afterwards)

    answer = ask(world, 2, "b")

    assert answer["statusCode"] == 202
    assert "token_not_kept" in logged()
