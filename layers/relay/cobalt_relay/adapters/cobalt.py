"""The Cobalt API, as far as its public documentation goes.

What it may answer beyond that becomes an error with a name.
"""

import json
import re
import ssl
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from threading import Thread
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError, SSLError

from cobalt_relay.errors import (
    AccessForbidden,
    AccessTokenRefused,
    RateLimited,
    RequestRefused,
    UpstreamBroken,
    UpstreamFault,
    UpstreamMalformed,
    UpstreamRefusal,
    UpstreamUnanswered,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from cobalt_relay.models import ClientCredentials, FetchRequest, job_id_of

CONNECT_SECONDS = 3.05
ANSWER_SECONDS = 18.0
"""Patience with Cobalt, whole: 21 s for connection and answer together. That leaves room below the
28 s of the function and the 29 s of API Gateway for what comes before and after."""
MAX_ANSWER_BYTES = 65_536
MAX_MESSAGE_LENGTH = 500

_REFUSALS: dict[int, type[UpstreamRefusal]] = {
    400: RequestRefused,
    401: AccessTokenRefused,
    403: AccessForbidden,
    429: RateLimited,
}
_ERROR = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_RETRY_AFTER = re.compile(
    r"\d{1,6}|[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", re.ASCII
)


class Cobalt:
    """Calls Cobalt over HTTP, each call once. Nothing in here repeats a request."""

    def __init__(
        self,
        base_url: str,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._base_url = base_url
        self._connect_seconds = connect_seconds
        self._answer_seconds = answer_seconds
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
        headers = {
            "client_id": credentials.client_id,
            "client_secret": credentials.client_secret,
            "access_token": access_token,
            "Accept": "application/json",
            # A connection that was kept through a pause of the function may be dead, and a request
            # that goes into a dead one has an unknown outcome. A handshake is cheaper.
            "Connection": "close",
        }
        status, retry_after, body = self._in_time(
            partial(self._post, "/v1/appointments/fetch", headers, request.to_cobalt())
        )
        answer = _json_object(body)
        if 200 <= status < 300:
            return _job_id(answer)
        raise _failure(status, _retry_after(retry_after), answer)

    def _in_time[T](self, call: Callable[[], T]) -> T:
        """Wait for a call as long as patience lasts.

        The timeouts of a socket begin anew with each byte, so a server that drips could hold us for
        hours; here the whole call has one. The thread of a call that is given up ends by itself.
        """
        outcome: Future[T] = Future()

        def run() -> None:
            try:
                outcome.set_result(call())
            except BaseException as error:  # noqa: BLE001 - it is raised again below
                outcome.set_exception(error)

        Thread(target=run, daemon=True).start()
        try:
            return outcome.result(self._connect_seconds + self._answer_seconds)
        except TimeoutError:
            raise UpstreamUnanswered from None

    def _post(
        self, path: str, headers: dict[str, str], body: dict[str, Any]
    ) -> tuple[int, str | None, bytes]:
        """Send a request once; give its status, its `Retry-After` and its body."""
        try:
            with self._session.post(
                self._base_url + path,
                headers=headers,
                json=body,
                timeout=(self._connect_seconds, self._answer_seconds),
                allow_redirects=False,  # the headers are for Cobalt alone
                stream=True,
            ) as response:
                return response.status_code, response.headers.get("Retry-After"), _read(response)
        except requests.RequestException as error:
            raise (UpstreamUnreachable if _was_not_sent(error) else UpstreamUnanswered) from error


def _was_not_sent(error: requests.RequestException) -> bool:
    """Whether nothing of the request can have reached Cobalt.

    A TLS fault counts only where the certificate was refused: another may come when all is sent.
    """
    cause = error.args[0] if error.args else None
    reason = cause.reason if isinstance(cause, MaxRetryError) else None
    if isinstance(reason, SSLError):
        return bool(reason.args) and isinstance(reason.args[0], ssl.SSLCertVerificationError)
    return isinstance(reason, NewConnectionError | ConnectTimeoutError)


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


def _failure(
    status: int, retry_after: str | None, answer: dict[str, Any]
) -> UpstreamRefusal | UpstreamFault:
    refusal = _REFUSALS.get(status)
    if refusal:
        error = answer.get("error")
        return refusal(
            _message(answer.get("message")),
            error=error if isinstance(error, str) and _ERROR.fullmatch(error) else None,
            retry_after=retry_after,
        )
    may_run = status >= 500 and not (status == 503 and retry_after)
    return UpstreamBroken() if may_run else UpstreamUnavailable()


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
