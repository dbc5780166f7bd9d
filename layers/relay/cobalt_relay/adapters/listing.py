"""A page of Cobalt's list of events, which can be tens of megabytes: every row holds a result.

It is mapped from a file and cut where the values begin and end, so only small fields become Python
objects, and the bytes of `data` stay the very bytes that Cobalt wrote. (No library that we know
gives the bytes of a nested value and also takes lone surrogates, which JavaScript writes: msgspec
refuses them, ijson gives values only.)
"""

import json
import mmap
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from cobalt_relay.errors import UpstreamMalformed
from cobalt_relay.models import CobaltEvent, ListedEvent, moment_of
from cobalt_relay.patterns import pattern

MAX_FIELD_BYTES = 65_536
"""A field that is longer is none that the relay reads."""

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TEXT = pattern(_STRING, re.DOTALL)
_NESTING = pattern(_STRING + rb"|[\[\]{}]", re.DOTALL)
_SCALAR = pattern(rb"[^\s,\]}]+")
_SPACE = pattern(rb"[ \t\r\n]*")


class Page(NamedTuple):
    """One page of the list. `total_pages` is None where Cobalt does not tell."""

    rows: Iterator[ListedEvent | None]
    """None for a row that cannot be read."""
    total_pages: int | None


def read_page(text: mmap.mmap) -> Page:
    """Read a page; `UpstreamMalformed` where it is none."""
    try:
        parts = {key: span for key, *span in _members(text, _skip_space(text, 0))}
        if "webhook_events" not in parts:
            raise UpstreamMalformed
        start, _ = parts["webhook_events"]
        rows = [first for first, _ in _items(text, start)]
        pagination = _small(text, *parts["pagination"]) if "pagination" in parts else None
    except (ValueError, RecursionError):
        raise UpstreamMalformed from None
    total = pagination.get("total_pages") if isinstance(pagination, dict) else None
    return Page((_row(text, first) for first in rows), total if isinstance(total, int) else None)


def _row(text: mmap.mmap, start: int) -> ListedEvent | None:
    """Read a row of either edition (docs: Webhook events)."""
    try:
        spans = {key: span for key, *span in _members(text, start)}
        data = spans.pop("data", None)
        fields = {key: _small(text, *span) for key, span in spans.items()}
        is_old = "event_id" not in fields
        names = _OLD if is_old else _NEW
        row = {name: fields.get(column) for name, column in names.items()}
        event = CobaltEvent.read(
            {
                "id": row["id"],
                "type": row["type"],
                "access_token_reference_id": row["reference"],
                "job_id": row["job"],
                "data": _outline(text, *data) if data else None,
            }
        )
    except (ValueError, RecursionError):
        return None
    return ListedEvent(event, _moment(row["created"]), partial(_body, text, row, data, is_old))


_NEW = {
    "id": "event_id",
    "type": "event_type",
    "reference": "access_token_reference_id",
    "job": "job_id",
    "created": "created_at",
}
_OLD = {
    "id": "id",
    "type": "type",
    "reference": "access_token_reference_id",
    "job": "job_id",
    "created": "created",
}


def _body(text: mmap.mmap, row: dict[str, Any], data: list[int] | None, is_old: bool) -> bytes:  # noqa: FBT001
    """Put the webhook's body together again, as `JSON.stringify` gives the documented payload."""
    head = {
        "id": row["id"],
        "user_id" if is_old else "access_token_reference_id": row["reference"],
        "job_execution_id" if is_old else "job_id": row["job"],
        "timestamp": row["created"],
        "type": row["type"],
        "action": "sync",
    }
    # A lone surrogate, which UTF-8 cannot hold, is an escape in JavaScript's JSON too.
    written = json.dumps(head, ensure_ascii=False, separators=(",", ":"))
    start, end = data or (0, 0)
    parts = (
        written[:-1].encode(errors="backslashreplace"),
        b',"data":',
        memoryview(text)[start:end] if data else b"null",
        b"}",
    )
    return b"".join(parts)


def _outline(text: mmap.mmap, start: int, end: int) -> Any:  # noqa: ANN401 - any JSON
    """Read `data` without its long parts; as many appointments as there are, but None each."""
    if text[start : start + 1] != b"{":
        return _small(text, start, end)
    outline: dict[str, Any] = {}
    for key, first, last in _members(text, start):
        if key == "appointments" and text[first : first + 1] == b"[":
            outline[key] = [None] * sum(1 for _ in _items(text, first))
        else:
            outline[key] = _small(text, first, last)
    return outline


def _moment(value: object) -> datetime | None:
    """Read a moment as of a webhook; here text may also lack its zone, and is UTC then."""
    if not isinstance(value, str):
        return moment_of(value)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# ----------------------------------------------------------------------- where values begin and end


def _members(text: mmap.mmap, start: int) -> Iterator[tuple[str, int, int]]:
    """Give the key, the begin and the end of each member of the object that begins at `start`."""
    position = _inside(text, start, b"{")
    while text[position : position + 1] != b"}":
        key = _TEXT.match(text, position)
        colon = _skip_space(text, key.end()) if key else -1
        if not key or text[colon : colon + 1] != b":":
            raise ValueError
        value = _skip_space(text, colon + 1)
        end = _end(text, value)
        yield json.loads(key[0]), value, end
        position = _next(text, end, b"}")


def _items(text: mmap.mmap, start: int) -> Iterator[tuple[int, int]]:
    """Give the begin and the end of each item of the array that begins at `start`."""
    position = _inside(text, start, b"[")
    while text[position : position + 1] != b"]":
        end = _end(text, position)
        yield position, end
        position = _next(text, end, b"]")


def _inside(text: mmap.mmap, start: int, bracket: bytes) -> int:
    if text[start : start + 1] != bracket:
        raise ValueError
    return _skip_space(text, start + 1)


def _next(text: mmap.mmap, end: int, closing: bytes) -> int:
    """Give where the next element begins, or the closing bracket is."""
    position = _skip_space(text, end)
    follower = text[position : position + 1]
    if follower == b",":
        return _skip_space(text, position + 1)
    if follower != closing:
        raise ValueError
    return position


def _end(text: mmap.mmap, start: int) -> int:
    """Give where the value that begins at `start` ends."""
    first = text[start : start + 1]
    if first in {b"{", b"["}:
        depth = 0
        for part in _NESTING.finditer(text, start):
            match text[part.start()]:
                case 0x7B | 0x5B:  # { and [
                    depth += 1
                case 0x7D | 0x5D:
                    depth -= 1
            if not depth:
                return part.end()
        raise ValueError
    value = (_TEXT if first == b'"' else _SCALAR).match(text, start)
    if not value:
        raise ValueError
    return value.end()


def _skip_space(text: mmap.mmap, start: int) -> int:
    space = _SPACE.match(text, start)
    return space.end() if space else start


def _small(text: mmap.mmap, start: int, end: int) -> Any:  # noqa: ANN401 - any JSON
    """Read a value, None where it is longer than any that is read."""
    return json.loads(text[start:end]) if end - start <= MAX_FIELD_BYTES else None
