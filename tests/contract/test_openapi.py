"""`docs/openapi.yaml` against the code: routes, statuses, limits, forms, examples."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from jsonschema import Draft202012Validator

from cobalt_relay import api, bootstrap, models, reading
from cobalt_relay.appointments import FIELDS, NOTES, NormalizedStatus
from cobalt_relay.errors import (
    BadSignature,
    CallerError,
    DaysNotBrought,
    DeliveryError,
    EndNotAfterStart,
    FetchUnderWay,
    IdempotencyKeyReused,
    InvalidCursor,
    InvalidDateFormat,
    InvalidMrn,
    InvalidParameter,
    InvalidProviderIds,
    InvalidReadRequest,
    InvalidWait,
    MissingHeaders,
    MissingParameters,
    NoSuchJob,
    NotAcceptable,
    NotConfigured,
    RateLimited,
    RelayError,
    RepeatedParameter,
    RequestRefused,
    SeveralProvidersSeveralDays,
    StorageFault,
    TooManyPieces,
    UnknownRangeSearchBy,
    UnknownSearchBy,
    UnusableAccessToken,
    UpstreamFault,
    UpstreamRefusal,
    WindowTooLong,
    WrongClientCredentials,
)
from cobalt_relay.formats import FORMATS
from cobalt_relay.reading import RULES
from cobalt_relay.services.receive_webhook import MAX_DELIVERY_BYTES
from cobalt_relay.services.take_in import Verdict
from functions.fetch_appointments.handler import lambda_handler as fetch_appointments
from functions.read_appointments.handler import lambda_handler as read_appointments
from functions.receive_webhook.handler import lambda_handler as receive_webhook
from functions.run_fetches.handler import lambda_handler as run_fetches
from tests.contract.test_documented_examples import example
from tests.template.document import document
from tests.unit.conftest import (
    HEADERS,
    LambdaContextStub,
    World,
    appointments_event,
    body_of,
    fetch_event,
    job_event,
    queue_event,
    range_event,
    webhook_event,
)
from tests.unit.test_read_appointments import WEEK as DAYS
from tests.unit.test_read_appointments import put_week
from tests.unit.test_shape import leaves

FILE = Path(__file__).parents[2] / "docs" / "openapi.yaml"
SPEC: dict[str, Any] = yaml.safe_load(FILE.read_text())
SCHEMAS: dict[str, Any] = SPEC["components"]["schemas"]

FETCH = ("/appointments/fetch", "post")
RANGE = ("/appointments/fetch/range", "post")
READ = ("/appointments/fetch/{job_execution_id}", "get")
APPOINTMENTS = ("/appointments", "get")
WEBHOOK = ("/webhooks/cobalt", "post")
ROUTES = (FETCH, RANGE, READ, APPOINTMENTS, WEBHOOK)

type Route = tuple[str, str]
type Answer = dict[str, Any]

GATEWAY: dict[Route, set[str]] = {
    FETCH: {"429"},
    RANGE: {"429"},
    READ: {"400", "429"},
    APPOINTMENTS: {"429"},
    WEBHOOK: {"429"},
}
"""What API Gateway answers by itself, in our form."""
BASES: dict[Route, tuple[type[RelayError], ...]] = {
    FETCH: (
        CallerError,
        UpstreamRefusal,
        UpstreamFault,
        FetchUnderWay,
        NotConfigured,
        StorageFault,
    ),
    RANGE: (CallerError, UpstreamRefusal, UpstreamFault, NotConfigured, StorageFault),
    READ: (MissingHeaders, InvalidWait, NoSuchJob, NotConfigured, StorageFault),
    APPOINTMENTS: (
        *(MissingHeaders, WrongClientCredentials, UnusableAccessToken),
        *(MissingParameters, InvalidDateFormat, EndNotAfterStart, WindowTooLong),
        *(InvalidReadRequest, NotAcceptable),
        *(UpstreamRefusal, UpstreamFault, FetchUnderWay, NotConfigured, StorageFault),
    ),
    WEBHOOK: (DeliveryError, NotConfigured, StorageFault),
}
"""What each route can raise."""
SUCCESSES: dict[Route, set[str]] = {
    FETCH: {"202"},
    RANGE: {"202"},
    READ: {"200"},
    APPOINTMENTS: {"200", "202", "304"},
    WEBHOOK: {"200"},
}


def errors_of(route: Route) -> list[type[RelayError]]:
    found = [leaf for base in BASES[route] for leaf in leaves(base)]
    return [kind for kind in found if route not in NOT_OF.get(kind, ())]


NOT_OF: dict[type[RelayError], tuple[Route, ...]] = {
    InvalidWait: (FETCH, RANGE),
    NoSuchJob: (FETCH, RANGE),
    NotAcceptable: (FETCH, RANGE),
    DaysNotBrought: (FETCH, RANGE),
    InvalidParameter: (FETCH, RANGE),
    RepeatedParameter: (FETCH, RANGE),
    InvalidCursor: (FETCH, RANGE),
    UnknownRangeSearchBy: (FETCH,),
    TooManyPieces: (FETCH,),
    UnknownSearchBy: (RANGE,),
    InvalidMrn: (RANGE,),
    SeveralProvidersSeveralDays: (RANGE,),
}
"""Routes on which an error of their families cannot come."""


ARGUMENTS: dict[type[RelayError], Any] = {
    MissingHeaders: ["access_token"],
    MissingParameters: ("start_date", "end_date"),
    WindowTooLong: 7,
    InvalidProviderIds: 10,
    DaysNotBrought: 60,
    RepeatedParameter: ("limit", 1),
    InvalidParameter: ("limit", RULES["limit"].must),
}
SEVERAL = {RepeatedParameter, InvalidParameter}
"""Those that take more than one argument."""


def instance(kind: type[RelayError]) -> RelayError:
    if kind.__name__ == "EnvironmentIncomplete":
        return kind(["TABLE_NAME"])  # type: ignore[arg-type]
    if kind in SEVERAL:
        return kind(*ARGUMENTS[kind])
    return kind(ARGUMENTS[kind]) if kind in ARGUMENTS else kind()


def operation(route: Route) -> dict[str, Any]:
    path, method = route
    found: dict[str, Any] = SPEC["paths"][path][method]
    return found


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """What a `$ref` inside the document points to."""
    while "$ref" in node:
        reference, node = node["$ref"], SPEC
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    return node


def check(schema: dict[str, Any], document: object) -> None:
    """Hold a document against a schema of the file."""
    whole = {**schema, "components": SPEC["components"]}
    Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(
        document
    )


def check_answer(route: Route, answer: Answer) -> None:
    """Hold an answer of a handler against what is declared for its status."""
    declared = resolved(operation(route)["responses"][str(answer["statusCode"])])
    given = {name.lower(): values for name, values in answer["multiValueHeaders"].items()}
    [media_type] = given.pop("content-type", [""])
    if media_type.endswith("json") and media_type != "application/x-ndjson":
        check(declared["content"][media_type]["schema"], body_of(answer))
    elif media_type:
        check(declared["content"][media_type]["schema"], answer["body"])
    else:
        assert "content" not in declared
        assert answer["body"] == ""
    headers = {name.lower(): resolved(each) for name, each in declared["headers"].items()}
    assert set(given) <= set(headers)
    assert {name for name, each in headers.items() if each.get("required")} <= set(given)
    for name, [value] in given.items():
        check(headers[name]["schema"], value)


# ----------------------------------------------------------------------------------------- the file


def test_every_route_of_the_template_is_in_it_and_no_other() -> None:
    gateway = document("defaults").of_type("AWS::ApiGateway::RestApi")["Api"]
    deployed = {(path, verb) for path, item in gateway["Body"]["paths"].items() for verb in item}

    described = {(path, method) for path, item in SPEC["paths"].items() for method in item}

    assert described == deployed == set(ROUTES)


@pytest.mark.parametrize("route", ROUTES)
def test_declared_statuses_are_those_that_a_route_can_give(route: Route) -> None:
    statuses = {
        str(int(next(api.STATUS_OF[base] for base in kind.__mro__ if base in api.STATUS_OF)))
        for kind in errors_of(route)
    }

    declared = set(operation(route)["responses"])

    assert {each for each in declared if each >= "400"} == statuses | GATEWAY[route] | {"500"}
    assert {each for each in declared if each < "400"} == SUCCESSES[route]


def test_every_error_with_a_status_comes_from_a_route() -> None:
    raised = {kind for route in ROUTES for kind in errors_of(route)}

    for family in set(api.STATUS_OF) - {RelayError}:
        assert set(leaves(family)) <= raised, family


def test_limits_are_those_of_the_code() -> None:
    [key] = operation(FETCH)["parameters"]
    [job_id, wait] = operation(READ)["parameters"]
    ids = SCHEMAS["FetchByProvider"]["properties"]["provider_ids"]
    text, number = [resolved(each) for each in ids["items"]["anyOf"]]

    many = SCHEMAS["RangeByProvider"]["properties"]["provider_ids"]

    for each in (FETCH, RANGE):
        assert operation(each)["requestBody"]["x-max-bytes"] == api.MAX_FETCH_BODY_BYTES
    assert many["maxItems"] == models.MAX_RANGE_PROVIDERS
    assert f"{models.MAX_RANGE_DAYS} days" in SCHEMAS["RangeByDate"]["description"]
    assert SCHEMAS["Range"]["properties"]["pieces"]["maxItems"] == models.MAX_PIECES
    assert operation(WEBHOOK)["requestBody"]["x-max-bytes"] == MAX_DELIVERY_BYTES
    assert resolved(key["schema"])["maxLength"] == api.MAX_KEY_LENGTH
    assert resolved(job_id["schema"])["maxLength"] == models.MAX_ID_LENGTH
    assert (wait["schema"]["minimum"], wait["schema"]["maximum"]) == (0, api.MAX_WAIT_SECONDS)
    assert ids["maxItems"] == models.MAX_PROVIDERS
    assert (text["maxLength"], number["maximum"]) == (models.MAX_MRN_LENGTH, models.MAX_NUMBER)
    assert SCHEMAS["CobaltId"]["anyOf"][0]["maxLength"] == models.MAX_ID_LENGTH
    assert f"{models.MAX_WINDOW_DAYS} days" in SCHEMAS["FetchByDateRange"]["description"]
    assert f"{models.MAX_PROVIDER_WINDOW_DAYS} days" in SCHEMAS["FetchByProvider"]["description"]


def test_credentials_are_the_headers_that_are_read() -> None:
    schemes = SPEC["components"]["securitySchemes"]

    names = {
        route: [schemes[name]["name"] for name in operation(route)["security"][0]]
        for route in ROUTES
    }

    callers = (FETCH, RANGE, READ, APPOINTMENTS)
    assert [names[route] for route in callers] == [list(api.FETCH_HEADERS)] * len(callers)
    assert names[WEBHOOK] == ["cobalt-verification"]
    assert {scheme["in"] for scheme in schemes.values()} == {"header"}


def test_words_are_those_of_the_code() -> None:
    job = SCHEMAS["Job"]["properties"]

    assert (
        set(job) == {"success", *models.JobReport.model_fields} == set(SCHEMAS["Job"]["required"])
    )
    assert set(job["status"]["enum"]) == set(models.JobState)
    assert set(job["trigger"]["enum"]) == {*get_args(models.Trigger), None}
    assert set(job["delivered_via"]["enum"]) == {*get_args(models.Channel), None}
    whole, piece = SCHEMAS["Range"]["properties"], SCHEMAS["Piece"]["properties"]
    assert set(whole) == {"success", *models.RangeReport.model_fields}
    assert set(whole["status"]["enum"]) == set(models.RangeState)
    assert set(piece) == set(models.PieceOutcome.model_fields)
    statuses = get_args(models.PieceOutcome.model_fields["status"].annotation)
    assert set(piece["status"]["enum"]) == set(statuses)
    assert SCHEMAS["RangeAccepted"]["properties"]["message"]["const"] == api.RANGE_MESSAGE
    assert SCHEMAS["FetchAccepted"]["properties"]["message"]["const"] == api.ACCEPTED_MESSAGE
    received = {f"Webhook {verdict}." for verdict in Verdict}
    assert set(SCHEMAS["DeliveryReceived"]["properties"]["message"]["enum"]) == received


# ------------------------------------------------------------------------------------------ examples


def examples(route: Route) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Every example of a route, with its place and its schema."""
    content = [("request", operation(route).get("requestBody", {}))]
    content += [(status, resolved(each)) for status, each in operation(route)["responses"].items()]
    for place, part in content:
        for media in part.get("content", {}).values():
            for name, given in media["examples"].items():
                yield f"{place} {name}", media["schema"], given["value"]


@pytest.mark.parametrize("route", ROUTES)
def test_examples_are_of_their_form(route: Route) -> None:
    places = []
    for place, schema, value in examples(route):
        places.append(place)
        check(schema, value)

    statuses = {
        status
        for status, each in operation(route)["responses"].items()
        if "content" in resolved(each)
    }
    assert {place.split()[0] for place in places} - {"request"} == statuses


def texts(route: Route, status: str) -> list[str]:
    found = [(place, value) for place, _, value in examples(route) if place.startswith(status)]
    return [value["message"] for _, value in found]


def test_documented_examples_are_in_it() -> None:
    by_place = {place: value for place, _, value in examples(FETCH)}
    bodies = [value for place, _, value in examples(WEBHOOK) if place.startswith("request")]
    refused = [
        each["message"].replace("[EMR_NAME]", "athenahealth") for each in example("fetch-errors")
    ]

    assert by_place["request dateRange"] == example("fetch-request")
    assert list(by_place["202 accepted"]) == list(example("fetch-accepted"))
    assert set(refused) <= set(texts(FETCH, "400"))
    assert by_place["403 loginRequired"] == example("login-required")
    for name in ("live-fetch-newest-edition", "live-fetch-oldest-edition", "login-required"):
        assert example(f"webhook-{name}") in bodies


def test_example_requests_are_accepted(world: World) -> None:
    bodies = [value for place, _, value in examples(FETCH) if place.startswith("request")]

    for number, body in enumerate(bodies):
        event = fetch_event(body, {**HEADERS, "Idempotency-Key": f"key-{number}"})
        event["requestContext"]["requestId"] = f"request-{number}"
        answer = fetch_appointments(event, LambdaContextStub())
        assert answer["statusCode"] == 202, body
        check_answer(FETCH, answer)
    assert len(bodies) == 5


def test_ranges_are_accepted_and_read_in_their_form(world: World) -> None:
    bodies = [value for place, _, value in examples(RANGE) if place.startswith("request")]

    for body in bodies:
        answer = fetch_appointments(range_event(body), LambdaContextStub())
        assert answer["statusCode"] == 202, body
        check_answer(RANGE, answer)
        read = read_appointments(
            job_event(body_of(answer)["job_execution_id"]), LambdaContextStub()
        )
        assert read["statusCode"] == 200
        check_answer(READ, read)
    assert len(bodies) == 2


def test_range_is_read_in_its_form_when_cobalt_refused_a_piece(world: World) -> None:
    """A code of Cobalt's may be any word of letters and underscores."""
    world.connections.add(HEADERS["access_token"])
    world.cobalt.errors[HEADERS["access_token"]] = RequestRefused("no", error="emr__down_")
    accepted = fetch_appointments(range_event(example("fetch-request")), LambdaContextStub())
    run_fetches(queue_event(*world.queue.sent), LambdaContextStub())

    read = read_appointments(job_event(body_of(accepted)["job_execution_id"]), LambdaContextStub())

    assert [piece["error_code"] for piece in body_of(read)["pieces"]] == ["emr__down_"]
    check_answer(READ, read)


def test_example_deliveries_are_received(world: World) -> None:
    bodies = [value for place, _, value in examples(WEBHOOK) if place.startswith("request")]
    world.clock.moment = datetime(2023, 10, 28, 11, tzinfo=UTC)  # their own time

    for body in bodies:
        answer = receive_webhook(webhook_event(json.dumps(body).encode()), LambdaContextStub())
        assert answer["statusCode"] == 200
        check_answer(WEBHOOK, answer)
    assert len(bodies) == 3


def test_job_is_answered_in_its_form(world: World) -> None:
    fetch_appointments(fetch_event(example("fetch-request")), LambdaContextStub())

    answer = read_appointments(job_event("job_1"), LambdaContextStub())

    assert answer["statusCode"] == 200
    assert {"x-progress", "Retry-After"} <= set(answer["multiValueHeaders"])
    check_answer(READ, answer)


def test_completed_job_is_answered_in_its_form(world: World) -> None:
    fetch_appointments(fetch_event(example("fetch-request")), LambdaContextStub())
    world.deliver("job_1")

    answer = read_appointments(job_event("job_1", wait="20"), LambdaContextStub())

    told = body_of(answer)
    assert (told["status"], told["result_url"] is None) == ("COMPLETED", False)
    assert not {"x-progress", "Retry-After"} & set(answer["multiValueHeaders"])
    check_answer(READ, answer)


# --------------------------------------------------------------------------------------- appointments


def test_appointment_has_the_fields_of_the_model() -> None:
    appointment = SCHEMAS["Appointment"]

    assert list(appointment["properties"]) == [*FIELDS, "as_of"]
    assert set(appointment["properties"]) - set(appointment["required"]) == set(NOTES)
    statuses = appointment["properties"]["normalized_status"]["enum"]
    assert set(statuses) == {*NormalizedStatus, None}
    awaited = SCHEMAS["DaysAwaited"]["properties"]["message"]["const"]
    assert awaited == api.AWAIT_MESSAGE


def test_parameters_are_those_that_are_read() -> None:
    parameters = {each["name"]: each for each in operation(APPOINTMENTS)["parameters"]}
    schemas = {name: each["schema"] for name, each in parameters.items() if each["in"] == "query"}

    assert list(schemas) == ["start_date", "end_date", *RULES]
    assert [name for name in schemas if parameters[name].get("required")] == [
        "start_date",
        "end_date",
    ]
    assert (schemas["limit"]["minimum"], schemas["limit"]["maximum"]) == (1, reading.MAX_LIMIT)
    assert schemas["max_age"]["maximum"] == reading.MAX_AGE_SECONDS
    assert schemas["cursor"]["maxLength"] == reading.MAX_CURSOR_LENGTH
    for name in ("patient_mrn", "patient_name", "patient_phone"):
        assert schemas[name]["maxLength"] == reading.MAX_TEXT_LENGTH
    for name in ("status", "provider_id"):
        assert schemas[name]["maxItems"] == reading.MAX_VALUES
        assert schemas[name]["items"]["maxLength"] == reading.MAX_TEXT_LENGTH
    assert set(schemas["appointment_mode"]["enum"]) == {"office", "telemedicine"}


def test_forms_are_those_that_are_written() -> None:
    content = operation(APPOINTMENTS)["responses"]["200"]["content"]

    assert list(content) == [form.media_types[0] for form in FORMATS]


@pytest.mark.parametrize(
    ("more", "headers", "status"),
    [
        ({}, {}, 200),
        ({"include_note": "true"}, {}, 200),
        ({"limit": "1"}, {}, 200),
        ({}, {"Accept": "application/x-ndjson"}, 200),
        ({"limit": "1"}, {"Accept": "application/fhir+json"}, 200),
        ({}, {"If-None-Match": "*"}, 304),
        ({"max_age": "60"}, {}, 202),
        ({"max_age": "60", "allow_stale": "true"}, {}, 200),
    ],
)
def test_appointments_are_answered_in_their_form(
    world: World, more: dict[str, str], headers: dict[str, str], status: int
) -> None:
    put_week(world)

    answer = read_appointments(
        appointments_event({**DAYS, **more}, {**HEADERS, **headers}), LambdaContextStub()
    )

    assert answer["statusCode"] == status
    check_answer(APPOINTMENTS, answer)


def test_failed_refresh_is_told_in_its_form(world: World) -> None:
    world.cobalt.errors[HEADERS["access_token"]] = RequestRefused("no", error="emr__down_")
    query = {**DAYS, "max_age": "60", "allow_stale": "true"}

    answer = read_appointments(appointments_event(query), LambdaContextStub())

    assert body_of(answer)["fetch_error"]["code"] == "emr__down_"
    check_answer(APPOINTMENTS, answer)


# ------------------------------------------------------------------------------------------- errors

ASK: dict[Route, Callable[[], Answer]] = {
    FETCH: lambda: fetch_appointments(fetch_event(example("fetch-request")), LambdaContextStub()),
    RANGE: lambda: fetch_appointments(range_event(example("fetch-request")), LambdaContextStub()),
    READ: lambda: read_appointments(job_event("job_1"), LambdaContextStub()),
    APPOINTMENTS: lambda: read_appointments(appointments_event(DAYS), LambdaContextStub()),
    WEBHOOK: lambda: receive_webhook(webhook_event(b"{}"), LambdaContextStub()),
}
USE_CASES = {
    APPOINTMENTS: "read_appointments",
    FETCH: "fetch_appointments",
    RANGE: "fetch_appointments",
    READ: "read_jobs",
    WEBHOOK: "receive_webhook",
}


@pytest.mark.parametrize(
    ("route", "kind"), [(route, kind) for route in ROUTES for kind in errors_of(route)]
)
def test_every_error_is_answered_in_the_declared_form(
    monkeypatch: pytest.MonkeyPatch, route: Route, kind: type[RelayError]
) -> None:
    def fail(error: Exception) -> None:
        raise error

    monkeypatch.setattr(bootstrap, USE_CASES[route], partial(fail, instance(kind)))

    answer = ASK[route]()

    assert answer["statusCode"] >= 400
    check_answer(route, answer)


@pytest.mark.parametrize("route", ROUTES)
def test_unexpected_error_is_answered_in_the_declared_form(
    monkeypatch: pytest.MonkeyPatch, route: Route
) -> None:
    def fail() -> None:
        raise RuntimeError("patient 4711")

    monkeypatch.setattr(bootstrap, USE_CASES[route], fail)

    answer = ASK[route]()

    assert answer["statusCode"] == 500
    assert "4711" not in answer["body"]
    check_answer(route, answer)


def test_refusal_with_everything_is_in_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RateLimited("No.", error="too_many", retry_after="Wed, 21 Oct 2026 07:28:00 GMT")

    monkeypatch.setattr(bootstrap, "fetch_appointments", refuse)

    answer = ASK[FETCH]()

    assert answer["statusCode"] == 429
    check_answer(FETCH, answer)


@pytest.mark.parametrize(
    ("route", "status", "kind"),
    [
        (FETCH, "422", IdempotencyKeyReused),
        (RANGE, "422", IdempotencyKeyReused),
        (READ, "400", InvalidWait),
        (READ, "404", NoSuchJob),
        (APPOINTMENTS, "406", NotAcceptable),
        (WEBHOOK, "401", BadSignature),
    ],
)
def test_constant_message_is_quoted(route: Route, status: str, kind: type[RelayError]) -> None:
    assert texts(route, status) == [kind.message]
