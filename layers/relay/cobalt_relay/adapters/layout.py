"""How the rows of the table are laid out, as far as several adapters need to know it."""

import zlib
from datetime import datetime, timedelta

from pydantic_core import from_json

from cobalt_relay.adapters.table import Item, Key, Put, Update
from cobalt_relay.models import FetchRange, Hold, PieceNote, iso

DUE_SHARDS = 4
HOLD_KEPT = timedelta(hours=1)
_PIECE = "piece_"


def due_attributes(subject_id: str, look: datetime) -> Item:
    """Put a row into the index of what is to be looked at."""
    return {"due_shard": str(zlib.crc32(subject_id.encode()) % DUE_SHARDS), "due_at": iso(look)}


def announcement(subject_id: str, announced_from: str, look: datetime) -> Item:
    """Open the announcement of a row."""
    due = due_attributes(subject_id, look)
    return {"notification": "open", "announced_from": announced_from, **due}


def move(key: Key, states: list[str], changes: Item, remove: tuple[str, ...] = ()) -> Update:
    """Change a row that is in one of the states."""
    origins = {f":from{number}": state for number, state in enumerate(states)}
    return Update(
        key,
        set_expression(changes, remove),
        f"#state IN ({', '.join(origins)})",
        {**origins, **values_of(changes)},
    )


def set_expression(changes: Item, remove: tuple[str, ...] = ()) -> str:
    """Write the expression that sets the changes; their values are those of `values_of`."""
    expression = "SET " + ", ".join(f"#{name} = :{name}" for name in changes)
    return f"{expression} REMOVE {', '.join(remove)}" if remove else expression


def values_of(changes: Item) -> Item:
    """Give the values of an expression."""
    return {f":{name}": value for name, value in changes.items()}


def holding(request_id: str, fingerprint: str, now: datetime, hold: Hold) -> Put:
    """Take a hold that nobody has, that is over, or that it replaces."""
    values = {":now": iso(now)}
    condition = "attribute_not_exists(pk) OR held_until < :now"
    if hold.replacing is not None:
        condition += " OR request_id = :replacing"
        values[":replacing"] = hold.replacing
    item = {
        "request_id": request_id,
        "fingerprint": fingerprint,
        "held_until": iso(hold.until),
        "expires_at": int((hold.until + HOLD_KEPT).timestamp()),
    }
    return Put(Key(hold.kind, hold.name), item, condition, values)


def range_item(found: FetchRange) -> Item:
    """Lay a range out: its plan as one text, and each piece as an attribute of its own.

    So that two pieces can be noted at once, and numbers of providers come back as they went.
    """
    item = found.model_dump(mode="json", exclude={"plan", "pieces", "outcomes"}, exclude_none=True)
    plan = found.plan
    return {
        **item,
        "plan": plan.model_dump_json(),
        "connection_id": plan.connection_id,
        "accepted_at": iso(plan.accepted_at),
        **{piece_name(number): note_of(each) for number, each in found.pieces.items()},
    }


def piece_name(number: int) -> str:
    """Name the attribute of a piece."""
    return f"{_PIECE}{number}"


def note_of(note: PieceNote) -> Item:
    """Lay out what is noted of a piece."""
    return note.model_dump(mode="json", exclude_none=True)


def range_of(item: Item) -> FetchRange:
    """Read what `range_item` laid out; pydantic's `ValidationError` where it is none.

    Whose it is stands in the row: another connection may have taken its first one's place.
    """
    pieces = {
        int(name.removeprefix(_PIECE)): value
        for name, value in item.items()
        if name.startswith(_PIECE)
    }
    outcomes = from_json(item.get("outcomes", "[]"))
    plan = from_json(item["plan"]) | {"connection_id": item["connection_id"]}
    return FetchRange.model_validate({**item, "plan": plan, "pieces": pieces, "outcomes": outcomes})
