"""The documented examples of both editions, verbatim: what Cobalt says is what the relay says and takes."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cobalt_relay.errors import AccessForbidden, RequestRefused
from cobalt_relay.models import JobState, job_id_of
from functions.fetch_appointments.handler import lambda_handler as fetch_appointments
from functions.receive_webhook.handler import lambda_handler as receive_webhook
from tests.unit.conftest import LambdaContextStub, World, body_of, fetch_event, webhook_event

EXAMPLES = Path(__file__).parent / "examples"


def example(name: str) -> Any:
    return json.loads((EXAMPLES / f"{name}.json").read_text())


SIGNED_AT = datetime(2023, 10, 28, 11, tzinfo=UTC)
"""The time in the documented webhooks."""


def ask(body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = fetch_appointments(fetch_event(body), LambdaContextStub())
    return answer


def test_documented_request_gets_the_documented_answer(world: World) -> None:
    answer = ask(example("fetch-request"))

    documented = example("fetch-accepted")
    assert answer["statusCode"] == 202
    assert body_of(answer) == {**documented, "job_execution_id": "job_1"}
    assert list(body_of(answer)) == list(documented)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"end_date": "2023-12-07"}, 0),
        ({"start_date": "12/01/2023", "end_date": "2023-12-07"}, 1),
        ({"start_date": "2023-12-07", "end_date": "2023-12-01"}, 2),
        ({"start_date": "2023-12-01", "end_date": "2023-12-31"}, 3),
    ],
)
def test_documented_error_is_answered_to_the_letter(
    world: World, body: dict[str, Any], error: int
) -> None:
    answer = ask(body)

    assert answer["statusCode"] == 400
    assert body_of(answer) == example("fetch-errors")[error]


def test_unsupported_emr_is_named_in_cobalts_words(world: World) -> None:
    documented = example("fetch-errors")[4]
    text = documented["message"].replace("[EMR_NAME]", "athenahealth")
    world.cobalt.errors["token-1"] = RequestRefused(text)

    answer = ask(example("fetch-request"))

    assert answer["statusCode"] == 400
    assert body_of(answer) == {**documented, "message": text}


def test_broken_link_is_answered_as_cobalt_documents_it(world: World) -> None:
    documented = example("login-required")
    world.cobalt.errors["token-1"] = AccessForbidden(
        documented["message"], error=documented["error"]
    )

    answer = ask(example("fetch-request"))

    assert answer["statusCode"] == 403
    assert body_of(answer) == documented


@pytest.mark.parametrize(
    ("name", "job"),
    [
        ("fetch-accepted", "<job-execution-id>"),
        ("fetch-accepted-later-edition", "<job-id>"),
    ],
)
def test_either_editions_202_is_understood(name: str, job: str) -> None:
    job_id = job_id_of(example(name))

    assert job_id == job


@pytest.mark.parametrize(
    ("name", "job", "reference"),
    [
        ("webhook-live-fetch-newest-edition", "job_123", "user_123"),
        ("webhook-live-fetch-oldest-edition", "job_456", "user_456"),
    ],
)
def test_either_editions_result_lands(world: World, name: str, job: str, reference: str) -> None:
    body = (EXAMPLES / f"{name}.json").read_bytes()
    world.clock.moment = SIGNED_AT

    answer = receive_webhook(webhook_event(body), LambdaContextStub())

    assert answer["statusCode"] == 200
    assert world.jobs.jobs[job].state is JobState.COMPLETED
    assert list(world.results.objects.values()) == [body]
    [(detail_type, detail)] = world.bus.events
    assert (detail_type, detail["appointment_count"]) == ("Appointments Fetched", 1)
    assert detail["access_token_reference_id"] == reference


def test_account_event_is_announced(world: World) -> None:
    body = (EXAMPLES / "webhook-login-required.json").read_bytes()
    world.clock.moment = SIGNED_AT

    receive_webhook(webhook_event(body), LambdaContextStub())

    [(detail_type, detail)] = world.bus.events
    assert detail_type == "Cobalt Event Received"
    assert detail["event_type"] == "access_token.login_required"
    assert detail["access_token_reference_id"] == "user_123"
