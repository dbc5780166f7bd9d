"""The Cobalt API, as far as its public documentation goes.

What it may answer beyond that becomes an error with a name.
"""

import json
import re
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from pydantic import ValidationError
from requests.adapters import HTTPAdapter
from urllib3.exceptions import MaxRetryError

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
from cobalt_relay.models import ClientCredentials, FetchAccepted, FetchRequest

CONNECT_SECONDS = 3.05
ANSWER_SECONDS = 20.0
"""Patience for the whole answer, from the moment the request is sent. With `CONNECT_SECONDS` it
stays below the 28 s of the function and the 29 s of API Gateway, with room for what follows."""
MAX_ANSWER_BYTES = 65_536
MAX_MESSAGE_LENGTH = 500

_REFUSALS: dict[int, type[UpstreamRefusal]] = {
    400: RequestRefused,
    401: AccessTokenRefused,
    403: AccessForbidden,
    429: RateLimited,
}
_ERROR = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_DELAY_SECONDS = re.compile(r"\d{1,6}", re.ASCII)


class Cobalt:
    """Calls Cobalt over HTTP, each call once. Nothing in here repeats a request."""

    def __init__(
        self,
        base_url: str,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base_url = base_url
        self._connect_seconds = connect_seconds
        self._answer_seconds = answer_seconds
        self._clock = clock
        self._session = requests.Session()
        # Not from the environment: a proxy or a .netrc must not see a clinic's token by accident.
        self._session.trust_env = False
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
        response, body = self._post("/v1/appointments/fetch", headers, request.to_cobalt())
        answer = _json_object(body)
        if 200 <= response.status_code < 300:
            return _job_id(answer)
        raise _failure(response, answer)

    def _post(
        self, path: str, headers: dict[str, str], body: dict[str, Any]
    ) -> tuple[requests.Response, bytes]:
        try:
            with self._session.post(
                self._base_url + path,
                headers=headers,
                json=body,
                timeout=(self._connect_seconds, self._answer_seconds),
                allow_redirects=False,  # the headers are for Cobalt alone
                stream=True,
            ) as response:
                return response, self._read(response)
        except requests.ConnectTimeout as error:
            raise UpstreamUnreachable from error
        except requests.ConnectionError as error:
            # urllib3 wraps what went wrong before the request was sent (refused, DNS, TLS) in
            # MaxRetryError, and what came after it in ProtocolError.
            before_sending = error.args and isinstance(error.args[0], MaxRetryError)
            raise (UpstreamUnreachable if before_sending else UpstreamUnanswered) from error
        except requests.RequestException as error:
            raise UpstreamUnanswered from error

    def _read(self, response: requests.Response) -> bytes:
        """Read the answer within its patience and its size; a slow drip is no answer."""
        ends_at = self._clock() + self._answer_seconds - response.elapsed.total_seconds()
        body = b""
        for chunk in response.iter_content(4096):
            body += chunk
            if self._clock() > ends_at:
                raise UpstreamUnanswered
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
    if answer.get("success") is False:
        raise UpstreamMalformed
    try:
        return FetchAccepted.model_validate(answer).job_execution_id
    except ValidationError:
        raise UpstreamMalformed from None


def _failure(
    response: requests.Response, answer: dict[str, Any]
) -> UpstreamRefusal | UpstreamFault:
    retry_after = _retry_after(response.headers.get("Retry-After"))
    refusal = _REFUSALS.get(response.status_code)
    if refusal:
        error = answer.get("error")
        return refusal(
            _message(answer.get("message")),
            error=error if isinstance(error, str) and _ERROR.fullmatch(error) else None,
            retry_after=retry_after,
        )
    may_run = response.status_code >= 500 and not (response.status_code == 503 and retry_after)
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
    if value is None:
        return None
    if _DELAY_SECONDS.fullmatch(value):
        return value
    try:
        parsedate_to_datetime(value)
    except ValueError:
        return None
    return value
