"""The queue, through its handler: each fetch made once, gently, and given back where it failed."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from cobalt_relay.errors import (
    AccessForbidden,
    AccessTokenRefused,
    BusFault,
    QueueFault,
    RateLimited,
    RequestRefused,
    TableFault,
    UpstreamUnanswered,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from cobalt_relay.models import (
    LIVE_FETCH_COMPLETED,
    ConnectionState,
    FetchRequest,
    FetchWork,
    Hold,
    RangePlan,
    RangeRequest,
    RangeState,
    Request,
    RequestState,
    Trigger,
    Window,
    connection_id_of,
    range_id_of,
)
from cobalt_relay.services.fetch_appointments import LEASE, ROBOT_PATIENCE
from cobalt_relay.services.run_fetches import MOST_ATTEMPTS, MOST_HEIRS, MOST_RECEIVES
from functions.run_fetches.handler import lambda_handler
from tests.unit.conftest import LambdaContextStub, World, queue_event, sign

TOKEN = "token-1"
CONNECTION = connection_id_of(TOKEN)
MOMENT = datetime(2025, 1, 2, 10, 0, tzinfo=UTC)
FORTNIGHT = Window.parse("2025-01-02", "2025-01-15")


def a_work(piece: int = 0, trigger: Trigger = "schedule", **changes: Any) -> FetchWork:
    plan = RangePlan(
        range_id=range_id_of("run", CONNECTION),
        connection_id=CONNECTION,
        trigger=trigger,
        request=RangeRequest(window=FORTNIGHT),
        accepted_at=MOMENT,
    )
    return FetchWork(plan=plan, piece=piece, not_before=MOMENT).model_copy(update=changes)


def run(*works: FetchWork | str, **context: Any) -> list[str]:
    """Hand messages on; give the numbers of those that are to come again."""
    answer = lambda_handler(queue_event(*works), LambdaContextStub(**context))
    return [each["itemIdentifier"] for each in answer["batchItemFailures"]]


def end(world: World, job_id: str, data: dict[str, Any] | None = None) -> None:
    """Let a job report."""
    world.deliver(job_id, data)


def the_range(world: World) -> Any:
    [found] = world.ranges.ranges.values()
    return found


def put_off(world: World) -> list[float]:
    """Seconds from now until each message comes again that was put off."""
    return [(work.not_before - world.clock()).total_seconds() for work in world.queue.sent]


@pytest.fixture
def known(world: World) -> World:
    """A registered connection."""
    world.connections.add(TOKEN)
    return world


def test_piece_is_fetched_when_its_message_comes(known: World) -> None:
    again = run(a_work(piece=1))

    assert again == []
    [(_, token, request)] = known.cobalt.calls
    assert token == TOKEN
    assert request.to_cobalt() == {"start_date": "2025-01-09", "end_date": "2025-01-15"}
    [job] = known.jobs.jobs.values()
    assert (job.trigger, job.range_id) == ("schedule", a_work().plan.range_id)
    assert known.queue.sent == []


def test_range_is_on_record_when_its_first_piece_begins(known: World) -> None:
    run(a_work())

    found = the_range(known)
    assert (found.state, found.queued) == (RangeState.ACCEPTED, True)
    assert found.pieces[0].request_id == a_work().request_id(0)


# ------------------------------------------------------------------------------------------ patience


def test_message_is_put_off_when_its_time_has_not_come(known: World) -> None:
    again = run(a_work(not_before=MOMENT + timedelta(minutes=40)))

    assert (again, known.cobalt.calls) == ([], [])
    assert put_off(known) == [2400]


def test_nothing_is_read_when_a_message_comes_too_early(known: World) -> None:
    known.ranges.fail("get", TableFault())

    assert run(a_work(not_before=MOMENT + timedelta(minutes=40))) == []
    assert put_off(known) == [2400]


def test_message_is_put_off_when_the_run_has_no_time_left(known: World) -> None:
    again = run(a_work(), remaining_seconds=29.0)

    assert (again, known.cobalt.calls) == ([], [])
    assert len(put_off(known)) == 1


def test_second_piece_waits_when_the_robot_is_at_the_first(known: World) -> None:
    again = run(a_work(0), a_work(1))

    assert (again, len(known.cobalt.calls)) == ([], 1)
    [seconds] = put_off(known)
    assert 20 <= seconds <= 45
    assert known.queue.sent[0].piece == 1


def test_piece_is_noted_once_when_the_robot_stays_busy(known: World) -> None:
    run(a_work(0), a_work(1))
    known.ranges.fail("note_piece", TableFault())

    assert run(a_work(1)) == []
    assert [work.piece for work in known.queue.sent] == [1, 1]
    assert the_range(known).pieces[1].request_id == a_work(1).request_id(0)


def test_second_piece_is_fetched_when_the_first_has_ended(known: World) -> None:
    run(a_work(0))
    end(known, "job_1")

    run(a_work(1))

    assert len(known.cobalt.calls) == 2


@pytest.mark.parametrize("error", [RequestRefused("no"), UpstreamUnreachable()])
def test_robot_is_free_when_cobalt_did_not_take_the_fetch(known: World, error: Exception) -> None:
    known.cobalt.errors[TOKEN] = error
    run(a_work(0))
    known.cobalt.errors.clear()
    known.clock.moment += timedelta(minutes=1)

    run(a_work(1))

    assert len(known.jobs.jobs) == 1


def test_robot_is_busy_when_a_caller_fetches(known: World) -> None:
    known.fetch_appointments.start(
        TOKEN, FetchRequest(window=FORTNIGHT), request_id="r1", trigger="api"
    )

    run(a_work())

    assert len(known.cobalt.calls) == 1
    assert len(put_off(known)) == 1


def test_robot_is_not_waited_for_when_a_job_stays_silent(known: World) -> None:
    run(a_work(0))
    known.clock.moment += ROBOT_PATIENCE + timedelta(seconds=1)

    run(a_work(1))

    assert len(known.cobalt.calls) == 2


def test_robot_is_asked_for_two_things_when_the_operator_says_so(
    monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    world.connections.add(TOKEN)
    monkeypatch.setattr(world.run_fetches, "_robots", 2)
    later = RangeRequest(window=Window.parse("2025-02-02", "2025-02-05"))
    plan = a_work().plan.model_copy(update={"range_id": range_id_of("3"), "request": later})
    third = a_work().model_copy(update={"plan": plan})

    run(a_work(0), a_work(1), third)

    assert len(world.cobalt.calls) == 2
    assert len(put_off(world)) == 1


def test_other_connections_do_not_wait(known: World) -> None:
    other = known.connections.add("token-2")
    plan = a_work().plan.model_copy(update={"connection_id": other, "range_id": range_id_of("2")})

    run(a_work(), a_work().model_copy(update={"plan": plan}))

    assert [token for _, token, _ in known.cobalt.calls] == [TOKEN, "token-2"]


def test_fetch_joins_when_a_caller_has_asked_the_same(known: World) -> None:
    asked = a_work().fetch
    known.fetch_appointments.start(TOKEN, asked, request_id="r1", trigger="api")

    run(a_work())

    assert len(known.cobalt.calls) == 1
    assert the_range(known).pieces[0].job_execution_id == "job_1"


# ------------------------------------------------------------------------------------------- no twice


def test_nothing_is_fetched_when_a_message_comes_twice(known: World) -> None:
    run(a_work())

    again = run(a_work())

    assert (again, len(known.cobalt.calls), known.queue.sent) == ([], 1, [])


def test_nothing_is_fetched_when_both_come_at_once(known: World) -> None:
    run(a_work(), a_work())

    assert len(known.cobalt.calls) == 1


def test_nothing_is_fetched_when_its_job_has_ended_long_ago(known: World) -> None:
    run(a_work())
    end(known, "job_1")
    known.clock.moment += timedelta(hours=3)

    assert run(a_work()) == []
    assert len(known.cobalt.calls) == 1


def test_nothing_is_fetched_again_when_cobalt_never_answered(known: World) -> None:
    known.cobalt.errors[TOKEN] = UpstreamUnanswered()
    run(a_work())
    known.cobalt.errors.clear()

    again = run(a_work())

    assert (again, len(known.cobalt.calls)) == ([], 1)


def test_message_waits_when_an_attempt_may_be_under_way(
    known: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies before Cobalt's answer is on record: nobody knows what it did."""
    with monkeypatch.context() as patch:
        patch.setattr(known.cobalt, "fetch_appointments", lambda *_: 1 / 0)
        assert run(a_work()) == ["0"]

    early = run(a_work())

    assert early == []
    assert put_off(known) == [LEASE.total_seconds()]


def test_attempt_of_a_process_that_died_is_not_made_again(
    known: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(known.cobalt, "fetch_appointments", lambda *_: 1 / 0)
        run(a_work())
    known.clock.moment += LEASE

    assert run(a_work()) == []
    assert known.cobalt.calls == []


# ------------------------------------------------------------------------------------ honest retries


@pytest.mark.parametrize("error", [UpstreamUnreachable(), UpstreamUnavailable(), RateLimited()])
def test_message_comes_again_when_cobalt_surely_did_not_begin(
    known: World, error: Exception
) -> None:
    known.cobalt.errors[TOKEN] = error
    again = run(a_work())
    known.cobalt.errors.clear()
    known.clock.moment += timedelta(minutes=1)

    later = run(a_work())

    assert (again, later) == (["0"], [])
    [(receipt, seconds)] = known.queue.hidden
    assert receipt == "receipt-0"
    assert 22 <= seconds <= 38
    assert len(known.jobs.jobs) == 1
    assert known.bus.events == []


def test_queue_rests_when_cobalt_wants_patience(known: World) -> None:
    other = known.connections.add("token-2")
    plan = a_work().plan.model_copy(update={"connection_id": other, "range_id": range_id_of("2")})
    known.cobalt.errors[TOKEN] = RateLimited(retry_after="120")

    run(a_work(), a_work().model_copy(update={"plan": plan}))

    assert len(known.cobalt.calls) == 1
    [seconds] = put_off(known)
    assert 120 <= seconds <= 150
    [(_, hidden)] = known.queue.hidden
    assert hidden == 120


def test_queue_goes_on_when_the_pause_is_over(known: World) -> None:
    known.cobalt.errors[TOKEN] = RateLimited(retry_after="120")
    run(a_work())
    known.cobalt.errors.clear()
    known.clock.moment += timedelta(seconds=121)

    assert run(a_work()) == []
    assert len(known.jobs.jobs) == 1


def test_pause_is_bounded_when_cobalt_asks_for_a_day(known: World) -> None:
    known.cobalt.errors[TOKEN] = RateLimited(retry_after="86400")

    run(a_work())

    until = known.ranges.paused_until()
    assert until
    assert until - known.clock() == timedelta(minutes=15)
    [(_, hidden)] = known.queue.hidden
    assert hidden == 900


def test_failure_is_told_once_when_the_tries_are_spent(known: World) -> None:
    known.cobalt.errors[TOKEN] = UpstreamUnavailable()
    for _ in range(MOST_ATTEMPTS + 2):
        assert run(a_work()) == ["0"]
        known.clock.moment += timedelta(minutes=20)

    known.reconcile_jobs.run(lambda: 180.0)

    assert len(known.cobalt.calls) == MOST_ATTEMPTS
    kinds = [(kind, detail["error_code"]) for kind, detail in known.bus.events]
    assert kinds == [("Appointment Fetch Failed", "upstream_unavailable")]


def test_tries_begin_anew_when_an_operator_puts_it_back(known: World) -> None:
    known.cobalt.errors[TOKEN] = UpstreamUnavailable()
    for _ in range(MOST_ATTEMPTS + 1):
        run(a_work())
        known.clock.moment += timedelta(minutes=20)
    known.cobalt.errors.clear()

    assert run(a_work(round=1)) == []
    assert len(known.jobs.jobs) == 1


def test_others_are_fetched_when_one_message_fails(known: World) -> None:
    other = known.connections.add("token-2")
    plan = a_work().plan.model_copy(update={"connection_id": other, "range_id": range_id_of("2")})
    known.cobalt.errors[TOKEN] = UpstreamUnavailable()

    again = run(a_work(), "no json", a_work().model_copy(update={"plan": plan}))

    assert again == ["0", "1"]
    assert [job.connection_id for job in known.jobs.jobs.values()] == [other]


@pytest.mark.parametrize(("receives", "hidden"), [(1, [("receipt-0", 30.0)]), (2, [])])
def test_message_that_failed_comes_soon_once_and_then_in_the_queues_time(
    known: World, receives: int, hidden: list[tuple[str, float]]
) -> None:
    known.ranges.fail("get", TableFault())

    lambda_handler(queue_event(a_work(), receives=receives), LambdaContextStub())

    assert known.queue.hidden == hidden


@pytest.mark.parametrize("body", ["", "[]", "{}", a_work(7).model_dump_json()])
def test_message_is_given_back_when_it_is_no_fetch(
    known: World, body: str, logged: Callable[[], str]
) -> None:
    assert run(body) == ["0"]
    assert "malformed_work" in logged()


def test_message_is_given_back_when_a_row_cannot_be_written(known: World) -> None:
    known.ranges.fail("note_piece", TableFault())

    assert run(a_work()) == ["0"]
    assert known.cobalt.calls == []
    assert run(a_work()) == []
    assert len(known.cobalt.calls) == 1


# ----------------------------------------------------------------------------------------- what ends


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestRefused("no"), "request_refused"),
        (AccessTokenRefused(), "access_token_refused"),
        (AccessForbidden("no", error="login_required"), "login_required"),
        (RequestRefused("no", error="emr__down_"), "emr__down_"),
        (RequestRefused("no", error="mrn_4711"), "request_refused"),
    ],
)
def test_piece_fails_when_cobalt_refuses_it(known: World, error: Exception, code: str) -> None:
    known.cobalt.errors[TOKEN] = error
    work = a_work()
    plan = work.plan.model_copy(
        update={"request": RangeRequest(window=Window.parse("2025-01-02", "2025-01-08"))}
    )

    again = run(work.model_copy(update={"plan": plan}))

    assert again == []
    found = the_range(known)
    assert found.state is RangeState.FAILED
    assert [each.error_code for each in found.outcomes] == [code]
    [(kind, detail)] = known.bus.events
    assert (kind, detail["status"], detail["error_codes"]) == (
        "Appointment Range Completed",
        "FAILED",
        [code],
    )


def test_refused_token_is_read_anew(known: World) -> None:
    known.cobalt.errors[TOKEN] = AccessTokenRefused()

    run(a_work())

    assert known.connections.read_anew == [CONNECTION]


def test_refused_token_of_an_heir_is_read_anew_when_its_message_names_the_former(
    known: World,
) -> None:
    heir = known.connections.add("token-2")
    known.connections.hand_over(CONNECTION, heir)
    known.cobalt.errors["token-2"] = AccessTokenRefused()

    run(a_work())

    assert known.connections.read_anew == [heir]


def test_piece_is_given_up_when_its_connection_was_suspended_since(known: World) -> None:
    connection = known.connections.get(CONNECTION)
    assert connection
    known.connections.suspend(connection, "event", known.clock(), known.clock())

    again = run(a_work())

    assert (again, known.cobalt.calls) == ([], [])
    [(kind, detail)] = known.bus.events
    assert (kind, detail["error_code"]) == ("Appointment Fetch Failed", "login_required")
    assert the_range(known).pieces[0].error_code == "login_required"


def test_callers_range_is_tried_when_its_connection_is_suspended(known: World) -> None:
    connection = known.connections.get(CONNECTION)
    assert connection
    known.connections.suspend(connection, "event", known.clock(), known.clock())

    run(a_work(trigger="range"))

    assert len(known.cobalt.calls) == 1


def test_piece_is_given_up_when_its_connection_is_gone(world: World) -> None:
    again = run(a_work())

    assert again == []
    [(_, detail)] = world.bus.events
    assert detail["error_code"] == "unknown_connection"


def test_message_comes_again_when_giving_up_cannot_be_told(world: World) -> None:
    world.bus.fail("publish", BusFault())

    assert run(a_work()) == ["0"]
    assert run(a_work()) == []
    assert len(world.bus.events) == 1


def test_connection_registers_when_a_callers_range_is_its_first_fetch(world: World) -> None:
    world.connections.tokens[CONNECTION] = TOKEN

    run(a_work(trigger="range"))

    connection = world.connections.get(CONNECTION)
    assert connection
    assert (connection.state, connection.emr_name) == (ConnectionState.ACTIVE, "eClinicalWorks")


def test_heir_is_fetched_when_the_connection_was_replaced(known: World) -> None:
    heir = known.connections.add("token-2")
    known.connections.hand_over(CONNECTION, heir)

    run(a_work())

    assert [token for _, token, _ in known.cobalt.calls] == ["token-2"]


def test_piece_is_given_up_when_its_day_is_over(known: World) -> None:
    known.clock.moment += timedelta(hours=25)

    run(a_work(0), a_work(1))

    assert known.cobalt.calls == []
    assert the_range(known).state is RangeState.FAILED
    assert {detail["error_code"] for kind, detail in known.bus.events if "Failed" in kind} == {
        "out_of_time"
    }


def test_nothing_is_fetched_when_the_range_has_ended(known: World) -> None:
    run(a_work(0), a_work(1))
    known.clock.moment += timedelta(hours=25)
    known.gathering.gather_soon(a_work().plan.range_id)
    calls = len(known.cobalt.calls)

    assert run(a_work(1)) == []
    assert len(known.cobalt.calls) == calls


@pytest.mark.parametrize("piece", [-1, 2])
def test_message_is_given_back_when_its_number_is_that_of_no_piece(
    known: World, piece: int
) -> None:
    work = json.loads(a_work().model_dump_json()) | {"piece": piece}

    assert run(json.dumps(work)) == ["0"]
    assert known.cobalt.calls == []


@pytest.mark.parametrize("kind", [RateLimited, UpstreamUnavailable])
def test_queue_rests_until_a_date_when_cobalt_names_one(
    known: World, kind: type[RateLimited | UpstreamUnavailable]
) -> None:
    known.cobalt.errors[TOKEN] = kind(retry_after="Thu, 02 Jan 2025 10:04:00 GMT")

    again = run(a_work())

    assert again == ["0"]
    assert known.ranges.paused_until() == MOMENT + timedelta(minutes=4)
    [(_, hidden)] = known.queue.hidden
    assert hidden == 240


@pytest.mark.parametrize(
    "retry_after",
    [None, "0", "Wed, 01 Jan 2025 10:00:00 GMT", "Wed, 32 Jan 2025 10:00:00 GMT"],
)
def test_queue_rests_briefly_when_cobalts_word_gives_no_later_time(
    known: World, retry_after: str | None
) -> None:
    known.cobalt.errors[TOKEN] = RateLimited(retry_after=retry_after)

    run(a_work())

    assert known.ranges.paused_until() == MOMENT + timedelta(seconds=30)
    [(_, hidden)] = known.queue.hidden
    assert 22 <= hidden <= 38


def test_shorter_word_does_not_end_a_longer_pause(known: World) -> None:
    known.ranges.pause(MOMENT + timedelta(minutes=10))

    run(a_work())
    known.ranges.pause(MOMENT + timedelta(minutes=1))

    assert known.cobalt.calls == []
    assert known.ranges.paused_until() == MOMENT + timedelta(minutes=10)


@pytest.mark.parametrize("error", [RequestRefused("no"), UpstreamUnanswered()])
def test_nothing_is_fetched_again_when_its_request_has_come_to_nothing(
    known: World, error: Exception
) -> None:
    """Refused, or never answered and expired since: the message may still come once more."""
    known.cobalt.errors[TOKEN] = error
    run(a_work())
    known.cobalt.errors.clear()
    for _ in range(4):
        known.clock.moment += timedelta(hours=1)
        known.reconcile_jobs.run(lambda: 180.0)

    again = run(a_work())

    assert (again, len(known.cobalt.calls)) == ([], 1)


def test_piece_is_given_up_when_the_token_of_its_connection_is_gone(known: World) -> None:
    known.connections.tokens.clear()

    again = run(a_work())

    assert (again, known.cobalt.calls) == ([], [])
    assert the_range(known).pieces[0].error_code == "unknown_connection"


def test_piece_is_given_up_when_its_heirs_have_no_end(known: World) -> None:
    names = [CONNECTION, *(known.connections.add(f"heir-{number}") for number in range(MOST_HEIRS))]
    for former, heir in pairwise(names):
        known.connections.hand_over(former, heir)

    again = run(a_work())

    assert (again, known.cobalt.calls) == ([], [])
    assert the_range(known).pieces[0].error_code == "unknown_connection"


def test_suspended_heir_is_not_fetched_when_the_former_is_named(known: World) -> None:
    heir = known.connections.add("token-2")
    known.connections.hand_over(CONNECTION, heir)
    connection = known.connections.get(heir)
    assert connection
    known.connections.suspend(connection, "event", known.clock(), known.clock())

    run(a_work())

    assert known.cobalt.calls == []
    assert the_range(known).pieces[0].error_code == "login_required"


def test_piece_is_told_once_when_it_is_given_up_twice(known: World) -> None:
    known.connections.remove(CONNECTION)

    run(a_work())
    run(a_work())

    assert len({detail["event_id"] for _, detail in known.bus.events}) == 1


@pytest.mark.parametrize("call", ["get", "paused_until", "create", "note_piece"])
def test_message_comes_again_when_a_row_cannot_be_had(known: World, call: str) -> None:
    known.ranges.fail(call, TableFault())

    first, later = run(a_work()), run(a_work())

    assert (first, later, len(known.cobalt.calls)) == (["0"], [], 1)


def test_message_comes_again_when_it_cannot_be_put_off(known: World) -> None:
    known.queue.fail("put_off", QueueFault())

    assert run(a_work(not_before=MOMENT + timedelta(minutes=1))) == ["0"]
    assert known.queue.sent == []


def test_message_comes_again_when_something_unforeseen_happens(
    known: World, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], str]
) -> None:
    def crash(*_: object) -> None:
        raise KeyError("patient 4711")

    monkeypatch.setattr(known.ranges, "get", crash)

    assert run(a_work()) == ["0"]
    assert "4711" not in logged()


# --------------------------------------------------------------------------- others' fetches, answers


def test_piece_waits_for_its_own_answer_when_an_equal_fetch_got_none(known: World) -> None:
    known.cobalt.errors[TOKEN] = UpstreamUnanswered()
    with pytest.raises(UpstreamUnanswered):
        known.fetch_appointments.start(TOKEN, a_work().fetch, request_id="another's", trigger="api")
    known.cobalt.errors.clear()

    again = run(a_work())
    [waiting] = known.queue.sent
    known.clock.moment = waiting.not_before + LEASE
    run(waiting)

    assert again == []
    assert [job.range_id for job in known.jobs.jobs.values()] == [a_work().plan.range_id]


def test_piece_asks_itself_when_an_equal_fetch_is_refused_while_it_waits(
    known: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = a_work().fetch
    other = Request(
        request_id="another's",
        connection_id=CONNECTION,
        trigger="schedule",
        search_by="date_range",
        window=fetch.window,
        fingerprint=fetch.fingerprint(TOKEN),
        requested_at=known.clock(),
    )
    known.jobs.record_request(other, Hold("FLIGHT", other.fingerprint, MOMENT + timedelta(days=1)))

    def is_refused_meanwhile(_: float) -> None:
        error = AccessForbidden("Account link expired.", error="login_required")
        known.clock.moment += timedelta(seconds=1)
        known.jobs.close_request(other, RequestState.FAILED, error, known.clock())

    monkeypatch.setattr(known.fetch_appointments, "_sleep", is_refused_meanwhile)

    run(a_work())
    [waiting] = known.queue.sent
    known.clock.moment += timedelta(minutes=1)
    run(waiting)

    assert len(known.jobs.jobs) == 1


def test_nothing_is_fetched_again_when_the_job_that_it_joined_has_ended(known: World) -> None:
    known.fetch_appointments.start(TOKEN, a_work().fetch, request_id="another's", trigger="api")
    run(a_work())
    end(known, "job_1")
    known.clock.moment += timedelta(minutes=15)

    again = run(a_work())

    assert (again, len(known.cobalt.calls)) == ([], 1)
    assert the_range(known).pieces[0].job_execution_id == "job_1"


def test_robot_stays_with_a_piece_when_a_callers_fetch_has_ended(known: World) -> None:
    run(a_work(0))
    other_days = FetchRequest(window=Window.parse("2025-03-01", "2025-03-03"))
    known.fetch_appointments.start(TOKEN, other_days, request_id="r1", trigger="api")
    end(known, "job_2")

    run(a_work(1))

    assert len(known.cobalt.calls) == 2
    assert len(put_off(known)) == 1


def test_pieces_have_one_place_less_when_a_caller_fetches(
    known: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known.run_fetches, "_robots", 2)
    other_days = FetchRequest(window=Window.parse("2025-03-01", "2025-03-03"))
    known.fetch_appointments.start(TOKEN, other_days, request_id="r1", trigger="api")

    run(a_work(0), a_work(1))

    assert len(known.cobalt.calls) == 2
    assert [work.piece for work in known.queue.sent] == [1]


def test_robot_is_looked_for_less_often_when_it_stays_busy(known: World) -> None:
    run(a_work(0))
    message = a_work(1)
    pauses = []
    for _ in range(7):
        known.queue.sent.clear()
        run(message)
        pauses += put_off(known)
        [message] = known.queue.sent
        message = message.model_copy(update={"not_before": MOMENT})

    steps = [30, 60, 120, 240, 480, 480, 480]
    assert all(0.75 * step <= each <= 1.5 * step for step, each in zip(steps, pauses, strict=True))


def test_range_ends_within_a_minute_when_its_last_webhook_overtakes_the_202(
    known: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(a_work(0))
    end(known, "job_1")
    fetch = known.cobalt.fetch_appointments

    def overtaken(*arguments: Any) -> str:
        job_id = str(fetch(*arguments))
        event = {"id": "evt_early", "type": LIVE_FETCH_COMPLETED, "job_id": job_id}
        said = {"timestamp": known.clock().isoformat(), "data": {"appointments": []}}
        body = json.dumps(event | said).encode()
        known.receive_webhook.receive(body, sign(body))
        return job_id

    monkeypatch.setattr(known.cobalt, "fetch_appointments", overtaken)

    run(a_work(1))
    known.clock.moment += timedelta(minutes=1)
    known.reconcile_jobs.run(lambda: 180.0)

    assert the_range(known).state is RangeState.COMPLETED


# ------------------------------------------------------------------------------------ what is over


def test_end_of_a_piece_stays_when_its_connection_is_suspended_before_it_comes_twice(
    known: World,
) -> None:
    run(a_work())
    end(known, "job_1")
    known.clock.moment += timedelta(minutes=15)
    known.standing.failed(CONNECTION, "login_required", "event", known.clock())
    before = list(known.bus.events)

    again = run(a_work())

    assert again == []
    assert known.bus.events == before
    assert the_range(known).pieces[0].error_code is None


def test_message_stays_a_failure_when_its_tries_are_spent_and_its_range_is_over(
    known: World,
) -> None:
    run(a_work(0))
    end(known, "job_1")
    known.cobalt.errors[TOKEN] = RateLimited(retry_after="60")
    answers = []
    for _ in range(MOST_ATTEMPTS + 2):
        answers.append(run(a_work(1)))
        known.clock.moment += timedelta(minutes=20)

    assert the_range(known).state is RangeState.PARTIAL
    assert answers == [["0"]] * len(answers)


def test_piece_has_failed_when_it_is_refused_at_its_last_receive(known: World) -> None:
    known.cobalt.errors[TOKEN] = UpstreamUnavailable()

    lambda_handler(queue_event(a_work(), receives=MOST_RECEIVES), LambdaContextStub())
    known.reconcile_jobs.run(lambda: 180.0)

    [(kind, detail)] = known.bus.events
    assert (kind, detail["error_code"]) == ("Appointment Fetch Failed", "upstream_unavailable")


def test_queue_rests_when_nobody_can_reach_cobalt(known: World) -> None:
    known.cobalt.errors[TOKEN] = UpstreamUnreachable()

    first = run(a_work(0))
    other = run(a_work(1))

    assert (first, other) == (["0"], [])
    assert len(known.cobalt.calls) == 1
    assert len(put_off(known)) == 1


def test_token_is_read_anew_when_its_connection_is_not_there(known: World) -> None:
    known.connections.remove(CONNECTION)
    known.connections.tokens[CONNECTION] = TOKEN

    run(a_work(trigger="range"))

    assert known.connections.read_anew == [CONNECTION]
