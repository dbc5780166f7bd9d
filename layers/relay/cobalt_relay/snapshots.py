"""A clinic's days as they were last seen, and what a fetch changed in them.

A snapshot is what all fetches together know of one day of one connection. Each appointment in it is
as it was last seen; `as_of` says when the whole day was. Fetches may come late, twice and in any
order: what a snapshot holds depends on which ones there were, and on nothing else.
"""

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json

from cobalt_relay.appointments import Appointment, NormalizedStatus, Place, place_in_day
from cobalt_relay.models import Instant

type Version = tuple[Instant, str]
"""When a fetch saw what it brought, and its job: the newer fetch is the greater version."""


class SeenAppointment(Appointment):
    """An appointment, when it was seen so, and the job of the fetch that saw it."""

    as_of: Instant
    fetched_by: str

    @property
    def version(self) -> Version:
        """What decides between two sights of it."""
        return self.as_of, self.fetched_by

    @property
    def place(self) -> Place:
        """Where it stands in its day."""
        return place_in_day(self.datetime, self.id)


class Snapshot(BaseModel):
    """One day of a connection, where the clinic is.

    `as_of` and `fetched_by` are of the fetch that saw the whole day; None while only some of its
    appointments were seen, by a search for a patient say. The rest tells how this version came
    about: `written_by` is the job, `previous_version` the version of the object that it replaced.
    `copied_from` is the connection that has that version, where another took its place.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True
    )

    format: Literal["1"] = "1"
    connection_id: str
    day: date
    as_of: Instant | None
    fetched_by: str | None
    written_at: Instant
    written_by: str
    previous_version: str | None = None
    copied_from: str | None = None
    appointment_count: int
    appointments: tuple[SeenAppointment, ...]

    @classmethod
    def read(cls, lines: bytes) -> Self:
        """Read what `lines` gave; pydantic's `ValidationError` where it is none."""
        head, items = parsed(lines)
        return cls.model_validate({**head, "appointments": items})

    def lines(self) -> bytes:
        """Write it as lines of JSON: what is said of the day, then each appointment.

        So that tools which read lines, Athena for one, have a row for each; `id` tells them apart.
        """
        head = self.model_dump_json(exclude={"appointments"})
        items = (each.model_dump_json(exclude_unset=True) for each in self.appointments)
        return "\n".join([head, *items, ""]).encode()

    @property
    def version(self) -> Version | None:
        """Up to which fetch every appointment of the day is known."""
        return (self.as_of, self.fetched_by) if self.as_of and self.fetched_by else None


def parsed(lines: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Give what a snapshot's lines say of the day, and its appointments, as plain JSON."""
    head, *items = [from_json(line) for line in lines.split(b"\n") if line]
    return head, items


class StoredDay(NamedTuple):
    """A day that has a snapshot; `etag` is of its newest version, and another for each."""

    day: date
    etag: str


class StoredSnapshot(NamedTuple):
    """A version of a snapshot, as it is stored: `etag` and `version_id` tell which one it is."""

    body: bytes
    etag: str
    version_id: str | None

    @property
    def snapshot(self) -> Snapshot:
        """Read it; pydantic's `ValidationError` where it is none."""
        return Snapshot.read(self.body)


class Sight(NamedTuple):
    """What a fetch saw of a day. `is_whole` where what it did not see was not there."""

    day: date
    version: Version
    is_whole: bool
    appointments: Mapping[str, SeenAppointment]


class Known(NamedTuple):
    """What is known of a day: up to when as a whole, and each appointment by its id."""

    version: Version | None
    appointments: Mapping[str, SeenAppointment]

    @classmethod
    def of(cls, snapshot: Snapshot | None) -> Self:
        """Give what a snapshot knows; without one, nothing is known."""
        if snapshot is None:
            return cls(None, {})
        return cls(snapshot.version, {each.id: each for each in snapshot.appointments})

    def with_sight(self, sight: Sight) -> "Known":
        """Take in what a fetch saw; nothing of what is newer already is changed by it."""
        if self.version and sight.version <= self.version:
            return self
        newer = {
            name: each
            for name, each in self.appointments.items()
            if not sight.is_whole or each.version > sight.version
        }
        seen = {
            name: each
            for name, each in sight.appointments.items()
            if name not in newer or newer[name].version < each.version
        }
        return Known(sight.version if sight.is_whole else self.version, newer | seen)

    def in_order(self) -> tuple[SeenAppointment, ...]:
        """Give the appointments by time, then by id; those without a time come last."""
        return tuple(sorted(self.appointments.values(), key=lambda each: each.place))


# --------------------------------------------------------------------------------- what has changed

Kind = Literal["created", "changed", "cancelled", "disappeared"]
KINDS: tuple[Kind, ...] = ("created", "changed", "cancelled", "disappeared")


class Turn(NamedTuple):
    """What was known of a day before a fetch, and after."""

    day: date
    before: Known
    after: Known

    @property
    def is_baseline(self) -> bool:
        """Whether it is now that the whole day was seen for the first time."""
        return self.before.version is None and self.after.version is not None


class Change(BaseModel):
    """What a fetch showed about one appointment: the days and sights before and after.

    `fields` names what differs, of one that changed or was cancelled.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True
    )

    kind: Kind
    id: str
    fields: tuple[str, ...] = ()
    day_before: date | None = None
    day_after: date | None = None
    before: SeenAppointment | None = None
    after: SeenAppointment | None = None

    def __repr__(self) -> str:
        """Tell nothing of a patient."""
        return f"Change({self.kind} {self.id!r})"

    __str__ = __repr__


def changes_of(turns: Iterable[Turn]) -> list[Change]:
    """Tell what a fetch changed, over all the days that it saw.

    An appointment that left one day and came to another is one change. What is new on a day that
    nobody had seen as a whole before is none: it may have been there all the time. The changes come
    by the ids: in the same order when a run is repeated, whatever order the fetch had.
    """
    before: dict[str, tuple[date, SeenAppointment]] = {}
    after: dict[str, tuple[date, SeenAppointment]] = {}
    known_days: set[date] = set()
    for turn in turns:
        if turn.before.version is not None:
            known_days.add(turn.day)
        for name, each in turn.before.appointments.items():
            if name not in before or before[name][1].version < each.version:
                before[name] = (turn.day, each)
        for name, each in turn.after.appointments.items():
            if name not in after or after[name][1].version < each.version:
                after[name] = (turn.day, each)
    found = [
        _change(name, before.get(name), after.get(name), known_days)
        for name in sorted(before.keys() | after.keys())
    ]
    return [each for each in found if each]


def _change(
    name: str,
    before: tuple[date, SeenAppointment] | None,
    after: tuple[date, SeenAppointment] | None,
    known_days: set[date],
) -> Change | None:
    if before is None:
        if after is None or after[0] not in known_days:
            return None
        return Change(kind="created", id=name, day_after=after[0], after=after[1])
    if after is None:
        return Change(kind="disappeared", id=name, day_before=before[0], before=before[1])
    fields = tuple(before[1].differences(after[1]))
    if not fields:
        return None
    return Change(
        kind="cancelled" if _is_cancelled(before[1], after[1]) else "changed",
        id=name,
        fields=fields,
        day_before=before[0],
        day_after=after[0],
        before=before[1],
        after=after[1],
    )


def _is_cancelled(before: Appointment, after: Appointment) -> bool:
    cancelled = NormalizedStatus.CANCELLED
    return after.normalized_status is cancelled and before.normalized_status is not cancelled
