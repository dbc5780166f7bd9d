"""The control interface under ``/_sandbox``: for tests and people, no part of Cobalt."""

import json
import logging
import math
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.answers import RefusalError, answer, refusal
from sandbox.appointments import WORDED
from sandbox.clinics import Clinic
from sandbox.clock import iso_millis, iso_seconds
from sandbox.events import Head
from sandbox.faults import BadFaultError, allowed
from sandbox.jobs import new_event_id, speaks_oldest
from sandbox.world import World

logger = logging.getLogger(__name__)

type Body = dict[str, object]
type Control = Callable[[World, Request], Awaitable[Response]]


async def health(world: World, _: Request) -> Response:
    """Tell that the sandbox is up, and what it is doing."""
    return answer(
        {
            "ok": True,
            "seed": world.settings.seed,
            "edition": world.settings.edition.value,
            "uptime_seconds": math.floor((datetime.now(UTC) - world.started_at).total_seconds()),
            "pending": world.robot.pending,
        }
    )


async def ready(world: World, request: Request) -> Response:
    """Give what the ready file holds."""
    url = f"{request.url.scheme}://{request.url.netloc}"
    return answer(dict(world.ready_document(url, os.getpid())))


async def clinics(world: World, _: Request) -> Response:
    """List the clinics with their access tokens."""
    return answer({"clinics": [_public(clinic) for clinic in world.clinics]})


async def change_clinic(world: World, request: Request) -> Response:
    """Break or repair a clinic's link (``linked``), or set what its diary says (``wording``)."""
    clinic = world.clinics.by_name(request.path_params["name"])
    if clinic is None:
        raise RefusalError(404, "No such clinic.")
    body = await _body(request)
    if not body or body.keys() - {"linked", "wording"}:
        raise RefusalError(400, "The body must have linked or wording, and nothing else.")
    linked, wording = body.get("linked", clinic.linked), body.get("wording", clinic.wording)
    if not isinstance(linked, bool):
        raise RefusalError(400, "linked must be true or false.")
    if not (isinstance(wording, dict) and all(isinstance(text, str) for text in wording.values())):
        raise RefusalError(400, "wording must be an object of strings.")
    if wording.keys() - set(WORDED):
        raise RefusalError(400, f"wording may have {', '.join(WORDED)}.")
    clinic.linked, clinic.wording = linked, wording
    return answer(_public(clinic))


async def requests(world: World, request: Request) -> Response:
    """List the calls received, oldest first; ``?path=`` names one path."""
    path = request.query_params.get("path")
    found = [each.public() for each in world.journal if path in (None, each.path)]
    return answer({"requests": found})


async def jobs(world: World, _: Request) -> Response:
    """List the jobs, oldest first."""
    return answer({"jobs": [job.public() for job in world.robot.jobs]})


async def job(world: World, request: Request) -> Response:
    """Show one job."""
    found = world.robot.jobs.get(request.path_params["id"])
    if found is None:
        raise RefusalError(404, "No such job.")
    return answer(found.public())


async def deliveries(world: World, request: Request) -> Response:
    """List the attempts, in the order in which they ended; ``?job_id=`` names one job."""
    job_id = request.query_params.get("job_id")
    found = [each.public() for each in world.courier.log if job_id in (None, each.job_id)]
    return answer({"deliveries": found})


async def event_body(world: World, request: Request) -> Response:
    """Give the exact bytes that are signed."""
    event = world.events.get(request.path_params["id"])
    if event is None:
        raise RefusalError(404, "No such event.")
    return Response(event.body, media_type="application/json")


async def emit_event(world: World, request: Request) -> Response:
    """Emit any event: ``{"type", "clinic", "data"}``, and optionally ``job_id`` and ``id``."""
    body = await _body(request)
    event_type, data = body.get("type"), body.get("data", {})
    event_id, job_id = body.get("id"), body.get("job_id")
    if not isinstance(event_type, str) or not event_type:
        raise RefusalError(400, "type must be a non-empty string.")
    if not isinstance(data, dict):
        raise RefusalError(400, "data must be a JSON object.")
    if not (_is_id(event_id) and _is_id(job_id)):
        raise RefusalError(400, "id and job_id must be integers or strings of printable ASCII.")
    name = body.get("clinic")
    clinic = world.clinics.by_name(name) if isinstance(name, str) else None
    if clinic is None:
        raise RefusalError(400, f"clinic must be one of {', '.join(world.clinics.names())}.")
    faults = world.faults.for_event(clinic.name)
    head = Head(
        id=event_id
        if isinstance(event_id, str | int)
        else new_event_id(numeric="numeric_ids" in faults),
        type=event_type,
        clinic=clinic.name,
        reference=clinic.access_token_reference_id,
        job_id=job_id if isinstance(job_id, str | int) else None,
        created_at=datetime.now(UTC),
        oldest_edition=speaks_oldest(world.settings.edition, faults),
    )
    announced = world.robot.announce(head, data, faults)
    return answer({"event_id": announced, "faults": list(faults)}, 201)


async def redeliver(world: World, request: Request) -> Response:
    """Deliver an event once more, without faults."""
    event_id = request.path_params["id"]
    if not world.robot.redeliver(event_id):
        raise RefusalError(404, "No such event.")
    return answer({"event_id": event_id}, 202)


async def webhook_secret(world: World, _: Request) -> Response:
    """Show the webhook secrets."""
    until = world.webhooks.previous_secret_works_until
    return answer(
        {
            "current": world.webhooks.secret,
            "previous": world.webhooks.previous_secret,
            "previous_works_until": iso_seconds(until) if until else None,
        }
    )


async def add_fault(world: World, request: Request) -> Response:
    """Set a fault."""
    try:
        fault = world.faults.add(await _body(request), world.clinics.names())
    except BadFaultError as error:
        return answer({"success": False, "message": str(error), "allowed": allowed()}, 400)
    logger.info("fault_set", extra={"fault": fault.name, "fault_id": fault.id})
    return answer(fault.public(), 201)


async def list_faults(world: World, _: Request) -> Response:
    """List the faults that are set, and those that could be."""
    return answer({"faults": [each.public() for each in world.faults], "allowed": allowed()})


async def clear_faults(world: World, _: Request) -> Response:
    """Take every fault back."""
    world.faults.clear()
    return Response(status_code=204)


async def remove_fault(world: World, request: Request) -> Response:
    """Take one fault back."""
    if not world.faults.remove(request.path_params["id"]):
        raise RefusalError(404, "No such fault.")
    return Response(status_code=204)


async def read_clock(world: World, _: Request) -> Response:
    """Tell the diaries' time."""
    return answer(_clock(world))


async def move_clock(world: World, request: Request) -> Response:
    """Move the diaries' clock forward: ``{"advance_seconds": 86400}``."""
    seconds = (await _body(request)).get("advance_seconds")
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not (is_number and isinstance(seconds, int | float) and 0 <= seconds < math.inf):
        raise RefusalError(400, "advance_seconds must be a number of 0 or more.")
    try:
        world.clock.advance(seconds)
    except OverflowError as error:
        raise RefusalError(400, "advance_seconds leaves the calendar.") from error
    return answer(_clock(world))


async def list_links(world: World, _: Request) -> Response:
    """List the links under way."""
    shown = [
        {
            "id": link.id,
            "link_token": link.link_token,
            "org_id": link.organisation,
            "emr_name": link.emr_name,
            "completed": link.public_token is not None,
            "exchanged": link.exchanged,
        }
        for link in world.links
    ]
    return answer({"links": shown})


async def complete_link(world: World, request: Request) -> Response:
    """Act as the clinic that goes through Link; give the public token."""
    link = world.links.complete(request.path_params["id"], world.clock.now())
    if link is None:
        raise RefusalError(404, "No open link with this id or link token.")
    return answer({"id": link.id, "public_token": link.public_token})


async def reset(world: World, _: Request) -> Response:
    """Go back to the start."""
    world.reset()
    logger.info("reset")
    return Response(status_code=204)


ROUTES: tuple[tuple[str, str, Control], ...] = (
    ("GET", "/health", health),
    ("GET", "/ready", ready),
    ("GET", "/clinics", clinics),
    ("PATCH", "/clinics/{name}", change_clinic),
    ("GET", "/requests", requests),
    ("GET", "/jobs", jobs),
    ("GET", "/jobs/{id}", job),
    ("GET", "/deliveries", deliveries),
    ("POST", "/events", emit_event),
    ("GET", "/events/{id}/body", event_body),
    ("POST", "/redeliver/{id}", redeliver),
    ("GET", "/webhook-secret", webhook_secret),
    ("POST", "/faults", add_fault),
    ("GET", "/faults", list_faults),
    ("DELETE", "/faults", clear_faults),
    ("DELETE", "/faults/{id}", remove_fault),
    ("GET", "/clock", read_clock),
    ("POST", "/clock", move_clock),
    ("GET", "/links", list_links),
    ("POST", "/links/{id}/complete", complete_link),
    ("POST", "/reset", reset),
)


def routes(world: World) -> list[Route]:
    """Give the routes of the control interface, below ``/_sandbox``."""
    found = [Route(path, _guarded(world, act), methods=[method]) for method, path, act in ROUTES]
    return [*found, Route("/{path:path}", _nothing_there, methods=["GET", "POST", "DELETE"])]


def _guarded(world: World, act: Control) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            response = await act(world, request)
        except RefusalError as error:
            response = error.response()
        logger.debug(
            "control_call",
            extra={
                "method": request.method,
                "path": request.url.path,
                "status": response.status_code,
            },
        )
        return response

    return endpoint


async def _nothing_there(_: Request) -> Response:
    known = [f"{method} /_sandbox{path}" for method, path, _ in ROUTES]
    return refusal(404, f"Not found. Known: {'; '.join(known)}.")


async def _body(request: Request) -> Body:
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise RefusalError(400, "The body must be JSON.") from error
    if not isinstance(body, dict):
        raise RefusalError(400, "The body must be a JSON object.")
    return body


def _is_id(value: object) -> bool:
    """Whether it can be an id, which travels in a header, or is left out."""
    if isinstance(value, str):
        return bool(value) and value.isascii() and value.isprintable()
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _clock(world: World) -> Body:
    return {"now": iso_millis(world.clock.now()), "advanced_seconds": world.clock.advanced_seconds}


def _public(clinic: Clinic) -> Body:
    return {
        "name": clinic.name,
        "emr_name": clinic.profile.emr_name,
        "access_token": clinic.access_token,
        "access_token_reference_id": clinic.access_token_reference_id,
        "timezone": clinic.profile.timezone,
        "linked": clinic.linked,
    }
