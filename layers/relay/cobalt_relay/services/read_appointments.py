"""Read appointments from the snapshots of a connection's days.

One listing tells which days there are and in which version; then they are read side by side and
told one after the other, so that no more than a few are in memory at once.

An appointment that moved stands on two days until both were fetched again: it is told of once, as
it was last seen. So all days of the window count, on whichever page they are; what is remembered of
a version of a day, ids and times, saves reading it again.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from cobalt_relay.errors import RelayError, ResultsFault
from cobalt_relay.formats import Format, negotiated, told
from cobalt_relay.models import Window, connection_id_of, utc_now
from cobalt_relay.observability import count, logger
from cobalt_relay.reading import (
    Envelope,
    Item,
    Position,
    Query,
    Reading,
    ReadRequest,
    Refresh,
    ToldDay,
    digest_of,
    place_of,
)
from cobalt_relay.services.admission import admit
from cobalt_relay.services.freshen import Freshen, StaleDay
from cobalt_relay.snapshots import StoredSnapshot, parsed

if TYPE_CHECKING:
    from cobalt_relay.services.ports import ConnectionReader, CredentialStore, SnapshotReader

AHEAD = 8
"""Days that are read side by side, and so in memory at once."""
MOST_PAGE_BYTES = 4_500_000
"""Lambda takes an answer of 6 MB (docs: Lambda quotas), in which a page is a JSON string: its
quotes and backslashes are counted twice. The rest is for the days and the headers."""
MOST_REMEMBERED = 2_000
"""Versions of days."""
_EDITION = 1
"""Part of each `ETag`: to be raised when the same snapshots are told in another way."""

type Version = tuple[str, str, date]
"""When an appointment was seen, by which job and on which day: the newest is the greatest."""


class _Known(NamedTuple):
    """What is remembered of a version of a day: nothing of a patient but ids of appointments."""

    as_of: str | None
    fetched_by: str | None
    sights: tuple[tuple[str, str, str], ...]


class _Day(NamedTuple):
    """A version of a day; `items` is None where only what is remembered of it was needed."""

    known: _Known
    items: list[dict[str, Any]] | None


class ReadAppointments:
    """The use case. One object serves all invocations of a function.

    `freshen` gives the use case that fetches days anew: a reader who takes what there is does
    without all that it needs.
    """

    def __init__(
        self,
        snapshots: "SnapshotReader",
        connections: "ConnectionReader",
        secrets: "CredentialStore",
        freshen: Callable[[], Freshen],
        now: Callable[[], datetime] = utc_now,
        most_page_bytes: int = MOST_PAGE_BYTES,
    ) -> None:
        self._snapshots = snapshots
        self._connections = connections
        self._secrets = secrets
        self._freshen = freshen
        self._now = now
        self._most_page_bytes = most_page_bytes
        self._remembered: dict[tuple[str, date, str], _Known] = {}

    def admit(self, client_id: str, client_secret: str, access_token: str) -> None:
        """Let a caller in; `WrongClientCredentials`, `UnusableAccessToken`, `NotConfigured`."""
        admit(self._secrets, client_id, client_secret, access_token)

    def read(
        self,
        access_token: str,
        query: Query,
        *,
        accept: str,
        known_tags: frozenset[str],
        request_id: str,
    ) -> Reading:
        """Tell the appointments, or that the caller has them as they are by one of its tags.

        A token that nobody knows has no days. Where days are older than the caller takes them, a
        fetch is begun: its answer is the work to be awaited, and what that raises; unless the
        caller takes them nevertheless. Raises `InvalidReadRequest`, `InvalidFetchRequest` and
        `NotAcceptable` leaves, and `StorageFault`.
        """
        request, (form, media_type) = ReadRequest.from_query(query), negotiated(accept)
        digest, connection_id = request.digest(access_token), connection_id_of(access_token)
        begin = Position.of(request.cursor, digest, request.window) if request.cursor else None
        listed = {
            each.day: each.etag for each in self._snapshots.stored(connection_id, request.window)
        }
        connection = self._connections.get(connection_id) if form.knows_statuses else None
        statuses = (connection.visit_statuses if connection else None) or {}
        versions = [[str(day), etag] for day, etag in listed.items()]
        tag_of = partial(
            digest_of,
            *(access_token, _EDITION, media_type, digest, request.cursor, request.limit, versions),
            dict(statuses),
        )
        etag = tag_of()
        if request.max_age is None and not known_tags.isdisjoint({etag, "*"}):
            return _unchanged(etag, form)
        envelope = Envelope(connection_id, query, visit_statuses=statuses)
        page = _Page(request, form, envelope, begin, self._most_page_bytes)
        for day, found in self._days(connection_id, listed, page.wants):
            page.take(day, found)
        days = page.days_from(begin.day if begin else request.window.start_date)
        if request.max_age is not None:
            stale = _stale(days, self._now() - request.max_age)
            if stale and not request.allow_stale:
                stale, work = self._freshen().refresh(access_token, stale, request_id=request_id)
                if work:
                    return Reading(awaited=work, stale_days=tuple(each.day for each in stale))
            stale, refresh = self._refresh(access_token, stale, request_id)
            page.mark({each.day for each in stale}, refresh)
            etag = tag_of([str(each.day) for each in stale], _told(refresh))
            if not known_tags.isdisjoint({etag, "*"}):
                return _unchanged(etag, form)
        text, envelope = page.written(days, digest)
        count("AppointmentsRead", page.count)
        counts = {"days": len(envelope.days), "appointments": page.count}
        logger.info(
            "appointments_read",
            extra={"connection_id": connection_id, "format": form.name, **counts},
        )
        return Reading(etag=etag, media_type=media_type, page=text, envelope=envelope)

    def _refresh(
        self, access_token: str, stale: list[StaleDay], request_id: str
    ) -> tuple[list[StaleDay], Refresh]:
        """Have stale days fetched for a caller who does not wait: it gets them whatever happens."""
        if not stale:
            return [], Refresh(None)
        try:
            stale, work = self._freshen().refresh(access_token, stale, request_id=request_id)
        except RelayError as error:
            count("RefreshFailed")
            logger.warning("refresh_failed", extra={"error_code": error.reason})
            return stale, Refresh(None, (error.reason, error.message))
        return stale, Refresh(work)

    # ------------------------------------------------------------------------------- its snapshots

    def _days(
        self, connection_id: str, listed: Mapping[date, str], wants: Callable[[date], bool]
    ) -> Iterator[tuple[date, _Day]]:
        """Give the days in their order, each read while those before it are told.

        One that has vanished since it was listed, for its time was over, was never fetched.
        """
        left = iter(listed.items())
        waiting: deque[tuple[date, _Known | Future[StoredSnapshot | None]]] = deque()
        with ThreadPoolExecutor(AHEAD) as pool:
            while True:
                while len(waiting) < AHEAD and (following := next(left, None)):
                    day, etag = following
                    known = self._remembered.get((connection_id, day, etag))
                    read = partial(self._snapshots.read, connection_id, day)
                    is_known = known is not None and not wants(day)
                    waiting.append((day, known if known and is_known else pool.submit(read)))
                if not waiting:
                    return
                day, coming = waiting.popleft()
                if isinstance(coming, _Known):
                    yield day, _Day(coming, None)
                    continue
                stored = coming.result()
                del coming  # and with it what was read
                if stored:
                    yield day, self._opened(connection_id, day, stored)

    def _opened(self, connection_id: str, day: date, stored: StoredSnapshot) -> _Day:
        """Read a snapshot as the plain JSON that it is: models of its items would cost more."""
        try:
            head, items = parsed(stored.body)
        except ValueError as error:
            raise ResultsFault from error
        sights = tuple((each["id"], each["as_of"], each["fetched_by"]) for each in items)
        known = _Known(head["as_of"], head["fetched_by"], sights)
        self._remembered[(connection_id, day, stored.etag)] = known
        if len(self._remembered) > MOST_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        return _Day(known, items)


class _Page:
    """What is told, while it comes to be: each appointment is a text at once, until it is full."""

    def __init__(
        self,
        request: ReadRequest,
        form: Format,
        envelope: Envelope,
        begin: Position | None,
        most_bytes: int,
    ) -> None:
        self._request = request
        self._form = form
        self._envelope = envelope
        self._begin = begin
        self._most_bytes = most_bytes
        self._is_full = False
        self._size = 0
        self._last: tuple[date, Item] | None = None
        self._texts: deque[tuple[str, Version, str]] = deque()
        self._newest: dict[str, Version] = {}
        self._known: dict[date, _Known] = {}
        self._stale: set[date] | None = None
        self.count = 0
        """How many appointments are told in the end."""

    def wants(self, day: date) -> bool:
        """Whether appointments of a day may still come onto it."""
        return not self._is_full and (self._begin is None or day >= self._begin.day)

    def take(self, day: date, found: _Day) -> None:
        """Take in a day; they come in their order."""
        self._known[day] = found.known
        for name, *seen in found.known.sights:
            version = (seen[0], seen[1], day)
            if name not in self._newest or self._newest[name] < version:
                self._newest[name] = version
        if not self.wants(day):
            return
        for item in self._asked(day, found.items or []):
            text = self._form.text(
                told(item, include_note=self._request.include_note), self._envelope
            )
            size = len(text) + text.count('"') + text.count("\\")
            has_room = self._size + size <= self._most_bytes or not self._texts
            if len(self._texts) == self._request.limit or not has_room:
                self._is_full = True
                return
            self._texts.append((item["id"], (item["as_of"], item["fetched_by"], day), text))
            self._size += size
            self._last = (day, item)

    def _asked(self, day: date, items: Iterable[Item]) -> Iterator[Item]:
        begin = self._begin if self._begin and self._begin.day == day else None
        for item in items:
            is_behind = begin is None or place_of(item) > begin.place
            if is_behind and self._request.accepts(item):
                yield item

    def days_from(self, first: date) -> list[StaleDay]:
        """Give each day of the window from one on, with what is known of it as a whole."""
        return [
            StaleDay(day, _moment(self._known[day].as_of), self._known[day].fetched_by)
            if day in self._known
            else StaleDay(day)
            for day in Window(start_date=first, end_date=self._request.window.end_date).days
        ]

    def mark(self, stale: set[date], refresh: Refresh) -> None:
        """Tell which days are too old, and what was done about it."""
        self._stale = stale
        if self._request.allow_stale:
            self._envelope = replace(self._envelope, refresh=refresh)

    def written(self, days: Iterable[StaleDay], digest: str) -> tuple[str, Envelope]:
        """Write it, and tell what it covers: up to the day of its last appointment if it is full.

        Its texts are let go of meanwhile, so no two copies of it are in memory: CPython appends to
        a string in place where nothing else has it, while `StringIO` and `join` copy in the end.
        """
        envelope = self._envelope
        last_day = self._request.window.end_date
        if self._is_full and self._last:
            last_day, item = self._last
            cursor = Position(last_day, place_of(item)).cursor(digest)
            envelope = replace(envelope, next_cursor=cursor)
        covered = tuple(self._told(each.day) for each in days if each.day <= last_day)
        envelope = replace(envelope, days=covered)
        text = ""
        for part in self._form.body(self._newest_texts(), envelope):
            text += part
        return text, envelope

    def _newest_texts(self) -> Iterator[str]:
        while self._texts:
            name, version, text = self._texts.popleft()
            if self._newest[name] == version:
                self.count += 1
                yield text

    def _told(self, day: date) -> ToldDay:
        as_of = self._known[day].as_of if day in self._known else None
        return ToldDay(day, as_of, None if self._stale is None else day in self._stale)


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _stale(days: Iterable[StaleDay], since: datetime) -> list[StaleDay]:
    return [each for each in days if each.as_of is None or each.as_of < since]


def _told(refresh: Refresh) -> list[Any]:
    return [refresh.work.told() if refresh.work else None, refresh.error]


def _unchanged(etag: str, form: Format) -> Reading:
    count("AppointmentsNotModified")
    logger.info("appointments_not_modified", extra={"format": form.name})
    return Reading(etag=etag)
