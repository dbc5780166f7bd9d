"""Connections and jobs as an operator looks for them."""

from itertools import islice
from typing import Any

from botocore.exceptions import ClientError

from cobalt_relay.models import Connection, Job, iso, utc_now
from tools.relay.faults import NotFound, WrongUsage
from tools.relay.session import Deployment

MOST_CANDIDATES = 10


def connections(deployment: Deployment) -> list[Connection]:
    """Give every connection, the first registered first."""
    return sorted(deployment.connections.all(), key=_registered)


def _registered(row: Connection) -> tuple[str, str]:
    return (iso(row.registered_at), row.connection_id)


def find_connection(deployment: Deployment, named: str) -> Connection:
    """Find a connection by its id, its beginning, or its label.

    `NotFound` for none; `WrongUsage`, with the candidates, for several.
    """
    return _pick(connections(deployment), named)


def find_predecessor(deployment: Deployment, named: str, heir: str) -> Connection:
    """Find the connection whose place another one is to take, or has taken already.

    Both have one label as a rule: then the one is meant that is not the heir.
    """
    every = connections(deployment)
    others = [each for each in every if each.connection_id != heir]
    open_ones = [e for e in others if e.replaced_by in {None, heir} or e.connection_id == named]
    try:
        return _pick(open_ones, named)
    except NotFound:
        return _pick(every, named)


def find_in_use(deployment: Deployment, *named: str) -> list[Connection]:
    """Find connections, each once, and in place of a replaced one that which took its place."""
    every = connections(deployment)
    known = {each.connection_id: each for each in every}
    found = [_heir(_pick(every, name), known) for name in named]
    return list({each.connection_id: each for each in found}.values())


def _heir(row: Connection, known: dict[str, Connection]) -> Connection:
    for _ in known:
        if row.replaced_by not in known:
            break
        row = known[row.replaced_by]
    return row


def _pick(every: list[Connection], named: str) -> Connection:
    exact = [each for each in every if each.connection_id == named]
    labelled = [each for each in every if each.access_token_reference_id == named]
    beginning = [each for each in every if named and each.connection_id.startswith(named)]
    # A label may outlive a token: then the connection that is still in use is meant.
    in_use = [each for each in labelled if each.state != "replaced"]
    candidates = exact or in_use or labelled or beginning
    if not candidates:
        raise NotFound(
            "unknown_connection", "No connection is so named: see `relay connections list`."
        )
    if len(candidates) > 1:
        names = ", ".join(each.connection_id for each in candidates[:MOST_CANDIDATES])
        raise WrongUsage(
            "ambiguous_connection",
            f"{len(candidates)} connections are so named: {names}. Give more of the id.",
        )
    return candidates[0]


def newest_jobs(
    deployment: Deployment, connection_ids: list[str], state: str | None, most: int
) -> list[Job]:
    """Give the newest jobs of some connections together."""
    found: list[Job] = []
    now = utc_now()
    for connection_id in connection_ids:
        every = deployment.jobs.of_connection(connection_id, now)
        found += islice((job for job in every if state in {None, job.state}), most)
    return sorted(found, key=_age, reverse=True)[:most]


def _age(job: Job) -> str:
    return job.accepted_at.isoformat() if job.accepted_at else ""


def result_of(deployment: Deployment, job: Job) -> dict[str, Any]:
    """Read what Cobalt sent for a job; `NotFound` where it is not kept any more."""
    import json  # noqa: PLC0415 - where a result is read alone

    if not job.completion:
        raise NotFound("no_result", "The job has no result.")
    place = job.completion.result
    version = {"VersionId": place.version_id} if place.version_id else {}
    try:
        answer = deployment.client("s3").get_object(Bucket=place.bucket, Key=place.key, **version)
    except ClientError as error:
        if error.response["Error"]["Code"] in {"NoSuchKey", "NoSuchVersion", "404"}:
            raise NotFound("no_result", "The result is not kept any more.") from error
        raise
    said = json.loads(answer["Body"].read())
    return said if isinstance(said, dict) else {}
