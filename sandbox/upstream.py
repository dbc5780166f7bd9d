"""The routes of the Cobalt API, each handler named after its page of the documentation."""

from collections.abc import Mapping
from datetime import date
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.routing import Route

from sandbox.answers import RefusalError, answer, raw
from sandbox.appointments import Filters, render, without_notes
from sandbox.calls import Call, Credentials, Endpoint, Handler
from sandbox.clinics import LIVE_FETCH_EMR
from sandbox.clock import iso_seconds
from sandbox.events import Query
from sandbox.fetching import (
    END_BEFORE_START,
    MISSING_DATES,
    UNSUPPORTED_EMR,
    RefusedError,
    parse_day,
    parse_fetch,
)
from sandbox.jobs import job_key
from sandbox.world import World

ACCEPTED = "Live fetch request accepted. Results will be sent via webhook when ready."
MOST_CACHED_DAYS = 366
MOST_PAGE_SIZE = 100


async def live_fetch(call: Call) -> Response:
    """Accept a live fetch (docs: Live fetch)."""
    clinic = call.connection
    request = parse_fetch(call.fields())
    if clinic.profile.emr_name != LIVE_FETCH_EMR:
        raise RefusedError(UNSUPPORTED_EMR.format(emr_name=clinic.profile.emr_name))
    accepted = await call.world.robot.accept(
        clinic, request, numeric_id="numeric_job_id" in call.faults
    )
    body: dict[str, object] = {"success": True, "message": ACCEPTED}
    if "no_job_id" not in call.faults:
        key = job_key(call.world.settings.edition, accepted.faults)
        job_id = accepted.job.id
        body[key] = int(job_id) if "numeric_job_id" in call.faults else job_id
    return answer(body, 200 if "accepted_as_200" in call.faults else 202)


async def cached_appointments(call: Call) -> Response:
    """Answer from the cache (docs: Appointments)."""
    query = call.query
    if not query.get("start_date") or not query.get("end_date"):
        raise RefusedError(MISSING_DATES)
    start, end = parse_day(query["start_date"]), parse_day(query["end_date"])
    if end < start:
        raise RefusedError(END_BEFORE_START)
    if (end - start).days >= MOST_CACHED_DAYS:
        raise RefusedError(f"Date range cannot exceed {MOST_CACHED_DAYS} days.")
    include_note = _one_of(query, "include_note", ("true", "false")) == "true"
    filters = Filters(
        patient_mrn=query.get("patient_mrn") or None,
        patient_name=query.get("patient_name"),
        patient_phone=query.get("patient_phone"),
        appointment_mode=_one_of(query, "appointment_mode", ("office", "telemedicine")),
    )
    clinic = call.connection
    entries = call.world.cache.window(clinic, start, end)
    items = [
        item if include_note else without_notes(item)
        for item in render(call.world.settings.seed, clinic, entries)
        if filters.accept(item)
    ]
    return answer({"success": True, "appointments": items})


async def read_settings(call: Call) -> Response:
    """Tell a clinic's settings, 404 where there are none (docs: Settings)."""
    clinic = call.connection
    if not clinic.has_settings:
        raise RefusalError(404, "Settings not found.")
    return answer({"success": True, "data": clinic.settings()})


async def write_settings(call: Call) -> Response:
    """Set the label of an access token (docs: Settings)."""
    label = call.fields().get("access_token_reference_id")
    if not isinstance(label, str) or not label:
        raise RefusedError("Missing required parameters: access_token_reference_id.")
    clinic = call.connection
    clinic.access_token_reference_id = label
    return answer({"success": True, "data": clinic.settings()})


async def register_webhook(call: Call) -> Response:
    """Register a URL; the same URL twice is one registration (docs: Webhooks, management)."""
    url = call.fields().get("webhook_url")
    if not isinstance(url, str) or not url:
        raise RefusedError("Missing required parameters: webhook_url.")
    if not _is_http_url(url):
        raise RefusedError("Invalid webhook_url.")
    call.world.webhooks.register(url)
    return answer(
        {
            "success": True,
            "message": "Webhook registered successfully.",
            "webhook_secret_key": call.world.webhooks.secret,
        }
    )


async def list_webhooks(call: Call) -> Response:
    """List the registered URLs; ``webhook_url`` is the first (docs: Webhooks, management)."""
    webhooks = call.world.webhooks
    urls = [{"id": each.id, "url": each.url} for each in webhooks.registrations]
    return answer(
        {
            "success": True,
            "webhook_url": urls[0]["url"] if urls else None,
            "webhook_urls": urls,
            "webhook_secret_key": webhooks.secret,
        }
    )


async def delete_webhook(call: Call) -> Response:
    """Remove a URL (docs: Webhooks, management)."""
    if not call.world.webhooks.remove(call.request.path_params["id"]):
        raise RefusalError(404, "Webhook not found.")
    return answer({"success": True, "message": "Webhook deleted successfully."})


async def rotate_secret(call: Call) -> Response:
    """Rotate the secret, as the guide has it (docs: Webhooks, management)."""
    secret = call.world.webhooks.rotate(call.world.clock.now())
    return answer(
        {
            "success": True,
            "message": "Webhook secret rotated successfully.",
            "webhook_secret_key": secret,
        }
    )


async def rotate_secret_of_one(call: Call) -> Response:
    """Rotate the secret, as the reference has it; the client has one secret for all URLs."""
    webhook_id = call.request.path_params["id"]
    if not call.world.webhooks.knows(webhook_id):
        raise RefusalError(404, "Webhook not found.")
    secret = call.world.webhooks.rotate(call.world.clock.now())
    return answer({"success": True, "webhook": {"id": webhook_id, "secret": secret}})


async def webhook_events(call: Call) -> Response:
    """List recorded events (docs: Webhook events).

    The events of every connection; with an ``access_token`` header, those of its connection.
    """
    query = call.query
    if call.request.headers.get("access_token") and call.clinic is None:
        raise RefusalError(401, "Invalid access token.")
    wanted = Query(
        job_id=query.get("job_id") or None,
        event_type=query.get("event_type") or None,
        delivery_status=_one_of(query, "delivery_status", ("success", "failed")),
        clinic=call.clinic.name if call.clinic else None,
        start=_day(query, "start_date"),
        end=_day(query, "end_date"),
        page=_number(query, "page", 1, None),
        page_size=_number(query, "page_size", 50, MOST_PAGE_SIZE),
        newest_first=_one_of(query, "sort", ("created_at", "-created_at")) != "created_at",
    )
    return raw(call.world.events.page(wanted))


async def create_link_token(call: Call) -> Response:
    """Open a link for an organisation (docs: Link)."""
    body = call.fields()
    _text(body, "user_id")
    organisation = _text(body, "org_id")
    known = call.world.clinics.by_name(organisation)
    emr_name = known.profile.emr_name if known else _text(body, "emr_name")
    domain = known.emr_instance_domain if known else _text(body, "emr_instance_domain")
    link = call.world.links.create(organisation, emr_name, domain, call.world.clock.now())
    return answer(
        {"success": True, "token": link.link_token, "expires_at": iso_seconds(link.expires_at)}
    )


async def exchange_link_token(call: Call) -> Response:
    """Give the permanent access token for a public token (docs: Link)."""
    link = call.world.links.exchange(call.query.get("public_token", ""), call.world.clock.now())
    if link is None:
        raise RefusedError("Invalid or expired public_token.")
    return answer({"success": True, "token": call.world.link(link).access_token})


async def nothing_there(_: Call) -> Response:
    """Answer for every route that Cobalt does not have: no job status, no cancel."""
    raise RefusalError(404, "Not found.")


ROUTES: tuple[tuple[str, str, Handler, Credentials], ...] = (
    ("POST", "/v1/appointments/fetch", live_fetch, Credentials.TOKEN),
    ("GET", "/v1/appointments", cached_appointments, Credentials.TOKEN),
    ("GET", "/v1/settings", read_settings, Credentials.TOKEN),
    ("POST", "/v1/settings", write_settings, Credentials.TOKEN),
    ("POST", "/v1/webhook", register_webhook, Credentials.CLIENT),
    ("GET", "/v1/webhook", list_webhooks, Credentials.CLIENT),
    ("POST", "/v1/webhook/rotate-secret", rotate_secret, Credentials.CLIENT),
    ("DELETE", "/v1/webhook/{id}", delete_webhook, Credentials.CLIENT),
    ("POST", "/v1/webhook/{id}/rotate-secret", rotate_secret_of_one, Credentials.CLIENT),
    ("GET", "/v1/webhook-events", webhook_events, Credentials.CLIENT),
    ("POST", "/v1/link/token/create", create_link_token, Credentials.CLIENT),
    ("GET", "/v1/link/token/exchange", exchange_link_token, Credentials.CLIENT),
    ("POST", "/link/token/create", create_link_token, Credentials.CLIENT),
    ("GET", "/link/token/exchange", exchange_link_token, Credentials.CLIENT),
)

EVERY_METHOD = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def routes(world: World) -> list[Route]:
    """Give the routes of Cobalt, and one that answers 404 for all others."""
    found = [
        Route(path, Endpoint(world, handler, credentials).__call__, methods=[method])
        for method, path, handler, credentials in ROUTES
    ]
    rest = Endpoint(world, nothing_there, Credentials.NONE).__call__
    return [*found, Route("/{path:path}", rest, methods=list(EVERY_METHOD))]


def _text(body: Mapping[str, object], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise RefusedError(f"Missing required parameters: {name}.")
    return value


def _one_of(query: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str | None:
    value = query.get(name) or None
    if value is not None and value not in choices:
        raise RefusedError(f"Invalid {name}. Use {' or '.join(choices)}.")
    return value


def _day(query: Mapping[str, str], name: str) -> date | None:
    value = query.get(name)
    return parse_day(value) if value else None


def _number(query: Mapping[str, str], name: str, default: int, most: int | None) -> int:
    text = query.get(name)
    if not text:
        return default
    in_form = text.isascii() and text.isdigit() and len(text) <= 9
    value = int(text) if in_form else 0
    if value < 1 or (most is not None and value > most):
        limits = "a positive integer" if most is None else f"an integer from 1 to {most}"
        raise RefusedError(f"Invalid {name}. Use {limits}.")
    return value


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
