"""Events: the bytes that are signed, and the rows by which they are found again.

docs: Webhooks (payload), Webhook events (rows). Every event is recorded once, with one receipt per
URL that was registered at that moment, or a single receipt without a URL where none was.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime

from sandbox.clock import iso_seconds
from sandbox.ring import KeyedRing
from sandbox.signing import stringify

LIVE_FETCH_COMPLETED = "appointment.live_fetch_completed"

MOST_EVENTS = 5_000
MOST_EVENT_BYTES = 256 * 1024 * 1024


@dataclass(slots=True)
class Receipt:
    """What became of an event at one URL."""

    url: str | None
    attempts: int = 0
    last_attempt_at: datetime | None = None
    response_status: int | None = None
    delivered: bool = False

    @property
    def status(self) -> str:
        """``success`` or ``failed``: the only two the documentation knows."""
        return "success" if self.delivered else "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Everything of an event but its data. Ids are strings or, on demand, numbers."""

    id: str | int
    type: str
    clinic: str | None
    reference: str | None
    job_id: str | int | None
    created_at: datetime
    oldest_edition: bool = False

    def fields(self) -> dict[str, object]:
        """Give the keys of the payload before ``data``, as the edition names them.

        Only the live-fetch event has ``timestamp`` and ``action``; every other type has
        ``object`` and ``created`` instead.
        """
        reference_key = "user_id" if self.oldest_edition else "access_token_reference_id"
        job_key = "job_execution_id" if self.oldest_edition else "job_id"
        created = iso_seconds(self.created_at)
        fields: dict[str, object] = {"id": self.id}
        if self.type != LIVE_FETCH_COMPLETED:
            fields["object"] = "event"
        fields[reference_key] = self.reference
        if self.job_id is not None:
            fields[job_key] = self.job_id
        if self.type == LIVE_FETCH_COMPLETED:
            return {**fields, "timestamp": created, "type": self.type, "action": "sync"}
        return {**fields, "created": created, "type": self.type}


@dataclass(frozen=True, slots=True)
class Event:
    """A recorded event; ``body`` is what is signed and sent."""

    head: Head
    body: bytes
    data: bytes
    receipts: list[Receipt] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The id as text, whatever JSON type it has in the payload."""
        return str(self.head.id)

    @property
    def job_key(self) -> str | None:
        """The job's id as text, ``None`` for an event of no job."""
        return None if self.head.job_id is None else str(self.head.job_id)

    def row(self, receipt: Receipt) -> bytes:
        """Write one row of the listing, in the edition of the event itself."""
        head = self.head
        created = iso_seconds(head.created_at)
        last = receipt.last_attempt_at
        shared = {"job_id": head.job_id, "access_token_reference_id": head.reference}
        oldest = {
            "id": head.id,
            "type": head.type,
            "object": "event",
            "created": created,
            "status": receipt.status,
            "delivered": receipt.delivered,
            "delivery_attempts": receipt.attempts,
            "last_delivery_attempt": iso_seconds(last) if last else None,
            "response_status_code": receipt.response_status,
        }
        newest = {
            "event_id": head.id,
            "event_type": head.type,
            "webhook_url": receipt.url,
            "delivery_status": receipt.status,
            "created_at": created,
        }
        return _with_data({**(oldest if head.oldest_edition else newest), **shared}, self.data)


def compose(head: Head, data: object) -> Event:
    """Make an event of its head and its data."""
    data_text = stringify(data)
    return Event(head, _with_data(head.fields(), data_text), data_text)


def _with_data(fields: dict[str, object], data: bytes) -> bytes:
    return b"".join((stringify(fields)[:-1], b',"data":', data, b"}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a reader of the listing asks for; days are UTC days, both ends included."""

    job_id: str | None = None
    event_type: str | None = None
    delivery_status: str | None = None
    clinic: str | None = None
    start: date | None = None
    end: date | None = None
    page: int = 1
    page_size: int = 50
    newest_first: bool = True

    def accepts(self, event: Event) -> bool:
        """Whether the event, apart from its receipts, is asked for."""
        day = event.head.created_at.date()
        return (
            self.job_id in (None, event.job_key)
            and self.event_type in (None, event.head.type)
            and self.clinic in (None, event.head.clinic)
            and (self.start is None or self.start <= day)
            and (self.end is None or day <= self.end)
        )


class EventLog:
    """The newest 5,000 events, or fewer where their bodies exceed 256 MiB."""

    def __init__(self) -> None:
        self._events: KeyedRing[Event] = KeyedRing(
            MOST_EVENTS, lambda event: len(event.body) + len(event.data), MOST_EVENT_BYTES
        )

    def record(self, event: Event, urls: Iterable[str]) -> None:
        """Record an event with a receipt for each registered URL."""
        event.receipts.extend(Receipt(url) for url in urls)
        if not event.receipts:
            event.receipts.append(Receipt(None))
        self._events.put(event.key, event)

    def get(self, event_id: str) -> Event | None:
        """Find an event by its id."""
        return self._events.get(event_id)

    def page(self, query: Query) -> bytes:
        """Answer a listing (docs: Webhook events); a page beyond the last is empty."""
        rows = [
            (event, receipt)
            for event in self._events
            if query.accepts(event)
            for receipt in event.receipts
            if query.delivery_status in (None, receipt.status)
        ]
        rows.sort(key=lambda row: row[0].head.created_at, reverse=query.newest_first)
        first = (query.page - 1) * query.page_size
        shown = b",".join(
            event.row(receipt) for event, receipt in rows[first : first + query.page_size]
        )
        pagination = {
            "current_page": query.page,
            "total_pages": math.ceil(len(rows) / query.page_size),
            "total_count": len(rows),
            "page_size": query.page_size,
        }
        return b"".join(
            (
                b'{"success":true,"webhook_events":[',
                shown,
                b'],"pagination":',
                stringify(pagination),
                b"}",
            )
        )

    def reset(self) -> None:
        """Forget every event."""
        self._events.clear()
