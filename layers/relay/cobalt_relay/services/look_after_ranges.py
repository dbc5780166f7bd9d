"""Look after ranges: queue those that were not queued whole, gather what was missed, announce."""

from cobalt_relay.events import range_completed
from cobalt_relay.models import Announced, FetchRange, Job, RequestRecord
from cobalt_relay.services.announce import Announcer
from cobalt_relay.services.fetch_range import FetchRanges
from cobalt_relay.services.gather_ranges import GatherRanges


class LookAfterRanges:
    """What the reconciler does with a range. Raises `StorageFault`."""

    def __init__(
        self, queueing: FetchRanges, gathering: GatherRanges, announcer: Announcer
    ) -> None:
        self._queueing = queueing
        self._gathering = gathering
        self._announcer = announcer

    def look_after(self, found: FetchRange) -> None:
        """Do what is left to do of a range."""
        event = range_completed(found)
        if event:
            self._announcer.resume(Announced("RANGE", found.plan.range_id, found.state), event)
        elif not self._gathering.gather(found) and not found.queued:
            self._queueing.queue(found)

    def gather_of(self, row: Job | RequestRecord) -> None:
        """Gather the range of a piece that has ended."""
        if row.range_id:
            self._gathering.gather_soon(row.range_id)
