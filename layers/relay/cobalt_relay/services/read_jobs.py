"""Read what became of a fetch.

A job is bound to its connection: whoever has another token, another pair of client credentials or a
guessed id learns nothing from it, and finds out in no other way either. So every answer without a
job is made by the same steps: the credentials, the row, the credentials again, and one error. Only
whoever may see a job can wait for its end.
"""

import hmac
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import chain, repeat
from typing import TYPE_CHECKING, NamedTuple

from cobalt_relay.errors import NoSuchJob
from cobalt_relay.models import (
    MAX_ID_LENGTH,
    FetchRange,
    Job,
    JobReport,
    JobState,
    RangeReport,
    RangeState,
    connection_id_of,
    is_range_id,
    utc_now,
)
from cobalt_relay.observability import count, logger
from cobalt_relay.services.outcomes import outcomes_of

if TYPE_CHECKING:
    from cobalt_relay.services.ports import CredentialStore, JobReader, RangeStore, ResultLinker

_NO_ID = ""
"""What an id is looked for as that cannot be one: there is no such row."""

LEAST_PAUSE_SECONDS = 2
MOST_PAUSE_SECONDS = 60
"""Bounds of the pause that a caller is asked for. The reconciler's own looks are a minute apart."""

LOOK_SECONDS = (0.25, 0.5)
LATER_LOOK_SECONDS = 1.0
"""Pauses between the looks of one that waits: many results come at once after the question."""
ANSWER_SECONDS = 7.0
"""What a wait leaves of the function's own time, for its last look and the answer."""


class Found(NamedTuple):
    """What became of a job or a range; beside it, while it is open, what to tell of its way."""

    report: JobReport | RangeReport
    pause_seconds: int | None = None
    """In how many seconds to ask again."""
    progress: str | None = None
    """For people: at most 100 characters of ASCII, made of numbers of ours alone."""


class _Rows(NamedTuple):
    """The row of an id: of a job, of a range, or neither."""

    job: Job | None
    range: FetchRange | None

    @property
    def owner(self) -> str:
        """Whose it is; empty where it is nobody's."""
        connection_id = self.range.plan.connection_id if self.range else None
        return connection_id or (self.job and self.job.connection_id) or ""

    @property
    def is_open(self) -> bool:
        """Whether its end is still to come."""
        is_open_range = self.range is not None and self.range.state is RangeState.ACCEPTED
        return is_open_range or (self.job is not None and self.job.state is JobState.ACCEPTED)


class ReadJobs:
    """The use case. One object serves all invocations of a function."""

    def __init__(
        self,
        jobs: "JobReader",
        ranges: "RangeStore",
        secrets: "CredentialStore",
        links: "ResultLinker",
        retention: timedelta,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._jobs = jobs
        self._ranges = ranges
        self._secrets = secrets
        self._links = links
        self._retention = retention
        self._now = now
        self._sleep = sleep

    def job(
        self,
        client_id: str,
        client_secret: str,
        access_token: str,
        job_execution_id: str,
        wait_seconds: int = 0,
        seconds_left: float = float("inf"),
    ) -> Found:
        """Give a job or a range of the caller's connection, at its end if that comes in the wait.

        `seconds_left` is how long the function may still run: a wait that would not leave time for
        the answer is cut short. Raises `NoSuchJob` in all other cases, without a wait,
        `NotConfigured` leaves and `StorageFault`.

        The credentials may just have been replaced, so a misfit reads them again (rate-limited). A
        job that is not there does so too: what is read must not tell which of the two it was.
        """
        patience = max(0.0, min(wait_seconds, seconds_left - ANSWER_SECONDS))
        until = self._now() + timedelta(seconds=patience)
        presented, connection_id = (client_id, client_secret), connection_id_of(access_token)
        are_ours = self._secrets.credentials().fit(*presented)
        rows = self._read(_possible(job_execution_id))
        is_theirs = hmac.compare_digest(rows.owner, connection_id)
        if not (are_ours and is_theirs):
            are_ours = self._secrets.credentials(refresh=True).fit(*presented)
        if not (are_ours and is_theirs):
            raise NoSuchJob
        if wait_seconds and rows.is_open:
            rows = self._await_end(job_execution_id, rows, until)
            if not hmac.compare_digest(rows.owner, connection_id):  # it was given to another one
                raise NoSuchJob
        return self._range_found(rows.range) if rows.range else self._job_found(rows.job)

    def _await_end(self, job_execution_id: str, rows: _Rows, until: datetime) -> _Rows:
        """Look at the row until it tells of the end, and once more when the time is over."""
        looks, began = 0, self._now()
        for pause in chain(LOOK_SECONDS, repeat(LATER_LOOK_SECONDS)):
            left = (until - self._now()).total_seconds()
            if left <= 0 or not rows.is_open:
                break
            self._sleep(min(pause, left))
            rows, looks = self._read(job_execution_id), looks + 1
        count("LongPollReads", looks)
        waited = {"looks": looks, "seconds": round((self._now() - began).total_seconds(), 3)}
        ids = {"job_execution_id": job_execution_id}
        logger.info("end_awaited", extra={**ids, **waited, "is_open": rows.is_open})
        return rows

    def _range_found(self, found: FetchRange) -> Found:
        outcomes = outcomes_of(found, self._jobs, self._now())
        report = RangeReport.of(found, outcomes)
        if found.state is not RangeState.ACCEPTED:
            return Found(report)
        ended = sum(each.has_ended for each in outcomes)
        progress = f"{ended} of {len(outcomes)} fetches have ended"
        return Found(report, MOST_PAUSE_SECONDS // 2, progress)

    def _job_found(self, job: Job | None) -> Found:
        assert job  # noqa: S101 - a row with an owner is a range's or a job's
        requested_at = self._jobs.requested_at(job.request_id) if job.request_id else None
        result = job.kept_result(self._now(), self._retention)
        report = JobReport.of(job, requested_at, self._links.link(result) if result else None)
        if job.state is not JobState.ACCEPTED:
            return Found(report)
        seconds = int(job.seconds_until(self._now()) or 0)
        progress = f"accepted by Cobalt {seconds} s ago; looks for its result since: {job.looks}"
        return Found(report, _pause(seconds), progress)

    def _read(self, job_execution_id: str) -> _Rows:
        """Read the row of an id, which tells by its form whether it is a range's."""
        if is_range_id(job_execution_id):
            return _Rows(None, self._ranges.get(job_execution_id, self._now()))
        return _Rows(self._jobs.job(job_execution_id, self._now()), None)


def _pause(seconds: int) -> int:
    """Ask for a tenth of the time for which the caller has waited, within bounds."""
    return min(max(seconds // 10, LEAST_PAUSE_SECONDS), MOST_PAUSE_SECONDS)


def _possible(job_execution_id: str) -> str:
    is_possible = job_execution_id.isprintable() and len(job_execution_id) <= MAX_ID_LENGTH
    return job_execution_id if is_possible else _NO_ID
