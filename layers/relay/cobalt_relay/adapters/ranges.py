"""Ranges: the parent jobs whose pieces are fetched one by one.

    item      key                 holds
    range     RANGE#<range id>    what was asked, which request each piece became, what came of it
    pause     PAUSE#cobalt        until when Cobalt wants not to be asked

A range stands in the index `due` until it has ended: the reconciler looks after the pieces of which
nobody told, and after its announcement. It stands in `by_connection` beside the jobs.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from cobalt_relay.adapters.layout import (
    announcement,
    due_attributes,
    holding,
    move,
    note_of,
    piece_name,
    range_item,
    range_of,
)
from cobalt_relay.adapters.table import Key, Put, Table, wrote
from cobalt_relay.models import (
    RANGE_LIFE,
    RANGE_MOVES,
    FetchRange,
    Hold,
    PieceNote,
    PieceOutcome,
    RangeState,
    before,
    iso,
)

FIRST_LOOK = timedelta(minutes=10)
"""When the reconciler looks at a range whose pieces are queued; it ends by itself as a rule."""
AFTERWARDS = timedelta(days=2)
"""How long a range is kept beyond its deadline at least: its end is announced then."""
UNQUEUED_LOOK = timedelta(minutes=2)
"""When it looks at one that may not have been queued whole: later than any call can take."""
_ANNOUNCE_LOOK = timedelta(minutes=1)
_PAUSE = Key("PAUSE", "cobalt")


class Ranges:
    """The rows of ranges. Raises `TableFault` where DynamoDB fails."""

    def __init__(self, table: Table, retention: timedelta) -> None:
        self._table = table
        self._kept = max(retention, RANGE_LIFE + AFTERWARDS)

    def get(self, range_id: str, now: datetime | None = None) -> FetchRange | None:
        """Read a range; None where there is none, or where its time is over."""
        (item,) = self._table.get(_key(range_id))
        is_over = item is not None and now is not None and item["expires_at"] <= now.timestamp()
        return range_of(item) if item and not is_over else None

    def of_connection(self, connection_id: str) -> Iterator[FetchRange]:
        """Give the ranges of a connection, the newest first; the index may lag behind."""
        listed = self._table.keys_of_index(
            "by_connection", ("connection_id", connection_id), backwards=True
        )
        for key in map(Key.of, listed):
            found = self.get(key.id) if key.kind == "RANGE" else None
            if found:
                yield found

    def create(self, found: FetchRange, fingerprint: str = "", hold: Hold | None = None) -> bool:
        """Put a range on record, with its hold; False where it is there, or another has that."""
        plan, now = found.plan, found.plan.accepted_at
        item = range_item(found) | due_attributes(
            plan.range_id, now + (FIRST_LOOK if found.queued else UNQUEUED_LOOK)
        )
        item["expires_at"] = int((now + self._kept).timestamp())
        item["fingerprint"] = fingerprint
        holds = [holding(plan.range_id, fingerprint, now, hold)] if hold else []
        return wrote(self._table, Put(_key(plan.range_id), item), *holds)

    def held_by(self, hold: Hold) -> tuple[str, str] | None:
        """Tell which range has a hold, and what it asks; None where none has."""
        (item,) = self._table.get(Key(hold.kind, hold.name))
        return (item["request_id"], item["fingerprint"]) if item else None

    def note_queued(self, range_id: str, look: datetime) -> None:
        """Note that all pieces are in the queue."""
        changes = {"queued": True, "due_at": iso(look)}
        states = before(RANGE_MOVES, RangeState.COMPLETED)
        wrote(self._table, move(_key(range_id), states, changes))

    def note_piece(self, range_id: str, piece: int, note: PieceNote) -> None:
        """Note which request or job a piece became, or why it became none."""
        changes = {piece_name(piece): note_of(note)}
        states = before(RANGE_MOVES, RangeState.COMPLETED)
        wrote(self._table, move(_key(range_id), states, changes))

    def end(
        self, found: FetchRange, outcomes: Sequence[PieceOutcome], now: datetime
    ) -> FetchRange | None:
        """End a range and open its announcement; None where another has done so."""
        completed = sum(each.status == "COMPLETED" for each in outcomes)
        states = {0: RangeState.FAILED, len(outcomes): RangeState.COMPLETED}
        state = states.get(completed, RangeState.PARTIAL)
        told = [each.model_dump(mode="json", exclude_none=True) for each in outcomes]
        changes = {
            "state": state.value,
            "completed_at": iso(now),
            "outcomes": json.dumps(told, separators=(",", ":")),
            "looks": 0,
            **announcement(found.plan.range_id, iso(now), now + _ANNOUNCE_LOOK),
        }
        if not wrote(
            self._table, move(_key(found.plan.range_id), before(RANGE_MOVES, state), changes)
        ):
            return None
        return found.model_copy(
            update={
                "state": state,
                "completed_at": now,
                "outcomes": tuple(outcomes),
                "notification": "open",
            }
        )

    # --------------------------------------------------------------------------- Cobalt's patience

    def paused_until(self) -> datetime | None:
        """Tell until when Cobalt wants not to be asked, as far as it ever said so."""
        (item,) = self._table.get(_PAUSE)
        return datetime.fromisoformat(item["paused_until"]) if item else None

    def pause(self, until: datetime) -> None:
        """Record that Cobalt wants not to be asked before; an earlier word that goes on stands."""
        item = {
            "paused_until": iso(until),
            "expires_at": int((until + timedelta(hours=1)).timestamp()),
        }
        condition = "attribute_not_exists(pk) OR paused_until < :until"
        wrote(self._table, Put(_PAUSE, item, condition, {":until": iso(until)}))


def _key(range_id: str) -> Key:
    return Key("RANGE", range_id)
