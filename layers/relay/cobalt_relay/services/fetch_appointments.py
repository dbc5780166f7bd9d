"""Start a live fetch: for a caller of the API, and for a schedule.

Cobalt knows no idempotency key, and a robot that is started twice works twice in the clinic's own
session. So the relay sees to it that one question is put once:

* with an `Idempotency-Key`, all calls of 24 hours with that key are one request;
* without one, a call joins an equal request that is under way, or whose job is young and open;
* a request that was sent and not answered is never sent again; its key answers so, until the
  reconciler has found the job. Only a request whose own process died frees its hold.
"""

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING

from cobalt_relay import tracing
from cobalt_relay.errors import (
    AccessForbidden,
    AccessTokenRefused,
    FetchUnderWay,
    IdempotencyKeyReused,
    RateLimited,
    RelayError,
    RequestRefused,
    RobotBusy,
    StorageFault,
    UpstreamFault,
    UpstreamRefusal,
    UpstreamUnanswered,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from cobalt_relay.models import (
    LIVE_FETCH_EMR,
    ClientCredentials,
    FetchRequest,
    Hold,
    Holder,
    JobState,
    PieceOrder,
    Request,
    RequestRecord,
    RequestState,
    Started,
    Trigger,
    connection_id_of,
    utc_now,
)
from cobalt_relay.observability import count, logger
from cobalt_relay.services.admission import admit
from cobalt_relay.services.anew import anew_where_refused
from cobalt_relay.services.standing import Standing

if TYPE_CHECKING:
    from cobalt_relay.services.ports import (
        ConnectionRegistry,
        CredentialStore,
        FetchCobalt,
        RequestStore,
    )

KEY_LIFE = timedelta(hours=24)
LEASE = timedelta(seconds=30)
"""How long a request may be without an outcome: the function that serves it ends after 28 s, so one
that is older died over it, and holds nobody off any more."""
AWAIT_ANSWER_SECONDS = 24.0
"""How long a call waits for the answer to an equal one. Cobalt gets 21 s, API Gateway 29 s."""
TAKE_OVER_SECONDS = 3.0
"""Up to when a call that had to wait may still ask Cobalt itself, and be done in time."""
INSIST_PAUSES = (0.2, 1.0)
INSIST_SECONDS = 23.0
"""Up to when a write is tried again: the function ends after 28 s."""
REGISTERED_FOR = timedelta(minutes=5)
"""How long it is remembered that a connection is registered: an operator may remove it."""
ROBOT_PATIENCE = timedelta(minutes=30)
"""How long a fetch keeps a clinic's robot that does not report. It takes a couple of minutes, and
what no webhook brings is polled for; one that is silent for longer does not hold the others up."""
_CALLERS = "callers"
"""The place at a clinic's robot of fetches that callers asked for."""
PAUSES = (0.1, 0.2, 0.4, 0.8)
"""Seconds between two looks at an equal request; the last one repeats."""


class _Token(Enum):
    """What became of a token before its connection's fetch."""

    REGISTERED = "its connection is registered"
    KEPT = "kept before, by a fetch of which nothing is known yet"
    NEW = "kept by this fetch"
    NOT_KEPT = "it could not be kept"
    GIVEN = "it came from where tokens are kept"


class FetchAppointments:
    """The use case. One object serves all invocations of a function."""

    def __init__(
        self,
        cobalt: "FetchCobalt",
        jobs: "RequestStore",
        connections: "ConnectionRegistry",
        secrets: "CredentialStore",
        standing: Standing,
        single_flight: timedelta,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._cobalt = cobalt
        self._jobs = jobs
        self._connections = connections
        self._secrets = secrets
        self._standing = standing
        self._single_flight = single_flight
        self._now = now
        self._sleep = sleep
        self._registered: dict[str, datetime] = {}

    def admit(self, client_id: str, client_secret: str, access_token: str) -> None:
        """Let a caller in; `WrongClientCredentials`, `UnusableAccessToken`, `NotConfigured`."""
        admit(self._secrets, client_id, client_secret, access_token)

    def require_credentials(self) -> None:
        """Raise `CredentialsNotConfigured` where no fetch could be started."""
        self._secrets.credentials()

    def start(
        self,
        access_token: str,
        fetch: FetchRequest,
        *,
        request_id: str,
        trigger: Trigger,
        idempotency_key: str | None = None,
        piece: PieceOrder | None = None,
    ) -> Started:
        """Ask Cobalt for a live fetch, once, or join the request that has asked already.

        The request is on record before Cobalt hears of it, the job after it answered. What Cobalt
        refuses or fails at closes the request and is raised: `UpstreamRefusal`, `UpstreamFault`.
        Raises `IdempotencyKeyReused`, `FetchUnderWay` where an equal request takes too long, and
        `RobotBusy` for a piece that would ask a clinic's robot for too much at once.
        """
        credentials = self._secrets.credentials()
        request = Request(
            request_id=request_id,
            connection_id=connection_id_of(access_token),
            trigger=trigger,
            search_by=fetch.search_by,
            window=fetch.window,
            fingerprint=fetch.fingerprint(access_token),
            requested_at=self._now(),
            range_id=piece.range_id if piece else None,
            trace_id=tracing.current(),
        )
        flight = self._flight(request)
        hold = flight
        if idempotency_key is not None:
            hold = hold_of_key(request.requested_at, access_token, idempotency_key)
        started = self._enter(request, hold, self._robots_of(request, piece) if piece else [])
        if started:
            return started
        # The token of a piece comes from where tokens are kept.
        token = _Token.GIVEN if piece else self._keep_token(request.connection_id, access_token)
        try:
            job_execution_id = self._ask(request, credentials, access_token, fetch)
        except (UpstreamRefusal, UpstreamFault) as error:
            self._close(request, error, comes_again=piece is not None and piece.comes_again)
            if token is _Token.NEW and isinstance(error, AccessTokenRefused | AccessForbidden):
                self._forget_token(request.connection_id, access_token)
            raise
        # What is held already is not taken again.
        holds = [flight] if flight and hold is not flight else []
        holds += [] if piece else [_robot(request, _CALLERS)]
        self._accepted(request, job_execution_id, holds)
        if token in {_Token.NEW, _Token.KEPT} or (piece and piece.is_first):
            self._register(request.connection_id)
        if token is _Token.KEPT:  # by a call that may have forgotten it meanwhile
            self._keep_token_again(request.connection_id, access_token)
        return Started(job_execution_id, joined=False)

    # ---------------------------------------------------------------- one question, put only once

    def _enter(self, request: Request, hold: Hold | None, robots: list[Hold]) -> Started | None:
        """Record the request, unless an equal one gives the answer; None where it is recorded."""
        pauses = iter(PAUSES)
        pause = 0.0
        while True:
            holds = ([hold] if hold else []) + robots[:1]
            taken = self._jobs.record_request(request, *holds)
            if taken is None:
                return None
            if taken is not hold:
                robots = self._robots_left(robots)
                continue
            holder = self._jobs.holder(taken)
            if holder and holder.fingerprint != request.fingerprint:
                raise IdempotencyKeyReused
            try:
                started = self._answer_of(request, hold, holder) if holder else None
            except (UpstreamRefusal, UpstreamFault):
                if request.range_id:  # a piece has its own turn later, and its own answer
                    raise FetchUnderWay from None
                raise
            if started:
                return started
            assert hold is not None  # noqa: S101 - it is the one that was taken
            waited = (self._now() - request.requested_at).total_seconds()
            is_under_way = holder is not None and self._is_under_way(holder)
            if waited > (AWAIT_ANSWER_SECONDS if is_under_way else TAKE_OVER_SECONDS):
                raise FetchUnderWay
            if holder and not is_under_way and hold.replacing != holder.request_id:
                hold = hold._replace(replacing=holder.request_id)
                continue
            pause = next(pauses, pause)
            self._sleep(pause)

    def _robots_of(self, request: Request, piece: PieceOrder) -> list[Hold]:
        """Give the places at a clinic's robot that a piece may have.

        A caller's fetch is never held up: it has a place of its own, which the pieces that come
        after it leave to it. Where that is the only one, it is what they wait for.
        """
        callers = _robot(request, _CALLERS)
        holder = self._jobs.holder(callers)
        is_taken = holder is not None and _keeps_robot(holder, self._now())
        places = [_robot(request, str(number)) for number in range(piece.robots - is_taken)]
        return places or [callers]

    def _robots_left(self, robots: list[Hold]) -> list[Hold]:
        """Give the robots to try after the first one was taken; `RobotBusy` where there is none.

        One that a fetch has which has ended is free: it is tried once more, to be taken over.
        """
        first, *others = robots
        holder = self._jobs.holder(first)
        is_free = holder is None or not _keeps_robot(holder, self._now())
        if is_free and (holder is None or first.replacing != holder.request_id):
            return [first._replace(replacing=holder.request_id if holder else None), *others]
        if not others:
            raise RobotBusy
        return others

    def _flight(self, request: Request) -> Hold | None:
        if not self._single_flight:
            return None
        until = request.requested_at + LEASE + self._single_flight
        return Hold("FLIGHT", request.fingerprint, until)

    def _answer_of(self, request: Request, hold: Hold, holder: Holder) -> Started | None:
        """Give the job of the request that has the hold; None where it has none to give.

        Without a key, that is a job which is open and young, or which was accepted while this
        request waited for it. Raises what Cobalt refused that request with in the meantime, and
        `UpstreamUnanswered` where it never answered: with a key, that is so for the life of the
        key, until a sweep finds the job. One whose process died tells nothing: it frees the hold.
        """
        asked = holder.request
        if not asked:
            return None
        has_key = hold.kind == "IDEMPOTENCY"
        is_recent = self._now() - asked.requested_at < LEASE
        was_awaited = asked.closed_at is not None and asked.closed_at > request.requested_at
        if asked.state is RequestState.FAILED and was_awaited:
            raise _refusal_of(asked)
        is_unanswered = asked.refused_as is not None and asked.is_open
        if is_unanswered and (has_key or is_recent):
            raise UpstreamUnanswered
        if asked.state is not RequestState.ACCEPTED or not asked.job_execution_id:
            return None
        if not has_key:
            accepted_at = holder.job.accepted_at if holder.job else None
            if not holder.job or not accepted_at:
                return None
            is_open = holder.job.state is JobState.ACCEPTED
            was_awaited = accepted_at >= request.requested_at
            is_young = self._now() - accepted_at < self._single_flight
            if not was_awaited and not (is_open and is_young):
                return None
        count("FetchRepeated" if has_key else "FetchJoined")
        ids = {
            "request_id": asked.request_id,
            "job_execution_id": asked.job_execution_id,
            "trace_id_of_job": asked.trace_id,
        }
        logger.info("fetch_repeated" if has_key else "fetch_joined", extra=ids)
        return Started(asked.job_execution_id, joined=not has_key)

    def _is_under_way(self, holder: Holder) -> bool:
        """Whether the request that has the hold may still get its answer.

        One whose row is gone, or that died over it, cannot.
        """
        asked = holder.request
        if not asked or asked.state is not RequestState.REQUESTED:
            return False
        return self._now() - asked.requested_at < LEASE

    def _ask(
        self,
        request: Request,
        credentials: ClientCredentials,
        access_token: str,
        fetch: FetchRequest,
    ) -> str:
        """Ask Cobalt; a 401 may mean that the operator has replaced the credentials.

        Then once more with the new ones, where there is the time for it.
        """

        def recall(*, refresh: bool = False) -> ClientCredentials:
            waited = (self._now() - request.requested_at).total_seconds()
            may_refresh = refresh and waited <= TAKE_OVER_SECONDS
            return self._secrets.credentials(refresh=True) if may_refresh else credentials

        return anew_where_refused(
            recall, lambda each: self._cobalt.fetch_appointments(each, access_token, fetch)
        )

    # ------------------------------------------------------------------------------ what came of it

    def _close(
        self, request: Request, error: UpstreamRefusal | UpstreamFault, *, comes_again: bool
    ) -> None:
        """Record why there is no job.

        The caller learns it from the error, whether or not this succeeds.
        """
        is_unknown = isinstance(error, UpstreamFault) and error.may_have_started
        state = RequestState.UNKNOWN if is_unknown else RequestState.FAILED
        count("FetchUnknown" if is_unknown else "FetchRefused")
        if not is_unknown:  # by the error's class: a vocabulary of ours, never Cobalt's words
            count(f"FetchRefused{type(error).__name__}")
        ids = _ids(request)
        logger.warning("fetch_not_accepted", extra={**ids, "error_code": error.reason})
        comes_again = comes_again and started_nothing(error)
        try:
            self._insist(
                request,
                lambda: self._jobs.close_request(
                    request, state, error, self._now(), comes_again=comes_again
                ),
            )
        except StorageFault as fault:
            logger.error("request_not_closed", extra={**ids, "error_code": fault.code})
        self._note_failure(request, error)

    def _note_failure(self, request: Request, error: UpstreamRefusal | UpstreamFault) -> None:
        """Note the failure with its connection; a broken link suspends it, until a success."""
        emr_name = error.emr_name if isinstance(error, UpstreamRefusal) else None
        connection_id, now = request.connection_id, self._now()
        try:
            if emr_name:
                self._connections.note_failure(connection_id, error.reason, now, emr_name)
            else:
                self._standing.failed(connection_id, error.reason, "answer", now)
        except StorageFault as fault:
            ids = {"connection_id": connection_id, "error_code": fault.code}
            logger.error("failure_not_noted", extra=ids)

    def _accepted(self, request: Request, job_execution_id: str, holds: list[Hold]) -> None:
        """Record Cobalt's 202.

        The job runs by now, so no fault in here may turn the answer into an error: the caller would
        send it again. A job row that is missing is made by the reconciler.
        """
        count("FetchAccepted")
        ids = {**_ids(request), "job_execution_id": job_execution_id}
        logger.info("fetch_accepted", extra=ids)
        accepted_at = self._now()
        try:
            self._insist(
                request,
                lambda: self._jobs.accept(request, job_execution_id, accepted_at, *holds),
            )
        except StorageFault as fault:
            count("JobNotRecorded")
            logger.error("job_not_recorded", extra={**ids, "error_code": fault.code})

    def _insist(self, request: Request, write: Callable[[], object]) -> None:
        """Write what came of a request, again if need be: a row without it looks like a death."""
        for pause in INSIST_PAUSES:
            try:
                write()
            except StorageFault:
                if (self._now() - request.requested_at).total_seconds() > INSIST_SECONDS:
                    raise
                self._sleep(pause)
            else:
                return
        write()

    def _keep_token(self, connection_id: str, access_token: str) -> _Token:
        """Keep the token of a connection that is not registered yet."""
        seen_at = self._registered.get(connection_id)
        if seen_at and self._now() - seen_at < REGISTERED_FOR:
            return _Token.REGISTERED
        try:
            if self._connections.is_registered(connection_id):
                self._registered[connection_id] = self._now()
                return _Token.REGISTERED
            is_new = self._connections.keep_token(connection_id, access_token)
        except RelayError as fault:
            ids = {"connection_id": connection_id, "error_code": fault.code}
            logger.error("token_not_kept", extra=ids)
            return _Token.NOT_KEPT
        return _Token.NEW if is_new else _Token.KEPT

    def _forget_token(self, connection_id: str, access_token: str) -> None:
        """Forget a token that Cobalt refused.

        Another call may have been accepted with it and registered the connection, which looks the
        token up no more: so this looks after forgetting, and that one keeps it after registering.
        """
        with suppress(RelayError):
            self._connections.forget_token(connection_id)
            if self._connections.is_registered(connection_id):
                self._keep_token_again(connection_id, access_token)

    def _keep_token_again(self, connection_id: str, access_token: str) -> None:
        """Keep the token of a connection that is registered; harmless where it is kept."""
        try:
            self._connections.keep_token(connection_id, access_token)
        except RelayError as fault:
            ids = {"connection_id": connection_id, "error_code": fault.code}
            logger.error("token_not_kept", extra=ids)

    def _register(self, connection_id: str) -> None:
        """Record a connection whose token is kept; should that fail, its next fetch does it."""
        ids = {"connection_id": connection_id}
        try:
            self._connections.register(connection_id, self._now(), LIVE_FETCH_EMR)
        except RelayError as fault:
            logger.error("connection_not_registered", extra={**ids, "error_code": fault.code})
            return
        self._registered[connection_id] = self._now()
        logger.info("connection_registered", extra=ids)


def started_nothing(error: RelayError) -> bool:
    """Whether a fetch may be asked for again: Cobalt surely did not begin, and may do so later."""
    return isinstance(error, RateLimited | UpstreamUnavailable | UpstreamUnreachable)


def _robot(request: Request, place: str) -> Hold:
    """Name a place of a clinic's robot: the callers', or the number of a piece's."""
    until = request.requested_at + ROBOT_PATIENCE
    return Hold("ROBOT", f"{request.connection_id}-{place}", until)


def _keeps_robot(holder: Holder, now: datetime) -> bool:
    """Whether the robot may still be at a fetch, for all that is known."""
    asked, job = holder.request, holder.job
    if asked is None or asked.state in {RequestState.FAILED, RequestState.EXPIRED}:
        return False
    if now - asked.requested_at > ROBOT_PATIENCE:
        return False
    return job is None or job.state is JobState.ACCEPTED


def hold_of_key(now: datetime, *parts: str) -> Hold:
    """Name an idempotency key without telling it: a caller may have put anything into it.

    An MRN, for one, which could be found out by trying them all: so the token is another part.
    """
    name = hashlib.sha256("\n".join(parts).encode(errors="surrogatepass")).hexdigest()
    return Hold("IDEMPOTENCY", name, now + KEY_LIFE)


_REFUSALS: dict[str, type[UpstreamRefusal]] = {
    kind.code: kind for kind in (RequestRefused, AccessTokenRefused, AccessForbidden, RateLimited)
}


def _refusal_of(asked: RequestRecord) -> UpstreamRefusal | UpstreamFault:
    """Give the refusal that another caller got, but for Cobalt's text: no row holds it."""
    kind = _REFUSALS.get(asked.refused_as or "")
    if kind is None:
        return UpstreamUnavailable(retry_after=asked.retry_after)
    error = asked.error_code if asked.error_code != asked.refused_as else None
    return kind(error=error, retry_after=asked.retry_after)


def _ids(request: Request) -> dict[str, str]:
    return {
        "request_id": request.request_id,
        "connection_id": request.connection_id,
        "trigger": request.trigger,
    }
