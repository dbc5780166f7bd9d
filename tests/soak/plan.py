"""What a soak sends, and what goes wrong meanwhile."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

CLINICS = ("riverside", "lakeside", "harbor", "mesa")
FIRST_MONDAY = date(2025, 1, 6)
SHAPES = ((4, 1), (5, 1), (6, 1), (4, 2), (5, 2))
"""Windows of a week, as days after its Monday and length: each has one working day at most, for the
sandbox keeps 256 MiB of events and a clinic's working day weighs up to 150 kB, twice."""
LONG_SHAPE = (0, 3)
LONG_WEEKS = 5
"""Every so many weeks has a longer window too."""

PROVIDER_EVERY, KEY_EVERY, SAME_KEY_EVERY, TWIN_EVERY = 11, 9, 27, 13
"""Every so many orders. None divides by the number of clinics, so that each has its turn."""

ASKS_AGAIN_EVERY = 2

LISTING = "/v1/webhook-events"

type Fault = Mapping[str, Any]


@dataclass(frozen=True)
class Order:
    """One fetch. No other order of a run has its clinic and window.

    So many `callers` send it at the same moment: under one key, or without any. One that
    `asks_again` does so where it is not told whether the fetch was started.
    """

    clinic: str
    body: Mapping[str, object]
    key: str | None = None
    callers: int = 1
    asks_again: bool = False


@dataclass(frozen=True)
class Scale:
    """How much is sent, by how many callers at once, and with which faults of the sandbox."""

    fetches: int
    callers: int
    faults: tuple[Fault, ...]


SURE_FAULTS: tuple[Fault, ...] = (
    # Those that hang come first, so that their 21 s pass while the others run.
    {"fault": "hang", "clinic": "riverside", "count": 2},
    {"fault": "hang", "clinic": "lakeside", "count": 1},
    {"fault": "hang", "clinic": "mesa", "count": 1, "accepted": False},
    {"fault": "lost", "clinic": "riverside", "count": 6},
    {"fault": "duplicated", "clinic": "lakeside", "count": 4, "together": True},
    {"fault": "early", "clinic": "harbor", "count": 6},
    {"fault": "silent", "clinic": "mesa", "count": 3},
    {"fault": "failed", "clinic": "lakeside", "count": 2},
)
"""Faults that befall even a short run, each by its number."""


def full(fetches: int) -> Scale:
    """Give the run of `make soak`: the sure faults, and the same and more by their share."""
    return Scale(
        fetches=fetches,
        callers=16,
        faults=(
            *SURE_FAULTS,
            {"fault": "hang", "rate": 0.04},
            {"fault": "hang", "rate": 0.01, "accepted": False},
            {"fault": "hang_up", "rate": 0.01},
            {"fault": "server_error", "rate": 0.005, "accepted": True},
            {"fault": "unavailable", "rate": 0.01, "retry_after": 1},
            {"fault": "rate_limited", "rate": 0.01, "retry_after": 60},
            {"fault": "no_job_id", "rate": 0.005},
            {"fault": "numeric_job_id", "rate": 0.01},
            {"fault": "accepted_as_200", "rate": 0.01},
            {"fault": "slow", "rate": 0.01, "seconds": 4},
            {"fault": "lost", "rate": 0.1},
            {"fault": "duplicated", "rate": 0.05},
            {"fault": "duplicated", "rate": 0.05, "together": True},
            {"fault": "early", "rate": 0.1},
            {"fault": "reordered", "rate": 0.03, "seconds": 2},
            {"fault": "wrong_signature", "rate": 0.01},
            {"fault": "silent", "rate": 0.01},
            {"fault": "failed", "rate": 0.02},
            {"fault": "oversized", "megabytes": 20, "rate": 0.02, "count": 2},
            {"fault": "oversized", "megabytes": 4, "rate": 0.02, "count": 5},
            {"fault": "numeric_ids", "rate": 0.03},
            {"fault": "oldest_edition", "rate": 0.3},
            {"fault": "newest_edition", "rate": 0.3},
            {"fault": "server_error", "path": LISTING, "rate": 0.05},
            {"fault": "hang", "path": LISTING, "rate": 0.01},
        ),
    )


def orders(count: int, providers: Mapping[str, str]) -> Iterator[Order]:
    """Give so many orders, clinic by clinic in turn; each clinic has a provider to ask for."""
    windows = {clinic: _windows() for clinic in CLINICS}
    for number in range(1, count + 1):
        clinic = CLINICS[number % len(CLINICS)]
        start, end = next(windows[clinic])
        body: dict[str, object] = {"start_date": start.isoformat(), "end_date": end.isoformat()}
        if number % PROVIDER_EVERY == 0:
            body |= {"search_by": "provider", "provider_ids": [providers[clinic]]}
        keyed = number % KEY_EVERY == 0
        callers = 3 if number % SAME_KEY_EVERY == 0 else 2 if number % TWIN_EVERY == 0 else 1
        asks_again = callers == 1 and number % ASKS_AGAIN_EVERY == 0
        yield Order(clinic, body, f"soak {number}" if keyed else None, callers, asks_again)


def _windows() -> Iterator[tuple[date, date]]:
    monday, week = FIRST_MONDAY, 0
    while True:
        shapes = (*SHAPES, LONG_SHAPE) if week % LONG_WEEKS == 0 else SHAPES
        for offset, days in shapes:
            start = monday + timedelta(days=offset)
            yield start, start + timedelta(days=days)
        monday, week = monday + timedelta(weeks=1), week + 1
