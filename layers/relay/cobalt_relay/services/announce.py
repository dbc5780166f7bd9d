"""Tell the bus what a row says, and record that it is told: at least once, as a rule just once."""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from cobalt_relay.errors import StorageFault
from cobalt_relay.events import RelayEvent
from cobalt_relay.models import Announced, utc_now

if TYPE_CHECKING:
    from cobalt_relay.services.ports import AnnouncementStore, EventBus


class Announcer:
    """The use case. Raises `StorageFault`; the announcement stays open then."""

    def __init__(
        self, rows: "AnnouncementStore", bus: "EventBus", now: Callable[[], datetime] = utc_now
    ) -> None:
        self._rows = rows
        self._bus = bus
        self._now = now

    def announce(
        self, announced: Announced, event: RelayEvent, next_look: datetime | None = None
    ) -> None:
        """Tell the bus, then record that it is told; `next_look` where the row stays due."""
        try:
            self._bus.publish(event)
        except StorageFault:
            with suppress(StorageFault):
                self._rows.release_announcement(announced)
            raise
        self._rows.close_announcement(announced, self._now(), next_look)

    def resume(
        self, announced: Announced, event: RelayEvent, next_look: datetime | None = None
    ) -> None:
        """Announce what is open and what no rival is announcing at this moment."""
        if self._rows.take_announcement(announced, self._now()):
            self.announce(announced, event, next_look)
