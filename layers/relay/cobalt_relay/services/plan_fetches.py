"""Start the live fetches of a schedule: one per connection, none of them in the way of another."""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from cobalt_relay.errors import (
    AccessForbidden,
    AccessTokenRefused,
    InvalidScheduleInput,
    OutOfTime,
    RelayError,
    UpstreamFault,
    UpstreamRefusal,
)
from cobalt_relay.events import AppointmentFetchFailed
from cobalt_relay.models import FetchRequest, Window, in_days, utc_now
from cobalt_relay.observability import count, failure, logger
from cobalt_relay.services.ports import ConnectionTokens, EventBus, StartFetch

SECONDS_PER_FETCH = 30.0
"""What one fetch may take at worst: below it, no further one is begun in this run."""


ConnectionId = Annotated[str, StringConstraints(pattern=r"^conn_[0-9a-f]{32}$")]


class SchedulePlan(BaseModel):
    """The input of a schedule.

    `days` counts the first and the last day; Cobalt takes 2 to 8 of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, strict=True)

    connections: Literal["all"] | list[ConnectionId] = "all"
    from_day: int = Field(default=0, ge=-365, le=365)
    days: int = Field(default=7, ge=2, le=8)

    @classmethod
    def parse(cls, event: object) -> Self:
        """Read a schedule's input, or raise `InvalidScheduleInput`."""
        try:
            return cls.model_validate(event)
        except ValidationError:
            raise InvalidScheduleInput from None


class PlanFetches:
    """The use case. One object serves all invocations of a function."""

    def __init__(
        self,
        fetch_appointments: StartFetch,
        connections: ConnectionTokens,
        bus: EventBus,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._fetch_appointments = fetch_appointments
        self._connections = connections
        self._bus = bus
        self._now = now

    def run(self, plan: SchedulePlan, seconds_left: Callable[[], float]) -> dict[str, object]:
        """Start one live fetch per connection, and tell what became of each.

        What fails for one connection is announced (`Appointment Fetch Failed`) and leaves the
        others alone. Only what fails before the first fetch fails the run: repeated after that, it
        would ask clinics twice. "Today" is the day in UTC.
        """
        self._fetch_appointments.require_credentials()
        window = in_days(self._now().date(), plan.from_day, plan.days)
        named = self._connections.ids() if plan.connections == "all" else plan.connections
        connection_ids = dict.fromkeys(named)  # all of them, each once, before the first fetch
        started: dict[str, str] = {}
        failed: dict[str, str] = {}
        for connection_id in connection_ids:
            request_id = str(uuid4())
            try:
                _spend(seconds_left())
                started[connection_id] = self._fetch_appointments.start(
                    self._connections.token(connection_id),
                    FetchRequest(window=window),
                    request_id=request_id,
                    trigger="schedule",
                ).job_execution_id
            except (UpstreamRefusal, UpstreamFault) as error:
                failed[connection_id] = error.reason  # on record, and announced from there
                if isinstance(error, AccessTokenRefused | AccessForbidden):
                    with suppress(RelayError):  # the next run is not to use a token that is gone
                        self._connections.token(connection_id, refresh=True)
            except RelayError as error:
                failed[connection_id] = error.code
                self._tell_failed(connection_id, request_id, window, error.code)
            except Exception as error:  # noqa: BLE001 - the others must not suffer from it
                logger.error("unexpected_error", extra=failure(error))
                failed[connection_id] = "unexpected_error"
                self._tell_failed(connection_id, request_id, window, "unexpected_error")
        logger.info("schedule_run", extra={"started": len(started), "failed": len(failed)})
        return {"window": window.model_dump(mode="json"), "started": started, "failed": failed}

    def _tell_failed(
        self, connection_id: str, request_id: str, window: Window, error_code: str
    ) -> None:
        """Announce a fetch that came to no request: no caller waits for a schedule's answer."""
        count("ScheduledFetchFailed")
        ids = {"connection_id": connection_id, "request_id": request_id}
        logger.warning("scheduled_fetch_failed", extra={**ids, "error_code": error_code})
        event = AppointmentFetchFailed(
            job_execution_id=None,
            connection_id=connection_id,
            access_token_reference_id=None,
            window=window,
            request_id=request_id,
            trigger="schedule",
            search_by="date_range",
            accepted_at=None,
            completed_at=self._now(),
            error_code=error_code,
        )
        try:
            self._bus.publish(event)
        except RelayError as error:
            logger.error("event_not_published", extra={**ids, "error_code": error.code})


def _spend(seconds_left: float) -> None:
    if seconds_left < SECONDS_PER_FETCH:
        raise OutOfTime
