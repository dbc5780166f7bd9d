"""One suite over the fakes and the real adapters on a deployed stack, so that the fakes cannot lie."""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from itertools import repeat
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import pytest

from cobalt_relay.adapters.bus import Bus
from cobalt_relay.adapters.connections import Connections
from cobalt_relay.adapters.jobs import Jobs
from cobalt_relay.adapters.queue import FetchQueue
from cobalt_relay.adapters.ranges import Ranges
from cobalt_relay.adapters.results import Results
from cobalt_relay.adapters.secrets import Secrets
from cobalt_relay.adapters.snapshots import Snapshots
from cobalt_relay.adapters.table import Table
from cobalt_relay.appointments import Clinic
from cobalt_relay.errors import (
    BusFault,
    QueueFault,
    RequestRefused,
    UnknownConnection,
    UpstreamUnanswered,
)
from cobalt_relay.models import (
    Announced,
    ClinicSettings,
    Completion,
    ConnectionState,
    EventRecord,
    FetchRange,
    FetchWork,
    Hold,
    Job,
    JobState,
    Landing,
    PieceNote,
    PieceOutcome,
    RangePlan,
    RangeRequest,
    RangeState,
    Request,
    RequestState,
    ResultLocation,
    Window,
    connection_id_of,
    in_days,
    range_id_of,
)
from cobalt_relay.services.ports import (
    AnnouncementStore,
    DeliveryStore,
    JobReader,
    RangeStore,
    RequestStore,
    ResultStore,
)
from tests.integration.support import Relay, days_of, eventually
from tests.unit.fakes import (
    FakeConnections,
    FakeJobs,
    FakeRanges,
    FakeResults,
    FakeSnapshots,
    FakeTable,
    validate_event,
)
from tests.unit.test_adapters import EVENT
from tools.local.eventlog import EventLog
from tools.local.stack import Stack

NOW = datetime(2025, 1, 2, 10, 0, tzinfo=UTC)
WEEK = Window(start_date=date(2025, 1, 1), end_date=date(2025, 1, 7))
SECOND = timedelta(seconds=1)


class JobStore(RequestStore, JobReader, DeliveryStore, AnnouncementStore, Protocol):
    """All sides of the rows."""


@pytest.fixture(params=["fake", "real"])
def jobs(request: pytest.FixtureRequest) -> JobStore:
    if request.param == "fake":
        return FakeJobs()
    stack: Stack = request.getfixturevalue("stack")
    table = Table(stack.aws.dynamodb, stack.table)
    return Jobs(table, retention=timedelta(days=30), deadline=timedelta(minutes=120))


def fresh(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:12]}"


def a_request(**changes: Any) -> Request:
    values: dict[str, Any] = {
        "request_id": fresh("request"),
        "connection_id": connection_id_of(fresh("token")),
        "trigger": "api",
        "search_by": "date_range",
        "window": WEEK,
        "fingerprint": "f" * 64,
        "requested_at": NOW,
    }
    return Request(**{**values, **changes})


def a_completion(job_id: str, **changes: Any) -> Completion:
    values: dict[str, Any] = {
        "job_execution_id": job_id,
        "state": JobState.COMPLETED,
        "cobalt_event_id": fresh("evt"),
        "body_sha256": "0" * 64,
        "access_token_reference_id": "user_1",
        "window": WEEK,
        "appointment_count": 3,
        "declared_count": 4,
        "error_code": None,
        "result": ResultLocation(bucket="results", key="appointments/x.json", version_id="v1"),
        "delivered_via": "webhook",
        "completed_at": NOW + 30 * SECOND,
    }
    return Completion(**{**values, **changes})


def accepted(jobs: JobStore) -> tuple[Request, str]:
    request, job_id = a_request(), fresh("job")
    jobs.record_request(request)
    jobs.accept(request, job_id, NOW + SECOND)
    return request, job_id


def job_of(jobs: JobStore, job_id: str) -> Job | None:
    return jobs.look_up(fresh("evt"), job_id).job


def end(jobs: JobStore, completion: Completion, job: Job | None = None) -> Landing:
    """End a job as it was seen, or as it is."""
    seen = job or job_of(jobs, completion.job_execution_id)
    assert seen is not None
    landing, _ = jobs.end(seen, completion, NOW, alone=True)
    return landing


def test_job_is_read_until_its_time_is_over(jobs: JobStore) -> None:
    request, job_id = accepted(jobs)
    end = NOW + SECOND + timedelta(days=30)

    job = jobs.job(job_id, end - SECOND)

    assert job is not None
    assert (job.connection_id, job.request_id) == (request.connection_id, request.request_id)
    assert jobs.job(job_id, end) is None
    assert jobs.requested_at(request.request_id) == NOW


@pytest.mark.parametrize("job_id", ["", "job_none", "😀" * 256])
def test_nothing_is_read_where_nothing_is(jobs: JobStore, job_id: str) -> None:
    assert jobs.job(job_id, NOW) is None
    assert jobs.requested_at(fresh("request")) is None


def test_nothing_is_known_of_what_never_was(jobs: JobStore) -> None:
    known = jobs.look_up(fresh("evt"), fresh("job"))

    assert known == (None, None)


def test_job_tells_who_asked_for_what_when_it_was_accepted(jobs: JobStore) -> None:
    request, job_id = accepted(jobs)

    assert job_of(jobs, job_id) == Job(
        job_execution_id=job_id,
        state=JobState.ACCEPTED,
        connection_id=request.connection_id,
        request_id=request.request_id,
        trigger="api",
        search_by="date_range",
        window=WEEK,
        accepted_at=NOW + SECOND,
        deadline=NOW + SECOND + timedelta(minutes=120),
    )


def test_job_without_a_window_is_kept_without_one(jobs: JobStore) -> None:
    request, job_id = a_request(search_by="mrn", window=None), fresh("job")

    jobs.record_request(request)
    jobs.accept(request, job_id, NOW)

    job = job_of(jobs, job_id)
    assert job is not None
    assert (job.search_by, job.window) == ("mrn", None)


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED])
def test_job_ends_and_tells_how(jobs: JobStore, state: JobState) -> None:
    _, job_id = accepted(jobs)
    completion = a_completion(job_id, state=state, error_code="login_required")

    landing = end(jobs, completion)

    known = jobs.look_up(completion.cobalt_event_id, job_id)
    assert landing is Landing.LANDED
    assert known.job is not None
    assert (known.job.state, known.job.completion) == (state, completion)
    assert known.job.notified_at is None
    assert known.event is not None
    assert known.event.body_sha256 == completion.body_sha256
    assert known.event.job_execution_id == job_id


def test_same_event_ends_nothing_twice(jobs: JobStore) -> None:
    _, first = accepted(jobs)
    _, second = accepted(jobs)
    end(jobs, a_completion(first, cobalt_event_id="evt_" + first))

    landing = end(jobs, a_completion(second, cobalt_event_id="evt_" + first))

    job = job_of(jobs, second)
    assert landing is Landing.EVENT_KNOWN
    assert job is not None
    assert job.state is JobState.ACCEPTED


def test_terminal_state_never_changes(jobs: JobStore) -> None:
    _, job_id = accepted(jobs)
    seen = job_of(jobs, job_id)
    end(jobs, a_completion(job_id))

    landings = [
        end(jobs, a_completion(job_id, state=JobState.FAILED)),
        end(jobs, a_completion(job_id, state=JobState.FAILED), seen),
        jobs.create_ended(a_completion(job_id, state=JobState.FAILED), NOW)[0],
    ]

    job = job_of(jobs, job_id)
    assert landings == [Landing.JOB_CHANGED] * 3
    assert job is not None
    assert job.state is JobState.COMPLETED


def test_unknown_job_does_not_end_but_can_be_made(jobs: JobStore) -> None:
    completion = a_completion(fresh("job"))

    stranger = Job(job_execution_id=completion.job_execution_id, state=JobState.ACCEPTED)

    landings = [
        end(jobs, completion, stranger),
        jobs.create_ended(completion, NOW)[0],
        jobs.create_ended(completion, NOW)[0],
    ]

    job = job_of(jobs, completion.job_execution_id)
    assert landings == [Landing.JOB_CHANGED, Landing.LANDED, Landing.EVENT_KNOWN]
    assert job is not None
    assert (job.state, job.connection_id) == (JobState.COMPLETED, None)


def test_request_claims_the_job_that_its_result_made(jobs: JobStore) -> None:
    completion, request = a_completion(fresh("job")), a_request()
    jobs.create_ended(completion, NOW)

    jobs.record_request(request)
    jobs.accept(request, completion.job_execution_id, NOW)

    job = job_of(jobs, completion.job_execution_id)
    assert job is not None
    assert (job.state, job.completion) == (JobState.COMPLETED, completion)
    assert (job.connection_id, job.request_id) == (request.connection_id, request.request_id)


def test_claimed_job_keeps_its_owner_when_another_request_names_it(jobs: JobStore) -> None:
    first, job_id = accepted(jobs)
    second = a_request()

    jobs.record_request(second)
    jobs.accept(second, job_id, NOW)

    job = job_of(jobs, job_id)
    assert job is not None
    assert job.connection_id == first.connection_id


def test_one_wins_when_many_end_a_job_at_once(jobs: JobStore) -> None:
    _, job_id = accepted(jobs)
    completions = [a_completion(job_id) for _ in range(8)]

    with ThreadPoolExecutor(8) as pool:
        landings = list(pool.map(end, repeat(jobs), completions, repeat(job_of(jobs, job_id))))

    job = job_of(jobs, job_id)
    assert sorted(landings) == [Landing.JOB_CHANGED] * 7 + [Landing.LANDED]
    assert job is not None
    assert job.completion in completions


def landed_job(jobs: JobStore) -> Announced:
    _, job_id = accepted(jobs)
    end(jobs, a_completion(job_id))
    return Announced("JOB", job_id, JobState.COMPLETED)


def recorded_event(jobs: JobStore) -> Announced:
    event_id = fresh("evt")
    location = ResultLocation(bucket="results", key="webhooks/x.json", version_id=None)
    record = EventRecord(
        body_sha256="1" * 64,
        received_at=NOW,
        event_type="appointment.created",
        delivered_via="webhook",
        notification="open",
        result=location,
    )
    landings = [jobs.record_event(event_id, record, NOW) for _ in range(2)]
    assert landings == [Landing.LANDED, Landing.EVENT_KNOWN]
    return Announced("EVENT", event_id)


@pytest.mark.parametrize("announce", [landed_job, recorded_event])
def test_announcement_has_one_taker_at_a_time(
    jobs: JobStore, announce: Callable[[JobStore], Announced]
) -> None:
    announced = announce(jobs)

    taken = [
        jobs.take_announcement(announced, NOW + 0.9 * SECOND),
        jobs.take_announcement(announced, NOW + 1.1 * SECOND),
        jobs.take_announcement(announced, NOW + 1.2 * SECOND),
    ]
    jobs.release_announcement(announced)
    taken.append(jobs.take_announcement(announced, NOW + 1.3 * SECOND))
    jobs.close_announcement(announced, NOW + 2 * SECOND)
    jobs.close_announcement(announced, NOW + 3 * SECOND)
    taken.append(jobs.take_announcement(announced, NOW + timedelta(days=1)))

    assert taken == [False, True, False, True, False]


def test_close_is_kept_on_the_row_that_was_announced(jobs: JobStore) -> None:
    job, event = landed_job(jobs), recorded_event(jobs)

    jobs.close_announcement(job, NOW + SECOND)
    jobs.close_announcement(event, NOW + SECOND)

    known = jobs.look_up(event.id, job.id)
    assert known.job is not None
    assert known.job.notified_at == NOW + SECOND
    assert known.event is not None
    assert (known.event.notification, known.event.received_at) == ("sent", NOW)


# ------------------------------------------------------------------------- rows, as operators see them


@pytest.fixture
def real_jobs(stack: Stack) -> Jobs:
    table = Table(stack.aws.dynamodb, stack.table)
    return Jobs(table, retention=timedelta(days=30), deadline=timedelta(minutes=120))


def test_request_row_is_due_until_its_outcome_is_known(real_jobs: Jobs, relay: Relay) -> None:
    requests = [a_request() for _ in range(3)]
    for request in requests:
        real_jobs.record_request(request)
    _, refused, unknown = requests

    real_jobs.close_request(refused, RequestState.FAILED, RequestRefused(), NOW)
    real_jobs.close_request(unknown, RequestState.UNKNOWN, UpstreamUnanswered(), NOW)
    real_jobs.close_request(unknown, RequestState.FAILED, RequestRefused(), NOW)

    rows = [relay.item(f"REQUEST#{request.request_id}") or {} for request in requests]
    assert [row["state"] for row in rows] == ["REQUESTED", "FAILED", "UNKNOWN"]
    assert [row["due_at"][11:16] for row in rows] == ["10:05", "10:00", "10:01"]
    assert rows[2]["error_code"] == "upstream_unanswered"
    assert int(rows[0]["expires_at"]) == int((NOW + timedelta(days=30)).timestamp())


def test_job_row_is_due_until_its_event_is_sent(real_jobs: Jobs, relay: Relay) -> None:
    request, job_id = accepted(real_jobs)

    before = relay.job(job_id) or {}
    seen = job_of(real_jobs, job_id)
    assert seen is not None
    real_jobs.end(seen, a_completion(job_id), NOW + 31 * SECOND, alone=True)
    ended = relay.job(job_id) or {}
    real_jobs.close_announcement(Announced("JOB", job_id, JobState.COMPLETED), NOW)
    sent = relay.job(job_id) or {}

    assert before["due_at"] == "2025-01-02T10:01:01.000Z"
    assert (ended["notification"], ended["due_at"]) == ("open", "2025-01-02T10:01:31.000Z")
    assert (sent["notification"], "due_at" in sent) == ("sent", False)
    assert (relay.item(f"REQUEST#{request.request_id}") or {})["job_execution_id"] == job_id


def test_unknown_request_becomes_accepted_when_its_job_shows_up(
    real_jobs: Jobs, relay: Relay
) -> None:
    request = a_request()
    real_jobs.record_request(request)
    real_jobs.close_request(request, RequestState.UNKNOWN, UpstreamUnanswered(), NOW)

    real_jobs.accept(request, fresh("job"), NOW)

    row = relay.item(f"REQUEST#{request.request_id}") or {}
    assert (row["state"], "due_at" in row) == ("ACCEPTED", False)


# ---------------------------------------------------------------------------------------- connections


@pytest.fixture
def real_connections(stack: Stack) -> Iterator[Connections]:
    """Those of the deployed table. The new ones are removed: the whole fleet is planned, and seen."""
    table = Table(stack.aws.dynamodb, stack.table)
    path = f"/cobalt-relay/{stack.stack_name}/tokens"
    adapter = Connections(table, lambda: stack.aws.ssm, path, stack.outputs["KeyArn"])
    before = set(adapter.ids())
    yield adapter
    for new in set(adapter.ids()) - before:
        adapter.remove(new)


@pytest.fixture(params=["fake", "real"])
def connections(request: pytest.FixtureRequest) -> Connections | FakeConnections:
    if request.param == "fake":
        return FakeConnections()
    adapter: Connections = request.getfixturevalue("real_connections")
    return adapter


def test_connection_is_listed_with_its_token_when_it_registered(
    connections: Connections | FakeConnections,
) -> None:
    token = fresh("token")
    name = connection_id_of(token)
    was_registered = connections.is_registered(name)

    connections.keep_token(name, token)
    connections.register(name, NOW)
    connections.keep_token(name, token)
    connections.register(name, NOW)

    assert (was_registered, connections.is_registered(name)) == (False, True)
    assert connections.token(name) == token
    assert list(connections.ids()).count(name) == 1


def test_forgotten_token_is_gone(connections: Connections | FakeConnections) -> None:
    token = fresh("token")
    name = connection_id_of(token)
    connections.keep_token(name, token)

    connections.forget_token(name)
    connections.forget_token(name)

    with pytest.raises(UnknownConnection):
        connections.token(name)
    assert not connections.is_registered(name)


def test_connection_is_suspended_once_and_resumed_once(
    connections: Connections | FakeConnections,
) -> None:
    name = connection_id_of(fresh("token"))
    connections.register(name, NOW, "eClinicalWorks")
    new = connections.get(name)
    assert new

    suspended = [connections.suspend(new, "event", NOW, NOW + SECOND) for _ in range(2)]
    found = connections.get(name)
    assert found
    early = connections.resume(found, "job_1", NOW, NOW + 2 * SECOND)
    resumed = [connections.resume(found, "job_1", NOW + 2 * SECOND, NOW + 3 * SECOND) for _ in "ab"]

    assert (suspended, early, resumed) == ([True, False], False, [True, False])
    assert (found.state, found.suspended_by) == (ConnectionState.LOGIN_REQUIRED, "event")
    after = connections.get(name)
    assert after
    assert (after.state, after.suspended_at) == (ConnectionState.ACTIVE, None)
    assert not connections.suspend(after, "event", NOW, NOW + 4 * SECOND)  # older than the success


def test_connection_is_found_by_its_label(connections: Connections | FakeConnections) -> None:
    name, label = connection_id_of(fresh("token")), fresh("user")
    connections.register(name, NOW)
    settings = ClinicSettings(access_token_reference_id=label, time_zone="America/Denver")

    connections.note_settings(name, settings, NOW, SECOND)

    assert connections.with_label(label) == [name]
    assert connections.with_label(fresh("nobody")) == []
    [found] = connections.several([name, connection_id_of(fresh("token"))])
    assert (found.time_zone, found.settings_read_at) == ("America/Denver", NOW)


def test_nothing_is_noted_of_a_connection_that_is_gone(
    connections: Connections | FakeConnections,
) -> None:
    name = connection_id_of(fresh("token"))
    connections.keep_token(name, "token")
    connections.register(name, NOW)
    connections.remove(name)

    connections.note_failure(name, "emr_down", NOW)
    connections.note_password_warning(name, NOW)

    assert connections.get(name) is None


def test_replaced_connection_names_its_heir_once(
    connections: Connections | FakeConnections,
) -> None:
    name, heir = (connection_id_of(fresh("token")) for _ in range(2))
    connections.register(name, NOW)

    handed_over = [connections.hand_over(name, heir) for _ in range(2)]

    found = connections.get(name)
    assert found
    assert (handed_over, found.state, found.replaced_by) == ([True, False], "replaced", heir)


@pytest.fixture(params=["fake", "real"])
def both(request: pytest.FixtureRequest) -> tuple[Jobs, Connections | FakeConnections]:
    """Jobs and connections of one table."""
    if request.param == "fake":
        fake = FakeJobs()
        return fake, FakeConnections(fake.table)
    return request.getfixturevalue("real_jobs"), request.getfixturevalue("real_connections")


def test_end_of_a_job_is_noted_with_its_connection(
    both: tuple[Jobs, Connections | FakeConnections],
) -> None:
    jobs, connections = both
    name = connection_id_of(fresh("token"))
    landings = []
    for step in ("nobody", "known", "suspended"):
        job_id = fresh("job")
        request = a_request(connection_id=name)
        jobs.record_request(request)
        jobs.accept(request, job_id, NOW)
        if step == "known":
            connections.register(name, NOW)
        connection = connections.get(name)
        if step == "suspended" and connection:
            connections.suspend(connection, "event", NOW + 90 * SECOND, NOW + 90 * SECOND)
        job = jobs.job(job_id, NOW)
        assert job
        landing, _ = jobs.end(job, a_completion(job_id), NOW)
        landings.append(landing)

    found = connections.get(name)
    assert landings == [
        Landing.CONNECTION_DIFFERS,
        Landing.LANDED,
        Landing.CONNECTION_DIFFERS,
    ]
    assert found
    assert (found.emr_name, found.is_suspended) == ("eClinicalWorks", True)
    assert found.last_success_at is not None


# --------------------------------------------------------------------------------- ranges and queue


@pytest.fixture(params=["fake", "real"])
def ranges(request: pytest.FixtureRequest) -> RangeStore:
    if request.param == "fake":
        return FakeRanges(FakeTable())
    stack: Stack = request.getfixturevalue("stack")
    return Ranges(Table(stack.aws.dynamodb, stack.table), timedelta(days=30))


def a_range(**request: Any) -> FetchRange:
    plan = RangePlan(
        range_id=range_id_of(fresh("range")),
        connection_id=connection_id_of("token"),
        trigger="range",
        request=RangeRequest(**({"window": WEEK} | request)),
        accepted_at=NOW,
    )
    return FetchRange(plan=plan, state=RangeState.ACCEPTED, request_id="r1")


def test_range_comes_back_as_it_was_put(ranges: RangeStore) -> None:
    found = a_range(search_by="provider", provider_ids=("12", 13))

    created = [ranges.create(found) for _ in range(2)]
    ranges.note_piece(found.plan.range_id, 3, PieceNote(request_id="r3"))
    ranges.note_piece(found.plan.range_id, 0, PieceNote(error_code="out_of_time"))
    ranges.note_queued(found.plan.range_id, NOW)

    read = ranges.get(found.plan.range_id)
    assert created == [True, False]
    assert read
    assert (read.plan, read.queued) == (found.plan, True)
    assert read.pieces == {
        0: PieceNote(error_code="out_of_time"),
        3: PieceNote(request_id="r3"),
    }
    assert ranges.get(found.plan.range_id, NOW + timedelta(days=31)) is None


def test_range_ends_once_and_keeps_its_outcomes(ranges: RangeStore) -> None:
    found = a_range()
    ranges.create(found)
    outcomes = [
        PieceOutcome(window=WEEK, status="COMPLETED", job_execution_id="j", appointment_count=2),
        PieceOutcome(window=WEEK, status="FAILED", error_code="emr_down"),
    ]

    ended = [ranges.end(found, outcomes, NOW) for _ in range(2)]
    ranges.note_piece(found.plan.range_id, 0, PieceNote(request_id="late"))

    read = ranges.get(found.plan.range_id)
    assert (ended[0] is not None, ended[1]) == (True, None)
    assert read
    assert (read.state, read.completed_at) == (RangeState.PARTIAL, NOW)
    assert (list(read.outcomes), read.pieces) == (outcomes, {})


def test_hold_keeps_a_second_range_off(ranges: RangeStore) -> None:
    hold = Hold("IDEMPOTENCY", fresh("key"), NOW + SECOND)
    first, second = a_range(), a_range()

    created = [ranges.create(first, "asked", hold), ranges.create(second, "asked", hold)]

    assert created == [True, False]
    assert ranges.held_by(hold) == (first.plan.range_id, "asked")
    assert ranges.get(second.plan.range_id) is None


def test_longer_pause_stands(ranges: RangeStore) -> None:
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(days=400)

    ranges.pause(later)
    ranges.pause(later - SECOND)

    assert ranges.paused_until() == later


# ------------------------------------------------------------------------------------ what readers see


def test_recent_work_is_told_newest_first(
    both: tuple[Jobs, Connections | FakeConnections], request: pytest.FixtureRequest
) -> None:
    """The index of the real table lags behind by a moment."""
    jobs, _ = both
    ranges: RangeStore
    if isinstance(jobs, FakeJobs):
        ranges = FakeRanges(jobs.table)
    else:
        stack: Stack = request.getfixturevalue("stack")
        ranges = Ranges(Table(stack.aws.dynamodb, stack.table), timedelta(days=30))
    connection_id, minute = connection_id_of(fresh("token")), 60 * SECOND
    ids = {age: fresh("job") for age in (50, 40, 0)}
    for minutes, job_id in ids.items():
        asked = a_request(connection_id=connection_id)
        jobs.record_request(asked)
        jobs.accept(asked, job_id, NOW + minutes * minute)
    found = a_range()
    whose = {"connection_id": connection_id, "accepted_at": NOW + minute}
    plan = found.plan.model_copy(update=whose)
    assert ranges.create(found.model_copy(update={"plan": plan}))

    def recent() -> list[str]:
        works = jobs.recent(connection_id, jobs_since=NOW + minute, ranges_since=NOW - SECOND)
        return [
            each.plan.range_id if isinstance(each, FetchRange) else each.job_execution_id
            for each in works
        ]

    assert eventually(lambda: recent() == [ids[50], ids[40], plan.range_id])
    assert list(jobs.recent(connection_id, NOW + 60 * minute, NOW + 60 * minute)) == []


@pytest.fixture(params=["fake", "real"])
def snapshots(request: pytest.FixtureRequest) -> Snapshots | FakeSnapshots:
    if request.param == "fake":
        return FakeSnapshots()
    stack: Stack = request.getfixturevalue("stack")
    return Snapshots(stack.aws.s3, stack.bucket)


def test_days_are_listed_in_order_with_a_tag_for_each_version(
    snapshots: Snapshots | FakeSnapshots,
) -> None:
    connection_id, other = (connection_id_of(fresh("token")) for _ in range(2))
    zone = ZoneInfo("America/New_York")
    clinic = Clinic(zone, zone, {})
    month = Window(start_date=date(2024, 12, 28), end_date=date(2025, 1, 9))
    for owner in (connection_id, other):
        for day in days_of(clinic, owner, month, [], NOW):
            assert snapshots.write(day, None)
    listed = list(snapshots.stored(connection_id, WEEK))
    item = {"id": "appt_1", "datetime": "2025-01-01T09:00:00-05:00"}
    [day] = days_of(clinic, connection_id, in_days(date(2025, 1, 1), 0, 1), [item], NOW)

    before = snapshots.read(connection_id, day.day)
    assert not snapshots.write(day, None)
    assert snapshots.write(day, before)
    assert not snapshots.write(day, before)

    again = list(snapshots.stored(connection_id, WEEK))
    after = snapshots.read(connection_id, day.day)
    assert before
    assert after
    assert [each.day for each in listed] == [date(2025, 1, number) for number in range(1, 8)]
    assert listed[0] == (day.day, before.etag)
    assert again == [(day.day, after.etag), *listed[1:]]
    assert before.etag != after.etag
    assert after.snapshot == day
    assert snapshots.read(connection_id, date(2025, 2, 1)) is None
    assert list(snapshots.stored(connection_id_of(fresh("token")), WEEK)) == []


def test_messages_are_in_the_queue_when_they_are_sent(stack: Stack) -> None:
    sqs = stack.aws.sqs
    url = sqs.create_queue(QueueName=fresh("queue").replace("_", "-"))["QueueUrl"]
    plan = a_range(window=Window(start_date=date(2025, 1, 1), end_date=date(2025, 6, 30))).plan
    works = [FetchWork(plan=plan, piece=number, not_before=NOW) for number in range(23)]

    sent = FetchQueue(sqs, url).send(iter(works), NOW)
    FetchQueue(sqs, url).put_off(works[0], NOW + timedelta(hours=2), NOW)

    names: list[Any] = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesDelayed"]
    counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    [message] = sqs.receive_message(QueueUrl=url)["Messages"]
    sqs.delete_queue(QueueUrl=url)
    assert (sent, [int(counts[name]) for name in names]) == (23, [23, 1])
    assert FetchWork.model_validate_json(message["Body"]) in works


def test_messages_that_are_not_taken_are_a_fault(stack: Stack) -> None:
    queue = FetchQueue(stack.aws.sqs, f"{stack.outputs['FetchQueueUrl']}-nowhere")

    with pytest.raises(QueueFault):
        queue.send([FetchWork(plan=a_range().plan, piece=0, not_before=NOW)], NOW)


def test_stranger_has_no_token(connections: Connections | FakeConnections) -> None:
    with pytest.raises(UnknownConnection):
        connections.token(connection_id_of(fresh("token")))


# --------------------------------------------------------------------------- bucket, bus and secrets


@pytest.fixture(params=["fake", "real"])
def results(request: pytest.FixtureRequest) -> ResultStore:
    if request.param == "fake":
        return FakeResults()
    stack: Stack = request.getfixturevalue("stack")
    return Results(stack.aws.s3, stack.bucket)


def test_place_is_taken_once_and_others_go_beside(results: ResultStore) -> None:
    place = f"webhooks/type=t/date=2025-01-02/{fresh('evt')}"

    first, second = results.create(place, b"first"), results.create(place, b"second")
    beside = [results.put_beside(place, b"second") for _ in range(2)]

    assert first is not None
    assert (first.key, second) == (f"{place}.json", None)
    assert beside[0].key == beside[1].key != first.key


def test_bytes_are_where_the_location_says(stack: Stack) -> None:
    results = Results(stack.aws.s3, stack.bucket)
    place, body = f"webhooks/type=t/date=2025-01-02/{fresh('evt')}", "Zoë 🦊".encode()

    locations = [results.create(place, body), results.put_beside(place, b"other")]

    found = [
        stack.aws.s3.get_object(Bucket=location.bucket, Key=location.key)
        for location in locations
        if location
    ]
    assert [each["Body"].read() for each in found] == [body, b"other"]
    assert {each["ContentType"] for each in found} == {"application/json"}


def test_event_reaches_the_rules_of_the_bus(stack: Stack, events: EventLog) -> None:
    event = EVENT.model_copy(update={"cobalt_event_id": fresh("evt")})

    Bus(stack.aws.events, stack.bus).publish(event)

    def arrived() -> dict[str, Any] | None:
        return next(
            (e for e in events.all() if e["detail"].get("event_id") == event.event_id), None
        )

    envelope = eventually(arrived)
    assert envelope is not None
    assert (envelope["source"], envelope["detail-type"]) == ("cobalt-relay", event.detail_type)
    validate_event(envelope["detail-type"], envelope["detail"])


def test_entry_that_the_bus_refuses_is_a_fault(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cobalt_relay.adapters.bus.SOURCE", "aws.not-ours")

    with pytest.raises(BusFault):
        Bus(stack.aws.events, stack.bus).publish(EVENT)


def test_secrets_are_read_as_the_operator_put_them(stack: Stack) -> None:
    secrets = Secrets(
        stack.aws.secretsmanager,
        stack.outputs["CobaltCredentialsArn"],
        stack.outputs["WebhookSecretArn"],
    )

    credentials, keys = secrets.credentials(), secrets.webhook_keys()

    assert credentials.client_id == stack.client_id
    assert credentials.client_secret == stack.client_secret
    assert keys.keys[0].secret.decode() == stack.sandbox.webhook_secret()["current"]
