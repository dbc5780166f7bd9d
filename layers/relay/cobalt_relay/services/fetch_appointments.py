"""Start a live fetch: for a caller of the API, and for a schedule."""

import hmac
import re
from collections.abc import Callable
from datetime import datetime

from cobalt_relay.errors import (
    RelayError,
    StorageFault,
    UnusableAccessToken,
    UpstreamFault,
    UpstreamRefusal,
    WrongClientCredentials,
)
from cobalt_relay.models import (
    ClientCredentials,
    FetchRequest,
    Request,
    RequestState,
    Trigger,
    connection_id_of,
    utc_now,
)
from cobalt_relay.observability import count, logger
from cobalt_relay.services.ports import (
    ConnectionRegistry,
    CredentialStore,
    FetchCobalt,
    RequestStore,
)

_HEADER_VALUE = re.compile(r"[\x21-\x7e]{1,4096}", re.ASCII)
"""What a token can be: an HTTP header value, and a standard SSM parameter (4 KB at most)."""


class FetchAppointments:
    """The use case. One object serves all invocations of a function."""

    def __init__(
        self,
        cobalt: FetchCobalt,
        jobs: RequestStore,
        connections: ConnectionRegistry,
        secrets: CredentialStore,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._cobalt = cobalt
        self._jobs = jobs
        self._connections = connections
        self._secrets = secrets
        self._now = now
        self._registered: set[str] = set()

    def admit(self, client_id: str, client_secret: str, access_token: str) -> None:
        """Let a caller in who has this relay's client credentials, and a token that can be one.

        A mismatch reads the secret again (rate-limited) before it refuses: the operator may just
        have replaced it. Raises `WrongClientCredentials`, `UnusableAccessToken`, `NotConfigured`
        leaves.
        """
        presented = (client_id, client_secret)
        if not _equal(presented, self._secrets.credentials()) and not _equal(
            presented, self._secrets.credentials(refresh=True)
        ):
            count("ClientCredentialsRefused")
            raise WrongClientCredentials
        if not _HEADER_VALUE.fullmatch(access_token):
            raise UnusableAccessToken

    def require_credentials(self) -> None:
        """Raise `CredentialsNotConfigured` where no fetch could be started."""
        self._secrets.credentials()

    def start(
        self, access_token: str, fetch: FetchRequest, *, request_id: str, trigger: Trigger
    ) -> str:
        """Ask Cobalt for a live fetch, once, and return its `job_execution_id`.

        The request is on record before Cobalt hears of it, the job after it answered. What Cobalt
        refuses or fails at closes the request and is raised: `UpstreamRefusal`, `UpstreamFault`.
        """
        connection_id = connection_id_of(access_token)
        credentials = self._secrets.credentials()
        request = Request(
            request_id=request_id,
            connection_id=connection_id,
            trigger=trigger,
            search_by=fetch.search_by,
            window=fetch.window,
            fingerprint=fetch.fingerprint(access_token),
            requested_at=self._now(),
        )
        self._jobs.record_request(request)
        try:
            job_execution_id = self._cobalt.fetch_appointments(credentials, access_token, fetch)
        except (UpstreamRefusal, UpstreamFault) as error:
            self._close(request, error)
            raise
        self._keep(request, job_execution_id, access_token)
        return job_execution_id

    def _close(self, request: Request, error: UpstreamRefusal | UpstreamFault) -> None:
        """Record why there is no job.

        The caller learns it from the error, whether or not this succeeds.
        """
        is_unknown = isinstance(error, UpstreamFault) and error.may_have_started
        state = RequestState.UNKNOWN if is_unknown else RequestState.FAILED
        count("FetchUnknown" if is_unknown else "FetchRefused")
        ids = _ids(request)
        logger.warning("fetch_not_accepted", extra={**ids, "error_code": error.code})
        try:
            self._jobs.close_request(request.request_id, state, error.code)
        except StorageFault as fault:
            logger.error("request_not_closed", extra={**ids, "error_code": fault.code})

    def _keep(self, request: Request, job_execution_id: str, access_token: str) -> None:
        """Record Cobalt's 202, and the connection.

        The job runs by now, so no fault in here may turn the answer into an error: the caller would
        send it again. A job row that is missing is made from the webhook, a connection from its
        next fetch.
        """
        count("FetchAccepted")
        ids = {**_ids(request), "job_execution_id": job_execution_id}
        logger.info("fetch_accepted", extra=ids)
        try:
            self._jobs.accept(request, job_execution_id, self._now())
        except StorageFault as fault:
            count("JobNotRecorded")
            logger.error("job_not_recorded", extra={**ids, "error_code": fault.code})
        try:
            self._register(request.connection_id, access_token)
        except RelayError as fault:
            logger.error("connection_not_registered", extra={**ids, "error_code": fault.code})

    def _register(self, connection_id: str, access_token: str) -> None:
        if connection_id in self._registered:
            return
        if not self._connections.is_registered(connection_id):
            self._connections.register(connection_id, access_token, self._now())
            logger.info("connection_registered", extra={"connection_id": connection_id})
        self._registered.add(connection_id)


def _equal(presented: tuple[str, str], ours: ClientCredentials) -> bool:
    """Compare in constant time and both parts always; as bytes, for it takes no text but ASCII."""
    expected = (ours.client_id, ours.client_secret)
    fits = [
        hmac.compare_digest(theirs.encode(errors="surrogatepass"), own.encode())
        for theirs, own in zip(presented, expected, strict=True)
    ]
    return all(fits)


def _ids(request: Request) -> dict[str, str]:
    return {
        "request_id": request.request_id,
        "connection_id": request.connection_id,
        "trigger": request.trigger,
    }
