"""The Cobalt API, as far as its public documentation goes.

What it may answer beyond that becomes an error with a name.
"""

import json
import mmap
import random
import re
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import IO, Any
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError, SSLError

from cobalt_relay.adapters.in_time import InTime
from cobalt_relay.adapters.listing import Page, read_page
from cobalt_relay.clinic_time import zone_named
from cobalt_relay.errors import (
    AccessForbidden,
    AccessTokenRefused,
    RateLimited,
    RelayError,
    RequestRefused,
    UpstreamBroken,
    UpstreamFault,
    UpstreamMalformed,
    UpstreamRefusal,
    UpstreamUnanswered,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from cobalt_relay.models import (
    LIVE_FETCH_COMPLETED,
    ClientCredentials,
    ClinicSettings,
    FetchRequest,
    ListedEvent,
    WebhookRegistration,
    first_id,
    first_label,
    job_id_of,
)
from cobalt_relay.patterns import pattern
from cobalt_relay.tracing import traceparent

CONNECT_SECONDS = 3.05
ANSWER_SECONDS = 18.0
"""Patience with Cobalt, whole: 21 s for connection and answer together, and for every try. That
leaves room below the 28 s of the function and the 29 s of API Gateway for what comes before and
after."""
RETRY_PAUSES = (0.5, 1.0, 2.0)
"""Seconds before asking again where nothing was sent; jittered by half."""
LEAST_SECONDS = 8.0
"""What must be left for another try: one that is cut short has an unknown outcome."""
LIST_SECONDS = 60.0
"""Patience with a page of the list of events, whole; a result can have tens of megabytes."""
MAX_PAGE_BYTES = 128 * 1024 * 1024
"""A quarter of /tmp: the page before may still be there, and one that was given up."""
SWEEP_PAGE_ROWS = 20
MAX_PAGES = 1_000
MOST_STATUSES = 100
"""Of a clinic whose meaning is kept; real lists have some tens."""
MAX_ANSWER_BYTES = 65_536
MAX_MESSAGE_LENGTH = 500

_REFUSALS: dict[int, type[UpstreamRefusal]] = {
    400: RequestRefused,
    401: AccessTokenRefused,
    403: AccessForbidden,
    429: RateLimited,
}
_SECRET = pattern(r"[\x21-\x7e]{1,1024}", re.ASCII)
_ERROR = pattern(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_UNSUPPORTED_EMR = pattern(
    r"Live fetch for appointments is not supported for (?P<name>[\w .&/-]{1,64})\."
    r" Currently supported: eClinicalWorks\.",
    re.ASCII,
)
_RETRY_AFTER = pattern(
    r"\d{1,6}|[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", re.ASCII
)


class Cobalt:
    """Calls Cobalt over HTTP.

    The only call that is repeated is one that Cobalt surely has not acted on.
    """

    def __init__(
        self,
        base_url: str,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        tell: Callable[[float, RelayError | None], None] = lambda _seconds, _error: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._base_url = base_url
        self._connect_seconds = connect_seconds
        self._answer_seconds = answer_seconds
        self._tell = tell
        self._clock = clock
        self._sleep = sleep
        self._calls = InTime()
        self._session = requests.Session()
        # Not from the environment: a proxy or a .netrc must not see a clinic's token by accident.
        self._session.trust_env = False
        # One session serves every clinic: nothing that one of them is given may reach another.
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=0))

    def fetch_appointments(
        self, credentials: ClientCredentials, access_token: str, request: FetchRequest
    ) -> str:
        """Start a live fetch (docs: `POST /v1/appointments/fetch`) and return its job id.

        Raises `UpstreamRefusal` where Cobalt says no, and `UpstreamFault` where it fails;
        `may_have_started` of the latter tells whether a job may run nevertheless.
        """
        until = self._clock() + self._connect_seconds + self._answer_seconds
        for pause in (*RETRY_PAUSES, None):
            try:
                return self._fetch_once(credentials, access_token, request, until - self._clock())
            except (UpstreamUnreachable, UpstreamUnavailable, RateLimited) as error:
                wait = _pause_before_retry(error, pause)
                if wait is None or self._clock() + wait + LEAST_SECONDS > until:
                    raise
                self._sleep(wait)
        raise AssertionError  # the last round has no pause: it returns or raises

    def events_of_job(
        self, credentials: ClientCredentials, job_execution_id: str
    ) -> Iterator[ListedEvent]:
        """Give what Cobalt recorded of a job's results (docs: `GET /v1/webhook-events`).

        Asked for one by one, for a single one can have tens of megabytes. Raises as the fetch does.
        """
        query = {"job_id": job_execution_id, "page_size": "1"}
        for listed in self._listed(credentials, query):
            if listed.event.job_execution_id == job_execution_id:
                yield listed

    def live_fetches_since(
        self, credentials: ClientCredentials, since: datetime
    ) -> Iterator[ListedEvent]:
        """Give the results of all connections since a moment, the newest first.

        A body can be read until the next one is asked for. Raises as the fetch does.
        """
        query = {
            "event_type": LIVE_FETCH_COMPLETED,
            "start_date": (since - timedelta(days=1)).date().isoformat(),  # in whatever time zone
            "sort": "-created_at",
            "page_size": str(SWEEP_PAGE_ROWS),
        }
        for listed in self._listed(credentials, query):
            if listed.created_at and listed.created_at < since:
                return
            yield listed

    def settings_of(self, credentials: ClientCredentials, access_token: str) -> ClinicSettings:
        """Give a token's label, its clinic's time zone and status codes (docs: `GET /v1/settings`).

        None of them, where Cobalt has no settings for it. Raises as the fetch does.
        """
        headers = headers_of(credentials) | {"access_token": access_token}
        status, answer = self._ask("GET", "/v1/settings", headers, none_where=(404,))
        data = answer.get("data") if status != 404 else None
        if not isinstance(data, dict):
            return ClinicSettings()
        zone = data.get("timezone")
        is_zone = isinstance(zone, str) and zone_named(zone) is not None
        return ClinicSettings(
            access_token_reference_id=first_label(data, "access_token_reference_id"),
            time_zone=zone if is_zone else None,
            visit_statuses=_descriptions(data.get("visit_statuses")),
        )

    def webhook(self, credentials: ClientCredentials) -> WebhookRegistration:
        """Ask what Cobalt signs with, and where it delivers (docs: Webhooks, management).

        Raises as the fetch does.
        """
        _, answer = self._ask("GET", "/v1/webhook", headers_of(credentials))
        first, listed = answer.get("webhook_url"), answer.get("webhook_urls")
        if answer.get("success") is False or (first is None and not isinstance(listed, list)):
            raise UpstreamMalformed
        ids: dict[str, str | None] = {first: None} if isinstance(first, str) else {}
        for each in listed or ():
            if isinstance(each, dict) and isinstance(each.get("url"), str):
                ids[each["url"]] = first_id(each, "id")
        return WebhookRegistration(secret=_secret(answer.get("webhook_secret_key")), ids=ids)

    def register_webhook(self, credentials: ClientCredentials, url: str) -> str:
        """Make Cobalt deliver to a URL, and give the key that it signs with (docs: Webhooks).

        Sent once. Raises as the fetch does; should the answer get lost, `webhook` knows the key.
        """
        _, answer = self._ask("POST", "/v1/webhook", headers_of(credentials), {"webhook_url": url})
        secret = _secret(answer.get("webhook_secret_key"))
        if secret is None:
            raise UpstreamMalformed
        return secret

    def rotate_webhook_secret(
        self, credentials: ClientCredentials, registration_id: str | None
    ) -> str:
        """Make Cobalt sign with a new key, and give that (docs: Webhooks, management).

        The reference has it for one URL, the guide for all of them: Cobalt has one key per client.
        Sent once. Raises as the fetch does; should the answer get lost, `webhook` knows the key.
        """
        headers = headers_of(credentials)
        status, answer = 404, dict[str, Any]()
        if registration_id is not None:
            path = f"/v1/webhook/{quote(registration_id, safe='')}/rotate-secret"
            status, answer = self._ask("POST", path, headers, none_where=(404, 405))
        if status in {404, 405}:
            _, answer = self._ask("POST", "/v1/webhook/rotate-secret", headers)
        one = answer.get("webhook")
        secret = _secret(one.get("secret") if isinstance(one, dict) else None)
        secret = secret or _secret(answer.get("webhook_secret_key"))
        if secret is None:
            raise UpstreamMalformed
        return secret

    def _ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: dict[str, Any] | None = None,
        *,
        none_where: tuple[int, ...] = (),
    ) -> tuple[int, dict[str, Any]]:
        """Ask once; give a success, or what `none_where` names as no failure."""
        seconds = self._connect_seconds + self._answer_seconds
        with self._told():
            status, retry_after, said = self._in_time(
                partial(self._send, method, path, headers, body), seconds
            )
            answer = _json_object(said)
            if 200 <= status < 300 or status in none_where:
                return status, answer
            raise failure_of(status, _retry_after(retry_after), answer)

    def _fetch_once(
        self,
        credentials: ClientCredentials,
        access_token: str,
        request: FetchRequest,
        seconds: float,
    ) -> str:
        headers = headers_of(credentials) | {"access_token": access_token}
        asked = request.to_cobalt()
        with self._told():
            status, retry_after, body = self._in_time(
                partial(self._send, "POST", "/v1/appointments/fetch", headers, asked), seconds
            )
            answer = _json_object(body)
            if 200 <= status < 300:
                return _job_id(answer)
            raise failure_of(status, _retry_after(retry_after), answer)

    def _listed(
        self, credentials: ClientCredentials, query: dict[str, str]
    ) -> Iterator[ListedEvent]:
        """Go through the pages of the list; each live fetch once, however many URLs got it."""
        seen: set[str] = set()
        size, number = int(query["page_size"]), 1
        for _ in range(MAX_PAGES):
            asked = {**query, "page_size": str(size), "page": str(number)}
            try:
                page = self._page(credentials, asked)
            except _PageTooLargeError:
                if size == 1:
                    raise UpstreamMalformed from None
                number, size = (number - 1) * size + 1, 1  # the same rows, one by one
                continue
            rows, known = 0, len(seen)
            for listed in page.rows:
                rows += 1
                if listed and listed.event.is_live_fetch_result and listed.event.id not in seen:
                    seen.add(listed.event.id)
                    yield listed
            is_last = len(seen) == known if page.total_pages is None else number >= page.total_pages
            if not rows or is_last:
                return
            number += 1
            del page  # and with it the file, before the next one comes

    def _page(self, credentials: ClientCredentials, query: dict[str, str]) -> Page:
        until = time.monotonic() + LIST_SECONDS
        headers = headers_of(credentials)  # here: no trace is known where it is loaded

        def load() -> mmap.mmap:
            with tempfile.TemporaryFile() as file:
                status, retry_after, body = self._send(
                    "GET",
                    "/v1/webhook-events",
                    headers,
                    query=query,
                    write=partial(_write, file, until),
                )
                if not 200 <= status < 300:
                    raise failure_of(status, _retry_after(retry_after), _json_object(body))
                if not file.tell():
                    raise UpstreamMalformed
                file.flush()
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

        with self._told():
            loaded = self._in_time(load, LIST_SECONDS)
        return read_page(loaded)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell how long a call took, and what it failed with."""
        began, failed = self._clock(), None
        try:
            yield
        except (UpstreamRefusal, UpstreamFault) as error:
            failed = error
            raise
        finally:
            self._tell(self._clock() - began, failed)

    def _in_time[T](self, call: Callable[[], T], seconds: float) -> T:
        """Wait for a call as long as patience lasts."""
        try:
            return self._calls.do(call, seconds)
        except TimeoutError:
            raise UpstreamUnanswered from None

    def _send(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: dict[str, Any] | None = None,
        *,
        query: dict[str, str] | None = None,
        write: Callable[[requests.Response], None] | None = None,
    ) -> tuple[int, str | None, bytes]:
        """Send a request once; give its status, its `Retry-After` and its body.

        The body of a success is handed to `write` where that is given.
        """
        try:
            with self._session.request(
                method,
                self._base_url + path,
                params=query,
                headers=headers,
                json=body,
                timeout=(self._connect_seconds, self._answer_seconds),
                allow_redirects=False,  # the headers are for Cobalt alone
                stream=True,
            ) as response:
                retry_after = response.headers.get("Retry-After")
                if write and 200 <= response.status_code < 300:
                    write(response)
                    return response.status_code, retry_after, b""
                return response.status_code, retry_after, _read(response)
        except requests.RequestException as error:
            raise (UpstreamUnreachable if _was_not_sent(error) else UpstreamUnanswered) from error


def headers_of(credentials: ClientCredentials) -> dict[str, str]:
    """Give the headers of every call; the trace is handed on."""
    return {
        "client_id": credentials.client_id,
        "client_secret": credentials.client_secret,
        "Accept": "application/json",
        **traceparent(),
        # A connection that was kept through a pause of the function may be dead, and a request that
        # goes into a dead one has an unknown outcome. A handshake is cheaper.
        "Connection": "close",
    }


def _pause_before_retry(
    error: UpstreamUnreachable | UpstreamUnavailable | RateLimited, pause: float | None
) -> float | None:
    """Give the seconds after which to ask again; None for never."""
    if pause is None:
        return None
    if isinstance(error, UpstreamUnreachable):
        return pause * random.uniform(0.5, 1.5)  # noqa: S311 - only to part the callers
    is_number = error.retry_after is not None and error.retry_after.isdecimal()
    return float(error.retry_after or "") if is_number else None


def _was_not_sent(error: requests.RequestException) -> bool:
    """Whether nothing of the request can have reached Cobalt.

    A TLS fault counts only where the certificate was refused: another may come when all is sent.
    """
    cause = error.args[0] if error.args else None
    reason = cause.reason if isinstance(cause, MaxRetryError) else None
    if isinstance(reason, SSLError):
        return bool(reason.args) and isinstance(reason.args[0], ssl.SSLCertVerificationError)
    return isinstance(reason, NewConnectionError | ConnectTimeoutError)


class _PageTooLargeError(Exception):
    """A page that does not fit into /tmp."""


def _write(file: IO[bytes], until: float, response: requests.Response) -> None:
    """Write an answer of a bounded size into a file, as long as somebody waits for it."""
    size = 0
    for chunk in response.iter_content(65_536):
        if time.monotonic() > until:
            raise UpstreamUnanswered
        size += len(chunk)
        if size > MAX_PAGE_BYTES:
            raise _PageTooLargeError
        try:
            file.write(chunk)
        except OSError:  # no room left
            raise _PageTooLargeError from None


def _read(response: requests.Response) -> bytes:
    """Read an answer of a bounded size."""
    body = b""
    for chunk in response.iter_content(4096):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise UpstreamMalformed
    return body


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body.decode())
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _job_id(answer: dict[str, Any]) -> str:
    job_execution_id = job_id_of(answer)
    if job_execution_id is None or answer.get("success") is False:
        raise UpstreamMalformed
    return job_execution_id


def _secret(value: object) -> str | None:
    """Read a webhook key: ASCII without a blank, as any that was ever seen."""
    return value if isinstance(value, str) and _SECRET.fullmatch(value) else None


def failure_of(
    status: int, retry_after: str | None, answer: dict[str, Any]
) -> UpstreamRefusal | UpstreamFault:
    """Tell what an answer means that is no success."""
    refusal = _REFUSALS.get(status)
    if refusal:
        error = answer.get("error")
        return refusal(
            _message(answer.get("message")),
            error=error if isinstance(error, str) and _ERROR.fullmatch(error) else None,
            retry_after=retry_after,
            emr_name=_emr_name(answer.get("message")),
        )
    may_run = status >= 500 and not (status == 503 and retry_after)
    return UpstreamBroken() if may_run else UpstreamUnavailable(retry_after=retry_after)


def _emr_name(text: object) -> str | None:
    """Find the EMR in the documented refusal of one; nothing else tells it."""
    match = _UNSUPPORTED_EMR.fullmatch(text) if isinstance(text, str) else None
    return match["name"] if match else None


def _message(text: object) -> str | None:
    """Cobalt's own words for the caller, on one line and of a bounded length.

    Never a page of HTML.
    """
    if not isinstance(text, str) or not text.isprintable() or not text.strip():
        return None
    return text[:MAX_MESSAGE_LENGTH]


def _retry_after(value: str | None) -> str | None:
    """Pass on a `Retry-After` that is one: seconds, or a date (RFC 9110 section 10.2.3)."""
    return value if value and _RETRY_AFTER.fullmatch(value) else None


def _descriptions(listed: object) -> dict[str, str] | None:
    """Read what codes mean; None where nothing says so. Bounded, for it is kept in a row."""
    found: dict[str, str] = {}
    for each in listed if isinstance(listed, list) else ():
        code = first_label(each, "code") if isinstance(each, dict) else None
        description = first_label(each, "description") if code else None
        if code and description and len(found) < MOST_STATUSES:
            found[code] = description
    return found or None
