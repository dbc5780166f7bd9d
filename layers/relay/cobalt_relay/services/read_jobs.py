"""Read what became of a fetch.

A job is bound to its connection: whoever has another token, another pair of client credentials or a
guessed id learns nothing from it, and finds out in no other way either. So every answer without a
job is made by the same steps: the credentials, the row, the credentials again, and one error.
"""

import hmac
from collections.abc import Callable
from datetime import datetime

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
from cobalt_relay.services.gather_ranges import outcomes_of
from cobalt_relay.services.ports import CredentialStore, JobReader, RangeStore

_NO_ID = ""
"""What an id is looked for as that cannot be one: there is no such row."""

LEAST_PAUSE_SECONDS = 2
MOST_PAUSE_SECONDS = 60
"""Bounds of the pause that a caller is asked for. The reconciler's own looks are a minute apart."""


class ReadJobs:
    """The use case. One object serves all invocations of a function."""

    def __init__(
        self,
        jobs: JobReader,
        ranges: RangeStore,
        secrets: CredentialStore,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._jobs = jobs
        self._ranges = ranges
        self._secrets = secrets
        self._now = now

    def job(
        self, client_id: str, client_secret: str, access_token: str, job_execution_id: str
    ) -> tuple[JobReport | RangeReport, int | None]:
        """Give a job or a range of the caller's connection; beside it, when to ask again if open.

        Seconds. Raises `NoSuchJob` in all other cases, `NotConfigured` leaves and `StorageFault`.

        The credentials may just have been replaced, so a misfit reads them again (rate-limited). A
        job that is not there does so too: what is read must not tell which of the two it was.
        """
        presented = (client_id, client_secret)
        are_ours = self._secrets.credentials().fit(*presented)
        job, found = self._read(_possible(job_execution_id))
        owner = found.plan.connection_id if found else job.connection_id if job else None
        is_theirs = hmac.compare_digest(owner or "", connection_id_of(access_token))
        if not (are_ours and is_theirs):
            are_ours = self._secrets.credentials(refresh=True).fit(*presented)
        if not ((job or found) and are_ours and is_theirs):
            raise NoSuchJob
        if found:
            report = RangeReport.of(found, outcomes_of(found, self._jobs, self._now()))
            is_open = found.state is RangeState.ACCEPTED
            return report, MOST_PAUSE_SECONDS // 2 if is_open else None
        assert job  # noqa: S101 - one of the two is there
        requested_at = self._jobs.requested_at(job.request_id) if job.request_id else None
        return JobReport.of(job, requested_at), self._pause(job)

    def _read(self, job_execution_id: str) -> tuple[Job | None, FetchRange | None]:
        """Read the row of an id, which tells by its form whether it is a range's."""
        if is_range_id(job_execution_id):
            return None, self._ranges.get(job_execution_id, self._now())
        return self._jobs.job(job_execution_id, self._now()), None

    def _pause(self, job: Job) -> int | None:
        """Ask for a tenth of the time for which the caller has waited, within bounds."""
        if job.state is not JobState.ACCEPTED:
            return None
        tenth = int((job.seconds_until(self._now()) or 0) / 10)
        return min(max(tenth, LEAST_PAUSE_SECONDS), MOST_PAUSE_SECONDS)


def _possible(job_execution_id: str) -> str:
    is_possible = job_execution_id.isprintable() and len(job_execution_id) <= MAX_ID_LENGTH
    return job_execution_id if is_possible else _NO_ID
