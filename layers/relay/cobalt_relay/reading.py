"""What a reader of appointments asks for, and what it is told.

The names of the query are those of Cobalt's own cached read (docs: Appointments), and some of ours.
Its values can be a patient's: they are in no `repr`, no error and no log; what is kept of them
outside this process is a digest, which nobody can find out by trying without the access token.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple, NoReturn, Self
from urllib.parse import urlencode

from cobalt_relay.appointments import Place, place_in_day
from cobalt_relay.errors import (
    EndNotAfterStart,
    InvalidCursor,
    InvalidParameter,
    MissingParameters,
    RepeatedParameter,
    WindowTooLong,
)
from cobalt_relay.models import Window
from cobalt_relay.patterns import pattern

MAX_DAYS = 366
"""Of a window, both ends counted: a year, whichever it is."""
MAX_LIMIT = 1_000
MAX_AGE_SECONDS = 31_536_000
MAX_VALUES = 100
"""Of a parameter that may be repeated."""
MAX_TEXT_LENGTH = 128
MAX_CURSOR_LENGTH = 2_048
_VERSION = 1
_EPOCH = date(1970, 1, 1)

type Item = Mapping[str, Any]
"""An appointment as a snapshot has it."""
type Query = Mapping[str, Sequence[str]]
"""The values of each name in a query."""


# ----------------------------------------------------------------------------------- its parameters


class Rule(NamedTuple):
    """How a parameter is read and what it must be; `read` raises `ValueError` for all else."""

    must: str
    read: Callable[[str], Any]
    is_repeatable: bool = False


def _word(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        return words[words.index(text)]

    return read


_NUMBER = pattern(r"\d{1,9}", re.ASCII)
_DIGITS = pattern(r"\d+", re.ASCII)


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
            raise ValueError
        return int(text)

    return read


def _text(least: int, *, digits: bool = False) -> Callable[[str], str]:
    def read(text: str) -> str:
        is_usable = least <= len(text) <= MAX_TEXT_LENGTH and text.isprintable()
        if not is_usable or (text and digits and not _digits(text)):
            raise ValueError
        return text

    return read


def _digits(text: str) -> str:
    return "".join(_DIGITS.findall(text))


def _flag(text: str) -> bool:
    return _word("false", "true")(text) == "true"


def _flag_or_none(text: str) -> bool:
    return _word("", "false", "true")(text) == "true"


def _opaque(text: str) -> str:
    if not 1 <= len(text) <= MAX_CURSOR_LENGTH:
        raise ValueError
    return text


_TEXT = f"at most {MAX_TEXT_LENGTH} printable characters"
RULES: dict[str, Rule] = {
    "patient_mrn": Rule(_TEXT, _text(0)),
    "patient_name": Rule(_TEXT, _text(0)),
    "patient_phone": Rule(f"{_TEXT}, digits among them", _text(0, digits=True)),
    "include_note": Rule("true or false", _flag_or_none),
    "appointment_mode": Rule("office or telemedicine", _word("", "office", "telemedicine")),
    "status": Rule(f"1 to {MAX_TEXT_LENGTH} printable characters", _text(1), is_repeatable=True),
    "provider_id": Rule(
        f"1 to {MAX_TEXT_LENGTH} printable characters", _text(1), is_repeatable=True
    ),
    "max_age": Rule(
        f"a whole number of seconds from 0 to {MAX_AGE_SECONDS}", _whole(0, MAX_AGE_SECONDS)
    ),
    "allow_stale": Rule("true or false", _flag),
    "limit": Rule(f"a whole number from 1 to {MAX_LIMIT}", _whole(1, MAX_LIMIT)),
    "cursor": Rule("the next_cursor of an answer", _opaque),
}
"""Every optional parameter. What is not among them is left alone: Cobalt says nothing of it."""
_DAYS = ("start_date", "end_date")


def _values(query: Query) -> dict[str, Any]:
    """Read the optional parameters that are there, each by its rule."""
    read: dict[str, Any] = {}
    for name, rule in RULES.items():
        given = query.get(name, ())
        if len(given) > (MAX_VALUES if rule.is_repeatable else 1):
            raise RepeatedParameter(name, MAX_VALUES if rule.is_repeatable else 1)
        try:
            values = [rule.read(each) for each in given]
        except ValueError:
            raise InvalidParameter(name, rule.must) from None
        if values:
            read[name] = frozenset(values) if rule.is_repeatable else values[0]
    return read


def _window(query: Query) -> Window:
    """Read the days; the texts of what is wrong with them are Cobalt's."""
    for name in _DAYS:
        if len(query.get(name, ())) > 1:
            raise RepeatedParameter(name, 1)
    start, end = (next(iter(query.get(name, ())), "") for name in _DAYS)
    if not start or not end:
        raise MissingParameters(_DAYS)
    window = Window.parse(start, end)
    if window.days_between < 0:
        raise EndNotAfterStart
    if window.days_between >= MAX_DAYS:
        raise WindowTooLong(MAX_DAYS)
    return window


# -------------------------------------------------------------------------------------- its filters


def _name_of(item: Item) -> str:
    parts = (item.get("patient_first_name"), item.get("patient_last_name"))
    return item.get("patient_name") or " ".join(each for each in parts if each)


_PROVIDER_IDS = ("provider_ehr_id", "secondary_provider_ehr_id", "provider_npi")
_FILTERS: dict[str, Callable[[Any, Item], bool]] = {
    "patient_mrn": lambda wanted, item: item.get("patient_mrn") == wanted,
    "patient_name": lambda wanted, item: wanted.casefold() in _name_of(item).casefold(),
    "patient_phone": lambda wanted, item: (
        _digits(wanted) in _digits(item.get("patient_phone") or "")
    ),
    "appointment_mode": lambda wanted, item: item.get("appointment_mode") == wanted,
    "status": lambda wanted, item: (
        item.get("status") in wanted or item.get("normalized_status") in wanted
    ),
    "provider_id": lambda wanted, item: not wanted.isdisjoint(map(item.get, _PROVIDER_IDS)),
}
"""Whether an appointment is asked for, by the name of the parameter; an empty one asks for any."""


@dataclass(frozen=True, repr=False)
class ReadRequest:
    """A read that passed the checks. `max_age` says how old a day may be, where it matters."""

    window: Window
    filters: Mapping[str, Any] = field(default_factory=dict)
    include_note: bool = False
    max_age: timedelta | None = None
    allow_stale: bool = False
    limit: int | None = None
    cursor: str | None = None

    @classmethod
    def from_query(cls, query: Query) -> Self:
        """Check a query. Raises a leaf of `InvalidFetchRequest` or `InvalidReadRequest`."""
        window, values = _window(query), _values(query)
        max_age = values.get("max_age")
        return cls(
            window=window,
            filters={name: values[name] for name in _FILTERS if values.get(name)},
            include_note=values.get("include_note", False),
            max_age=None if max_age is None else timedelta(seconds=max_age),
            allow_stale=values.get("allow_stale", False),
            limit=values.get("limit"),
            cursor=values.get("cursor"),
        )

    def accepts(self, item: Item) -> bool:
        """Whether an appointment is asked for."""
        return all(_FILTERS[name](wanted, item) for name, wanted in self.filters.items())

    def digest(self, access_token: str) -> str:
        """Name what is asked for, whichever page of it, without telling it.

        The access token is part of what is hashed: an MRN alone could be found out by trying them
        all.
        """
        filters = {
            name: sorted(wanted) if isinstance(wanted, frozenset) else wanted
            for name, wanted in self.filters.items()
        }
        age = self.max_age.total_seconds() if self.max_age is not None else None
        asked = [*self.window.model_dump(mode="json").values(), self.include_note, age]
        return digest_of(access_token, *asked, self.allow_stale, filters)


def digest_of(*parts: object) -> str:
    """Give 32 hex digits that other parts do not have."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:32]


# ----------------------------------------------------------------------------------------- its page


def place_of(item: Item) -> Place:
    """Tell where an appointment stands in its day, as snapshots are ordered."""
    begins = item.get("datetime")
    return place_in_day(datetime.fromisoformat(begins) if begins else None, item["id"])


class Position(NamedTuple):
    """The last appointment of a page: the next one begins behind it, whatever was fetched since."""

    day: date
    place: Place

    def cursor(self, digest: str) -> str:
        """Write it down for the caller. It holds a time and an id, nothing else of a patient."""
        fields = [_VERSION, digest, (self.day - _EPOCH).days, *self.place]
        text = json.dumps(fields, separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def of(cls, cursor: str, digest: str, window: Window) -> Self:
        """Read what `cursor` wrote for the same query; `InvalidCursor` for anything else."""
        try:
            padded = cursor + "=" * (-len(cursor) % 4)
            raw = base64.b64decode(padded, altchars=b"-_", validate=True)
            version, asked, days, is_last, begins, name = json.loads(raw, parse_constant=_no_number)
            day = _EPOCH + timedelta(days=days)
            place = (bool(is_last), float(begins), str(name))
        except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError):
            raise InvalidCursor from None
        is_of_it = (version, asked) == (_VERSION, digest)
        if not is_of_it or not window.start_date <= day <= window.end_date:
            raise InvalidCursor
        return cls(day, place)


def _no_number(_name: str) -> NoReturn:
    raise ValueError


class ToldDay(NamedTuple):
    """A day that an answer covers.

    `as_of` is the text of when it was last fetched as a whole, None where it never was; `is_stale`
    is None where nobody asked how old it may be.
    """

    day: date
    as_of: str | None
    is_stale: bool | None = None

    def told(self) -> dict[str, Any]:
        """Give it as the answer has it."""
        stale = {} if self.is_stale is None else {"stale": self.is_stale}
        return {"date": str(self.day), "as_of": self.as_of, **stale}


class Work(NamedTuple):
    """A fetch that is under way, or a range of them, and when to look whether it is done."""

    job_execution_id: str
    window: Window
    pause_seconds: int

    def told(self) -> dict[str, Any]:
        """Give it as the answer has it."""
        window = self.window.model_dump(mode="json")
        return {"job_execution_id": self.job_execution_id, "window": window}


class Refresh(NamedTuple):
    """What was done about days that are too old; where that failed, the error's code and text."""

    work: Work | None
    error: tuple[str, str] | None = None


@dataclass(frozen=True, repr=False)
class Envelope:
    """What an answer tells besides the appointments."""

    connection_id: str
    query: Query = field(default_factory=dict)
    days: tuple[ToldDay, ...] = ()
    next_cursor: str | None = None
    refresh: Refresh | None = None
    visit_statuses: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def never_fetched(self) -> tuple[date, ...]:
        """The days of which the whole was never seen."""
        return tuple(each.day for each in self.days if each.as_of is None)

    @property
    def never_fetched_spans(self) -> str:
        """Give the same briefly."""
        return spans(self.never_fetched)

    @property
    def this_page(self) -> str:
        """Refer to this answer, relative to itself, with the query that its caller has sent."""
        return "?" + urlencode(self.query, doseq=True, errors="replace")

    @property
    def next_page(self) -> str | None:
        """Refer to the next one; None where there is none."""
        if not self.next_cursor:
            return None
        following = {**self.query, "cursor": [self.next_cursor]}
        return "?" + urlencode(following, doseq=True, errors="replace")

    @property
    def as_of(self) -> str | None:
        """When the oldest day was fetched; None where some day never was."""
        known = [each.as_of for each in self.days if each.as_of]
        return min(known) if known and not self.never_fetched else None


@dataclass(frozen=True, repr=False)
class Reading:
    """An answer: a page, or work that has to be awaited; neither where nothing has changed."""

    etag: str | None = None
    media_type: str = "application/json"
    page: str | None = None
    envelope: Envelope | None = None
    awaited: Work | None = None
    stale_days: tuple[date, ...] = ()


def spans(days: Iterable[date]) -> str:
    """Write days briefly: `2025-01-01/2025-02-28,2025-03-03`, intervals as ISO 8601 has them."""
    return ",".join(
        f"{run.start_date}/{run.end_date}" if run.days_between else f"{run.start_date}"
        for run in Window.runs(days)
    )
