"""`relay jobs`: what became of live fetches. Rows hold no patient, so nothing here can show one."""

import time
from typing import Any, NoReturn

import typer

from cobalt_relay.adapters.table import Key
from cobalt_relay.models import Job, JobReport, RangeReport, RequestRecord, Window, utc_now
from cobalt_relay.services.outcomes import outcomes_of
from tools.relay import rows, story
from tools.relay.faults import ExitCode, FetchEnded, NotFound, WrongUsage
from tools.relay.output import Output, ago
from tools.relay.session import Deployment

LOOK_SECONDS = 2.0
RANGE = "range_"
RECENT = 200
"""Jobs of a connection among which the beginning of an id is looked for."""
MOST_CANDIDATES = 10
OPEN = "ACCEPTED"
GOOD = "COMPLETED"


def show_all(
    deployment: Deployment, output: Output, named: str | None, state: str | None, most: int
) -> None:
    """List jobs, the newest first."""
    every = rows.connections(deployment)
    labels = {each.connection_id: each.access_token_reference_id or "" for each in every}
    wanted = [rows.find_in_use(deployment, named)[0].connection_id] if named else list(labels)
    with output.working("Reading ..."):
        found = rows.newest_jobs(deployment, wanted, state, most)
    if output.as_json:
        asked, _ = deployment.jobs.rows(request_ids=_requests_of(*found))
        output.document({"jobs": [_document(job, asked) for job in found]})
        return
    if not found:
        output.say("No such job.")
        return
    ids, now = output.ids(each.job_execution_id for each in found), utc_now()
    output.table(
        ("job", "state", "connection", "days", "accepted", "result"),
        [
            (
                ids[job.job_execution_id],
                job.state.value,
                labels.get(job.connection_id or "") or (job.connection_id or "")[:12],
                days_of(job.window, short=output.is_narrow),
                ago(job.accepted_at, now),
                _result(job),
            )
            for job in found
        ],
    )


def show(deployment: Deployment, output: Output, named: str, *, trace: bool = False) -> None:
    """Show one; with `trace` what every function logged about it, too."""
    document = read(deployment, find(deployment, named))
    lines = []
    if trace:
        with output.working("Reading the logs ..."):
            lines = story.lines_of(deployment, document)
        document["log"] = [story.told(line) for line in lines]
    if output.as_json:
        output.document(document)
        return
    tell(output, document)
    if trace:
        output.say()
        for line in lines:
            output.say(str(line))


def watch(deployment: Deployment, output: Output, named: str) -> None:
    """Look at a job until it has ended."""
    job_execution_id = find(deployment, named)
    document = read(deployment, job_execution_id)
    with output.working(_state(document)) as working:
        while document["status"] == OPEN:
            time.sleep(LOOK_SECONDS)
            document = read(deployment, job_execution_id)
            working.say(_state(document))
    if output.as_json:
        output.document(document)
    else:
        tell(output, document)
    if document["status"] != GOOD:
        end_badly(output, document)


def end_badly(output: Output, document: dict[str, Any]) -> NoReturn:
    """End with the exit code of a fetch without success; a JSON document has said it already."""
    if output.as_json:
        raise typer.Exit(ExitCode.FETCH_ENDED)
    why = f": {document['error_code']}" if document.get("error_code") else ""
    raise FetchEnded(
        "fetch_ended", f"{document['job_execution_id']} has ended as {document['status']}{why}."
    )


def find(deployment: Deployment, named: str) -> str:
    """Give the id of a job that is named by it, or by a beginning that no other recent one has."""
    if named.startswith(RANGE) or deployment.table.get(Key("JOB", named)) != [None]:
        return named
    ids = [each.connection_id for each in rows.connections(deployment)]
    recent = rows.newest_jobs(deployment, ids, None, RECENT)
    found = [each.job_execution_id for each in recent if each.job_execution_id.startswith(named)]
    if len(found) > 1:
        raise WrongUsage(
            "ambiguous_job", f"{len(found)} jobs begin so: {', '.join(found[:MOST_CANDIDATES])}."
        )
    return found[0] if found else named


def read(deployment: Deployment, job_execution_id: str) -> dict[str, Any]:
    """Give all that is known of a job or a range; `NotFound` where there is none."""
    if job_execution_id.startswith(RANGE):
        return _range(deployment, job_execution_id)
    job = deployment.jobs.job(job_execution_id, utc_now())
    if job is None:
        raise NotFound("no_such_job", "There is no such job: see `relay jobs list`.")
    asked, _ = deployment.jobs.rows(request_ids=_requests_of(job))
    return _document(job, asked)


def _range(deployment: Deployment, range_id: str) -> dict[str, Any]:
    now = utc_now()
    found = deployment.ranges.get(range_id, now)
    if found is None:
        raise NotFound("no_such_job", "There is no such range, or its time is over.")
    report = RangeReport.of(found, outcomes_of(found, deployment.jobs, now))
    return {
        **report.model_dump(mode="json"),
        "connection_id": found.plan.connection_id,
        "search_by": found.plan.request.search_by,
        "notification": found.notification,
    }


def _requests_of(*jobs: Job) -> list[str]:
    return [job.request_id for job in jobs if job.request_id]


def _document(job: Job, asked: dict[str, RequestRecord]) -> dict[str, Any]:
    request, end = asked.get(job.request_id or ""), job.completion
    report = JobReport.of(job, request.requested_at if request else None)
    return {
        **report.model_dump(mode="json", exclude={"result_url", "result_url_expires_at"}),
        "connection_id": job.connection_id,
        "access_token_reference_id": end.access_token_reference_id if end else None,
        "request_id": job.request_id,
        "range_id": job.range_id,
        "search_by": job.search_by,
        "seconds_to_completion": job.seconds_to_completion,
        "cobalt_event_id": end.cobalt_event_id if end else None,
        "declared_count": end.declared_count if end else None,
        "notification": job.notification,
        "result": end.result.model_dump(mode="json") if end else None,
    }


def tell(output: Output, document: dict[str, Any]) -> None:
    """Show to people what is known of a job or a range."""
    facts = []
    for name, value in document.items():
        if name in {"pieces", "log"}:
            continue
        said = value
        if isinstance(value, dict) and "start_date" in value:
            said = f"{value['start_date']} to {value['end_date']}"
        elif isinstance(value, dict):
            said = f"s3://{value['bucket']}/{value['key']}"
        facts.append((name.replace("_", " "), said))
    output.facts(facts)
    pieces = document.get("pieces") or []
    if pieces:
        output.say()
        ids = output.ids(each["job_execution_id"] or "" for each in pieces)
        output.table(
            ("piece", "status", "job", "appointments", "error"),
            [
                (
                    days_of(Window.model_validate(piece["window"]), short=output.is_narrow),
                    piece["status"],
                    ids[piece["job_execution_id"] or ""],
                    "" if piece["appointment_count"] is None else str(piece["appointment_count"]),
                    piece["error_code"] or "",
                )
                for piece in pieces
            ],
        )


def days_of(window: Window | None, *, short: bool = False) -> str:
    """Give the days of a window; short, without the year."""
    if window is None:
        return ""
    first = f"{window.start_date:%m-%d}" if short else window.start_date.isoformat()
    return f"{first} to {window.end_date:%m-%d}"


def _result(job: Job) -> str:
    end = job.completion
    if not end:
        return ""
    return end.error_code or f"{end.appointment_count} {end.delivered_via}"


def _state(document: dict[str, Any]) -> str:
    pieces = document.get("pieces")
    if not pieces:
        return f"{document['job_execution_id']} is open ..."
    ended = sum(piece["status"] not in {"PENDING", OPEN} for piece in pieces)
    return f"{document['job_execution_id']}: {ended} of {len(pieces)} pieces have ended ..."
