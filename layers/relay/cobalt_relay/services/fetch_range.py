"""Accept a live fetch for days of any number: put it on record, and its pieces into the queue.

A token that is new here is shown to Cobalt first, so that a wrong one is told at once. A range
whose queueing was cut off is queued by the reconciler: so once it is on record, it is not lost.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from cobalt_relay import tracing
from cobalt_relay.errors import IdempotencyKeyReused, TableFault
from cobalt_relay.models import (
    FetchRange,
    Hold,
    RangePlan,
    RangeRequest,
    RangeState,
    connection_id_of,
    range_id_of,
    utc_now,
)
from cobalt_relay.observability import count, logger
from cobalt_relay.services.anew import anew_where_refused
from cobalt_relay.services.fetch_appointments import hold_of_key

if TYPE_CHECKING:
    from cobalt_relay.services.ports import (
        AskSettings,
        CredentialStore,
        RangeStore,
        TokenKeeper,
        WorkQueue,
    )

PIECE_SPACING = timedelta(seconds=15)
"""How far apart the pieces of a range come up; one that finds the robot busy looks again later."""
NEXT_LOOK = timedelta(minutes=10)


class FetchRanges:
    """The use case. One object serves all invocations of a function."""

    def __init__(
        self,
        cobalt: "AskSettings",
        ranges: "RangeStore",
        queue: "WorkQueue",
        connections: "TokenKeeper",
        secrets: "CredentialStore",
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._cobalt = cobalt
        self._ranges = ranges
        self._queue = queue
        self._connections = connections
        self._secrets = secrets
        self._now = now

    def start(
        self,
        access_token: str,
        request: RangeRequest,
        *,
        request_id: str,
        idempotency_key: str | None = None,
    ) -> FetchRange:
        """Accept a range, or give the one that the key stands for.

        Raises `UpstreamRefusal` and `UpstreamFault` leaves for a token that is new here,
        `IdempotencyKeyReused` and `StorageFault`; where some pieces are in the queue then,
        the others follow, or the caller's repetition under its key finds them.
        """
        now, connection_id = self._now(), connection_id_of(access_token)
        plan = RangePlan(
            range_id=range_id_of(request_id, str(uuid4())),
            connection_id=connection_id,
            trigger="range",
            request=request,
            accepted_at=now,
            caller_trace_id=tracing.current(),
        )
        found = FetchRange(plan=plan, state=RangeState.ACCEPTED, request_id=request_id)
        fingerprint = request.fingerprint(access_token)
        hold = None
        if idempotency_key is not None:
            hold = hold_of_key(now, "range", access_token, idempotency_key)
        self._keep(connection_id, access_token)
        if not self._ranges.create(found, fingerprint, hold):
            found = self._known(hold, fingerprint)
        else:
            count("RangeAccepted")
            ids = {"job_execution_id": plan.range_id, "connection_id": connection_id}
            logger.info("range_accepted", extra={**ids, "pieces": len(request.pieces)})
        if not found.queued:
            self.queue(found)
        return found

    def queue(self, found: FetchRange) -> None:
        """Put all the pieces into the queue; one that is there twice is fetched once."""
        plan = found.plan
        self._queue.send(plan.works(plan.accepted_at, PIECE_SPACING), self._now())
        self._ranges.note_queued(plan.range_id, self._now() + NEXT_LOOK)

    def _keep(self, connection_id: str, access_token: str) -> None:
        """Keep the token of a connection that is not registered, if Cobalt knows it."""
        if self._connections.is_registered(connection_id):
            return
        anew_where_refused(
            self._secrets.credentials,
            lambda credentials: self._cobalt.settings_of(credentials, access_token),
        )
        self._connections.keep_token(connection_id, access_token)

    def _known(self, hold: Hold | None, fingerprint: str) -> FetchRange:
        held = self._ranges.held_by(hold) if hold else None
        if held is None:
            raise TableFault
        range_id, asked = held
        if asked != fingerprint:
            raise IdempotencyKeyReused
        found = self._ranges.get(range_id)
        if found is None:
            raise TableFault
        return found
