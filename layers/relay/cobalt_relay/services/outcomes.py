"""What became of each piece of a range, from the rows of the range, its requests and its jobs."""

from datetime import datetime
from typing import TYPE_CHECKING

from cobalt_relay.models import (
    FetchRange,
    Job,
    JobState,
    PieceNote,
    PieceOutcome,
    RequestRecord,
    RequestState,
    Window,
)

if TYPE_CHECKING:
    from cobalt_relay.services.ports import RowReader

NEVER_BEGAN = "out_of_time"
"""The code of a piece whose turn never came."""


def outcomes_of(found: FetchRange, rows: "RowReader", now: datetime) -> tuple[PieceOutcome, ...]:
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
