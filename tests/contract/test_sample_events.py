"""Every file in `events/`, fed to its handler."""

import json
from pathlib import Path
from typing import Any

import pytest

from cobalt_relay.errors import InvalidScheduleInput
from cobalt_relay.models import ClientCredentials
from functions.fetch_appointments.handler import lambda_handler as fetch_appointments
from functions.plan_fetches.handler import lambda_handler as plan_fetches
from functions.receive_webhook.handler import lambda_handler as receive_webhook
from tests.unit.conftest import LambdaContextStub, World

EVENTS = Path(__file__).parents[2] / "events"
SAMPLE_KEY = b"whsec_of_the_sample_events"
HANDLERS = {"api": fetch_appointments, "webhook": receive_webhook, "schedule": plan_fetches}

STATUS_OF = {
    "api-fetch-accepted": 202,
    "api-fetch-by-mrn": 202,
    "api-fetch-by-provider": 202,
    "api-fetch-empty-body": 400,
    "api-fetch-end-before-start": 400,
    "api-fetch-invalid-date": 400,
    "api-fetch-missing-headers": 401,
    "api-fetch-missing-parameters": 400,
    "api-fetch-range-too-long": 400,
    "api-fetch-wrong-credentials": 401,
    "webhook-appointment-created": 200,
    "webhook-live-fetch-base64": 200,
    "webhook-live-fetch-empty": 200,
    "webhook-live-fetch-failed": 200,
    "webhook-live-fetch-newest-edition": 200,
    "webhook-live-fetch-oldest-edition": 200,
    "webhook-live-fetch-unicode": 200,
    "webhook-login-required": 200,
    "webhook-malformed": 400,
    "webhook-wrong-signature": 401,
}
SCHEDULES = {"schedule-all-connections", "schedule-invalid", "schedule-one-connection"}


def sample(name: str) -> Any:
    return json.loads((EVENTS / f"{name}.json").read_text())


@pytest.fixture
def configured(world: World) -> World:
    """A world whose secrets are those of the samples."""
    credentials = ClientCredentials(client_id="sample-client", client_secret="sample-secret")
    world.secrets.current = world.secrets.refreshed = credentials
    world.secrets.keys = (SAMPLE_KEY,)
    return world


def test_every_file_has_a_test() -> None:
    files = {path.stem for path in EVENTS.glob("*.json")}

    assert files == set(STATUS_OF) | SCHEDULES


@pytest.mark.parametrize("name", STATUS_OF)
def test_sample_is_answered_as_its_name_says(configured: World, name: str) -> None:
    handler = HANDLERS[name.split("-", maxsplit=1)[0]]

    answer = handler(sample(name), LambdaContextStub())

    assert answer["statusCode"] == STATUS_OF[name]
    landed = name.startswith("webhook") and STATUS_OF[name] == 200
    assert len(configured.bus.events) == len(configured.results.objects) == int(landed)
    assert len(configured.cobalt.calls) == int(STATUS_OF[name] == 202)


def test_schedules_are_carried_out_or_refused_as_their_names_say(configured: World) -> None:
    every = plan_fetches(sample("schedule-all-connections"), LambdaContextStub())
    one = plan_fetches(sample("schedule-one-connection"), LambdaContextStub())

    assert (every["started"], every["failed"]) == ({}, {})
    assert list(one["failed"].values()) == ["unknown_connection"]
    with pytest.raises(InvalidScheduleInput):
        plan_fetches(sample("schedule-invalid"), LambdaContextStub())
