"""Callers of the relay: many at once that never rest, or that come at a rate whatever happens."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta

import requests
import urllib3

from tools.local.stack import Stack

CLINICS = ("riverside", "lakeside", "mesa")
"""Those of the callers; the ranges have a clinic of their own, for a caller goes before a piece."""
CALL_SECONDS = 40.0
BUSY = frozenset({429, 503})
FIRST_DAY = date(2025, 1, 6)
NOT_ANSWERED = 0
"""The status of a call without an answer."""


@dataclass(frozen=True, slots=True)
class Call:
    """One answer: when it came, in seconds since the epoch, how long it took, and what it said."""

    at: float
    seconds: float
    status: int
    retry_after: str | None
    job_id: str | None
    is_last: bool
    """Whether the caller sends this fetch no more, as it has its job or has given up."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """One fetch of a clinic's provider on two days. No other of a run is like it."""

    clinic: str
    body: Mapping[str, object]


def provider_of(stack: Stack, clinic: str, day: date) -> str:
    """Name a provider of a clinic, as the clinic's diary of a day has it."""
    answer = requests.get(
        f"{stack.sandbox_url}/v1/appointments",
        headers=stack.headers(clinic),
        params={"start_date": str(day), "end_date": str(day)},
        timeout=10,
    )
    return str(answer.json()["appointments"][0]["provider_ehr_id"])


def fetches(providers: Mapping[str, str]) -> Iterator[Fetch]:
    """Give fetches without end, clinic by clinic in turn; each clinic has a provider."""
    day = FIRST_DAY
    while True:
        for clinic in CLINICS:
            yield Fetch(
                clinic,
                {
                    "search_by": "provider",
                    "provider_ids": [providers[clinic]],
                    "start_date": day.isoformat(),
                    "end_date": (day + timedelta(days=1)).isoformat(),
                },
            )
        day += timedelta(days=1)


class Callers:
    """Send fetches to a stack and remember every answer. For several threads."""

    def __init__(self, stack: Stack, source: Iterator[Fetch], tries: int) -> None:
        self._stack = stack
        self._tries = tries
        self._source = source
        self._lock = threading.Lock()
        self._pool = urllib3.PoolManager(maxsize=512, retries=False, timeout=CALL_SECONDS)
        self.calls: list[Call] = []

    def at_once(self, callers: int, seconds: float) -> None:
        """Let so many callers send one fetch after the other for so long."""
        until = time.monotonic() + seconds

        def call() -> None:
            while time.monotonic() < until:
                self._insist(self._next())

        _in_threads([call] * callers)

    def at_rate(self, per_second: float, seconds: float) -> None:
        """Let a new caller come every so often, however long those before it have to wait."""
        began, arrived = time.monotonic(), list[threading.Thread]()
        for number in range(int(per_second * seconds)):
            time.sleep(max(began + number / per_second - time.monotonic(), 0))
            caller = threading.Thread(target=self._insist, args=(self._next(),), daemon=True)
            caller.start()
            arrived.append(caller)
        for caller in arrived:
            caller.join()

    def _insist(self, fetch: Fetch) -> None:
        """Send a fetch until it is accepted, as a good client does: after as long as it is told.

        And for longer each time, so that many who were refused at once do not come back at once.
        """
        for number in range(1, self._tries + 1):
            call = self._call(fetch, is_last=number == self._tries)
            with self._lock:
                self.calls.append(call)
            if call.is_last:
                return
            told = float(call.retry_after or 1)
            time.sleep(told * 2 ** (number - 1) * random.uniform(1, 1.5))  # noqa: S311

    def _call(self, fetch: Fetch, *, is_last: bool) -> Call:
        began = time.monotonic()
        try:
            answer = self._pool.request(
                "POST",
                f"{self._stack.api_url}/appointments/fetch",
                body=json.dumps(fetch.body),
                headers=self._stack.headers(fetch.clinic) | {"Content-Type": "application/json"},
            )
        except urllib3.exceptions.HTTPError:
            return Call(time.time(), time.monotonic() - began, NOT_ANSWERED, None, None, True)
        seconds = time.monotonic() - began
        job_id = answer.json().get("job_execution_id") if answer.status == 202 else None
        return Call(
            time.time(),
            seconds,
            answer.status,
            answer.headers.get("Retry-After"),
            job_id,
            is_last or answer.status not in BUSY,
        )

    def _next(self) -> Fetch:
        with self._lock:
            return next(self._source)


def warm_up(stack: Stack, callers: int) -> None:
    """Start the functions' workers with calls that are refused.

    A local worker needs a second of a processor, and Cobalt hangs up after five.
    """

    def call(_: int) -> None:
        for url in (f"{stack.api_url}/appointments/fetch", stack.webhook_url):
            requests.post(url, json={}, timeout=60)

    with ThreadPoolExecutor(callers) as threads:
        list(threads.map(call, range(callers * 2)))


def _in_threads(jobs: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
