"""Plan the fetches of a schedule: which connections, which days of their own, in which pieces.

Nothing is fetched here: each piece becomes a message, and is fetched when its turn has come. A plan
that is made twice, by a repeated invocation or an operator, gives the same messages, and what was
fetched for one of them is not fetched again.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, time, timedelta
from itertools import batched
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from zlib import crc32
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from cobalt_relay.clinic_time import comes_within, today, zone_named
from cobalt_relay.errors import (
    InvalidFetchRequest,
    InvalidScheduleInput,
    OutOfTime,
    RelayError,
    UnknownConnection,
)
from cobalt_relay.events import AppointmentFetchFailed
from cobalt_relay.models import (
    MAX_RANGE_DAYS,
    MAX_RANGE_PROVIDERS,
    Connection,
    ConnectionState,
    FetchWork,
    RangePlan,
    RangeRequest,
    Window,
    in_days,
    moment_of,
    range_id_of,
    trace_id_of,
    utc_now,
)
from cobalt_relay.observability import count, logger
from cobalt_relay.services.fetch_range import PIECE_SPACING

if TYPE_CHECKING:
    from cobalt_relay.services.ports import EventBus, Fleet, StartFetch, WorkQueue

READ_AT_ONCE = 100
RESERVE_SECONDS = 20.0
"""What must be left of a run to plan a hundred connections more."""
SLOT = timedelta(minutes=15)
"""How far apart the runs of a schedule are that fetches at a time of the clinics' own."""

ConnectionId = Annotated[str, StringConstraints(pattern=r"^conn_[0-9a-f]{32}$")]
QUARTER = r"^([01][0-9]|2[0-3]):(00|15|30|45)$"
SCHEDULED_TIME = "<aws.scheduler.scheduled-time>"
"""EventBridge Scheduler puts the time for which a run was planned in its place (User Guide, "Adding
context attributes"). MiniStack, for one, hands it on as it stands."""


def _planned_for(said: object) -> datetime | None:
    """Read when a run was planned for; None where nothing says so."""
    if said is None or said == SCHEDULED_TIME:
        return None
    moment = moment_of(said) if isinstance(said, str) else None
    if moment is None:
        raise ValueError
    return moment


PlannedFor = Annotated[datetime | None, BeforeValidator(_planned_for)]


class SchedulePlan(BaseModel):
    """The input of a schedule: what to fetch for whom, in days that count from a clinic's today.

    `days` counts the first and the last day; `date_range` takes 2 of them at least. `at` is a time
    of the clinic's own, in quarters of an hour: then the schedule is to run each quarter, and a
    connection is fetched by the run in which that time comes where it is. The fetches begin spread
    over `spread_minutes`. `scheduled_at` is the time for which the run was planned.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, strict=True, defer_build=True
    )

    connections: Literal["all"] | list[ConnectionId] = "all"
    from_day: int = Field(default=0, ge=-365, le=365)
    days: int = Field(default=14, ge=1, le=MAX_RANGE_DAYS)
    search_by: Literal["date_range", "provider"] = "date_range"
    provider_ids: list[str | int] = Field(
        default_factory=list, max_length=MAX_RANGE_PROVIDERS, repr=False
    )
    at: str | None = Field(default=None, pattern=QUARTER)
    spread_minutes: int = Field(default=10, ge=0, le=720)
    schedule: str | None = Field(default=None, max_length=64)
    scheduled_at: PlannedFor = None

    @model_validator(mode="after")
    def _fits_its_mode(self) -> Self:
        if self.provider_ids and self.search_by != "provider":
            raise ValueError
        example = in_days(datetime(2025, 1, 1, tzinfo=UTC).date(), 0, self.days)
        asked = {"search_by": self.search_by, "provider_ids": self.provider_ids}
        try:
            RangeRequest.from_body(asked | example.model_dump(mode="json"))
        except InvalidFetchRequest:
            raise ValueError from None
        return self

    @classmethod
    def parse(cls, event: object) -> Self:
        """Read a schedule's input, or raise `InvalidScheduleInput`."""
        try:
            return cls.model_validate(event)
        except ValidationError:
            raise InvalidScheduleInput from None

    def request(self, window: Window) -> RangeRequest:
        """Give what is fetched for the days of a window."""
        return RangeRequest(
            search_by=self.search_by, window=window, provider_ids=tuple(self.provider_ids)
        )

    def is_due(self, zone: ZoneInfo, planned_for: datetime) -> bool:
        """Whether this run is the one of a clinic's day."""
        if self.at is None:
            return True
        begin = _slot_of(planned_for)
        return comes_within(begin, begin + SLOT, time.fromisoformat(self.at), zone)


class PlanFetches:
    """The use case. One object serves all invocations of a function."""

    def __init__(
        self,
        fetch_appointments: "StartFetch",
        connections: "Fleet",
        queue: "WorkQueue",
        bus: "EventBus",
        default_zone: str,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._fetch_appointments = fetch_appointments
        self._connections = connections
        self._queue = queue
        self._bus = bus
        self._default_zone = default_zone
        self._now = now

    def run(
        self, plan: SchedulePlan, run_id: str, seconds_left: Callable[[], float]
    ) -> dict[str, object]:
        """Queue the pieces of each connection that is due, and tell how many of what there were.

        A suspended connection is left out. What is named and not there is announced (`Appointment
        Fetch Failed`) and leaves the others alone. Raises `QueueFault` and `OutOfTime` where not
        all could be queued: planned again, what was queued comes twice and is fetched once. The
        days are those of the moment for which the run was planned, however late it begins. `run_id`
        names a run that no schedule made.
        """
        self._fetch_appointments.require_credentials()
        run = _Run(plan, run_id, self._now(), seconds_left)
        done = run.done
        done["messages"] = self._queue.send(self._works(run), run.now)
        for name in ("messages", "suspended", "without_time_zone"):
            count(f"Planned{name.title().replace('_', '')}", done[name])
        logger.info("schedule_planned", extra=done)
        return {**done, "failed": run.failed}

    def _works(self, run: "_Run") -> Iterator[FetchWork]:
        """Give the messages one by one, reading a hundred connections at a time."""
        plan = run.plan
        is_for_all = plan.connections == "all"
        ids = self._connections.ids() if is_for_all else iter(dict.fromkeys(plan.connections))
        for some in batched(ids, READ_AT_ONCE, strict=False):
            if run.seconds_left() < RESERVE_SECONDS:
                raise OutOfTime
            found = {each.connection_id: each for each in self._connections.several(some)}
            for connection_id in some:
                run.done["connections"] += 1
                connection = self._heir(found.get(connection_id), run)
                if connection:
                    yield from self._pieces(connection, run)
                elif not is_for_all:
                    self._tell_unknown(connection_id, run)

    def _heir(self, connection: Connection | None, run: "_Run") -> Connection | None:
        """Give the connection that is to be fetched; None where none is, or it is listed itself."""
        if connection is None or connection.state is not ConnectionState.REPLACED:
            return connection
        if run.plan.connections == "all" or not connection.replaced_by:
            return None
        return self._heir(self._connections.get(connection.replaced_by), run)

    def _pieces(self, connection: Connection, run: "_Run") -> Iterator[FetchWork]:
        plan, now = run.plan, run.now
        if connection.is_suspended:
            run.done["suspended"] += 1
            return
        zone = zone_named(connection.time_zone or "")
        if zone is None:
            run.done["without_time_zone"] += 1
            zone = zone_named(self._default_zone)
            assert zone  # noqa: S101 - the settings see to that
        if not plan.is_due(zone, run.planned_for):
            run.done["not_due"] += 1
            return
        run.done["planned"] += 1
        range_plan = RangePlan(
            range_id=range_id_of(run.name, connection.connection_id),
            connection_id=connection.connection_id,
            trigger="schedule",
            request=plan.request(in_days(today(run.planned_for, zone), plan.from_day, plan.days)),
            accepted_at=now,
        )
        begin = now + _share(connection.connection_id) * timedelta(minutes=plan.spread_minutes)
        yield from range_plan.works(begin, PIECE_SPACING)

    def _tell_unknown(self, connection_id: str, run: "_Run") -> None:
        """Announce a connection that is named and not there: nobody waits for an answer."""
        error_code = UnknownConnection.code
        run.failed[connection_id] = error_code
        count("ScheduledFetchFailed")
        ids = {"connection_id": connection_id, "error_code": error_code}
        logger.warning("scheduled_fetch_failed", extra=ids)
        range_id = range_id_of(run.name, connection_id)
        event = AppointmentFetchFailed(
            job_execution_id=None,
            connection_id=connection_id,
            access_token_reference_id=None,
            window=in_days(run.planned_for.date(), run.plan.from_day, run.plan.days),
            trace_id=trace_id_of(range_id),
            request_id=range_id,
            trigger="schedule",
            search_by=run.plan.search_by,
            accepted_at=None,
            completed_at=run.now,
            error_code=error_code,
        )
        try:
            self._bus.publish(event)
        except RelayError as error:
            logger.error("event_not_published", extra={**ids, "error_code": error.code})


class _Run:
    """One run: what it plans, and what came of it."""

    def __init__(
        self,
        plan: SchedulePlan,
        run_id: str,
        now: datetime,
        seconds_left: Callable[[], float],
    ) -> None:
        self.plan = plan
        self.now = now
        self.seconds_left = seconds_left
        self.planned_for = plan.scheduled_at or now
        is_planned = plan.schedule and plan.scheduled_at
        self.name = f"{plan.schedule}\n{plan.scheduled_at}" if is_planned else run_id
        self.done: dict[str, Any] = dict.fromkeys(
            ("connections", "planned", "messages", "suspended", "not_due", "without_time_zone"), 0
        )
        self.failed: dict[str, str] = {}


def _slot_of(moment: datetime) -> datetime:
    """Give the begin of the quarter of an hour in which a moment lies."""
    seconds = SLOT.total_seconds()
    return datetime.fromtimestamp(moment.timestamp() // seconds * seconds, UTC)


def _share(connection_id: str) -> float:
    """Give a connection its place between 0 and 1: the same each day, and spread over all."""
    return crc32(connection_id.encode()) / 2**32
