"""What the reconciler does with each thing that is open, on fakes."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from cobalt_relay.errors import (
    AccessForbidden,
    AccessTokenRefused,
    BusFault,
    RateLimited,
    RelayError,
    RequestRefused,
    ResultsFault,
    TableFault,
    UpstreamBroken,
    UpstreamUnanswered,
)
from cobalt_relay.models import (
    ClientCredentials,
    CobaltEvent,
    FetchRequest,
    JobState,
    ListedEvent,
    RequestState,
    Window,
    connection_id_of,
)
from cobalt_relay.services import reconcile_jobs
from functions.reconcile_jobs.handler import lambda_handler
from tests.unit.conftest import LambdaContextStub, World, sign

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
WEEK = Window.parse("2023-12-01", "2023-12-07")
SUCCESS: dict[str, Any] = {
    "success": True,
    **WEEK.model_dump(mode="json"),
    "appointments": [{}, {}],
}


@dataclass
class Clinic:
    """A connection, and what is done with it."""

    world: World
    token: str = "token-1"
    label: str | None = "user_1"

    def __post_init__(self) -> None:
        if self.label:
            self.world.cobalt.references[self.token] = self.label

    def fetch(self, request_id: str, window: Window = WEEK) -> str:
        """Fetch as a caller with a key of its own; give the job. Its settings are known already."""
        started = self.world.fetch_appointments.start(
            self.token,
            FetchRequest(window=window),
            request_id=request_id,
            trigger="api",
            idempotency_key=request_id,
        )
        self.world.connections.settle(self.token)
        return started.job_execution_id

    def fetch_in_vain(self, request_id: str, error: RelayError, window: Window = WEEK) -> None:
        """Fetch while Cobalt fails so."""
        self.world.cobalt.errors[self.token] = error
        with pytest.raises(type(error)):
            self.fetch(request_id, window)
        del self.world.cobalt.errors[self.token]

    def record(
        self,
        job_id: str,
        data: Any = SUCCESS,
        *,
        event_id: str | None = None,
        at: datetime | None = None,
    ) -> bytes:
        """Let Cobalt record a result of a job, as the newest one; give its body."""
        document = {
            "id": event_id or f"evt_{job_id}",
            "access_token_reference_id": self.label,
            "job_id": job_id,
            "timestamp": "2025-01-02T10:00:00Z",
            "type": "appointment.live_fetch_completed",
            "action": "sync",
            "data": data,
        }
        body = json.dumps(document, separators=(",", ":")).encode()
        made = at or self.world.clock()
        listed = ListedEvent(CobaltEvent.read(document), made, lambda: body)
        self.world.cobalt.listed.insert(0, listed)
        return body


@pytest.fixture
def clinic(world: World) -> Clinic:
    return Clinic(world)


def run(world: World, seconds_left: float = 180.0) -> dict[str, Any]:
    outcome: dict[str, Any] = lambda_handler({}, LambdaContextStub(seconds_left))
    return outcome


def run_after(world: World, pause: timedelta) -> dict[str, Any]:
    world.clock.moment += pause
    return run(world)


def due_at(world: World, kind: str, name: str) -> datetime | None:
    item = world.jobs.table.items[f"{kind}#{name}", kind]
    return datetime.fromisoformat(item["due_at"]) if "due_at" in item else None


def kinds(world: World) -> list[str]:
    return [detail_type for detail_type, _ in world.bus.events]


def test_nothing_is_done_when_nothing_is_due(world: World, clinic: Clinic) -> None:
    clinic.fetch("r1")

    assert run(world) == {"due": 0}
    assert world.cobalt.asked == []


# ------------------------------------------------------------------------------------------- polling


def test_job_ends_as_by_webhook_when_a_poll_finds_its_result(world: World, clinic: Clinic) -> None:
    job_id = clinic.fetch("r1")
    body = clinic.record(job_id)

    outcome = run_after(world, MINUTE)

    job = world.jobs.jobs[job_id]
    assert outcome == {"due": 1, "found": 1}
    assert job.state is JobState.COMPLETED
    assert job.completion is not None
    assert (job.completion.delivered_via, job.completion.appointment_count) == ("poll", 2)
    assert job.seconds_to_completion == 60
    assert list(world.results.objects.values()) == [body]
    [(kind, detail)] = world.bus.events
    assert (kind, detail["delivered_via"]) == ("Appointments Fetched", "poll")
    assert detail["seconds_to_completion"] == 60
    assert due_at(world, "JOB", job_id) is None


def test_failure_is_an_outcome_when_a_poll_finds_it(world: World, clinic: Clinic) -> None:
    job_id = clinic.fetch("r1")
    clinic.record(job_id, {"success": False, "error": "login_required"})

    run_after(world, MINUTE)

    assert world.jobs.jobs[job_id].state is JobState.FAILED
    [(kind, detail)] = world.bus.events
    assert (kind, detail["error_code"]) == ("Appointment Fetch Failed", "login_required")


def test_looks_back_off_to_the_deadline(
    world: World, clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda *_: 1.0)
    job_id = clinic.fetch("r1")
    began = world.clock()
    looks = []

    while world.jobs.jobs[job_id].state is JobState.ACCEPTED:
        look = due_at(world, "JOB", job_id)
        assert look is not None
        looks.append((look - began) // MINUTE)
        world.clock.moment = look
        run(world)

    assert looks == [1, 3, 7, 15, 31, 63, 95, 120]
    assert len(world.cobalt.asked) == 8


def test_looks_are_jittered(world: World, clinic: Clinic) -> None:
    jobs = [clinic.fetch(f"r{number}") for number in range(15)]

    run_after(world, MINUTE)

    looks = {due_at(world, "JOB", job_id) for job_id in jobs}
    assert len(looks) > 10
    soonest, latest = world.clock() + 1.5 * MINUTE, world.clock() + 2.5 * MINUTE
    assert all(soonest <= look <= latest for look in looks if look)


def test_job_expires_at_its_deadline_and_rests_after_late_looks(
    world: World, clinic: Clinic
) -> None:
    job_id = clinic.fetch("r1")

    outcome = run_after(world, 2 * HOUR)

    job = world.jobs.jobs[job_id]
    assert outcome == {"due": 1, "expired": 1, "not_found": 1}
    assert (job.state, job.expired_at, job.notification) == (
        JobState.EXPIRED,
        world.clock(),
        "sent",
    )
    [(kind, detail)] = world.bus.events
    assert (kind, detail["job_execution_id"]) == ("Appointment Fetch Expired", job_id)
    looks = []
    while look := due_at(world, "JOB", job_id):
        looks.append((look - job.expired_at) // HOUR if job.expired_at else None)
        world.clock.moment = look
        assert run(world) == {"due": 1, "not_found": 1}
    assert looks == [1, 6, 24]
    assert len(world.bus.events) == 1


@pytest.mark.parametrize(
    ("data", "state"), [(SUCCESS, JobState.COMPLETED), ({"success": False}, JobState.EXPIRED)]
)
def test_late_look_completes_an_expired_job_but_fails_none(
    world: World, clinic: Clinic, data: Any, state: JobState
) -> None:
    job_id = clinic.fetch("r1")
    run_after(world, 2 * HOUR)
    clinic.record(job_id, data)

    run_after(world, HOUR)

    job = world.jobs.jobs[job_id]
    assert job.state is state
    assert job.expired_at == world.clock() - HOUR
    if job.completion:
        assert job.completion.delivered_via == "sweep"
        assert world.bus.events[-1][1]["expired_at"] is not None


@pytest.mark.parametrize("fault", [UpstreamUnanswered(), RateLimited(), UpstreamBroken()])
def test_job_expires_though_cobalt_cannot_be_asked(
    world: World, clinic: Clinic, fault: RelayError
) -> None:
    job_id = clinic.fetch("r1")
    world.cobalt.fail("events_of_job", fault)

    outcome = run_after(world, 2 * HOUR)

    assert (outcome["expired"], outcome["failed"]) == (1, 1)
    assert world.jobs.jobs[job_id].state is JobState.EXPIRED


def test_run_asks_no_more_when_cobalt_wants_patience(world: World, clinic: Clinic) -> None:
    overdue = clinic.fetch("r0")
    world.clock.moment += 2 * HOUR
    jobs = [clinic.fetch(f"r{number}") for number in range(1, 5)]
    world.clock.moment += MINUTE
    world.cobalt.fail("events_of_job", RateLimited())

    run(world)

    assert len(world.cobalt.asked) == 1
    assert world.jobs.jobs[overdue].state is JobState.EXPIRED
    looks = [due_at(world, "JOB", job_id) for job_id in jobs]
    assert all(look and look > world.clock() for look in looks)
    assert {world.jobs.jobs[job_id].looks for job_id in jobs} == {0}


def test_run_asks_no_more_after_three_faults_in_a_row(world: World, clinic: Clinic) -> None:
    jobs = [clinic.fetch(f"r{number}") for number in range(6)]
    world.cobalt.fail("events_of_job", *[UpstreamBroken()] * 6)

    outcome = run_after(world, MINUTE)

    assert outcome["failed"] == len(world.cobalt.asked) == 3
    assert outcome["passed_over"] == 3
    assert sorted(world.jobs.jobs[job_id].looks for job_id in jobs) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    "fault", [UpstreamUnanswered(), ResultsFault(), ZeroDivisionError("Jane Doe")]
)
def test_poisoned_job_does_not_hold_up_the_others(
    world: World, clinic: Clinic, fault: Any, logged: Callable[[], str]
) -> None:
    jobs = [clinic.fetch(f"r{number}") for number in range(3)]
    for job_id in jobs:
        clinic.record(job_id)
    world.cobalt.fail(jobs[1], fault)

    outcome = run_after(world, MINUTE)

    states = [world.jobs.jobs[job_id].state for job_id in jobs]
    assert (outcome["found"], outcome["failed"]) == (2, 1)
    assert states == [JobState.COMPLETED, JobState.ACCEPTED, JobState.COMPLETED]
    assert "Jane" not in logged()
    run_after(world, 3 * MINUTE)
    assert world.jobs.jobs[jobs[1]].state is JobState.COMPLETED


def test_connections_take_turns_and_none_gets_more_than_its_share(
    world: World, clinic: Clinic
) -> None:
    many = {clinic.fetch(f"r{number}") for number in range(30)}
    other = Clinic(world, "token-2", "user_2").fetch("other")

    run_after(world, MINUTE)

    assert world.cobalt.asked.index(other) == 1
    assert len(many & set(world.cobalt.asked)) == 20
    assert all(look for look in (due_at(world, "JOB", name) for name in many))
    for _ in range(3):
        run_after(world, 2.5 * MINUTE)
    assert many <= set(world.cobalt.asked)


def test_backlog_of_a_connection_does_not_crowd_out_the_others(
    world: World, clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile_jobs, "MOST_ROWS", 30)
    for number in range(60):
        clinic.fetch(f"r{number}")
    world.clock.sleep(1)
    other = Clinic(world, "token-2", "user_2").fetch("other")

    for _ in range(3):
        run_after(world, timedelta(seconds=20))
    run_after(world, timedelta(seconds=20))
    run(world)

    assert other in world.cobalt.asked


def test_next_run_goes_on_when_one_runs_out_of_time(world: World, clinic: Clinic) -> None:
    jobs = [clinic.fetch(f"r{number}") for number in range(5)]
    for job_id in jobs:
        clinic.record(job_id)
    world.clock.moment += MINUTE
    left = iter(range(78, 0, -1))

    world.reconcile_jobs.run(lambda: float(next(left)))

    states = [job.state for job in world.jobs.jobs.values()]
    assert 0 < states.count(JobState.COMPLETED) < 5
    assert run(world)["found"] == 5 - states.count(JobState.COMPLETED)


def test_two_runs_at_once_look_at_a_job_once(
    world: World, clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = clinic.fetch("r1")
    world.clock.moment += MINUTE
    seen = world.jobs.due(world.clock(), 10)
    run(world)
    monkeypatch.setattr(world.jobs, "due", lambda *_: seen)

    outcome = run(world)

    assert outcome == {"due": 1}
    assert world.cobalt.asked == [job_id]


def test_row_that_cannot_be_read_stands_in_nobodys_way(
    world: World, clinic: Clinic, logged: Callable[[], str]
) -> None:
    broken, job_id = clinic.fetch("r1"), clinic.fetch("r2")
    world.jobs.table.items[f"JOB#{broken}", "JOB"]["state"] = "BROKEN"
    clinic.record(job_id)

    run_after(world, MINUTE)

    item = dict(world.jobs.rows_of("JOB"))
    assert item[job_id]["state"] == "COMPLETED"
    assert due_at(world, "JOB", broken) == world.clock() + HOUR
    assert "row_unreadable" in logged()


def test_run_fails_when_the_rows_cannot_be_listed(world: World) -> None:
    world.jobs.fail("due", TableFault())

    with pytest.raises(TableFault):
        run(world)


# ------------------------------------------------------------------------------------- announcements


def deliver(world: World, body: bytes) -> None:
    world.receive_webhook.receive(body, sign(body))


def test_open_announcement_is_sent_under_the_same_id(world: World, clinic: Clinic) -> None:
    job_id = clinic.fetch("r1")
    body = clinic.record(job_id)
    world.bus.fail("publish", BusFault())
    with pytest.raises(BusFault):
        deliver(world, body)

    outcome = run_after(world, MINUTE)

    assert outcome == {"due": 1, "announced": 1}
    assert kinds(world) == ["Appointments Fetched"]
    assert (world.jobs.jobs[job_id].notification, due_at(world, "JOB", job_id)) == ("sent", None)


def test_repeat_of_an_announcement_says_the_same(world: World, clinic: Clinic) -> None:
    body = clinic.record(clinic.fetch("r1"))
    world.jobs.fail("close_announcement", TableFault())
    with pytest.raises(TableFault):
        deliver(world, body)

    run_after(world, MINUTE)

    first, second = world.bus.events
    assert first == second


def test_archived_event_is_announced_from_its_row(world: World) -> None:
    body = json.dumps(
        {"id": "evt_9", "type": "patient.created", "user_id": "user_1", "data": {"name": "Jane"}}
    ).encode()
    world.bus.fail("publish", BusFault())
    with pytest.raises(BusFault):
        deliver(world, body)

    run_after(world, MINUTE)

    [(kind, detail)] = world.bus.events
    assert (kind, detail["event_type"]) == ("Cobalt Event Received", "patient.created")
    assert detail["access_token_reference_id"] == "user_1"
    assert world.jobs.events["evt_9"].notification == "sent"


def test_announcement_is_tried_again_when_the_bus_fails_again(world: World, clinic: Clinic) -> None:
    body = clinic.record(clinic.fetch("r1"))
    world.bus.fail("publish", BusFault(), BusFault())
    with pytest.raises(BusFault):
        deliver(world, body)

    outcomes = [run_after(world, MINUTE), run_after(world, MINUTE)]

    assert [each.get("announced") for each in outcomes] == [None, 1]


def test_refused_request_is_announced_with_cobalts_code(world: World, clinic: Clinic) -> None:
    clinic.fetch_in_vain("r1", RequestRefused("Unsupported.", error="unsupported_emr"))
    world.clock.sleep(1)

    run(world)

    [(kind, detail)] = world.bus.events
    assert (kind, detail["error_code"]) == ("Appointment Fetch Failed", "unsupported_emr")
    assert (detail["request_id"], detail["job_execution_id"]) == ("r1", None)
    assert due_at(world, "REQUEST", "r1") is None


def test_code_that_could_be_a_patients_number_is_not_kept(
    world: World, clinic: Clinic, logged: Callable[[], str]
) -> None:
    clinic.fetch_in_vain("r1", RequestRefused("No.", error="no_patient_888123"))
    world.clock.sleep(1)

    run(world)

    assert world.bus.events[0][1]["error_code"] == "request_refused"
    assert "888123" not in json.dumps([world.bus.events, str(world.jobs.table.items), logged()])


def test_expiry_is_announced_later_when_the_bus_fails(world: World, clinic: Clinic) -> None:
    job_id = clinic.fetch("r1")
    world.bus.fail("publish", BusFault())
    run_after(world, 2 * HOUR)

    run_after(world, MINUTE)

    assert kinds(world) == ["Appointment Fetch Expired"]
    assert due_at(world, "JOB", job_id) == world.clock() + HOUR


def test_late_result_is_announced_though_the_expiry_was_not(world: World, clinic: Clinic) -> None:
    job_id = clinic.fetch("r1")
    body = clinic.record(job_id)
    world.cobalt.fail("events_of_job", UpstreamBroken())
    world.jobs.fail("close_announcement", TableFault())
    run_after(world, 2 * HOUR)

    deliver(world, body)

    assert kinds(world) == ["Appointment Fetch Expired", "Appointments Fetched"]
    assert due_at(world, "JOB", job_id) is None


def test_stale_close_does_not_close_another_announcement(world: World, clinic: Clinic) -> None:
    """The expiry is announced while a late result ends the job and its process dies."""
    job_id = clinic.fetch("r1")
    body = clinic.record(job_id)
    world.cobalt.fail("events_of_job", UpstreamBroken())
    publish = world.bus.publish

    def overtaken(event: Any) -> None:
        publish(event)
        world.bus.publish = publish  # type: ignore[method-assign]
        world.bus.fail("publish", BusFault())
        with pytest.raises(BusFault):
            deliver(world, body)

    world.bus.publish = overtaken  # type: ignore[method-assign]
    run_after(world, 2 * HOUR)

    assert world.jobs.jobs[job_id].notification == "open"
    run_after(world, MINUTE)
    assert kinds(world) == ["Appointment Fetch Expired", "Appointments Fetched"]


# -------------------------------------------------------------------------------------------- sweeps


def test_unknown_request_gets_its_job_and_result(world: World, clinic: Clinic) -> None:
    clinic.fetch_in_vain("r1", UpstreamUnanswered())
    asked_at = world.clock()
    world.clock.moment += 5 * MINUTE
    body = clinic.record("job_x")

    outcome = run(world)

    request, job = world.jobs.requests["r1"], world.jobs.jobs["job_x"]
    assert outcome == {"due": 1, "attached": 1}
    assert (request.state, request.job_execution_id) == (RequestState.ACCEPTED, "job_x")
    assert (job.state, job.request_id, job.accepted_at) == (JobState.COMPLETED, "r1", asked_at)
    assert job.completion is not None
    assert job.completion.delivered_via == "sweep"
    assert job.seconds_to_completion == 300
    assert list(world.results.objects.values()) == [body]
    assert world.bus.events[0][1]["connection_id"] == connection_id_of("token-1")
    assert connection_id_of("token-1") in world.connections.registered


def test_unknown_request_claims_the_job_that_the_webhook_made(world: World, clinic: Clinic) -> None:
    clinic.fetch_in_vain("r1", UpstreamUnanswered())
    deliver(world, clinic.record("job_x"))

    run_after(world, MINUTE)

    job = world.jobs.jobs["job_x"]
    assert (job.state, job.request_id, job.seconds_to_completion) == (JobState.COMPLETED, "r1", 0)
    assert len(world.results.objects) == 1
    assert len(world.bus.events) == 1


def test_request_whose_process_died_is_looked_for(world: World, clinic: Clinic) -> None:
    world.jobs.fail("accept", *[TableFault()] * 3)
    job_id = clinic.fetch("r1")
    clinic.record(job_id)

    outcomes = [run_after(world, 4 * MINUTE), run_after(world, MINUTE)]

    assert outcomes == [{"due": 0}, {"due": 1, "attached": 1}]
    assert world.jobs.jobs[job_id].request_id == "r1"


@pytest.mark.parametrize(
    ("label", "window", "minutes_before"),
    [
        ("user_2", WEEK, 0),
        ("user_1", Window.parse("2023-12-01", "2023-12-06"), 0),
        ("user_1", WEEK, 10),
    ],
)
def test_result_of_another_question_is_not_taken_for_the_answer(
    world: World, clinic: Clinic, label: str, window: Window, minutes_before: int
) -> None:
    clinic.fetch_in_vain("r1", UpstreamUnanswered())
    made = world.clock() - minutes_before * MINUTE
    other = Clinic(world, "token-2", label)
    other.record("job_x", {**SUCCESS, **window.model_dump(mode="json")}, at=made)

    run_after(world, MINUTE)

    assert world.jobs.requests["r1"].state is RequestState.UNKNOWN


def test_different_questions_that_fit_get_no_answer(world: World, clinic: Clinic) -> None:
    clinic.fetch_in_vain("r1", UpstreamUnanswered())
    world.cobalt.errors[clinic.token] = UpstreamUnanswered()
    asked = FetchRequest(search_by="provider", window=WEEK, provider_ids=("1",))
    with pytest.raises(UpstreamUnanswered):
        world.fetch_appointments.start("token-1", asked, request_id="r2", trigger="api")
    clinic.record("job_x")

    run_after(world, MINUTE)

    states = {request.state for request in world.jobs.requests.values()}
    assert states == {RequestState.UNKNOWN}


def test_replaced_credentials_are_used_when_cobalt_refuses_the_kept_ones(
    world: World, clinic: Clinic
) -> None:
    job_id = clinic.fetch("r1")
    clinic.fetch_in_vain("r2", UpstreamUnanswered(), Window.parse("2024-01-01", "2024-01-02"))
    clinic.record(job_id)
    clinic.record("job_r2", {**SUCCESS, "start_date": "2024-01-01", "end_date": "2024-01-02"})
    world.secrets.refreshed = ClientCredentials(client_id="client", client_secret="new")
    world.cobalt.outdated_secrets = {"sesame"}

    outcome = run_after(world, 2 * MINUTE)

    assert (outcome["attached"], outcome["found"]) == (1, 1)
    assert {job.state for job in world.jobs.jobs.values()} == {JobState.COMPLETED}


@pytest.mark.parametrize("error", [AccessTokenRefused(), AccessForbidden()])
def test_token_is_read_anew_when_cobalt_refuses_it(
    world: World, clinic: Clinic, error: RelayError
) -> None:
    clinic.fetch_in_vain("r1", UpstreamUnanswered())
    world.cobalt.fail("settings_of", error)

    run_after(world, MINUTE)

    assert world.connections.read_anew == [connection_id_of(clinic.token)]


def test_equal_requests_get_a_job_each(world: World, clinic: Clinic) -> None:
    for request_id in ("r1", "r2"):
        clinic.fetch_in_vain(request_id, UpstreamUnanswered())
        clinic.record(f"job_{request_id}")
        world.clock.moment += 2 * MINUTE

    run(world)

    jobs = {name: job.request_id for name, job in world.jobs.jobs.items()}
    assert jobs == {"job_r1": "r1", "job_r2": "r2"}


def test_nobodys_result_is_kept_when_it_had_time_to_be_claimed(
    world: World, clinic: Clinic
) -> None:
    stranger = Clinic(world, "token-2", "user_2")
    clinic.fetch_in_vain("r1", UpstreamUnanswered())
    stranger.record("job_old")
    world.clock.moment += 6 * MINUTE
    stranger.record("job_young")

    run(world)

    assert set(world.jobs.jobs) == {"job_old"}
    assert world.jobs.jobs["job_old"].connection_id is None


def test_open_job_that_a_sweep_comes_across_ends(world: World, clinic: Clinic) -> None:
    clinic.fetch_in_vain("r1", UpstreamUnanswered(), Window.parse("2024-01-01", "2024-01-02"))
    world.clock.moment += 50 * timedelta(seconds=1)
    job_id = clinic.fetch("r2")
    clinic.record(job_id)

    run_after(world, timedelta(seconds=10))

    completion = world.jobs.jobs[job_id].completion
    assert completion is not None
    assert completion.delivered_via == "sweep"


@pytest.mark.parametrize("fault", [None, RateLimited(), UpstreamUnanswered()])
def test_request_expires_at_its_deadline(
    world: World, clinic: Clinic, fault: RelayError | None
) -> None:
    clinic.fetch_in_vain("r1", UpstreamUnanswered())
    if fault:
        world.cobalt.fail("live_fetches_since", fault)

    outcome = run_after(world, 2 * HOUR)

    request = world.jobs.requests["r1"]
    assert outcome["expired"] == 1
    assert (request.state, request.expired_at) == (RequestState.EXPIRED, world.clock())
    [(kind, detail)] = world.bus.events
    assert (kind, detail["request_id"]) == ("Appointment Fetch Expired", "r1")
    looks, expired_at = [], world.clock()
    while look := due_at(world, "REQUEST", "r1"):
        looks.append((look - expired_at) // HOUR)
        world.clock.moment = look
        run(world)
    assert looks == [1, 6, 24]
    assert len(world.bus.events) == 1


def test_late_sweep_finds_the_job_of_a_request_that_expired(world: World, clinic: Clinic) -> None:
    clinic.fetch_in_vain("r1", UpstreamUnanswered())
    body = clinic.record("job_x")
    world.cobalt.fail("live_fetches_since", UpstreamBroken())
    run_after(world, 2 * HOUR)
    expired_at = world.clock()

    run_after(world, HOUR)

    request, job = world.jobs.requests["r1"], world.jobs.jobs["job_x"]
    assert (request.state, request.notification) == (RequestState.ACCEPTED, None)
    assert (job.state, job.request_id, job.expired_at) == (JobState.COMPLETED, "r1", expired_at)
    assert list(world.results.objects.values()) == [body]
    assert kinds(world) == ["Appointment Fetch Expired", "Appointments Fetched"]


@pytest.mark.parametrize("fault", [UpstreamUnanswered(), RateLimited()])
def test_last_late_look_is_made_again_when_it_failed(
    world: World, clinic: Clinic, fault: RelayError
) -> None:
    job_id = clinic.fetch("r1")
    for pause in (2 * HOUR, HOUR, 5 * HOUR):
        run_after(world, pause)
    clinic.record(job_id)
    world.cobalt.fail("events_of_job", fault)

    states = []
    for pause in (18 * HOUR, 3 * MINUTE):
        run_after(world, pause)
        states.append(world.jobs.jobs[job_id].state)

    assert states == [JobState.EXPIRED, JobState.COMPLETED]


def test_last_late_sweep_is_made_again_when_it_failed(world: World, clinic: Clinic) -> None:
    clinic.fetch_in_vain("r1", UpstreamUnanswered())
    for pause in (2 * HOUR, HOUR, 5 * HOUR):
        run_after(world, pause)
    clinic.record("job_x")
    world.cobalt.fail("settings_of", UpstreamUnanswered())

    states = []
    for pause in (18 * HOUR, 3 * MINUTE):
        run_after(world, pause)
        states.append(world.jobs.requests["r1"].state)

    assert states == [RequestState.EXPIRED, RequestState.ACCEPTED]


def test_last_late_look_is_given_up_when_it_fails_for_long(world: World, clinic: Clinic) -> None:
    job_id = clinic.fetch("r1")
    world.cobalt.fail("events_of_job", *[UpstreamBroken()] * 9)
    for pause in (2 * HOUR, HOUR, 5 * HOUR, 18 * HOUR, 11 * HOUR, 2 * HOUR):
        run_after(world, pause)

    assert due_at(world, "JOB", job_id) is None


def test_connection_without_a_label_is_not_guessed(world: World) -> None:
    clinic = Clinic(world, label=None)
    clinic.fetch_in_vain("r1", UpstreamUnanswered())
    body = clinic.record("job_x")

    run_after(world, 6 * MINUTE)

    assert world.jobs.requests["r1"].state is RequestState.UNKNOWN
    assert world.jobs.jobs["job_x"].connection_id is None
    assert list(world.results.objects.values()) == [body]


def test_connection_whose_token_is_gone_is_not_guessed(world: World, clinic: Clinic) -> None:
    clinic.fetch_in_vain("r1", UpstreamUnanswered())
    clinic.record("job_x")
    world.connections.tokens.clear()

    outcome = run_after(world, MINUTE)

    assert outcome == {"due": 1}
    assert world.jobs.requests["r1"].state is RequestState.UNKNOWN


def test_sweep_goes_on_when_one_result_cannot_be_stored(world: World, clinic: Clinic) -> None:
    for request_id in ("r1", "r2"):
        clinic.fetch_in_vain(request_id, UpstreamUnanswered())
        clinic.record(f"job_{request_id}")
        world.clock.moment += 2 * MINUTE
    world.results.fail("create", ResultsFault())

    run(world)

    states = {name: job.state for name, job in world.jobs.jobs.items()}
    assert states == {"job_r2": JobState.ACCEPTED, "job_r1": JobState.COMPLETED}
    run(world)
    assert world.jobs.jobs["job_r2"].state is JobState.COMPLETED


def test_request_is_taken_by_one_of_two_runs(
    world: World, clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic.fetch_in_vain("r1", UpstreamUnanswered())
    world.clock.moment += MINUTE
    seen = world.jobs.due(world.clock(), 10)
    run(world)
    asked = len(world.cobalt.asked)
    monkeypatch.setattr(world.jobs, "due", lambda *_: seen)

    run(world)

    assert len(world.cobalt.asked) == asked


def test_claimed_job_is_announced_again_with_its_request(world: World, clinic: Clinic) -> None:
    clinic.fetch_in_vain("r1", UpstreamUnanswered())
    deliver(world, clinic.record("job_x"))
    run_after(world, MINUTE)

    run_after(world, MINUTE)

    first, second = [detail for _, detail in world.bus.events]
    assert first["event_id"] == second["event_id"]
    assert [each["request_id"] for each in (first, second)] == [None, "r1"]
    assert due_at(world, "JOB", "job_x") is None


def test_request_without_a_window_is_not_matched(world: World, clinic: Clinic) -> None:
    world.cobalt.errors[clinic.token] = UpstreamUnanswered()
    asked = FetchRequest(search_by="mrn", mrn="MRN-1")
    with pytest.raises(UpstreamUnanswered):
        world.fetch_appointments.start("token-1", asked, request_id="r1", trigger="api")
    clinic.record("job_x", {"success": True, "appointments": []})

    run_after(world, MINUTE)
    outcome = run_after(world, 2 * HOUR)

    assert outcome["expired"] == 1
    assert world.jobs.requests["r1"].state is RequestState.EXPIRED
    assert world.jobs.jobs["job_x"].connection_id is None


def test_connections_that_share_a_label_are_not_mixed_up(world: World, clinic: Clinic) -> None:
    clinic.fetch_in_vain("r1", UpstreamUnanswered())
    world.clock.moment += 2 * MINUTE
    run(world)
    Clinic(world, "token-2").fetch_in_vain("r2", UpstreamUnanswered())
    clinic.record("job_x")

    run_after(world, 1.1 * MINUTE)

    states = {request.state for request in world.jobs.requests.values()}
    assert states == {RequestState.UNKNOWN}


def test_result_waits_while_a_request_that_fits_awaits_its_202(
    world: World, clinic: Clinic
) -> None:
    clinic.fetch_in_vain("r1", UpstreamUnanswered())
    clinic.record("job_x")
    world.clock.moment += MINUTE
    world.jobs.fail("accept", *[TableFault()] * 3)
    clinic.fetch("r2")

    run(world)

    states = {name: request.state for name, request in world.jobs.requests.items()}
    assert states == {"r1": RequestState.UNKNOWN, "r2": RequestState.REQUESTED}


@pytest.mark.parametrize("fault", [OSError("no space"), ResultsFault()])
def test_polls_and_deadlines_are_kept_when_a_sweep_fails(
    world: World, clinic: Clinic, fault: Any
) -> None:
    clinic.fetch_in_vain("r1", UpstreamUnanswered())
    world.clock.moment += 119 * MINUTE
    job_id = clinic.fetch("r2")
    clinic.record(job_id)
    world.cobalt.fail("live_fetches_since", fault)

    outcome = run_after(world, MINUTE)

    assert (outcome["failed"], outcome["expired"], outcome["found"]) == (1, 1, 1)


def test_sweep_leaves_time_for_the_polls(world: World, clinic: Clinic) -> None:
    clinic.fetch_in_vain("r1", UpstreamUnanswered(), Window.parse("2024-01-01", "2024-01-02"))
    job_id = clinic.fetch("r2")
    for number in range(200):
        Clinic(world, "token-2", "user_2").record(f"job_{number}x")
    clinic.record("job_y")
    world.clock.moment += MINUTE
    left = iter(range(180, 0, -1))

    world.reconcile_jobs.run(lambda: float(next(left)))

    assert job_id in world.cobalt.asked
    assert next(left) > 75


def test_jobs_beyond_the_share_expire_at_their_deadline(world: World, clinic: Clinic) -> None:
    jobs = [clinic.fetch(f"r{number}") for number in range(50)]

    outcome = run_after(world, 2 * HOUR)

    assert outcome["expired"] == 50
    assert {world.jobs.jobs[job_id].state for job_id in jobs} == {JobState.EXPIRED}
    assert len(world.cobalt.asked) == 20
