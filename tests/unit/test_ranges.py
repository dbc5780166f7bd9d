"""Ranges: how they are cut, accepted, gathered, read, and what the reconciler does with them."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from threading import Barrier, Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cobalt_relay.errors import (
    AccessForbidden,
    AccessTokenRefused,
    BusFault,
    QueueFault,
    TableFault,
    UpstreamUnanswered,
)
from cobalt_relay.models import (
    FetchRange,
    RangeRequest,
    RangeState,
    Window,
    connection_id_of,
    in_days,
)
from functions.fetch_appointments.handler import lambda_handler as fetch
from functions.read_appointments.handler import lambda_handler as read
from functions.run_fetches.handler import lambda_handler as run_fetches
from tests.unit.conftest import (
    HEADERS,
    LambdaContextStub,
    World,
    body_of,
    header,
    job_event,
    queue_event,
    range_event,
)
from tests.unit.fakes import FakeRanges, FakeTable

DAYS = {"start_date": "2025-01-06", "end_date": "2025-01-15"}
CONNECTION = connection_id_of("token-1")


def ask(body: Any = DAYS, **headers: str) -> dict[str, Any]:
    answer: dict[str, Any] = fetch(range_event(body, {**HEADERS, **headers}), LambdaContextStub())
    return answer


def accepted(world: World, body: Any = DAYS) -> str:
    world.connections.add("token-1")
    return str(body_of(ask(body))["job_execution_id"])


def work_off(world: World) -> None:
    """Let each message come that waits, in its turn, and each job report at once."""
    while world.queue.sent:
        work = world.queue.sent.pop(0)
        world.clock.moment = max(world.clock.moment, work.not_before)
        run_fetches(queue_event(work), LambdaContextStub())
        for job in list(world.jobs.jobs.values()):
            if job.state == "ACCEPTED" and job.job_execution_id not in world.silent:
                world.deliver(job.job_execution_id, world.said.get(job.job_execution_id))


def the_range(world: World) -> FetchRange:
    [found] = world.ranges.ranges.values()
    return found


def kinds(world: World) -> list[str]:
    return [kind for kind, _ in world.bus.events]


# --------------------------------------------------------------------------------------- its pieces


@given(st.dates(datetime(2020, 1, 1).date(), datetime(2030, 1, 1).date()), st.integers(2, 367))  # noqa: DTZ001
def test_pieces_cover_the_days_and_fit_either_reading_of_seven(start: Any, days: int) -> None:
    window = in_days(start, 0, days)

    pieces = [each.window or window for each in RangeRequest(window=window).pieces]

    assert pieces[0].start_date == window.start_date
    assert pieces[-1].end_date == window.end_date
    for piece, following in pairwise(pieces):
        assert following.start_date - piece.end_date == timedelta(days=1)
    assert {2, *range(2, 8)} >= {piece.days_between + 1 for piece in pieces}
    assert len(pieces) == -(-days // 7)


@given(st.integers(1, 60), st.lists(st.integers(0, 99), min_size=1, max_size=30, unique=True))
def test_pieces_by_provider_cover_each_provider_on_each_day(
    days: int, providers: list[int]
) -> None:
    window = in_days(datetime(2025, 1, 1, tzinfo=UTC).date(), 0, days)
    request = RangeRequest(search_by="provider", window=window, provider_ids=tuple(providers))

    seen = set()
    for piece in request.pieces:
        assert piece.window
        assert len(piece.provider_ids) <= 10
        assert piece.window.days_between + 1 <= 5
        assert len(piece.provider_ids) == 1 or piece.window.days_between == 0
        for day in range(piece.window.days_between + 1):
            for provider in piece.provider_ids:
                where = (piece.window.start_date + timedelta(days=day), provider)
                assert where not in seen
                seen.add(where)

    assert len(seen) == days * len(providers)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "Missing required parameters: start_date, end_date."),
        ({**DAYS, "end_date": "soon"}, "Invalid date format. Use ISO format (YYYY-MM-DD)."),
        ({**DAYS, "end_date": "2025-01-06"}, "end_date must be after start_date."),
        ({**DAYS, "end_date": "2026-01-08"}, "Date range cannot exceed 366 days."),
        ({**DAYS, "search_by": "mrn"}, "search_by must be one of: date_range, provider."),
        ({**DAYS, "search_by": "provider"},
         "Missing required parameters: provider_ids, start_date, end_date."),
        ({**DAYS, "search_by": "provider", "provider_ids": [1.5]},
         "provider_ids must be a list of 1 to 90 provider ids."),
        ({**DAYS, "search_by": "provider", "provider_ids": [1], "end_date": "2025-01-05"},
         "end_date must be after start_date."),
        ({"start_date": "2025-01-01", "end_date": "2025-12-31", "search_by": "provider",
          "provider_ids": list(range(20))},
         "The range has too many pieces: at most 400 fetches of one day or more each."),
    ],
)  # fmt: skip
def test_400_when_a_range_is_none(world: World, body: Any, message: str) -> None:
    answer = ask(body)

    assert (answer["statusCode"], body_of(answer)["message"]) == (400, message)
    assert (world.queue.sent, world.jobs.table.items) == ([], {})


@pytest.mark.parametrize("days", ["2025-01-07", "2026-01-07"])
def test_202_when_a_range_is_short_or_a_year(world: World, days: str) -> None:
    answer = ask({**DAYS, "end_date": days})

    assert answer["statusCode"] == 202
    assert body_of(answer)["pieces"] == len(world.queue.sent)


# ------------------------------------------------------------------------------------- its acceptance


def test_range_is_on_record_and_queued_when_it_is_accepted(world: World) -> None:
    answer = ask()

    body = body_of(answer)
    found = the_range(world)
    assert (answer["statusCode"], body["success"], body["pieces"]) == (202, True, 2)
    assert body["job_execution_id"] == found.plan.range_id
    assert (found.queued, found.request_id) == (True, header(answer, "x-request-id"))
    assert [work.piece for work in world.queue.sent] == [0, 1]
    assert world.connections.tokens == {CONNECTION: "token-1"}
    assert world.cobalt.calls == []


@pytest.mark.parametrize("missing", ["client_id", "client_secret", "access_token"])
def test_401_when_a_header_is_missing(world: World, missing: str) -> None:
    headers = {name: value for name, value in HEADERS.items() if name != missing}

    answer = fetch(range_event(DAYS, headers), LambdaContextStub())

    assert answer["statusCode"] == 401
    assert world.queue.sent == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (AccessTokenRefused(), 401),
        (AccessForbidden("no", error="login_required"), 403),
        (UpstreamUnanswered(), 504),
    ],
)
def test_token_is_shown_to_cobalt_when_it_is_new(world: World, error: Any, status: int) -> None:
    world.cobalt.fail("settings_of", error, error)

    answer = ask()

    assert answer["statusCode"] == status
    assert (world.queue.sent, world.jobs.table.items, world.connections.tokens) == ([], {}, {})


def test_cobalt_is_not_asked_when_the_connection_is_registered(world: World) -> None:
    world.connections.add("token-1")
    world.cobalt.fail("settings_of", AccessTokenRefused())

    assert ask()["statusCode"] == 202


def test_same_range_answers_when_the_key_comes_again(world: World) -> None:
    first, again = ask(**{"Idempotency-Key": "k"}), ask(**{"Idempotency-Key": "k"})

    assert body_of(first) == body_of(again)
    assert len(world.queue.sent) == 2


def test_422_when_the_key_comes_with_other_days(world: World) -> None:
    ask(**{"Idempotency-Key": "k"})

    assert ask({**DAYS, "end_date": "2025-01-16"}, **{"Idempotency-Key": "k"})["statusCode"] == 422


def test_another_range_is_made_when_there_is_no_key(world: World) -> None:
    assert body_of(ask())["job_execution_id"] != body_of(ask())["job_execution_id"]


def test_503_when_the_queue_fails_and_the_repetition_finishes_it(world: World) -> None:
    world.queue.fail("send", QueueFault())
    first = ask(**{"Idempotency-Key": "k"})

    again = ask(**{"Idempotency-Key": "k"})

    assert (first["statusCode"], again["statusCode"]) == (503, 202)
    assert len(world.ranges.ranges) == 1
    assert len(world.queue.sent) == 2


def test_reconciler_queues_a_range_whose_caller_never_came_again(world: World) -> None:
    world.queue.fail("send", QueueFault())
    ask()
    world.clock.moment += timedelta(minutes=3)

    world.reconcile_jobs.run(lambda: 180.0)

    assert len(world.queue.sent) == 2
    assert the_range(world).queued


# ------------------------------------------------------------------------------------------ its end


def test_range_completes_with_one_event_when_every_piece_has(world: World) -> None:
    range_id = accepted(world)

    work_off(world)

    found = the_range(world)
    assert found.state is RangeState.COMPLETED
    assert kinds(world) == ["Appointments Fetched"] * 2 + ["Appointment Range Completed"]
    detail = world.bus.events[-1][1]
    assert (detail["job_execution_id"], detail["status"]) == (range_id, "COMPLETED")
    assert (detail["piece_count"], detail["completed_count"]) == (2, 2)
    assert (detail["appointment_count"], detail["error_codes"]) == (4, [])
    assert found.notification == "sent"


def test_range_is_partial_when_a_piece_fails(world: World) -> None:
    accepted(world)
    world.said["job_2"] = {"success": False, "error": "emr_down"}

    work_off(world)

    detail = world.bus.events[-1][1]
    assert (detail["status"], detail["completed_count"]) == ("PARTIAL", 1)
    assert detail["error_codes"] == ["emr_down"]


def test_range_is_partial_when_a_piece_expires(world: World) -> None:
    accepted(world)
    world.silent.add("job_2")
    work_off(world)
    assert the_range(world).state is RangeState.ACCEPTED
    world.clock.moment += timedelta(hours=3)

    world.reconcile_jobs.run(lambda: 180.0)

    assert the_range(world).state is RangeState.PARTIAL
    assert kinds(world)[-2:] == ["Appointment Fetch Expired", "Appointment Range Completed"]


def test_range_ends_when_a_piece_is_found_by_a_poll(world: World) -> None:
    accepted(world)
    world.silent.add("job_2")
    work_off(world)
    world.record("job_2")
    world.clock.moment += timedelta(minutes=2)

    world.reconcile_jobs.run(lambda: 180.0)

    assert the_range(world).state is RangeState.COMPLETED


def test_range_fails_when_its_pieces_never_began(world: World) -> None:
    accepted(world)
    world.clock.moment += timedelta(hours=25)

    world.reconcile_jobs.run(lambda: 180.0)

    assert the_range(world).state is RangeState.FAILED
    assert world.bus.events[-1][1]["error_codes"] == ["out_of_time"]


def test_range_is_gathered_later_when_its_last_webhook_could_not(world: World) -> None:
    accepted(world)
    world.ranges.fail("end", *[TableFault()] * 3)
    work_off(world)
    assert the_range(world).state is RangeState.ACCEPTED
    world.ranges.fail("end")
    world.clock.moment += timedelta(minutes=11)

    world.reconcile_jobs.run(lambda: 180.0)

    assert the_range(world).state is RangeState.COMPLETED


def test_event_is_sent_later_when_the_bus_failed(world: World) -> None:
    accepted(world)
    publish = world.bus.publish

    def fail_for_ranges(event: Any) -> None:
        if event.detail_type == "Appointment Range Completed":
            raise BusFault
        publish(event)

    world.bus.publish = fail_for_ranges  # type: ignore[method-assign]
    work_off(world)
    world.bus.publish = publish  # type: ignore[method-assign]
    world.clock.moment += timedelta(minutes=2)

    world.reconcile_jobs.run(lambda: 180.0)

    assert kinds(world).count("Appointment Range Completed") == 1
    assert the_range(world).notification == "sent"


def test_one_event_is_sent_when_two_gather_at_once(world: World) -> None:
    accepted(world)
    world.ranges.fail("end", *[TableFault()] * 3)
    work_off(world)
    world.ranges.fail("end")
    found, both = the_range(world), Barrier(2)

    def gather() -> None:
        both.wait()
        world.gathering.gather(found)

    threads = [Thread(target=gather) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert kinds(world).count("Appointment Range Completed") == 1


# ------------------------------------------------------------------------------------- how it is read


def test_200_with_its_pieces_when_a_range_is_read(world: World) -> None:
    range_id = accepted(world)
    world.silent.add("job_2")
    work_off(world)

    answer = read(job_event(range_id), LambdaContextStub())

    body = body_of(answer)
    assert (answer["statusCode"], header(answer, "Retry-After")) == (200, "30")
    assert (body["status"], body["appointment_count"]) == ("ACCEPTED", 2)
    assert [each["status"] for each in body["pieces"]] == ["COMPLETED", "ACCEPTED"]
    assert [each["job_execution_id"] for each in body["pieces"]] == ["job_1", "job_2"]
    assert body["pieces"][0]["window"] == {"start_date": "2025-01-06", "end_date": "2025-01-10"}


def test_200_without_retry_after_when_the_range_has_ended(world: World) -> None:
    range_id = accepted(world)
    work_off(world)

    answer = read(job_event(range_id), LambdaContextStub())

    assert header(answer, "Retry-After") is None
    assert body_of(answer)["status"] == "COMPLETED"


def test_same_404_when_it_is_anothers_range_as_when_there_is_none(world: World) -> None:
    range_id = accepted(world)
    stranger = {**HEADERS, "access_token": "token-2"}

    answers = [
        read(job_event(each, headers), LambdaContextStub())
        for each, headers in (
            (range_id, stranger),
            ("range_" + "0" * 32, HEADERS),
            (range_id, {**HEADERS, "client_secret": "wrong"}),
        )
    ]

    assert {answer["statusCode"] for answer in answers} == {404}
    assert len({json.dumps(body_of(answer)) for answer in answers}) == 1


def test_404_when_the_time_of_the_range_is_over(world: World) -> None:
    range_id = accepted(world)
    world.clock.moment += timedelta(days=31)

    assert read(job_event(range_id), LambdaContextStub())["statusCode"] == 404


def test_window_has_equal_parts() -> None:
    window = Window.parse("2025-01-01", "2025-01-08")

    assert [part.days_between + 1 for part in window.parts(7)] == [4, 4]


def test_range_outlives_its_deadline_when_results_are_kept_for_a_day(world: World) -> None:
    """Its end is announced at the deadline, maybe later: the row must be there then."""
    accepted(world)
    found = the_range(world)
    ranges = FakeRanges(FakeTable(), retention=timedelta(days=1))

    ranges.create(found)

    a_day_later = found.plan.deadline + timedelta(days=1)
    assert ranges.get(found.plan.range_id, a_day_later)
    assert not ranges.get(found.plan.range_id, a_day_later + timedelta(days=1))
