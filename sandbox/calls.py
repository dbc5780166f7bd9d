"""One call from outside: its body, its credentials and the faults that befall it."""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from html import escape

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response

from sandbox.answers import LOGIN_REQUIRED, RefusalError, refusal
from sandbox.clinics import Clinic
from sandbox.faults import FETCH_PATH, Fault
from sandbox.fetching import RefusedError
from sandbox.journal import Received
from sandbox.world import World

logger = logging.getLogger(__name__)

MOST_BODY_BYTES = 1024 * 1024
SLOW_SECONDS = 3.0
SECRET_QUERY = frozenset({"public_token"})


class Credentials(Enum):
    """Which headers a route wants (docs: Authentication); names with underscores, not hyphens."""

    CLIENT = ("client_id", "client_secret")
    """The client's own."""
    TOKEN = ("client_id", "client_secret", "access_token")
    """The client's and a connection's."""
    NONE = ()
    """Nothing: the route does not exist anyway."""


@dataclass(slots=True)
class Call:
    """A call with everything a handler needs."""

    world: World
    request: Request
    clinic: Clinic | None
    faults: Mapping[str, Fault]
    body: object = None

    @property
    def connection(self) -> Clinic:
        """The clinic of a route that wants an access token."""
        if self.clinic is None:
            raise RefusalError(401, "Invalid access token.")
        return self.clinic

    @property
    def query(self) -> Mapping[str, str]:
        """The parameters of the query."""
        return self.request.query_params

    def fields(self) -> Mapping[str, object]:
        """Give the body as a JSON object; anything else counts as an empty one."""
        return self.body if isinstance(self.body, dict) else {}


type Handler = Callable[[Call], Awaitable[Response]]


class Endpoint:
    """Wrap a handler with what every route of Cobalt shares.

    In this order: the call is logged, a fault may take the answer's place, the credentials are
    checked, the body is read, the handler answers, a fault may bend that answer.
    """

    def __init__(self, world: World, handler: Handler, credentials: Credentials) -> None:
        self._world = world
        self._handler = handler
        self._credentials = credentials

    async def __call__(self, request: Request) -> Response:
        """Answer a call, or end its connection where a fault says so."""
        started = time.monotonic()
        received = self._receive(request)
        try:
            response = await self._answer(request, received)
            received.status = None if response is None else response.status_code
        except ClientDisconnect:
            response = None
        finally:
            logger.info(
                "api_call",
                extra={
                    "method": received.method,
                    "path": received.path,
                    "status": received.status,
                    "ms": round((time.monotonic() - started) * 1000),
                    "clinic": received.clinic,
                    "fault": received.fault,
                },
            )
        return Response() if response is None else response

    def _receive(self, request: Request) -> Received:
        query = {
            name: "…" if name in SECRET_QUERY else value
            for name, value in request.query_params.items()
        }
        received = Received(datetime.now(UTC), request.method, request.url.path, query)
        clinic = self._world.clinics.by_token(request.headers.get("access_token", ""))
        received.clinic = clinic.name if clinic else None
        received.traceparent = request.headers.get("traceparent")
        self._world.journal.append(received)
        return received

    async def _answer(self, request: Request, received: Received) -> Response | None:
        path = received.path if received.path.startswith("/v1/") else f"/v1{received.path}"
        replacing, bending = self._world.faults.for_call(path, received.clinic)
        received.fault = replacing.name if replacing else ",".join(bending) or None
        raw_body = await _read_body(request)
        if path == FETCH_PATH:
            received.body = _parse(request, raw_body)
        if replacing is None:
            response = await self._handle(request, raw_body, bending)
            if "slow" in bending:
                await _until_gone(request, bending["slow"].seconds(SLOW_SECONDS))
            return response
        if replacing.accepted:
            await self._handle(request, raw_body, bending)
        return await _REPLACEMENTS[replacing.name](request, replacing)

    async def _handle(
        self, request: Request, raw_body: bytes, faults: Mapping[str, Fault]
    ) -> Response:
        try:
            if len(raw_body) > MOST_BODY_BYTES:
                return refusal(413, "Request body too large.")
            clinic = self._authenticate(request)
            body = _parse(request, raw_body)
            if body is _MALFORMED:
                return refusal(400, "Invalid JSON in request body.")
            return await self._handler(Call(self._world, request, clinic, faults, body))
        except RefusedError as error:
            return refusal(400, str(error))
        except RefusalError as error:
            return error.response()

    def _authenticate(self, request: Request) -> Clinic | None:
        given = request.headers
        missing = [name for name in self._credentials.value if not given.get(name)]
        if missing:
            raise RefusalError(401, f"Missing required headers: {', '.join(missing)}.")
        settings = self._world.settings
        if self._credentials is not Credentials.NONE:
            id_is_ours = _same(given["client_id"], settings.client_id)
            if not (_same(given["client_secret"], settings.secret) and id_is_ours):
                raise RefusalError(401, "Invalid client credentials.")
        token = given.get("access_token")
        clinic = self._world.clinics.by_token(token) if token else None
        if self._credentials is Credentials.TOKEN:
            if clinic is None:
                raise RefusalError(401, "Invalid access token.")
            if not clinic.linked:
                raise RefusalError(403, LOGIN_REQUIRED)
        return clinic


_MALFORMED = "(not JSON)"


async def _read_body(request: Request) -> bytes:
    """Read the body, of one that is too large only so much as shows that."""
    found = bytearray()
    async for part in request.stream():
        found += part[: MOST_BODY_BYTES + 1 - len(found)]
    return bytes(found)


def _parse(request: Request, raw_body: bytes) -> object:
    """Parse the body; ``None`` where there is none or where it is not said to be JSON.

    A body without ``Content-Type: application/json`` is not looked at, as body parsers do.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" or not raw_body.strip():
        return None
    try:
        return json.loads(raw_body)
    except (ValueError, RecursionError):
        return _MALFORMED


def _same(given: str, ours: str) -> bool:
    return hmac.compare_digest(given.encode(), ours.encode())


async def _until_gone(request: Request, most_seconds: float | None) -> None:
    """Wait, but not for a client that has gone."""
    try:
        async with asyncio.timeout(most_seconds):
            while (await request.receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        pass


def _retry_after(fault: Fault) -> Mapping[str, str] | None:
    seconds = fault.spec.retry_after
    return None if seconds is None else {"retry-after": str(seconds)}


async def _rate_limited(_: Request, fault: Fault) -> Response:
    return refusal(429, fault.spec.message or "Too many requests.", _retry_after(fault))


async def _server_error(_: Request, fault: Fault) -> Response:
    return refusal(500, fault.spec.message or "Internal server error.")


async def _unavailable(_: Request, fault: Fault) -> Response:
    message = fault.spec.message or "Service temporarily unavailable."
    return refusal(503, message, _retry_after(fault))


async def _html(_: Request, fault: Fault) -> Response:
    status = fault.spec.status or 500
    heading = escape(fault.spec.message or str(status))
    page = f"<html><head><title>{status}</title></head><body><h1>{heading}</h1></body></html>\n"
    return HTMLResponse(page, status)


async def _wrong_credentials(_: Request, fault: Fault) -> Response:
    return refusal(401, fault.spec.message or "Invalid client credentials.")


async def _hang_up(request: Request, _: Fault) -> None:
    request.state.hang_up()
    await _until_gone(request, None)


async def _hang(request: Request, _: Fault) -> None:
    await _until_gone(request, None)


_REPLACEMENTS: dict[str, Callable[[Request, Fault], Awaitable[Response | None]]] = {
    "rate_limited": _rate_limited,
    "server_error": _server_error,
    "unavailable": _unavailable,
    "html": _html,
    "wrong_credentials": _wrong_credentials,
    "hang_up": _hang_up,
    "hang": _hang,
}
