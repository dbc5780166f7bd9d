"""Measure what no request tells by itself: what is open and for how long, and how old data is.

The reconciler does so every minute, at zero too: where these figures are missing, it does not run.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cobalt_relay.models import ConnectionState, Job, utc_now
from cobalt_relay.observability import count, logger, measure_percent, measure_seconds

if TYPE_CHECKING:
    from cobalt_relay.services.ports import OpenJobs, Register

MOST_JOBS = 1_000
"""That are read for their age; of more than that, the number is a little too high."""
FRESH_FOR = timedelta(hours=26)
"""How long a clinic's data is fresh: a day between two mornings, and what a fetch may take."""
ROUND_MINUTES = 30
"""How often every connection is looked at, in one run: figures of a part would be taken for all."""


class Watch:
    """The use case. Raises `TableFault`; the next minute does it again."""

    def __init__(
        self,
        jobs: "OpenJobs",
        connections: "Register",
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._jobs = jobs
        self._connections = connections
        self._now = now

    def run(self, minute: datetime, has_time: Callable[[], bool]) -> None:
        """Measure what there is to be measured in a minute.

        It is the one that the run is for: some end minutes later, and two in the same one. The
        whole register is read in two minutes of an hour; 100,000 connections take some 1,000 calls.
        """
        now = self._now()
        beyond, jobs = self._jobs.open_jobs(now, MOST_JOBS)
        ages = [now - job.accepted_at for job in jobs if job.accepted_at]
        count("OpenJobs", beyond + len(jobs))
        measure_seconds("OldestOpenJobAge", max(ages, default=timedelta(0)).total_seconds())
        measure_percent("OpenJobPatience", max((_waited(job, now) for job in jobs), default=0.0))
        if minute.minute % ROUND_MINUTES == 0:
            self._look_at_clinics(now, has_time)

    def _look_at_clinics(self, now: datetime, has_time: Callable[[], bool]) -> None:
        """Tell how fresh the data of each clinic is, by its last success; of all or of none.

        One that never succeeded is as old as its registration.
        """
        seen = dict.fromkeys(("Fresh", "Stale", "Suspended"), 0)
        oldest = timedelta(0)
        for connection in self._connections.all():
            if not has_time():
                logger.warning("freshness_not_measured", extra={"seen": sum(seen.values())})
                return
            if connection.state is ConnectionState.REPLACED:
                continue
            if connection.is_suspended:
                seen["Suspended"] += 1
                continue
            age = now - (connection.last_success_at or connection.registered_at)
            seen["Fresh" if age <= FRESH_FOR else "Stale"] += 1
            oldest = max(oldest, age)
        for kind, number in seen.items():
            count(f"Connections{kind}", number)
        measure_seconds("StalestConnectionAge", oldest.total_seconds())


def _waited(job: Job, now: datetime) -> float:
    """Give how much of the time until its deadline a job has waited, in percent."""
    if job.accepted_at is None or job.deadline is None:
        return 0.0
    return 100 * ((now - job.accepted_at) / (job.deadline - job.accepted_at))
