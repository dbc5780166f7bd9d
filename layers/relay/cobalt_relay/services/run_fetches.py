"""Work the queue off: make the fetches whose time has come, gently, and none of them twice.

* A clinic's robot is asked to do one thing at a time, or as many as the operator says: a piece that
  finds it busy is put off, for half a minute at first.
* Cobalt's wish not to be asked for a while holds for the whole queue, and so does its silence.
* A message may come twice, at once or after its function died. Its attempts are requests of known
  names: one that is on record is not sent again, unless Cobalt surely did not begin.
* What fails is given back, and comes again: soon at first, later then. The queue counts that, and
  after some tries puts the message where failures wait for an operator.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from cobalt_relay import tracing
from cobalt_relay.errors import (
    AccessForbidden,
    AccessTokenRefused,
    ConnectionSuspended,
    FetchUnderWay,
    MalformedWork,
    OutOfTime,
    RateLimited,
    RelayError,
    RobotBusy,
    TriesSpent,
    UnknownConnection,
    UpstreamFault,
    UpstreamRefusal,
    UpstreamUnreachable,
)
from cobalt_relay.events import AppointmentFetchFailed
from cobalt_relay.models import (
    Connection,
    ConnectionState,
    FetchRange,
    FetchWork,
    PieceNote,
    PieceOrder,
    RangeState,
    RequestRecord,
    RequestState,
    connection_id_of,
    utc_now,
)
from cobalt_relay.observability import count, failure, logger
from cobalt_relay.services.fetch_appointments import LEASE, started_nothing
from cobalt_relay.services.gather_ranges import GatherRanges

if TYPE_CHECKING:
    from cobalt_relay.services.ports import (
        EventBus,
        Fleet,
        RangeStore,
        RowReader,
        StartFetch,
        WorkQueue,
    )

SECONDS_PER_FETCH = 30.0
"""What one fetch may take at worst: below it, no further one is begun in this run."""
MOST_ATTEMPTS = 5
"""Requests of a message at most, in each round."""
MOST_RECEIVES = 5
"""How often the queue hands out a message that fails (`maxReceiveCount` in the template)."""
BUSY_PAUSE = timedelta(seconds=30)
"""When a piece looks for the robot again, the first time; a fetch takes seconds to a couple of
minutes. Twice as long each further time: many others may be before it."""
MOST_BUSY_DOUBLINGS = 4
NO_TIME_PAUSE = timedelta(seconds=5)
RETRY_SECONDS = 30.0
"""Before the second attempt; four times as long before each further one, within a limit."""
MOST_RETRY_SECONDS = 900.0
DEFAULT_PAUSE = timedelta(seconds=30)
"""How long the queue rests where Cobalt wants no more calls and does not say for how long, or where
nobody can reach it: otherwise each piece would spend its own tries on that."""
MOST_PAUSE = timedelta(minutes=15)
MOST_HEIRS = 5
"""Replacements of a connection that are followed, one after the other."""

_RETRYABLE = {"rate_limited", "upstream_unavailable", "upstream_unreachable"}


@dataclass(frozen=True)
class Message:
    """A message as it came, for the first time or again. `body` is JSON of a `FetchWork`."""

    id: str
    receipt: str
    body: str
    receives: int = 1


class _PutOff(Exception):
    """A message is to come again, without having failed."""

    def __init__(self, until: datetime, reason: str, *, is_busy: bool = False) -> None:
        super().__init__(reason)
        self.until = until
        self.reason = reason
        self.is_busy = is_busy


class RunFetches:
    """The use case. One object serves all invocations of a function."""

    def __init__(  # noqa: PLR0913, PLR0917 - all of its world
        self,
        fetch_appointments: "StartFetch",
        connections: "Fleet",
        rows: "RowReader",
        ranges: "RangeStore",
        gather: GatherRanges,
        queue: "WorkQueue",
        bus: "EventBus",
        robots: int,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._fetch_appointments = fetch_appointments
        self._connections = connections
        self._rows = rows
        self._ranges = ranges
        self._gather = gather
        self._queue = queue
        self._bus = bus
        self._robots = robots
        self._now = now

    def run(self, messages: list[Message], seconds_left: Callable[[], float]) -> list[str]:
        """Work some messages off, one by one; give the ids of those that are to come again.

        Those failed; what is merely put off has been sent anew, to come when its time has come.
        """
        again: list[str] = []
        for message in messages:
            with tracing.traced(None):
                if not self._is_done_with(message, seconds_left()):
                    again.append(message.id)
        return again

    def _is_done_with(self, message: Message, seconds_left: float) -> bool:
        """Work a message off; False where it is to come again."""
        try:
            self._work_off(message, seconds_left)
        except RelayError as error:
            count("WorkFailed")
            ids = {"message_id": message.id, "error_code": error.code}
            logger.warning("work_failed", extra=ids)
            self._come_soon(message, error)
            return False
        except Exception as error:  # noqa: BLE001 - the other messages must not suffer from it
            count("WorkFailed")
            logger.error("unexpected_error", extra=failure(error))
            return False
        return True

    def _come_soon(self, message: Message, error: RelayError) -> None:
        """Let a message that failed come again soon, once; later on in its queue's own time.

        It may have had a twin that came at the same moment, or met a fault that has passed. What
        Cobalt did not take has its time already.
        """
        if message.receives == 1 and not isinstance(error, UpstreamRefusal | UpstreamFault):
            self._queue.hide(message.receipt, RETRY_SECONDS)

    def _work_off(self, message: Message, seconds_left: float) -> None:
        try:
            work = FetchWork.model_validate_json(message.body)
            work.fetch  # noqa: B018 - its number may be that of no piece
        except (ValueError, IndexError):
            raise MalformedWork from None
        tracing.follow(work.plan.trace_id)
        try:
            self._fetch(work, message, seconds_left)
        except _PutOff as put_off:
            self._tell_put_off(work.plan.range_id, put_off.reason)
            again = work.model_copy(update={"busy": work.busy + 1}) if put_off.is_busy else work
            self._queue.put_off(again, put_off.until, self._now())

    @staticmethod
    def _tell_put_off(range_id: str, reason: str) -> None:
        count("WorkPutOff")
        logger.info("work_put_off", extra={"range_id": range_id, "reason": reason})

    def _fetch(self, work: FetchWork, message: Message, seconds_left: float) -> None:
        """Make the fetch of a message, if there is one to be made.

        Returns where the message is done with. Raises `_PutOff`, and `RelayError` where it failed.
        """
        now = self._now()
        if seconds_left < SECONDS_PER_FETCH:
            raise _PutOff(now + NO_TIME_PAUSE, "out_of_time")
        if now < min(work.not_before, work.plan.deadline):
            raise _PutOff(work.not_before, "too_early")
        found = self._ranges.get(work.plan.range_id)
        is_over = bool(found and found.state is not RangeState.ACCEPTED and not work.round)
        if not is_over and now < work.plan.deadline:
            self._rest(now)
        attempt = None if _has_joined(work, found) else self._attempt(work)
        if attempt is None or is_over:
            return
        if now >= work.plan.deadline:
            self._give_up(work, found, OutOfTime())
            return
        try:
            connection_id, connection = self._connection(work)
            # What is remembered of one that is not registered may be that of a removed one.
            token = self._connections.token(connection_id, refresh=connection is None)
        except (ConnectionSuspended, UnknownConnection) as error:
            self._give_up(work, found, error)
            return
        if not found:
            self._ranges.create(FetchRange(plan=work.plan, state=RangeState.ACCEPTED, queued=True))
        note = PieceNote(request_id=work.request_id(attempt))
        if not found or found.pieces.get(work.piece) != note:  # it may have found the robot busy
            self._note(work, note)
        order = PieceOrder(
            range_id=work.plan.range_id,
            robots=self._robots,
            comes_again=_comes_again(message, attempt),
            is_first=connection is None,
        )
        self._start(work, message, token, order, attempt)

    def _rest(self, now: datetime) -> None:
        """Raise `_PutOff` while the queue rests."""
        paused_until = self._ranges.paused_until()
        if paused_until and now < paused_until:
            raise _PutOff(paused_until + BUSY_PAUSE * random.uniform(0, 1), "paused")  # noqa: S311

    def _start(
        self, work: FetchWork, message: Message, token: str, order: PieceOrder, attempt: int
    ) -> None:
        """Ask Cobalt, and see to it that what comes of it is not lost."""
        try:
            started = self._fetch_appointments.start(
                token,
                work.fetch,
                request_id=work.request_id(attempt),
                trigger=work.plan.trigger,
                piece=order,
            )
        except (RobotBusy, FetchUnderWay) as error:
            pause = BUSY_PAUSE * 2 ** min(work.busy, MOST_BUSY_DOUBLINGS)
            until = self._now() + pause * random.uniform(0.75, 1.5)  # noqa: S311 - no secret
            raise _PutOff(until, error.code, is_busy=True) from None
        except (UpstreamRefusal, UpstreamFault) as error:
            if started_nothing(error):
                self._come_again(work, message, error, attempt)
                raise
            if isinstance(error, AccessTokenRefused | AccessForbidden):
                self._forget_token(work, connection_id_of(token))
            self._gather.gather_soon(work.plan.range_id)
            return
        if started.joined:
            self._note(work, PieceNote(job_execution_id=started.job_execution_id))
            self._gather.gather_soon(work.plan.range_id)

    def _connection(self, work: FetchWork) -> tuple[str, Connection | None]:
        """Give the connection that is to be fetched: the one named, or the one in its place.

        None for one that is not registered yet: the range of a caller may be its first fetch.
        """
        connection_id = work.plan.connection_id
        for _ in range(MOST_HEIRS):
            connection = self._connections.get(connection_id)
            if connection is None:
                if work.plan.trigger == "schedule":
                    raise UnknownConnection
                return connection_id, None
            if connection.state is not ConnectionState.REPLACED or not connection.replaced_by:
                if connection.is_suspended and work.plan.trigger == "schedule":
                    raise ConnectionSuspended
                return connection_id, connection
            connection_id = connection.replaced_by
        raise UnknownConnection

    def _attempt(self, work: FetchWork) -> int | None:
        """Give the number of the attempt to make; None where one was made that may have worked.

        Raises `TriesSpent` after the last one, and `_PutOff` while it is not known whether one
        that began is still under way.
        """
        names = [work.request_id(attempt) for attempt in range(MOST_ATTEMPTS)]
        known, _ = self._rows.rows(request_ids=names)
        for attempt, name in enumerate(names):
            asked = known.get(name)
            if asked is None:
                return attempt
            if not _may_be_repeated(asked):
                age = self._now() - asked.requested_at
                if asked.state is RequestState.REQUESTED and age < LEASE:
                    raise _PutOff(asked.requested_at + LEASE, "under_way")
                count("WorkRepeated")
                logger.info("work_repeated", extra={**_ids(work), "request_id": name})
                self._gather.gather_soon(work.plan.range_id)
                return None
        raise TriesSpent

    def _come_again(
        self, work: FetchWork, message: Message, error: RelayError, attempt: int
    ) -> None:
        """Let a message that Cobalt did not take come again later; rest, where Cobalt says so."""
        now = self._now()
        pause = _pause_after(error, now)
        if pause:
            self._ranges.pause(now + pause)
            count("QueuePaused")
        if not _comes_again(message, attempt):
            self._gather.gather_soon(work.plan.range_id)
        backoff = min(RETRY_SECONDS * 4**attempt, MOST_RETRY_SECONDS)
        seconds = backoff * random.uniform(0.75, 1.25)  # noqa: S311 - only to part the messages
        self._queue.hide(message.receipt, max(seconds, pause.total_seconds()))

    def _forget_token(self, work: FetchWork, connection_id: str) -> None:
        """Read the token anew, for the next message is not to use one that may be gone."""
        try:
            self._connections.token(connection_id, refresh=True)
        except RelayError as error:
            logger.info("token_not_read", extra={**_ids(work), "error_code": error.code})

    def _note(self, work: FetchWork, note: PieceNote) -> None:
        self._ranges.note_piece(work.plan.range_id, work.piece, note)

    def _give_up(self, work: FetchWork, found: FetchRange | None, error: RelayError) -> None:
        """End a piece that comes to no request, and announce it: nobody waits for an answer."""
        count("PieceGivenUp")
        logger.warning("piece_given_up", extra={**_ids(work), "error_code": error.code})
        if not found:
            self._ranges.create(FetchRange(plan=work.plan, state=RangeState.ACCEPTED, queued=True))
        self._bus.publish(
            AppointmentFetchFailed(
                job_execution_id=None,
                connection_id=work.plan.connection_id,
                access_token_reference_id=None,
                window=work.fetch.window,
                trace_id=work.plan.trace_id,
                request_id=work.request_id(0),
                trigger=work.plan.trigger,
                search_by=work.plan.request.search_by,
                accepted_at=None,
                completed_at=self._now(),
                error_code=error.code,
            )
        )
        self._note(work, PieceNote(error_code=error.code))
        self._gather.gather_soon(work.plan.range_id)


def _comes_again(message: Message, attempt: int) -> bool:
    """Whether another attempt follows one that started nothing."""
    return attempt + 1 < MOST_ATTEMPTS and message.receives < MOST_RECEIVES


def _has_joined(work: FetchWork, found: FetchRange | None) -> bool:
    """Whether a piece has the job of another request: it made none of its own."""
    note = found.pieces.get(work.piece) if found else None
    return bool(note and note.job_execution_id and not work.round)


def _may_be_repeated(asked: RequestRecord) -> bool:
    """Whether Cobalt surely did not begin, and may do so at another attempt."""
    return asked.state is RequestState.FAILED and asked.refused_as in _RETRYABLE


def _pause_after(error: RelayError, now: datetime) -> timedelta:
    """Tell for how long the queue rests: as Cobalt wishes, within a limit, or not at all.

    What Cobalt says of one request alone does not hold up the others.
    """
    wish = _wish_of(error, now)
    if not wish and not isinstance(error, RateLimited | UpstreamUnreachable):
        return timedelta(0)
    return min(wish or DEFAULT_PAUSE, MOST_PAUSE)


def _wish_of(error: RelayError, now: datetime) -> timedelta | None:
    """Read for how long Cobalt wants not to be asked; None where it does not say so.

    It says so in seconds, or by a date (RFC 9110, 10.2.3).
    """
    text = error.retry_after or ""
    if text.isdecimal():
        return timedelta(seconds=int(text))
    try:
        return max(parsedate_to_datetime(text) - now, timedelta(0))
    except ValueError:
        return None


def _ids(work: FetchWork) -> dict[str, str | int]:
    plan = work.plan
    return {
        "range_id": plan.range_id,
        "connection_id": plan.connection_id,
        "piece": work.piece,
        "trigger": plan.trigger,
    }
