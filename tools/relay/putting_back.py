"""`relay redrive`, as a command: the failure queues, and the windows of expired jobs.

An expired job's window becomes a range of its own, whose name is made of the job's: so however
often this is done, it is fetched again once.
"""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import typer

from cobalt_relay.errors import RelayError
from cobalt_relay.models import (
    Job,
    JobState,
    RangePlan,
    RangeRequest,
    range_id_of,
    utc_now,
)
from tools.relay import rows
from tools.relay.faults import ExitCode, WrongUsage
from tools.relay.output import Output
from tools.relay.redrive import Deployment as Queues
from tools.relay.redrive import Telling, redrive
from tools.relay.session import ONCE, Deployment

_SPAN = re.compile(r"([1-9]\d{0,3})([mhd])", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def put_back(deployment: Deployment, output: Output, *, dry_run: bool, since: str | None) -> None:
    """Put back what can be; exit code 1 where something had to stay."""
    span = _span(since) if since else None
    telling = Telling(say=lambda _: None) if output.as_json else Telling()
    queues = Queues(deployment.outputs, deployment.client("sqs"), deployment.client("lambda", ONCE))
    stays = redrive(queues, dry_run=dry_run, telling=telling)
    expired: list[dict[str, Any]] = []
    if span:
        expired = _expired(deployment, telling, utc_now() - span, dry_run=dry_run)
    failed = bool(stays) or any("stays" in each for each in expired)
    if output.as_json:
        document = {"dry_run": dry_run, "well": not failed, "messages": telling.found}
        output.document(document | ({"expired": expired} if span else {}))
    if failed:
        raise typer.Exit(ExitCode.FAILED)


def _span(said: str) -> timedelta:
    match = _SPAN.fullmatch(said)
    if not match:
        raise WrongUsage("since", "--since is a number and m, h or d, such as 12h.")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _expired(
    deployment: Deployment, telling: Telling, since: datetime, *, dry_run: bool
) -> list[dict[str, Any]]:
    """Queue again what expired since a moment and was not fetched later; tell what was done."""
    told: list[dict[str, Any]] = []
    for row in rows.connections(deployment):
        if row.state == "replaced":
            continue
        jobs: list[Job] = []
        for job in deployment.jobs.of_connection(row.connection_id, utc_now()):
            if job.deadline and job.deadline < since:
                break  # the newest come first
            jobs.append(job)
        told += [_again(deployment, job, dry_run=dry_run) for job in uncovered(jobs, since)]
    telling.say(f"Windows of expired jobs: {len(told) or 'none'}")
    for each in told:
        outcome = each.get("outcome") or (f"stays: {each['stays']}" if "stays" in each else "")
        telling.say(
            "  ".join(("", each["job_execution_id"], each["window"] or "", outcome)).rstrip()
        )
    return told


def uncovered(jobs: Iterable[Job], since: datetime) -> list[Job]:
    """Give the jobs of one connection that expired, each window once, and no later one covers.

    A job covers another where it was accepted later, is open or has completed, asks for the same
    kind, and its days include all of the other's.
    """
    every = [job for job in jobs if job.accepted_at]
    live = [job for job in every if job.state in {JobState.ACCEPTED, JobState.COMPLETED}]
    found: dict[tuple[object, object, str], Job] = {}
    for job in every:
        is_expired = job.state is JobState.EXPIRED and job.expired_at and job.expired_at >= since
        if is_expired and not any(_covers(later, job) for later in live):
            # Only a search by date range says all that it asked for.
            kind = job.search_by or "date_range"
            which = "" if kind == "date_range" else job.job_execution_id
            found.setdefault((job.window, kind, which), job)
    return list(found.values())


def _covers(later: Job, job: Job) -> bool:
    if later.search_by != job.search_by or job.search_by not in {None, "date_range"}:
        return False
    if not (later.accepted_at and job.accepted_at and later.window and job.window):
        return False
    return (
        later.accepted_at > job.accepted_at
        and later.window.start_date <= job.window.start_date
        and later.window.end_date >= job.window.end_date
    )


def _again(deployment: Deployment, job: Job, *, dry_run: bool) -> dict[str, Any]:
    window = f"{job.window.start_date} to {job.window.end_date}" if job.window else None
    told: dict[str, Any] = {
        "job_execution_id": job.job_execution_id,
        "connection_id": job.connection_id,
        "window": window,
    }
    if job.search_by not in {None, "date_range"} or not job.window or not job.connection_id:
        return told | {"stays": "only its caller knows whom it asked for"}
    if dry_run:
        return told
    now = utc_now()
    plan = RangePlan(
        range_id=range_id_of("redrive", job.job_execution_id),
        connection_id=job.connection_id,
        trigger=job.trigger or "range",
        request=RangeRequest(window=job.window),
        accepted_at=now,
    )
    try:
        deployment.queue.send(plan.works(now), now)
    except RelayError as error:
        return told | {"stays": error.message}
    return told | {"outcome": f"queued again as {plan.range_id}"}
