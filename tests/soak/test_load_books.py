"""The books of a run under load must tell whatever does not hold: else they show nothing."""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.soak.callers import Call
from tests.soak.load_books import (
    Job,
    LoadBooks,
    Phase,
    Sample,
    growth,
    problems,
    recovery,
    series,
    shortfalls,
)

STEADY = Phase("steady", 0.0, 300.0, 0.3, 1.0, "1 at once")
SLOW = Phase("slow", 300.0, 600.0, 3.0, 10.0, "1 a second")
RECOVERED = Phase("recovered", 600.0, 660.0, 0.3, 1.0, "1 at once")


def accepted(number: int) -> Call:
    return Call(number + 0.5, 0.4, 202, None, f"job_{number}", is_last=True)


def job(number: int) -> Job:
    return Job(
        id=f"job_{number}",
        state="COMPLETED",
        accepted_at=number + 0.4,
        completed_at=number + 1.4,
        via="webhook",
        is_announced=True,
        result_key=f"appointments/job_{number}.json",
        range_id=None,
    )


def sample(at: float, megabytes: float) -> Sample:
    return Sample(at, {7: ("FetchAppointments", megabytes)}, 100.0, 90.0, 2)


@pytest.fixture
def books() -> LoadBooks:
    """Books that agree: a fetch a second, of which each tenth is refused once while it is slow."""
    numbers = range(660)
    refused = [
        Call(at + 0.1, 0.01, 503 if at % 20 else 429, "1", None, is_last=False)
        for at in range(300, 600, 10)
    ]
    return LoadBooks(
        phases=[STEADY, SLOW, RECOVERED],
        calls=[*map(accepted, numbers), *refused],
        samples=[sample(float(at), 60.0) for at in range(0, 660, 5)],
        jobs={f"job_{number}": job(number) for number in numbers},
        sandbox_jobs=660,
        results=frozenset(f"appointments/job_{number}.json" for number in numbers),
        events=Counter(f"job_{number}" for number in numbers),
        ranges={"range_1": "COMPLETED"},
        before=1.0,
        after=1.0,
    )


def test_nothing_is_said_when_the_books_agree(books: LoadBooks) -> None:
    assert problems(books) + shortfalls(books) == []


def set_call(number: int, **changes: object) -> Callable[[LoadBooks], None]:
    def change(books: LoadBooks) -> None:
        calls = list(books.calls)
        calls[number] = replace(calls[number], **changes)  # type: ignore[arg-type]
        books.calls = calls

    return change


def set_job(number: int, **changes: object) -> Callable[[LoadBooks], None]:
    def change(books: LoadBooks) -> None:
        name = f"job_{number}"
        found = replace(books.jobs[name], **changes)  # type: ignore[arg-type]
        books.jobs = {**books.jobs, name: found}

    return change


def set_books(**changes: object) -> Callable[[LoadBooks], None]:
    def change(books: LoadBooks) -> None:
        for name, value in changes.items():
            setattr(books, name, value)

    return change


def drop_job(books: LoadBooks) -> None:
    books.jobs = {name: each for name, each in books.jobs.items() if name != "job_5"}


def drop_event(books: LoadBooks) -> None:
    del books.events["job_5"]


def refuse_nothing(books: LoadBooks) -> None:
    books.calls = [call for call in books.calls if call.status == 202]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (set_call(5, status=503, job_id=None), "steady: 1 calls were answered 503"),
        (set_call(310, status=504, job_id=None), "slow: 1 calls were answered 504"),
        (set_call(310, status=0, job_id=None), "slow: 1 calls were answered not at all"),
        (set_call(660, retry_after=None), "slow: 1 calls were refused without a Retry-After"),
        (set_call(5, job_id="job_4"), "two calls were answered with one job"),
        (refuse_nothing, "slow: nothing was shed"),
        (drop_job, "job_5: accepted, but has no row"),
        (drop_event, "job_5: no event tells of it"),
        (set_job(5, is_announced=False), "job_5: no event tells of it"),
        (set_job(5, state="ACCEPTED"), "job_5: ended ACCEPTED"),
        (set_job(5, result_key="elsewhere"), "job_5: its result is not in S3"),
        (set_job(5, range_id="range_1"), "660 calls were accepted, and there are 659 jobs"),
        (set_books(sandbox_jobs=661), "Cobalt ran 661 jobs, and there are rows of 660"),
        (set_books(ranges={"range_1": "FAILED"}), "range range_1: ended FAILED"),
        (set_books(dead_letters=1), "1 messages in the queues for failures"),
        (set_books(left_open=2), "2 rows are still due"),
        (set_books(queued_at_the_end=3), "3 messages are queued"),
        (set_books(errors=["boom"]), "Logged as an error: boom"),
        (set_books(after=0.89), "after the slow phase 0.9 fetches a second, before 1.0"),
        (
            set_books(samples=[sample(float(at), 60.0 + at / 30) for at in range(0, 300, 5)]),
            "steady: workers of FetchAppointments grew to 1.09",
        ),
    ],
)
def test_difference_is_named_when_something_does_not_hold(
    books: LoadBooks, change: Callable[[LoadBooks], None], complaint: str
) -> None:
    altered = copy.deepcopy(books)
    change(altered)

    said = problems(altered) + shortfalls(altered)

    assert any(each.startswith(complaint) for each in said), said


def test_series_has_every_call_and_every_end_in_its_step(books: LoadBooks) -> None:
    steps = series(books)

    assert [step["at"] for step in steps] == list(range(0, 670, 10))
    assert sum(step["accepted"] for step in steps) == 660
    assert (steps[3]["accepted"], steps[3]["completed"], steps[3]["open_jobs"]) == (10, 10, 1)
    assert steps[30]["refused"] == {"429": 1}
    assert steps[31]["refused"] == {"503": 1}
    assert (steps[0]["phase"], steps[30]["phase"], steps[60]["phase"]) == (
        "steady",
        "slow",
        "recovered",
    )
    assert (steps[3]["latency_p50"], steps[3]["completion_p50"]) == (0.4, 1.0)
    assert steps[3]["worker_mb"] == {"FetchAppointments": 60.0}


def test_oldest_open_job_gets_older_when_it_does_not_end(books: LoadBooks) -> None:
    set_job(5, completed_at=None)(books)

    steps = series(books)

    assert [step["oldest_open_seconds"] for step in steps[1:4]] == [14.6, 24.6, 34.6]


def test_growth_is_of_workers_that_were_there_both_times(books: LoadBooks) -> None:
    newcomer = replace(books.samples[50], workers={8: ("FetchAppointments", 99.0)})

    found = growth([*books.samples, newcomer], STEADY)

    assert found["FetchAppointments"]["workers"] == 1
    assert found["FetchAppointments"]["ratio"] == 1.0
    assert growth(books.samples, RECOVERED) == {}


def test_recovery_begins_with_the_first_fast_step(books: LoadBooks) -> None:
    slow_at_first = [call for call in books.calls if not 600 <= call.at < 620]

    found = recovery(replace(books, calls=slow_at_first))

    assert found == {"before": 1.0, "after": 1.0, "ratio": 1.0, "seconds": 30}
