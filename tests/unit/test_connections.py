"""The standing of connections: suspended once, resumed by a success, settled by their settings."""

import json
from datetime import timedelta
from typing import Any

import pytest

from cobalt_relay.errors import (
    AccessForbidden,
    RateLimited,
    RequestRefused,
    TableFault,
    UpstreamBroken,
    UpstreamUnanswered,
)
from cobalt_relay.models import ConnectionState, FetchRequest, JobState, Window, connection_id_of
from functions.fetch_appointments.handler import lambda_handler as fetch
from functions.receive_webhook.handler import lambda_handler as receive
from tests.unit.conftest import (
    LambdaContextStub,
    World,
    body_of,
    fetch_event,
    sign,
    webhook_event,
)

TOKEN = "token-1"
CONNECTION = connection_id_of(TOKEN)
WEEK = Window.parse("2025-01-06", "2025-01-12")
BROKEN = AccessForbidden("Account link expired.", error="login_required")
MINUTE = timedelta(minutes=1)


@pytest.fixture
def known(world: World) -> World:
    """A registered connection with a label."""
    world.connections.add(TOKEN, access_token_reference_id="user_1")
    return world


def start(world: World, request_id: str = "r1", window: Window = WEEK) -> str:
    started = world.fetch_appointments.start(
        TOKEN, FetchRequest(window=window), request_id=request_id, trigger="api",
        idempotency_key=request_id,
    )  # fmt: skip
    return started.job_execution_id


def refuse(world: World, error: Exception = BROKEN, request_id: str = "refused") -> None:
    world.cobalt.errors[TOKEN] = error
    with pytest.raises(type(error)):
        start(world, request_id)
    del world.cobalt.errors[TOKEN]


def account_event(
    world: World, kind: str = "login_required", label: str = "user_1", **fields: Any
) -> dict[str, Any]:
    document = {
        "id": f"evt_{kind}",
        "type": f"access_token.{kind}",
        "object": "event",
        "created": world.clock().isoformat(),
        "access_token_reference_id": label,
        "data": {"message": "as Cobalt says it"},
        **fields,
    }
    answer: dict[str, Any] = receive(
        webhook_event(json.dumps(document).encode()), LambdaContextStub()
    )
    return answer


def reconcile(world: World, after: timedelta = timedelta(0)) -> dict[str, int]:
    world.clock.moment += after
    return world.reconcile_jobs.run(lambda: 180.0)


def connection(world: World) -> Any:
    found = world.connections.get(CONNECTION)
    assert found
    return found


def kinds(world: World) -> list[str]:
    return [kind for kind, _ in world.bus.events]


# ----------------------------------------------------------------------------------------- suspended


def test_connection_is_suspended_when_cobalt_answers_login_required(known: World) -> None:
    refuse(known)

    found = connection(known)
    assert (found.state, found.suspended_by) == (ConnectionState.LOGIN_REQUIRED, "answer")
    assert (found.suspended_at, found.last_failure_code) == (known.clock(), "login_required")


def test_one_event_tells_of_it_however_often_it_is_said(known: World) -> None:
    refuse(known)
    refuse(known, request_id="again")
    account_event(known)

    reconcile(known)
    reconcile(known, MINUTE)

    [detail] = [detail for kind, detail in known.bus.events if kind == "Connection Suspended"]
    assert (detail["connection_id"], detail["reason"]) == (CONNECTION, "login_required")
    assert (detail["access_token_reference_id"], detail["reported_by"]) == ("user_1", "answer")


def test_connection_is_suspended_when_cobalts_event_says_so(known: World) -> None:
    answer = account_event(known)

    assert answer["statusCode"] == 200
    assert connection(known).suspended_by == "event"
    [(kind, detail)] = known.bus.events
    assert (kind, detail["connection_id"]) == ("Cobalt Event Received", CONNECTION)


def test_connection_is_suspended_when_a_result_says_so(known: World) -> None:
    job_id = start(known)

    known.deliver(job_id, {"success": False, "error": "login_required"})

    assert connection(known).suspended_by == "result"
    assert known.jobs.jobs[job_id].state is JobState.FAILED


@pytest.mark.parametrize("label", ["user_2", "somebody else"])
def test_nothing_is_suspended_when_the_label_is_nobodys(known: World, label: str) -> None:
    account_event(known, label=label)

    assert connection(known).state is ConnectionState.ACTIVE
    assert known.bus.events[0][1]["connection_id"] is None


def test_nothing_is_suspended_when_two_connections_have_the_label(known: World) -> None:
    known.connections.add("token-2", access_token_reference_id="user_1")

    account_event(known)

    assert connection(known).state is ConnectionState.ACTIVE


def test_nothing_is_suspended_when_the_event_is_older_than_a_success(known: World) -> None:
    before = known.clock().isoformat()
    known.clock.moment += MINUTE
    known.deliver(start(known))

    account_event(known, created=before)

    assert connection(known).state is ConnectionState.ACTIVE


@pytest.mark.parametrize("error", [RateLimited(), RequestRefused("no"), UpstreamUnanswered()])
def test_nothing_is_suspended_when_a_fetch_fails_otherwise(known: World, error: Any) -> None:
    refuse(known, error)

    found = connection(known)
    assert found.state is ConnectionState.ACTIVE
    assert (found.last_failure_at, found.last_failure_code) == (known.clock(), error.reason)


def test_caller_is_answered_when_the_suspension_cannot_be_kept(known: World) -> None:
    known.cobalt.errors[TOKEN] = BROKEN
    known.connections.fail("suspend", TableFault())

    answer = fetch(fetch_event(WEEK.model_dump(mode="json")), LambdaContextStub())

    assert (answer["statusCode"], body_of(answer)["error"]) == (403, "login_required")


def test_delivery_comes_again_when_the_suspension_cannot_be_kept(known: World) -> None:
    known.connections.fail("suspend", TableFault())

    first, again = account_event(known), account_event(known)

    assert (first["statusCode"], again["statusCode"]) == (503, 200)
    assert connection(known).is_suspended


def test_password_warning_is_announced_and_noted(known: World) -> None:
    account_event(known, "password_change_warning")

    [(kind, detail)] = known.bus.events
    assert (kind, detail["connection_id"]) == ("Cobalt Event Received", CONNECTION)
    assert detail["event_type"] == "access_token.password_change_warning"
    assert connection(known).password_warning_at == known.clock()
    assert connection(known).state is ConnectionState.ACTIVE


# ------------------------------------------------------------------------------------- its open jobs


def test_open_jobs_end_with_that_cause(known: World) -> None:
    open_one, other = start(known), start(known, "r2", Window.parse("2025-02-03", "2025-02-05"))
    known.deliver(other)
    known.clock.moment += MINUTE
    account_event(known)

    outcome = reconcile(known)

    job = known.jobs.jobs[open_one]
    assert (job.state, job.error_code) == (JobState.FAILED, "login_required")
    assert outcome["ended"] == 1
    assert known.jobs.jobs[other].state is JobState.COMPLETED
    [detail] = [d for kind, d in known.bus.events if kind == "Appointment Fetch Failed"]
    assert (detail["job_execution_id"], detail["error_code"]) == (open_one, "login_required")


def test_other_jobs_end_when_one_cannot_be_looked_at(known: World) -> None:
    first = start(known)
    known.clock.moment += timedelta(seconds=1)
    newest = start(known, "r2", Window.parse("2025-02-03", "2025-02-05"))
    known.clock.moment += timedelta(seconds=5)
    account_event(known)
    known.cobalt.fail(newest, UpstreamBroken())

    outcome = reconcile(known)
    before = {job_id: job.state for job_id, job in known.jobs.jobs.items()}
    known.record(newest)
    reconcile(known, timedelta(hours=1))

    assert (outcome["failed"], before) == (1, {first: "FAILED", newest: "ACCEPTED"})
    assert known.jobs.jobs[newest].state is JobState.COMPLETED


def test_result_that_is_there_is_taken_in_when_the_connection_is_suspended(known: World) -> None:
    job_id = start(known)
    known.record(job_id)
    known.clock.moment += timedelta(seconds=5)
    account_event(known)

    reconcile(known)

    job = known.jobs.jobs[job_id]
    assert (job.state, job.completion and job.completion.delivered_via) == ("COMPLETED", "poll")
    assert connection(known).is_suspended  # it was made before the link broke


def test_other_connections_keep_their_jobs(known: World) -> None:
    known.connections.add("token-2")
    started = known.fetch_appointments.start(
        "token-2", FetchRequest(window=WEEK), request_id="other", trigger="api"
    )
    known.clock.moment += timedelta(seconds=5)
    account_event(known)

    reconcile(known)

    assert known.jobs.jobs[started.job_execution_id].state is JobState.ACCEPTED


def test_open_jobs_end_in_the_next_run_when_this_one_fails(known: World) -> None:
    job_id = start(known)
    known.clock.moment += timedelta(seconds=5)
    account_event(known)
    known.jobs.fail("fail_job", TableFault())

    reconcile(known)
    reconcile(known, timedelta(minutes=4))

    assert known.jobs.jobs[job_id].state is JobState.FAILED
    assert kinds(known).count("Connection Suspended") == 1


# ------------------------------------------------------------------------------------------ resumed


def test_next_success_resumes_it_with_its_event(known: World) -> None:
    refuse(known)
    since = known.clock()
    known.clock.moment += MINUTE
    job_id = start(known)
    known.clock.moment += MINUTE
    known.deliver(job_id)

    reconcile(known)

    found = connection(known)
    assert (found.state, found.suspended_at) == (ConnectionState.ACTIVE, None)
    assert found.last_success_at == known.clock()
    [detail] = [detail for kind, detail in known.bus.events if kind == "Connection Resumed"]
    assert detail["job_execution_id"] == job_id
    assert detail["suspended_at"] == f"{since:%Y-%m-%dT%H:%M:%S}.000Z"


def test_each_suspension_has_its_events_when_they_follow_at_once(known: World) -> None:
    for number in range(2):
        refuse(known, request_id=f"refused-{number}")
        known.clock.moment += MINUTE
        job_id = start(known, f"r{number}")
        known.clock.moment += MINUTE
        known.deliver(job_id)
        known.clock.moment += MINUTE

    reconcile(known)

    assert kinds(known).count("Connection Suspended") == 2
    assert kinds(known).count("Connection Resumed") == 2
    ids = [detail["event_id"] for kind, detail in known.bus.events if "Connection" in kind]
    assert len(set(ids)) == 4


def test_failure_resumes_nothing(known: World) -> None:
    refuse(known)
    known.clock.moment += MINUTE
    job_id = start(known)

    known.deliver(job_id, {"success": False, "error": "emr_down"})

    assert connection(known).is_suspended
    assert connection(known).last_failure_code == "emr_down"


def test_delivery_comes_again_when_the_success_cannot_be_noted(known: World) -> None:
    refuse(known)
    known.clock.moment += MINUTE
    job_id = start(known)
    body = known.result(job_id)
    known.connections.fail("resume", TableFault())

    with pytest.raises(TableFault):
        known.receive_webhook.receive(body, sign(body))
    known.receive_webhook.receive(body, sign(body))

    assert connection(known).state is ConnectionState.ACTIVE
    assert known.jobs.jobs[job_id].state is JobState.COMPLETED


# ---------------------------------------------------------------------------------------- what is noted


def test_success_and_failure_are_noted_with_the_connection(known: World) -> None:
    known.deliver(start(known))
    succeeded_at = known.clock()
    known.clock.moment += MINUTE
    known.deliver(start(known, "r2"), {"success": False, "error": "emr_down"})

    found = connection(known)
    assert (found.last_success_at, found.emr_name) == (succeeded_at, "eClinicalWorks")
    assert (found.last_failure_at, found.last_failure_code) == (known.clock(), "emr_down")


def test_emr_is_noted_when_cobalt_names_it(known: World) -> None:
    refuse(known, RequestRefused("not supported", emr_name="athenahealth"))

    assert connection(known).emr_name == "athenahealth"


def test_result_is_taken_in_when_its_connection_was_removed(known: World) -> None:
    job_id = start(known)
    known.connections.remove(CONNECTION)

    known.deliver(job_id)

    assert known.jobs.jobs[job_id].state is JobState.COMPLETED
    assert known.connections.get(CONNECTION) is None


# ----------------------------------------------------------------------------------------- its settings


def test_settings_are_asked_for_when_a_connection_has_registered(world: World) -> None:
    world.cobalt.references[TOKEN], world.cobalt.zones[TOKEN] = "user_1", "America/Chicago"
    start(world)

    outcome = reconcile(world)

    found = connection(world)
    assert outcome["settled"] == 1
    assert (found.access_token_reference_id, found.time_zone) == ("user_1", "America/Chicago")
    assert found.settings_read_at == world.clock()


def test_settings_are_asked_for_again_after_a_week(world: World) -> None:
    world.cobalt.references[TOKEN], world.cobalt.zones[TOKEN] = "user_1", "America/Chicago"
    start(world)
    reconcile(world)
    world.cobalt.zones[TOKEN] = "America/Denver"

    early = reconcile(world, timedelta(days=5))
    reconcile(world, timedelta(days=4))

    assert "settled" not in early
    assert connection(world).time_zone == "America/Denver"


def test_settings_that_lack_something_are_asked_for_again_after_a_day(world: World) -> None:
    start(world)
    reconcile(world)
    world.cobalt.references[TOKEN] = "user_1"

    reconcile(world, timedelta(hours=31))

    assert connection(world).access_token_reference_id == "user_1"


def test_what_is_known_stays_when_settings_do_not_say_it_any_more(known: World) -> None:
    item = known.jobs.table.items[f"CONNECTION#{CONNECTION}", "CONNECTION"]
    item |= {"due_shard": "0", "due_at": "2025-01-01T00:00:00.000Z"}

    reconcile(known)

    assert connection(known).access_token_reference_id == "user_1"


def test_settings_are_asked_for_less_and_less_often_when_cobalt_fails(world: World) -> None:
    start(world)
    looked = []
    for _ in range(30):
        world.cobalt.fail("settings_of", UpstreamUnanswered())
        reconcile(world, MINUTE)
        looked.append(not world.cobalt.at["settings_of"])

    assert looked[0]
    assert 3 <= sum(looked) <= 6
    assert connection(world).settings_read_at is None


def test_open_jobs_are_asked_after_when_the_settings_of_a_fleet_are_due(
    known: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cobalt_relay.services.reconcile_jobs.MOST_ROWS", 4)
    monkeypatch.setattr("cobalt_relay.adapters.jobs.MOST_CONNECTIONS", 2)
    for number in range(6):
        name = connection_id_of(f"fleet-{number}")
        known.connections.keep_token(name, f"fleet-{number}")
        known.connections.register(name, known.clock())
    job_id = start(known)
    known.record(job_id)
    known.cobalt.fail("settings_of", RateLimited())

    reconcile(known, 2 * MINUTE)

    assert known.jobs.jobs[job_id].state is JobState.COMPLETED
    looks = [item["looks"] for _, item in known.jobs.rows_of("CONNECTION") if "looks" in item]
    assert looks == [1]  # Cobalt wants patience: the others keep their turn
