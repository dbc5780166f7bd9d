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
    Job,
    JobReport,
    JobState,
    connection_id_of,
    utc_now,
)
from cobalt_relay.services.ports import CredentialStore, JobReader

_NO_ID = ""
"""What an id is looked for as that cannot be one: there is no such row."""

LEAST_PAUSE_SECONDS = 2
MOST_PAUSE_SECONDS = 60
"""Bounds of the pause that a caller is asked for. The reconciler's own looks are a minute apart."""


class ReadAppointments:
    """The use case. One object serves all invocations of a function."""

    def __init__(
        self, jobs: JobReader, secrets: CredentialStore, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._jobs = jobs
        self._secrets = secrets
        self._now = now

    def job(
        self, client_id: str, client_secret: str, access_token: str, job_execution_id: str
    ) -> tuple[JobReport, int | None]:
        """Give a job of the caller's connection; beside it, for an open one, when to ask again.

        Seconds. Raises `NoSuchJob` in all other cases, `NotConfigured` leaves and `StorageFault`.

        The credentials may just have been replaced, so a misfit reads them again (rate-limited). A
        job that is not there does so too: what is read must not tell which of the two it was.
        """
        presented = (client_id, client_secret)
        are_ours = self._secrets.credentials().fit(*presented)
        job = self._jobs.job(_possible(job_execution_id), self._now())
        is_theirs = _belongs(job, connection_id_of(access_token))
        if not (are_ours and is_theirs):
            are_ours = self._secrets.credentials(refresh=True).fit(*presented)
        if not (job and are_ours and is_theirs):
            raise NoSuchJob
        requested_at = self._jobs.requested_at(job.request_id) if job.request_id else None
        return JobReport.of(job, requested_at), self._pause(job)

    def _pause(self, job: Job) -> int | None:
        """Ask for a tenth of the time for which the caller has waited, within bounds."""
        if job.state is not JobState.ACCEPTED:
            return None
        tenth = int((job.seconds_until(self._now()) or 0) / 10)
        return min(max(tenth, LEAST_PAUSE_SECONDS), MOST_PAUSE_SECONDS)


def _possible(job_execution_id: str) -> str:
    is_possible = job_execution_id.isprintable() and len(job_execution_id) <= MAX_ID_LENGTH
    return job_execution_id if is_possible else _NO_ID


def _belongs(job: Job | None, connection_id: str) -> bool:
    """Whether it is the connection's; one that nobody has claimed is nobody's."""
    owner = job.connection_id if job else None
    return hmac.compare_digest(owner or "", connection_id)
