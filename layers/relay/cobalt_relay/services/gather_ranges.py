"""Gather the pieces of a range: what became of each, and of the whole once all of them have ended.

A range is gathered whenever one of its pieces ends, by whoever ends it; the reconciler does so for
what was missed. Two who gather at once have one winner.
"""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from cobalt_relay.errors import RelayError
from cobalt_relay.events import range_completed
from cobalt_relay.models import (
    Announced,
    FetchRange,
    RangeState,
    utc_now,
)
from cobalt_relay.observability import count, logger
from cobalt_relay.services.announce import Announcer
from cobalt_relay.services.outcomes import outcomes_of

if TYPE_CHECKING:
    from cobalt_relay.services.ports import RangeStore, RowReader


class GatherRanges:
    """The use case. Raises `TableFault` and `BusFault`; doing it again does the rest."""

    def __init__(
        self,
        ranges: "RangeStore",
        rows: "RowReader",
        announcer: Announcer,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._ranges = ranges
        self._rows = rows
        self._announcer = announcer
        self._now = now

    def gather_soon(self, range_id: str) -> None:
        """Gather at the end of something else, which is not to fail with it: it is done later."""
        try:
            found = self._ranges.get(range_id)
            if found:
                self.gather(found)
        except RelayError as error:
            ids = {"job_execution_id": range_id, "error_code": error.code}
            logger.warning("range_not_gathered", extra=ids)

    def gather(self, found: FetchRange) -> bool:
        """End the range if all of its pieces have ended, and announce it; tell whether it has."""
        if found.state is not RangeState.ACCEPTED:
            return True
        outcomes = outcomes_of(found, self._rows, self._now())
        if not all(each.has_ended for each in outcomes):
            return False
        ended = self._ranges.end(found, outcomes, self._now())
        if ended:
            self._tell(ended)
        return True

    def _tell(self, ended: FetchRange) -> None:
        count("RangeCompleted" if ended.state is RangeState.COMPLETED else "RangeIncomplete")
        ids = {"job_execution_id": ended.plan.range_id, "connection_id": ended.plan.connection_id}
        logger.info("range_ended", extra={**ids, "state": ended.state})
        event = range_completed(ended)
        assert event  # noqa: S101 - it has just ended
        self._announcer.announce(Announced("RANGE", ended.plan.range_id, ended.state), event)
