"""Gather the pieces of a range: what became of each, and of the whole once all of them have ended.

A range is gathered whenever one of its pieces ends, by whoever ends it; the reconciler does so for
what was missed. Two who gather at once have one winner.
"""

from collections.abc import Callable
from datetime import datetime

from cobalt_relay.errors import RelayError
from cobalt_relay.events import range_completed
from cobalt_relay.models import (
    Announced,
    FetchRange,
    Job,
    JobState,
    PieceNote,
    PieceOutcome,
    RangeState,
    RequestRecord,
    RequestState,
    Window,
    utc_now,
)
from cobalt_relay.observability import count, logger
from cobalt_relay.services.announce import Announcer
from cobalt_relay.services.ports import RangeStore, RowReader

NEVER_BEGAN = "out_of_time"
"""The code of a piece whose turn never came."""


class GatherRanges:
    """The use case. Raises `TableFault` and `BusFault`; doing it again does the rest."""

    def __init__(
        self,
        ranges: RangeStore,
        rows: RowReader,
        announcer: Announcer,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._ranges = ranges
        self._rows = rows
        self._announcer = announcer
        self._now = now

    def gather_soon(self, range_id: str) -> None:
        """Gather at the end of something else, which is not to fail with it: it is done later."""
        try:
            found = self._ranges.get(range_id)
            if found:
                self.gather(found)
        except RelayError as error:
            ids = {"job_execution_id": range_id, "error_code": error.code}
            logger.warning("range_not_gathered", extra=ids)

    def gather(self, found: FetchRange) -> bool:
        """End the range if all of its pieces have ended, and announce it; tell whether it has."""
        if found.state is not RangeState.ACCEPTED:
            return True
        outcomes = outcomes_of(found, self._rows, self._now())
        if not all(each.has_ended for each in outcomes):
            return False
        ended = self._ranges.end(found, outcomes, self._now())
        if ended:
            self._tell(ended)
        return True

    def _tell(self, ended: FetchRange) -> None:
        count("RangeCompleted" if ended.state is RangeState.COMPLETED else "RangeIncomplete")
        ids = {"job_execution_id": ended.plan.range_id, "connection_id": ended.plan.connection_id}
        logger.info("range_ended", extra={**ids, "state": ended.state})
        event = range_completed(ended)
        assert event  # noqa: S101 - it has just ended
        self._announcer.announce(Announced("RANGE", ended.plan.range_id, ended.state), event)


def outcomes_of(found: FetchRange, rows: RowReader, now: datetime) -> tuple[PieceOutcome, ...]:
    """Tell what is known of each piece, in the order of the pieces.

    One that did not begin by the deadline never will.
    """
    if found.outcomes:
        return found.outcomes
    notes = found.pieces
    asked, _ = rows.rows(
        request_ids=[each.request_id for each in notes.values() if each.request_id]
    )
    ids = {
        number: note.job_execution_id or _job_of(asked.get(note.request_id or ""))
        for number, note in notes.items()
    }
    _, jobs = rows.rows(job_ids=dict.fromkeys(each for each in ids.values() if each))
    outcomes = []
    for number, fetch in enumerate(found.plan.request.pieces):
        window = fetch.window or found.plan.request.window
        note, job = notes.get(number), jobs.get(ids.get(number) or "")
        request = asked.get(note.request_id or "") if note else None
        outcome = _outcome(window, note, request, job)
        if outcome.status == "PENDING" and now >= found.plan.deadline:
            outcome = PieceOutcome(window=window, status="FAILED", error_code=NEVER_BEGAN)
        outcomes.append(outcome)
    return tuple(outcomes)


def _job_of(request: RequestRecord | None) -> str | None:
    return request.job_execution_id if request else None


def _outcome(
    window: Window, note: PieceNote | None, request: RequestRecord | None, job: Job | None
) -> PieceOutcome:
    if note and note.error_code:
        return PieceOutcome(window=window, status="FAILED", error_code=note.error_code)
    if job:
        end = job.completion
        return PieceOutcome(
            window=window,
            status=job.state.value,
            job_execution_id=job.job_execution_id,
            appointment_count=end.appointment_count if end and not end.error_code else None,
            error_code=_error_of(job),
        )
    if request and request.state is RequestState.FAILED and request.notification:
        return PieceOutcome(window=window, status="FAILED", error_code=request.error_code)
    if request and request.state is RequestState.EXPIRED:
        return PieceOutcome(window=window, status="EXPIRED", error_code="expired")
    if request and request.state in {RequestState.ACCEPTED, RequestState.UNKNOWN}:
        return PieceOutcome(
            window=window, status="ACCEPTED", job_execution_id=request.job_execution_id
        )
    return PieceOutcome(window=window)


def _error_of(job: Job) -> str | None:
    if job.state is JobState.EXPIRED:
        return "expired"
    return job.completion.error_code if job.completion else job.error_code
