"""See to it that days are fetched anew, with one fetch however many readers want them.

Work that is under way and brings the days is what a reader is told of. Two readers at the same
moment see none: then the fetch itself joins them, and a range has one key for all of a minute.

Nobody asks a clinic's robot without a pause for what it cannot do: after work that did not bring
the days, readers do not begin any for a while. And days that work has just brought are as new as
can be had, however old a day may be. A caller of the fetch itself knows what it does.
"""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from cobalt_relay.errors import DaysNotBrought
from cobalt_relay.models import (
    MAX_WINDOW_DAYS,
    RANGE_LIFE,
    FetchRange,
    FetchRequest,
    Job,
    JobState,
    RangeRequest,
    RangeState,
    Window,
    connection_id_of,
    in_days,
    utc_now,
)
from cobalt_relay.observability import count
from cobalt_relay.reading import Work

if TYPE_CHECKING:
    from cobalt_relay.services.ports import RecentWork, StartFetch, StartRange

OPEN_FOR = timedelta(minutes=30)
"""Up to which age an open job is waited for: what is silent for longer does not hold others up."""
LANDS_WITHIN = timedelta(minutes=2)
"""How long after the end of a job or a range its days may be on their way into their snapshots."""
REST = timedelta(minutes=1)
"""How long no reader begins a fetch after one that did not bring its days; for each of a range."""
IS_NEW_FOR = timedelta(minutes=1)
"""How long after the end of a job or a range the days that it brought are new: for readers who
asked again as they were told, and would have them fetched once more, for ever."""
JOB_PAUSE_SECONDS = 5
RANGE_PAUSE_SECONDS = 30
LANDING_PAUSE_SECONDS = 1


class StaleDay(NamedTuple):
    """A day that is too old: when its whole was last seen and by which job, None where never."""

    day: date
    as_of: datetime | None = None
    fetched_by: str | None = None


class Refreshed(NamedTuple):
    """The days that are too old, and the work that brings them."""

    days: list[StaleDay]
    work: Work | None


class Freshen:
    """The use case. One object serves all invocations of a function."""

    def __init__(
        self,
        fetches: "StartFetch",
        ranges: "StartRange",
        works: "RecentWork",
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._fetches = fetches
        self._ranges = ranges
        self._works = works
        self._now = now

    def refresh(self, access_token: str, days: Sequence[StaleDay], *, request_id: str) -> Refreshed:
        """Give the work that brings these days, which is begun where there is none.

        The days are in order, one at least. Those that were just brought are left out; where none
        is left, there is no work. Raises `DaysNotBrought`, and what starting a fetch or a range
        raises.
        """
        now = self._now()
        works = self._works.recent(connection_id_of(access_token), now - OPEN_FOR, now - RANGE_LIFE)
        recent = _Recent(tuple(works), now)
        stale = recent.without_new(days)
        return Refreshed(stale, self._work(access_token, stale, recent, request_id))

    def _work(
        self, access_token: str, days: Sequence[StaleDay], recent: "_Recent", request_id: str
    ) -> Work | None:
        if not days:
            return None
        found = recent.under_way(days)
        if found:
            count("RefreshJoined")
            return found
        count("RefreshStarted")
        span = Window(start_date=days[0].day, end_date=days[-1].day)
        if _takes_a_range(days):
            return self._range(access_token, span, request_id)
        if not span.days_between:  # Cobalt refuses equal dates
            span = in_days(span.start_date, -1 if span.start_date == date.max else 0, 2)
        started = self._fetches.start(
            access_token, FetchRequest(window=span), request_id=request_id, trigger="api"
        )
        return Work(started.job_execution_id, span, JOB_PAUSE_SECONDS)

    def _range(self, access_token: str, span: Window, request_id: str) -> Work:
        # No caller can send a key with a line break: they are of one line.
        minute = self._now().replace(second=0, microsecond=0).isoformat()
        found = self._ranges.start(
            access_token,
            RangeRequest(window=span),
            request_id=request_id,
            idempotency_key=f"refresh\n{span.start_date}/{span.end_date}\n{minute}",
        )
        return Work(found.plan.range_id, span, RANGE_PAUSE_SECONDS)


class _Recent(NamedTuple):
    """The jobs and ranges of a connection that count at a moment, the newest first."""

    works: tuple[Job | FetchRange, ...]
    now: datetime

    def without_new(self, days: Sequence[StaleDay]) -> list[StaleDay]:
        """Leave out the days that have just been brought."""
        new = {job_id for each in self.works for job_id in _just_ended(each, self.now)}
        return [day for day in days if day.fetched_by not in new]

    def under_way(self, days: Sequence[StaleDay]) -> Work | None:
        """Give work that brings the days; raise where there is none and none is to be begun."""
        rests: list[datetime] = []
        for each in self.works:
            of = _of_range(each, days) if isinstance(each, FetchRange) else _of_job(each, days)
            if of and self.now < of.until:
                return of.work
            if of:
                rests.append(of.until + of.rest)
        rest = max(rests, default=self.now) - self.now
        if rest > timedelta(0):
            raise DaysNotBrought(math.ceil(rest.total_seconds()))
        return None


def _just_ended(work: Job | FetchRange, now: datetime) -> list[str]:
    """Name the jobs that ended a moment ago, by themselves or with the whole of a range."""
    if isinstance(work, FetchRange):
        ended, jobs = work.completed_at, [each.job_execution_id for each in work.outcomes]
    else:
        ended = work.completion.completed_at if work.completion else None
        jobs = [work.job_execution_id]
    is_new = ended is not None and now - ended < IS_NEW_FOR
    return [each for each in jobs if each] if is_new else []


class _Outlook(NamedTuple):
    """What brings the days `until` a moment, if at all: work that did not is followed by a rest."""

    work: Work
    until: datetime = datetime.max.replace(tzinfo=UTC)
    rest: timedelta = REST


def _of_job(job: Job, days: Sequence[StaleDay]) -> _Outlook | None:
    if job.search_by != "date_range" or not _covers(job.window, days):
        return None
    assert job.window  # noqa: S101 - it covers the days
    if job.state is JobState.ACCEPTED:
        return _Outlook(Work(job.job_execution_id, job.window, JOB_PAUSE_SECONDS))
    end = job.completion
    has_landed = any(day.fetched_by == job.job_execution_id for day in days)
    if end is None or has_landed or not _is_newer(end.completed_at, days):
        return None
    lands = LANDS_WITHIN if job.state is JobState.COMPLETED else timedelta(0)
    work = Work(job.job_execution_id, job.window, LANDING_PAUSE_SECONDS)
    return _Outlook(work, end.completed_at + lands)


def _of_range(found: FetchRange, days: Sequence[StaleDay]) -> _Outlook | None:
    """Take a range unless a day was seen after its acceptance: by a piece that has ended, maybe.

    Where another range would be begun, one that is open is taken nevertheless. It may take longer
    than a day may be old: they would pile up before the clinic's robot.
    """
    plan, window = found.plan, found.plan.request.window
    if plan.request.search_by != "date_range" or not _covers(window, days):
        return None
    is_newer = _is_newer(plan.accepted_at, days)
    if found.state is RangeState.ACCEPTED:
        work = Work(plan.range_id, window, RANGE_PAUSE_SECONDS)
        return _Outlook(work) if is_newer or _takes_a_range(days) else None
    end, has_worked = found.completed_at, found.state is RangeState.COMPLETED
    if end is None or not (is_newer if has_worked else _is_newer(end, days)):
        return None
    lands = LANDS_WITHIN if has_worked else timedelta(0)
    work = Work(plan.range_id, window, LANDING_PAUSE_SECONDS)
    return _Outlook(work, end + lands, REST * len(found.outcomes))


def _takes_a_range(days: Sequence[StaleDay]) -> bool:
    return (days[-1].day - days[0].day).days >= MAX_WINDOW_DAYS


def _covers(window: Window | None, days: Sequence[StaleDay]) -> bool:
    return window is not None and (
        window.start_date <= days[0].day and days[-1].day <= window.end_date
    )


def _is_newer(moment: datetime, days: Sequence[StaleDay]) -> bool:
    return all(day.as_of is None or day.as_of < moment for day in days)
