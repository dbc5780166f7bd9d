"""Every file in `events/`, fed to its handler."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cobalt_relay.errors import InvalidScheduleInput, MalformedNotice
from cobalt_relay.models import ClientCredentials
from functions.detect_changes.handler import lambda_handler as detect_changes
from functions.fetch_appointments.handler import lambda_handler as fetch_appointments
from functions.plan_fetches.handler import lambda_handler as plan_fetches
from functions.read_appointments.handler import lambda_handler as read_appointments
from functions.receive_webhook.handler import lambda_handler as receive_webhook
from functions.run_fetches.handler import lambda_handler as run_fetches
from tests.unit.conftest import LambdaContextStub, World, sign
from tests.unit.fakes import live_keys, validate_event
from tools.sign_sample import SAMPLE_KEY, signed_anew

EVENTS = Path(__file__).parents[2] / "events"
SIGNED_AT = datetime(2023, 10, 28, 11, tzinfo=UTC)
HANDLERS = {
    "api-fetch": fetch_appointments,
    "api-range": fetch_appointments,
    "api-job": read_appointments,
    "api-appointments": read_appointments,
    "webhook": receive_webhook,
    "schedule": plan_fetches,
}

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
    "api-range-accepted": 202,
    "api-range-by-provider": 202,
    "api-range-too-long": 400,
    "api-job-found": 200,
    "api-job-of-another-connection": 404,
    "api-job-unknown": 404,
    "api-job-wait-too-long": 400,
    "api-job-waited-for": 200,
    "api-appointments-filtered": 200,
    "api-appointments-invalid-limit": 400,
    "api-appointments-known": 200,
    "api-appointments-missing-parameters": 400,
    "api-appointments-ndjson": 200,
    "api-appointments-not-acceptable": 406,
    "api-appointments-refreshed": 202,
    "api-appointments-unchanged": 304,
    "api-appointments-wrong-credentials": 401,
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
SCHEDULES = {
    *("schedule-all-connections", "schedule-clinic-time"),
    *("schedule-invalid", "schedule-one-connection"),
}
QUEUE = {"queue-one-malformed", "queue-piece"}
BUS = {"bus-appointments-fetched", "bus-malformed"}


def sample(name: str) -> Any:
    return json.loads((EVENTS / f"{name}.json").read_text())


@pytest.fixture
def configured(world: World) -> World:
    """A world whose secrets are those of the samples, at the time that the webhooks tell."""
    credentials = ClientCredentials(client_id="sample-client", client_secret="sample-secret")
    world.secrets.current = world.secrets.refreshed = credentials
    world.secrets.keys = live_keys(Current=SAMPLE_KEY.encode())
    world.clock.moment = SIGNED_AT
    return world


def test_every_file_has_a_test() -> None:
    files = {path.stem for path in EVENTS.glob("*.json")}

    assert files == set(STATUS_OF) | SCHEDULES | QUEUE | BUS


@pytest.mark.parametrize("name", STATUS_OF)
def test_sample_is_answered_as_its_name_says(configured: World, name: str) -> None:
    [handler] = [each for source, each in HANDLERS.items() if name.startswith(source)]
    if name.startswith("api-job"):
        fetch_appointments(sample("api-fetch-accepted"), LambdaContextStub())
        configured.cobalt.calls.clear()

    answer = handler(sample(name), LambdaContextStub())

    assert answer["statusCode"] == STATUS_OF[name]
    landed = name.startswith("webhook") and STATUS_OF[name] == 200
    assert len(configured.bus.events) == len(configured.results.objects) == int(landed)
    is_range = name.startswith("api-range")
    assert len(configured.cobalt.calls) == int(STATUS_OF[name] == 202 and not is_range)
    assert bool(configured.queue.sent) == (STATUS_OF[name] == 202 and is_range)


def test_changes_are_told_when_the_sample_of_the_bus_comes(configured: World) -> None:
    event = sample("bus-appointments-fetched")
    validate_event(event["detail-type"], event["detail"])
    fetch_appointments(sample("api-fetch-accepted"), LambdaContextStub())
    items = [{"id": "appt_1", "datetime": "2023-12-01T10:00:00-05:00"}]
    counted = {"success": True, "appointment_count": 1, "appointments": items}
    body = configured.result("job_1", {**counted, **event["detail"]["window"]})
    configured.receive_webhook.receive(body, sign(body, SAMPLE_KEY.encode()))

    detect_changes(event, LambdaContextStub())

    [(_, told)] = configured.bus.events[1:]
    assert told["baseline_days"][0] == "2023-12-01"
    assert (told["job_execution_id"], told["created_count"]) == ("job_1", 0)


def test_sample_of_the_bus_is_refused_when_it_tells_of_no_job(configured: World) -> None:
    with pytest.raises(MalformedNotice):
        detect_changes(sample("bus-malformed"), LambdaContextStub())


def test_sample_that_waits_is_answered_when_its_time_is_over(configured: World) -> None:
    fetch_appointments(sample("api-fetch-accepted"), LambdaContextStub())
    began = configured.clock.moment

    read_appointments(sample("api-job-waited-for"), LambdaContextStub())

    assert (configured.clock.moment - began).total_seconds() == 1


GENUINE = [n for n, status in STATUS_OF.items() if n.startswith("webhook") and status == 200]


@pytest.mark.parametrize("name", GENUINE)
def test_sample_webhook_is_refused_at_another_time(configured: World, name: str) -> None:
    configured.clock.moment = SIGNED_AT + timedelta(hours=25)

    answer = receive_webhook(sample(name), LambdaContextStub())

    assert answer["statusCode"] == 400
    assert configured.results.objects == {}


@pytest.mark.parametrize("name", GENUINE)
def test_sample_webhook_is_taken_in_now_when_it_is_signed_anew(
    configured: World, name: str, logged: Callable[[], str]
) -> None:
    configured.clock.moment = datetime.now(UTC)
    configured.secrets.keys = live_keys(Current=b"a key of its own")
    event = signed_anew(sample(name), "a key of its own", datetime.now(UTC))

    answer = receive_webhook(event, LambdaContextStub())

    assert answer["statusCode"] == 200
    assert len(configured.results.objects) == 1
    assert "HeaderContradiction" not in logged()


def test_schedules_are_carried_out_or_refused_as_their_names_say(configured: World) -> None:
    configured.connections.add("sample-token", time_zone="America/New_York")

    every = plan_fetches(sample("schedule-all-connections"), LambdaContextStub())
    there = plan_fetches(sample("schedule-clinic-time"), LambdaContextStub())
    one = plan_fetches(sample("schedule-one-connection"), LambdaContextStub())

    assert (every["planned"], every["messages"]) == (1, 2)
    assert (there["planned"], there["messages"]) == (1, 2)
    assert list(one["failed"].values()) == ["unknown_connection"]
    with pytest.raises(InvalidScheduleInput):
        plan_fetches(sample("schedule-invalid"), LambdaContextStub())


@pytest.mark.parametrize(
    ("name", "again"),
    [("queue-piece", []), ("queue-one-malformed", ["19dd0b57-b21e-4ac1-bd88-01bbb068cb71"])],
)
def test_messages_are_worked_off_but_for_the_malformed(
    configured: World, name: str, again: list[str]
) -> None:
    configured.connections.add("sample-token")

    answer = run_fetches(sample(name), LambdaContextStub())

    assert [each["itemIdentifier"] for each in answer["batchItemFailures"]] == again
    assert len(configured.cobalt.calls) == 1
