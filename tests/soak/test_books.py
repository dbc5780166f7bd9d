"""The comparison complains about whatever does not hold: a soak that cannot fail shows nothing."""

import copy
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from tests.soak.books import (
    Answer,
    Books,
    Brought,
    Day,
    Digest,
    Json,
    behind,
    differences,
    numbers,
    unshown,
)

CONNECTION = "conn_1"
DAYS = [(f"2025-01-{day:02d}", f"2025-01-{day + 1:02d}") for day in range(1, 29)]

RESULT = Digest("a" * 64, 1_000)
FAILURE = Digest("f" * 64, 100)
LATE = Digest("b" * 64, 50)


def window(index: int) -> Json:
    start, end = DAYS[index]
    return {"start_date": start, "end_date": end}


def sandbox_job(index: int, state: str, event_id: str | None, count: int | None = None) -> Json:
    return {
        "id": f"job_{index}",
        "clinic": "riverside",
        **window(index),
        "state": state,
        "event_id": event_id,
        "appointment_count": count,
        "faults": [],
    }


def request(index: int, state: str, job_id: str | None = None) -> Json:
    row = {
        "pk": f"REQUEST#req_{index}",
        "request_id": f"req_{index}",
        "connection_id": CONNECTION,
        "window": window(index),
        "state": state,
    }
    return row | ({"job_execution_id": job_id} if job_id else {})


def job(index: int, state: str, event_id: str | None, via: str, digest: Digest | None) -> Json:
    row: Json = {
        "pk": f"JOB#job_{index}",
        "job_execution_id": f"job_{index}",
        "state": state,
        "connection_id": CONNECTION,
        "request_id": f"req_{index}",
        "window": window(index),
        "accepted_at": "2025-02-01T10:00:00.000Z",
    }
    if digest:
        row["seconds_to_completion"] = Decimal("4.0")
        row["completion"] = {
            "cobalt_event_id": event_id,
            "body_sha256": digest.sha256,
            "delivered_via": via,
            "completed_at": "2025-02-01T10:00:04.000Z",
            **({"error_code": "emr_record_locked"} if state == "FAILED" else {}),
            "appointment_count": 12 if state == "COMPLETED" and event_id != "evt_late" else 0,
            "result": {"bucket": "results", "key": f"appointments/job_{index}.json"},
        }
    return row


def event(detail_type: str, row: Json, event_id: str) -> Json:
    completion = row.get("completion", {})
    return {
        "detail-type": detail_type,
        "detail": {
            "event_id": event_id,
            "job_execution_id": row.get("job_execution_id"),
            "request_id": row["request_id"],
            "connection_id": CONNECTION,
            "window": row["window"],
            "delivered_via": completion.get("delivered_via"),
            "result": completion.get("result"),
            "seconds_to_completion": 4.0 if completion else None,
        },
    }


def answer(index: int, status: int, job_id: str | None = None, *, key: bool = False) -> Answer:
    return Answer(
        order=index,
        matter=(CONNECTION, *DAYS[index]),
        has_key=key,
        status=status,
        message="…",
        request_id=f"req_{index}",
        job_id=job_id,
        is_joined=False,
        seconds=0.1,
    )


def call(index: int, status: int | None, fault: str | None = None) -> Json:
    return {"clinic": "riverside", "body": window(index), "status": status, "fault": fault}


@pytest.fixture
def books() -> Books:
    """Books that agree.

    Job 0 came by webhook, twice; 1 failed and was polled; 2 stayed silent; 3 was found by the
    sweep; 4 came late; request 5 was never answered and never ran; job 6 was asked for twice under
    one key; job 7 stayed silent, and its call was never answered.
    """
    jobs = [
        job(0, "COMPLETED", "evt_0", "webhook", RESULT),
        job(1, "FAILED", "evt_1", "poll", FAILURE),
        job(2, "EXPIRED", None, "", None),
        job(3, "COMPLETED", "evt_3", "sweep", RESULT),
        job(4, "COMPLETED", "evt_late", "poll", LATE) | {"expired_at": "2025-02-01T09:00:00.000Z"},
        job(6, "COMPLETED", "evt_6", "webhook", RESULT),
    ]
    never = [request(index, "EXPIRED") for index in (7, 5)]
    fetched, expired = "Appointments Fetched", "Appointment Fetch Expired"
    return Books(
        answers=[
            *(answer(index, 202, f"job_{index}") for index in (0, 1, 2, 4)),
            *(answer(index, 504) for index in (3, 5, 7)),
            *(answer(6, 202, "job_6", key=True) for _ in range(2)),
        ],
        sandbox_jobs=[
            sandbox_job(0, "completed", "evt_0", 12),
            sandbox_job(1, "failed", "evt_1"),
            sandbox_job(2, "silent", None),
            sandbox_job(3, "completed", "evt_3", 12),
            sandbox_job(4, "silent", None),
            sandbox_job(6, "completed", "evt_6", 12),
            sandbox_job(7, "silent", None),
        ],
        calls=[
            *(call(index, 202) for index in (0, 1, 2, 4, 6)),
            *(call(index, None, "hang") for index in (3, 5, 7)),
        ],
        deliveries=[
            {"job_id": "job_0", "response_status": 200},
            {"job_id": "job_0", "response_status": 200},
            {"job_id": "job_6", "response_status": 200},
            {"job_id": "job_1", "response_status": None},
        ],
        connections={"riverside": CONNECTION},
        sent={
            **dict.fromkeys(("evt_0", "evt_3", "evt_6"), RESULT),
            "evt_1": FAILURE,
            "evt_late": LATE,
        },
        requests=[
            *(request(index, "ACCEPTED", f"job_{index}") for index in (0, 1, 2, 3, 4, 6)),
            *never,
        ],
        jobs=jobs,
        stored={
            **dict.fromkeys(("job_0", "job_3", "job_6"), RESULT),
            "job_1": FAILURE,
            "job_4": LATE,
        },
        due=[{"pk": "JOB#job_2", "state": "EXPIRED"}],
        events=[
            event(fetched, jobs[0], "id_0"),
            event(fetched, jobs[0], "id_0"),
            event("Appointment Fetch Failed", jobs[1], "id_1"),
            event(expired, jobs[2], "id_2"),
            event(fetched, jobs[3], "id_3"),
            event(expired, job(4, "EXPIRED", None, "", None), "id_4"),
            event(fetched, jobs[4], "id_4_late"),
            event(fetched, jobs[5], "id_6"),
            *(event(expired, each, f"id_{each['request_id']}") for each in never),
        ],
        late={"job_4": "evt_late"},
    )


def test_nothing_is_said_when_the_books_agree(books: Books) -> None:
    assert differences(books) == []


def drop_row(books: Books) -> None:
    books.jobs = books.jobs[1:]


def drop_object(books: Books) -> None:
    books.stored = {job: digest for job, digest in books.stored.items() if job != "job_3"}


def change_object(books: Books) -> None:
    books.stored = {**books.stored, "job_3": replace_length(RESULT)}


def replace_length(digest: Digest) -> Digest:
    return Digest("c" * 64, digest.length)


def set_row(index: int, **changes: object) -> Callable[[Books], None]:
    def change(books: Books) -> None:
        books.jobs[index].update(changes)

    return change


def set_completion(index: int, **changes: object) -> Callable[[Books], None]:
    def change(books: Books) -> None:
        books.jobs[index]["completion"].update(changes)

    return change


def set_request(index: int, **changes: object) -> Callable[[Books], None]:
    def change(books: Books) -> None:
        books.requests[index].update(changes)

    return change


def drop_event(books: Books) -> None:
    books.events = books.events[2:]


def drop_event_of_request(books: Books) -> None:
    books.events = books.events[:-1]


def rename_event(books: Books) -> None:
    books.events[1]["detail"]["event_id"] = "another"


def misplace_event(books: Books) -> None:
    books.events[0]["detail"]["result"] = {"bucket": "results", "key": "elsewhere"}


def announce_stranger(books: Books) -> None:
    books.events[0]["detail"]["job_execution_id"] = "job_x"


def send_again(books: Books) -> None:
    books.calls = [*books.calls, call(3, 202)]


def run_again(books: Books) -> None:
    twin = sandbox_job(3, "completed", "evt_3", 12) | {"id": "job_3b"}
    books.sandbox_jobs = [*books.sandbox_jobs, twin]


def hear_of_silent_job(books: Books) -> None:
    books.calls = [call(7, 202) if each == call(7, None, "hang") else each for each in books.calls]


def fail(books: Books) -> None:
    books.dead_letters = 2


def leave_due(books: Books) -> None:
    books.due = [*books.due, {"pk": "EVENT#evt_9"}]


def leave_announcement(books: Books) -> None:
    books.due = [{"pk": "JOB#job_2", "state": "EXPIRED", "notification": "open"}]


def name_another_job(books: Books) -> None:
    books.requests[0]["job_execution_id"] = "job_1"


def forget_event(books: Books) -> None:
    books.sent = {name: digest for name, digest in books.sent.items() if name != "evt_0"}


def refuse(books: Books) -> None:
    books.answers = [replace(books.answers[0], status=500), *books.answers[1:]]


def promise_stranger(books: Books) -> None:
    books.answers = [replace(books.answers[0], job_id="job_1"), *books.answers[1:]]


def give_key_two_jobs(books: Books) -> None:
    books.answers = [*books.answers[:-1], replace(books.answers[-1], job_id="job_7")]


def name_unknown_request(books: Books) -> None:
    books.answers = [replace(each, request_id="req_x") for each in books.answers]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (drop_row, "job job_0 (completed): no row."),
        (drop_object, "job job_3: its result of 1000 bytes is not in S3."),
        (change_object, "job job_3: the object is not what Cobalt sent"),
        (forget_event, "job job_0: the sandbox has forgotten event evt_0"),
        (set_row(0, state="ACCEPTED"), "job job_0: state is 'ACCEPTED', at Cobalt 'COMPLETED'."),
        (set_row(0, window=window(9)), "job job_0: first day is '2025-01-10'"),
        (set_row(0, connection_id="conn_2"), "job job_0: connection is 'conn_2'"),
        (set_row(0, expired_at="2025-02-01T09:00:00.000Z"), "job job_0: said to be late is True"),
        (set_row(0, seconds_to_completion=Decimal(3)), "job job_0: took 4.000 s, but its row says"),
        (set_completion(1, error_code="other"), "job job_1: error code is 'other'"),
        (set_row(0, request_id="req_9"), "names job job_0, whose row names request req_9."),
        (set_completion(0, cobalt_event_id="evt_9"), "job job_0: event is 'evt_9'"),
        (set_completion(0, appointment_count=11), "job job_0: count is 11, at Cobalt 12."),
        (set_completion(0, delivered_via="owl"), "job job_0: a known channel is False"),
        (set_completion(0, body_sha256="0"), "job job_0: its row has another digest"),
        (set_row(1, job_execution_id="job_x"), "job job_x: a row in state FAILED, but unknown"),
        (set_request(0, state="UNKNOWN"), "request req_0: still UNKNOWN."),
        (set_request(-1, state="FAILED"), "request req_5: FAILED, but there is no event"),
        (set_request(0, state="EXPIRED"), "request req_0: EXPIRED, but names job job_0."),
        (set_request(0, job_execution_id="job_1"), "job job_0: no request names it."),
        (set_request(1, job_execution_id="job_0"), "request req_1: names job job_0, as does"),
        (set_request(2, job_execution_id="job_9"), "there is no row of its job job_9."),
        (send_again, "sent to Cobalt 2 times for 1 request(s)."),
        (run_again, "2 job(s) at Cobalt, 1 accepted request(s)."),
        (hear_of_silent_job, "job job_7 (silent): no row."),
        (fail, "2 message(s) in the queues for failures."),
        (leave_due, "EVENT#evt_9: still due"),
        (drop_event, "job job_0: COMPLETED, but there is no event 'Appointments Fetched'."),
        (
            drop_event_of_request,
            "request req_5: EXPIRED, but there is no event 'Appointment Fetch Expired'.",
        ),
        (rename_event, "'Appointments Fetched' was announced under 2 event ids."),
        (misplace_event, "job job_0: its row and its event name another result."),
        (announce_stranger, "job job_x: announced as 'Appointments Fetched', but not ended so."),
        (refuse, "answer 500 to order 0: not accepted, unknown or refused"),
        (promise_stranger, "answer 202 to order 0: job job_1 is none of Cobalt's"),
        (name_another_job, "job job_0, but its request names another one."),
        (leave_announcement, "JOB#job_2: still due"),
        (give_key_two_jobs, "order 6: one key, but the jobs job_6, job_7."),
        (name_unknown_request, "request req_x is not on record."),
    ],
)
def test_difference_is_named_when_the_books_disagree(
    books: Books, change: Callable[[Books], None], complaint: str
) -> None:
    altered = copy.deepcopy(books)
    change(altered)

    said = differences(altered)

    assert any(complaint in each for each in said), said


def test_numbers_tell_what_happened(books: Books) -> None:
    counted = numbers(books)

    assert counted.states == {"COMPLETED": 4, "FAILED": 1, "EXPIRED": 1}
    assert counted.channels == {"webhook": 2, "poll": 2, "sweep": 1}
    assert (counted.duplicates, counted.repeated_events, counted.same_key) == (1, 1, 1)
    assert (counted.unknown_attached, counted.requests_expired, counted.late) == (1, 2, 1)
    assert counted.seconds_by_channel["webhook"] == (4.0, 4.0, 4.0)


def test_what_a_run_did_not_show_is_named_when_it_was_too_kind(books: Books) -> None:
    assert unshown(numbers(books)) == [
        "no fetch joined another",
        "no result was larger than a webhook can be",
    ]


# ---------------------------------------------------------------------------------------------- days

DAY = "2025-01-06"
NEWER = Brought(CONNECTION, 20.0, {DAY: frozenset({"a", "b"})})
OLDER = Brought(CONNECTION, 10.0, {DAY: frozenset({"a"})})
BROUGHT = {"job_old": OLDER, "job_new": NEWER}


@pytest.mark.parametrize(
    ("kept", "complaint"),
    [
        (Day("job_new", frozenset({"a", "b", "of a search"})), ""),
        (Day("job_old", frozenset({"a"})), "older"),
        (Day("job_new", frozenset({"a"})), "1 appointment(s) are missing"),
        (Day(None, frozenset({"a", "b"})), "not kept as a whole"),
        (None, "not kept as a whole"),
    ],
)
def test_day_is_complained_of_when_it_is_not_the_newest(kept: Day | None, complaint: str) -> None:
    days = {f"{CONNECTION} {DAY}": kept} if kept else {}

    found = " ".join(behind(BROUGHT, days))

    assert complaint in found
    assert bool(found) is bool(complaint)


def test_changes_are_complained_of_when_they_have_two_ids_or_no_success(books: Books) -> None:
    def changed(job_id: str, event_id: str) -> Json:
        return {"detail": {"job_execution_id": job_id, "part": 1, "event_id": event_id}}

    told = [changed("job_0", "1"), changed("job_0", "2"), changed("job_1", "3")]
    found = differences(replace(books, changes=told))

    assert len(found) == 2
    assert "2 event ids" in found[0] + found[1]
    assert "did not succeed" in found[0] + found[1]
