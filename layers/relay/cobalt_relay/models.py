"""The domain: what is fetched, for whom, and what became of it. No AWS and no HTTP in here."""

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from enum import Enum, StrEnum
from functools import cached_property
from itertools import batched, groupby, pairwise
from typing import Annotated, Any, Literal, NamedTuple, Self
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from cobalt_relay.errors import (
    EndNotAfterStart,
    InvalidDateFormat,
    InvalidMrn,
    InvalidProviderIds,
    MissingParameters,
    SeveralProvidersSeveralDays,
    TooManyPieces,
    UnknownRangeSearchBy,
    UnknownSearchBy,
    WindowTooLong,
)
from cobalt_relay.patterns import pattern

SearchBy = Literal["date_range", "mrn", "provider"]
Trigger = Literal["api", "range", "schedule"]
"""Who wanted a fetch: a caller, for some days or for a range of any length, or a schedule."""
Channel = Literal["webhook", "poll", "sweep"]
"""How a result came: Cobalt's delivery, a look at its job, or a look at everything of the day."""

MAX_WINDOW_DAYS = 7
"""`end_date - start_date` at most (docs: Fetch appointments, "The range cannot exceed 7 days")."""
MAX_PROVIDER_WINDOW_DAYS = 5
MAX_PROVIDERS = 10
MAX_RANGE_DAYS = 366
"""`end_date - start_date` of a range at most: a year, whichever it is."""
MAX_RANGE_PROVIDERS = 90
"""With what else is in a body they fit into the 100 values that one may have."""
MAX_PIECES = 400
"""Fetches in a range at most: every day of a year for ten providers, and some."""
MAX_MRN_LENGTH = 128
MAX_NUMBER = 2**53 - 1
"""Of an id that is a JSON number: every parser reads those up to here alike (RFC 8259, 6)."""


def iso(moment: datetime) -> str:
    """Write a moment as UTC with milliseconds: of one length, so that text sorts as time does."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Instant = Annotated[datetime, PlainSerializer(iso, return_type=str, when_used="json")]
"""An aware moment; in JSON and in rows `2025-01-15T10:00:00.000Z`."""

_HEADER_TEXT = r"^[\x21-\x7e]+$"
_ISO_DATE = pattern(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class _Frozen(BaseModel):
    """Ours: immutable, closed, and silent about its input when it does not validate."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True
    )


class _FromCobalt(BaseModel):
    """Theirs: takes whatever fields an edition of Cobalt adds."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", hide_input_in_errors=True, defer_build=True
    )


# --------------------------------------------------------------------------------- what callers ask


class Window(_Frozen):
    """Days of a clinic, the first and the last included."""

    start_date: date
    end_date: date

    @classmethod
    def parse(cls, start: object, end: object) -> Self:
        """Read two `YYYY-MM-DD` days of the calendar; anything else is `InvalidDateFormat`.

        `date.fromisoformat` alone would take `20231201` and week dates too.
        """
        return cls(start_date=_parse_day(start), end_date=_parse_day(end))

    @property
    def days_between(self) -> int:
        """`end_date - start_date`, in days.

        0 where they are equal, negative where they are swapped.
        """
        return (self.end_date - self.start_date).days

    @property
    def days(self) -> list[date]:
        """Each of its days; none where it ends before it begins."""
        return [self.start_date + timedelta(days=each) for each in range(self.days_between + 1)]

    @classmethod
    def runs(cls, days: Iterable[date]) -> Iterator[Self]:
        """Give the windows of days that follow one another, in their order."""
        numbered = enumerate(sorted(set(days)))
        for _, run in groupby(numbered, lambda each: each[1].toordinal() - each[0]):
            in_a_row = [day for _, day in run]
            yield cls(start_date=in_a_row[0], end_date=in_a_row[-1])

    def parts(self, days: int) -> "tuple[Window, ...]":
        """Cut it into as few windows of at most so many days as there can be, as equal as can be.

        So none has a single day where the whole has more of them and `days` is 3 or more.
        """
        whole = self.days_between + 1
        count = -(-whole // days)
        firsts = [number * whole // count for number in range(count + 1)]
        return tuple(
            in_days(self.start_date, first, following - first)
            for first, following in pairwise(firsts)
        )


class FetchRequest(_Frozen):
    """A live fetch that passed the documented checks: safe to send to Cobalt.

    An MRN and the ids of providers stay out of `repr`, and with it out of logs.
    """

    search_by: SearchBy = "date_range"
    window: Window | None = None
    mrn: str | None = Field(default=None, repr=False)
    provider_ids: tuple[str | int, ...] = Field(default=(), repr=False)
    names_search_by: bool = False

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Check a caller's body by the rules of its mode, in the documented order.

        Fields that no edition documents are left out: Cobalt says nothing of them, so they neither
        fail a request nor travel on. Raises a leaf of `InvalidFetchRequest`.
        """
        search_by = body.get("search_by")
        if search_by is None:
            return cls(window=_date_range(body))
        match search_by:
            case "date_range":
                return cls(window=_date_range(body), names_search_by=True)
            case "mrn":
                return cls(search_by="mrn", mrn=_mrn(body), names_search_by=True)
            case "provider":
                window, provider_ids = _providers(body)
                return cls(
                    search_by="provider",
                    window=window,
                    provider_ids=provider_ids,
                    names_search_by=True,
                )
            case _:
                raise UnknownSearchBy

    def to_cobalt(self) -> dict[str, Any]:
        """Give the body for Cobalt.

        The founding contract's where the caller named no `search_by`.
        """
        body: dict[str, Any] = {"search_by": self.search_by} if self.names_search_by else {}
        if self.mrn is not None:
            body["mrn"] = self.mrn
        if self.provider_ids:
            body["provider_ids"] = list(self.provider_ids)
        if self.window is not None:
            body |= self.window.model_dump(mode="json")
        return body

    def fingerprint(self, access_token: str) -> str:
        """Name what is asked for without telling it; equal requests of a connection agree.

        The access token is part of what is hashed: an MRN alone could be found out by trying them
        all.
        """
        asked = {**self.to_cobalt(), "search_by": self.search_by}
        text = json.dumps([access_token, asked], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class RangeRequest(_Frozen):
    """A live fetch for days of any number, up to a year: more than Cobalt takes at once.

    It has as many pieces as there are fetches in it that Cobalt takes.
    """

    search_by: Literal["date_range", "provider"] = "date_range"
    window: Window
    provider_ids: tuple[str | int, ...] = Field(default=(), repr=False)

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Check a caller's body by the rules of its mode, in the order of the documented ones.

        Raises a leaf of `InvalidFetchRequest`.
        """
        match body.get("search_by"):
            case None | "date_range":
                window = Window.parse(*_required(body, "start_date", "end_date"))
                if window.days_between <= 0:
                    raise EndNotAfterStart
                provider_ids: tuple[str | int, ...] = ()
                search_by: Literal["date_range", "provider"] = "date_range"
            case "provider":
                ids, start, end = _required(body, "provider_ids", "start_date", "end_date")
                provider_ids = _provider_ids(ids, MAX_RANGE_PROVIDERS)
                window = Window.parse(start, end)
                if window.days_between < 0:
                    raise EndNotAfterStart
                search_by = "provider"
            case _:
                raise UnknownRangeSearchBy
        if window.days_between > MAX_RANGE_DAYS:
            raise WindowTooLong(MAX_RANGE_DAYS)
        request = cls(search_by=search_by, window=window, provider_ids=provider_ids)
        if len(request.pieces) > MAX_PIECES:
            raise TooManyPieces
        return request

    @cached_property
    def pieces(self) -> tuple[FetchRequest, ...]:
        """The fetches that it takes, day by day; the same ones each time.

        Whether Cobalt's 7 and 5 days count the first day is not documented: a piece fits either
        reading.
        """
        if self.search_by == "date_range":
            return tuple(FetchRequest(window=each) for each in self.window.parts(MAX_WINDOW_DAYS))
        days = MAX_PROVIDER_WINDOW_DAYS if len(self.provider_ids) == 1 else 1
        groups = list(batched(self.provider_ids, MAX_PROVIDERS, strict=False))
        return tuple(
            FetchRequest(
                search_by="provider", window=each, provider_ids=group, names_search_by=True
            )
            for each in self.window.parts(days)
            for group in groups
        )

    def fingerprint(self, access_token: str) -> str:
        """Name what is asked for without telling it; equal ranges of a connection agree."""
        asked = self.model_dump(mode="json")
        text = json.dumps(["range", access_token, asked], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _required(body: Mapping[str, Any], *names: str) -> list[Any]:
    values = [body.get(name) for name in names]
    if any(value is None or value == "" for value in values):
        raise MissingParameters(names)
    return values


def _parse_day(value: object) -> date:
    if not isinstance(value, str) or not _ISO_DATE.fullmatch(value):
        raise InvalidDateFormat
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise InvalidDateFormat from None


def _date_range(body: Mapping[str, Any]) -> Window:
    window = Window.parse(*_required(body, "start_date", "end_date"))
    if window.days_between <= 0:
        raise EndNotAfterStart
    if window.days_between > MAX_WINDOW_DAYS:
        raise WindowTooLong(MAX_WINDOW_DAYS)
    return window


def _mrn(body: Mapping[str, Any]) -> str:
    (mrn,) = _required(body, "mrn")
    is_usable = isinstance(mrn, str) and mrn.isprintable() and len(mrn) <= MAX_MRN_LENGTH
    if not is_usable:
        raise InvalidMrn
    return str(mrn)


def _providers(body: Mapping[str, Any]) -> tuple[Window, tuple[str | int, ...]]:
    ids, start, end = _required(body, "provider_ids", "start_date", "end_date")
    provider_ids = _provider_ids(ids, MAX_PROVIDERS)
    window = Window.parse(start, end)
    if window.days_between < 0:
        raise EndNotAfterStart
    if len(ids) > 1 and window.days_between:
        raise SeveralProvidersSeveralDays
    if window.days_between > MAX_PROVIDER_WINDOW_DAYS:
        raise WindowTooLong(MAX_PROVIDER_WINDOW_DAYS)
    return window, provider_ids


def _provider_ids(ids: object, most: int) -> tuple[str | int, ...]:
    if not isinstance(ids, list) or not 1 <= len(ids) <= most:
        raise InvalidProviderIds(most)
    return tuple(_provider_id(each, most) for each in ids)


def _provider_id(value: object, most: int) -> str | int:
    """Read an id; 7.0 is 7 in JSON, and some languages write it so."""
    if isinstance(value, str) and 1 <= len(value) <= MAX_MRN_LENGTH and value.isprintable():
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidProviderIds(most)
    if not 0 <= value <= MAX_NUMBER or value != int(value):
        raise InvalidProviderIds(most)
    return int(value)


# -------------------------------------------------------------------------------- what Cobalt sends


LIVE_FETCH_COMPLETED = "appointment.live_fetch_completed"
ACCOUNT_EVENTS = "access_token."
"""How the types begin of events about a connection itself; those carry no job (docs: Webhooks)."""
LOGIN_REQUIRED_EVENT = "access_token.login_required"
PASSWORD_WARNING_EVENT = "access_token.password_change_warning"  # noqa: S105 - a type
LOGIN_REQUIRED = "login_required"
"""Cobalt's code for a broken link: the clinic has to link its account again."""
LIVE_FETCH_EMR = "eClinicalWorks"
"""The only EMR of which Cobalt accepts a live fetch (docs: Fetch appointments)."""
PROBE = "relay.probe"
"""The type of a delivery that is ours: a rotation proves with it that a key is taken as genuine."""
MAX_ID_LENGTH = 256
"""Characters of an id or a type; longer ones than any documented are none."""

_OPAQUE = pattern(r"[\x21-\x7e]+", re.ASCII)


def first_id(fields: Mapping[str, Any], *names: str) -> str | None:
    """Give the first usable id among fields that mean the same in different editions.

    Ids may be JSON strings or numbers (docs: Webhooks). They are opaque, and kept in keys, rows,
    events and logs: so one is a word of visible ASCII. Anything else, a sentence or a name with its
    blanks for one, is as good as absent.
    """
    texts = _texts(fields, names)
    return next((t for t in texts if _OPAQUE.fullmatch(t) and len(t) <= MAX_ID_LENGTH), None)


def first_label(fields: Mapping[str, Any], *names: str) -> str | None:
    """Give the first usable label of a connection: any one printable line.

    It is the words of the relay's own operator (docs: Settings), not of a clinic.
    """
    texts = _texts(fields, names)
    return next((t for t in texts if t.isprintable() and 1 <= len(t) <= MAX_ID_LENGTH), None)


def _texts(fields: Mapping[str, Any], names: Iterable[str]) -> Iterator[str]:
    for name in names:
        value = fields.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool):
            yield str(value)


def job_id_of(answer: Mapping[str, Any]) -> str | None:
    """Give the job of Cobalt's 202 or webhook, in either edition."""
    return first_id(answer, "job_execution_id", "job_id")


_ISO_MOMENT = pattern(
    r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:?\d{2})", re.ASCII
)
_FIRST_UNIX_MILLISECONDS = 10**11
"""From here on a Unix time is one of milliseconds: as seconds it would be in the year 5138."""


def moment_of(value: object) -> datetime | None:
    """Read a moment: ISO 8601 with a zone, or Unix seconds or milliseconds as a number.

    None for anything else; text without a zone could mean any of 26 hours.
    """
    try:
        if isinstance(value, str) and _ISO_MOMENT.fullmatch(value):
            return datetime.fromisoformat(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            is_milliseconds = abs(value) >= _FIRST_UNIX_MILLISECONDS
            return datetime.fromtimestamp(value / 1000 if is_milliseconds else value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


class CobaltEvent(_Frozen):
    """A webhook's body, in any edition: what the relay needs of it. The bytes go to S3."""

    id: str
    type: str
    access_token_reference_id: str | None
    job_execution_id: str | None
    created_at: datetime | None
    """When Cobalt made it, by its own word; None where it does not say so in a readable form."""
    data: Any = Field(repr=False)

    @classmethod
    def read(cls, document: object) -> Self:
        """Read a body leniently: `ValueError` only where `id` or `type` is not there."""
        fields: Mapping[str, Any] = document if isinstance(document, dict) else {}
        event_id, event_type = first_id(fields, "id"), first_id(fields, "type")
        if event_id is None or event_type is None or event_type != fields["type"]:
            raise ValueError
        return cls(
            id=event_id,
            type=event_type,
            access_token_reference_id=first_label(fields, "access_token_reference_id", "user_id"),
            job_execution_id=job_id_of(fields),
            created_at=moment_of(fields.get("timestamp")) or moment_of(fields.get("created")),
            data=fields.get("data"),
        )

    @property
    def is_live_fetch_result(self) -> bool:
        """Whether it ends a job of `POST /v1/appointments/fetch`."""
        return self.type == LIVE_FETCH_COMPLETED and self.job_execution_id is not None


class UnsignedHeaders(NamedTuple):
    """What headers say of a delivery: every value of them. Not signed, so never relied on."""

    ids: tuple[str, ...] = ()
    timestamps: tuple[str, ...] = ()

    def contradict(self, event: CobaltEvent) -> bool:
        """Whether they say something else than the signed body; a time is compared to the second.

        What the body does not say cannot be contradicted.
        """
        if any(value.strip() != event.id for value in self.ids):
            return True
        return event.created_at is not None and any(
            _whole_seconds(_moment_of_header(value)) != _whole_seconds(event.created_at)
            for value in self.timestamps
        )


_UNIX_TIME = pattern(r"\d{1,13}", re.ASCII)


def _moment_of_header(value: str) -> datetime | None:
    text = value.strip()
    return moment_of(int(text) if _UNIX_TIME.fullmatch(text) else text)


def _whole_seconds(moment: datetime | None) -> float | None:
    return moment.timestamp() // 1 if moment else None


class WebhookRegistration(_Frozen):
    """What Cobalt says of its webhooks: the key that it signs with, and where it delivers.

    `ids` has the id of each registered URL; None in an edition that does not name any.
    """

    secret: str | None = Field(repr=False)
    ids: Mapping[str, str | None]


class ListedEvent(NamedTuple):
    """An event as Cobalt lists it: what it says, when it was made, how to read its webhook's body.

    The data of `event` has its small fields; of the appointments only their number.
    """

    event: CobaltEvent
    created_at: datetime | None
    body: Callable[[], bytes]


class FetchResult(_Frozen):
    """What the relay needs to know of a live fetch's `data`; never a patient's."""

    succeeded: bool
    appointment_count: int
    declared_count: int | None
    window: Window | None
    error_code: str | None

    @property
    def state(self) -> "Literal[JobState.COMPLETED, JobState.FAILED]":
        """The state to which it brings its job."""
        return JobState.COMPLETED if self.succeeded else JobState.FAILED

    @classmethod
    def from_data(cls, data: object) -> Self:
        """Read `data` leniently.

        `success` absent or null means success, for the type is "completed"; the appointments are
        counted, whatever `appointment_count` says.
        """
        fields: Mapping[str, Any] = data if isinstance(data, dict) else {"success": False}
        appointments = fields.get("appointments") or []
        succeeded = fields.get("success") in _SUCCESS and isinstance(appointments, list)
        return cls(
            succeeded=succeeded,
            appointment_count=len(appointments) if succeeded else 0,
            declared_count=_count(fields.get("appointment_count")),
            window=_lenient_window(fields),
            error_code=None if succeeded else _error_code(fields),
        )


_SUCCESS = (None, True, "true")
_CODE = pattern(r"[a-z]+(_[a-z]+)*|[A-Z]+(_[A-Z]+)*", re.ASCII)
_MAX_CODE_LENGTH = 64
_MAX_COUNT = 10**9


def _count(value: object) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value < _MAX_COUNT else None


def _lenient_window(fields: Mapping[str, Any]) -> Window | None:
    try:
        return Window.parse(fields.get("start_date"), fields.get("end_date"))
    except InvalidDateFormat:
        return None


def _error_code(fields: Mapping[str, Any]) -> str:
    """Find the code of a failure.

    In the form of a code, without digits: anything else could be a patient's name or number.
    """
    reasons = fields.get("reasons")
    first = reasons[0] if isinstance(reasons, list) and reasons else None
    candidates = (
        fields.get("error"),
        fields.get("error_type"),
        fields.get("error_code"),
        first.get("code") if isinstance(first, dict) else None,
    )
    codes = [c for c in candidates if isinstance(c, str) and _CODE.fullmatch(c)]
    return codes[0].lower()[:_MAX_CODE_LENGTH] if codes else "fetch_failed"


# ------------------------------------------------------------------------------------- what is kept


class ClientCredentials(_FromCobalt):
    """The pair that Cobalt gave this relay's operator, and that callers of the relay send too."""

    client_id: str = Field(pattern=_HEADER_TEXT)
    client_secret: str = Field(pattern=_HEADER_TEXT, repr=False)

    def fit(self, client_id: str, client_secret: str) -> bool:
        """Compare in constant time and both parts always; as bytes, for that takes only ASCII."""
        pairs = ((client_id, self.client_id), (client_secret, self.client_secret))
        fits = [
            hmac.compare_digest(theirs.encode(errors="surrogatepass"), own.encode())
            for theirs, own in pairs
        ]
        return all(fits)


class WebhookKey(NamedTuple):
    """A key that Cobalt may sign with; `name` is what a metric calls it."""

    name: Literal["Current", "Pending", "Previous"]
    secret: bytes

    def __repr__(self) -> str:
        return f"WebhookKey({self.name})"


class LiveKeys(NamedTuple):
    """Every key that Cobalt may sign with at this moment.

    While a rotation is on, Cobalt may use a key that the relay has not got yet.
    """

    keys: tuple[WebhookKey, ...]
    rotating: bool = False


class RotationState(Enum):
    """How far the rotation under a token is."""

    UNKNOWN = "no version is staged under it"
    STAGED = "its version is AWSPENDING, with or without a value"
    FINISHED = "its version is AWSCURRENT"


def connection_id_of(access_token: str) -> str:
    """Name the connection of a token: stable, derivable without a look-up, not reversible."""
    token = access_token.encode(errors="surrogatepass")
    return "conn_" + hashlib.sha256(token).hexdigest()[:32]


class RequestState(StrEnum):
    """`REQUESTED` until Cobalt's answer is known, `UNKNOWN` where the call itself never told it."""

    REQUESTED = "REQUESTED"
    UNKNOWN = "UNKNOWN"
    ACCEPTED = "ACCEPTED"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"


class JobState(StrEnum):
    """`ACCEPTED`, then one terminal state; only `EXPIRED` may still become `COMPLETED`."""

    ACCEPTED = "ACCEPTED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"


REQUEST_MOVES: dict[RequestState, tuple[RequestState, ...]] = {
    RequestState.REQUESTED: (
        RequestState.ACCEPTED,
        RequestState.FAILED,
        RequestState.UNKNOWN,
    ),
    RequestState.UNKNOWN: (RequestState.ACCEPTED, RequestState.EXPIRED),
    RequestState.EXPIRED: (RequestState.ACCEPTED,),
    RequestState.ACCEPTED: (),
    RequestState.FAILED: (),
}


class ConnectionState(StrEnum):
    """`ACTIVE`, unless the clinic has to link its account again or has got another token."""

    ACTIVE = "active"
    LOGIN_REQUIRED = "login_required"
    REPLACED = "replaced"


class RangeState(StrEnum):
    """`ACCEPTED` until each piece has ended; then what came of all, of some, or of none."""

    ACCEPTED = "ACCEPTED"
    COMPLETED = "COMPLETED"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"


JOB_MOVES: dict[JobState, tuple[JobState, ...]] = {
    JobState.ACCEPTED: (JobState.COMPLETED, JobState.FAILED, JobState.EXPIRED),
    JobState.EXPIRED: (JobState.COMPLETED,),
    JobState.COMPLETED: (),
    JobState.FAILED: (),
}
CONNECTION_MOVES: dict[ConnectionState, tuple[ConnectionState, ...]] = {
    ConnectionState.ACTIVE: (ConnectionState.LOGIN_REQUIRED, ConnectionState.REPLACED),
    ConnectionState.LOGIN_REQUIRED: (ConnectionState.ACTIVE, ConnectionState.REPLACED),
    ConnectionState.REPLACED: (),
}
RANGE_MOVES: dict[RangeState, tuple[RangeState, ...]] = {
    RangeState.ACCEPTED: (RangeState.COMPLETED, RangeState.PARTIAL, RangeState.FAILED),
    RangeState.COMPLETED: (),
    RangeState.PARTIAL: (),
    RangeState.FAILED: (),
}
"""Where a row may go from a state. Every write that moves one is conditional on these tables, and
`docs/states.md` is drawn from them."""


def before[S: StrEnum](moves: Mapping[S, tuple[S, ...]], state: S) -> list[str]:
    """List the states from which a row may move to `state`."""
    return [origin.value for origin, following in moves.items() if state in following]


class Request(_Frozen):
    """What was asked, by whom: on record before Cobalt is."""

    request_id: str
    connection_id: str
    trigger: Trigger
    search_by: SearchBy
    window: Window | None = None
    fingerprint: str
    requested_at: Instant
    range_id: str | None = None
    """The range of which it is a piece."""
    trace_id: str | None = None
    """Under which all that happens to it is told; None in a row of an edition without traces."""


Notification = Literal["open", "sent"]


class ResultLocation(_Frozen):
    """Where the bytes of a delivery are.

    The version makes it exact: a later object of that key is not it.
    """

    bucket: str
    key: str
    version_id: str | None = None


class ResultLink(_Frozen):
    """A URL that opens a result to whoever has it, until it expires. It is in no `repr`."""

    url: str = Field(repr=False)
    expires_at: Instant


class Completion(_Frozen):
    """How a job ended, and what its event will say."""

    job_execution_id: str
    state: Literal[JobState.COMPLETED, JobState.FAILED]
    cobalt_event_id: str
    body_sha256: str
    result: ResultLocation
    delivered_via: Channel
    completed_at: Instant
    access_token_reference_id: str | None = None
    window: Window | None = None
    appointment_count: int = 0
    declared_count: int | None = None
    error_code: str | None = None


class Job(_Frozen):
    """The truth about a job. `connection_id` is None while no fetch of ours has claimed it."""

    job_execution_id: str
    state: JobState
    connection_id: str | None = None
    request_id: str | None = None
    trigger: Trigger | None = None
    search_by: SearchBy | None = None
    window: Window | None = None
    accepted_at: Instant | None = None
    deadline: Instant | None = None
    expired_at: Instant | None = None
    range_id: str | None = None
    """The range of which it is a piece."""
    trace_id: str | None = None
    """That of its request."""
    closed_at: Instant | None = None
    """When it was ended without a result, and with which code: its connection was suspended."""
    error_code: str | None = None
    completion: Completion | None = None
    seconds_to_completion: float | None = None
    """From its acceptance; None while nothing says when it was accepted."""
    notification: Notification | None = None
    notified_at: Instant | None = None
    looks: int = 0
    """How often the reconciler looked for its result in its present state."""

    def kept_result(self, now: datetime, retention: timedelta) -> ResultLocation | None:
        """Where its appointments are; None where it brought none, or their time is over.

        The row may be kept for longer than what it names.
        """
        end = self.completion
        is_kept = end and end.state is JobState.COMPLETED and now < end.completed_at + retention
        return end.result if end and is_kept else None

    def may_become(self, state: JobState) -> bool:
        """Whether this state may follow."""
        return state in JOB_MOVES[self.state]

    def seconds_until(self, moment: datetime) -> float | None:
        """Seconds from the acceptance to `moment`; 0 where a webhook overtook the acceptance."""
        if self.accepted_at is None:
            return None
        return max(0.0, round((moment - self.accepted_at).total_seconds(), 3))


class JobReport(_Frozen):
    """A job as its caller sees it; None for what is not known (yet)."""

    job_execution_id: str
    status: JobState
    window: Window | None
    trigger: Trigger | None
    requested_at: Instant | None
    accepted_at: Instant | None
    completed_at: Instant | None
    expired_at: Instant | None
    deadline: Instant | None
    attempts: int | None
    """How often the relay itself has asked for the result; None once it is there."""
    delivered_via: Channel | None
    appointment_count: int | None
    error_code: str | None
    result_url: str | None = Field(repr=False)
    """Where its result can be read for some minutes; None where there is none, or none any more."""
    result_url_expires_at: Instant | None
    trace_id: str | None
    """What the logs and events about it have in common."""

    @classmethod
    def of(cls, job: Job, requested_at: datetime | None, link: ResultLink | None = None) -> Self:
        """Put together what the rows hold, and the link to the result where there is one."""
        end = job.completion
        return cls(
            job_execution_id=job.job_execution_id,
            status=job.state,
            window=job.window,
            trigger=job.trigger,
            requested_at=requested_at,
            accepted_at=job.accepted_at,
            completed_at=end.completed_at if end else job.closed_at,
            expired_at=job.expired_at,
            deadline=job.deadline,
            attempts=None if end or job.closed_at else job.looks,
            delivered_via=end.delivered_via if end else None,
            appointment_count=end.appointment_count if end and not end.error_code else None,
            error_code=end.error_code if end else job.error_code,
            result_url=link.url if link else None,
            result_url_expires_at=link.expires_at if link else None,
            trace_id=job.trace_id,
        )


class RequestRecord(Request):
    """A request and what became of it."""

    state: RequestState
    deadline: Instant
    job_execution_id: str | None = None
    error_code: str | None = None
    refused_as: str | None = None
    """The code of the error that its caller got, and `retry_after` of it."""
    retry_after: str | None = None
    contested: bool = False
    """Whether a result was seen that fits another question too: it may be either's, for good."""
    closed_at: Instant | None = None
    notification: Notification | None = None
    looks: int = 0

    @property
    def is_open(self) -> bool:
        """Whether a job of it may still show up. A late one does even for an expired request."""
        return RequestState.ACCEPTED in REQUEST_MOVES[self.state]

    @property
    def expired_at(self) -> datetime | None:
        """When it expired."""
        return self.closed_at if self.state is RequestState.EXPIRED else None


class Started(NamedTuple):
    """The job that answers a request; `joined` where another request had started it."""

    job_execution_id: str
    joined: bool


class PieceOrder(NamedTuple):
    """How a piece of a range is to be fetched.

    The clinic's robot is asked to do at most `robots` things at once; `comes_again` where a refusal
    that started nothing is not the end of it, `is_first` where its connection is not registered.
    """

    range_id: str
    robots: int
    comes_again: bool
    is_first: bool = False


class EventRecord(_FromCobalt):
    """That a signed event was taken in.

    `result` and `notification` where it ended no job: then the event itself is announced.
    """

    body_sha256: str
    received_at: Instant
    event_type: str
    delivered_via: Channel
    job_execution_id: str | None = None
    connection_id: str | None = None
    access_token_reference_id: str | None = None
    trace_id: str | None = None
    notification: Notification | None = None
    result: ResultLocation | None = None


class Announced(NamedTuple):
    """The row whose announcement is meant, and the state in which it is announced.

    A row that moves on meanwhile has another announcement.
    """

    kind: Literal["JOB", "REQUEST", "EVENT", "CHANGE", "RANGE"]
    id: str
    state: str | None = None


class Hold(NamedTuple):
    """What makes two calls one: an idempotency key, or the question itself.

    `name` is what it is known by, `until` the moment from which it holds nobody off any more.
    `replacing` is the request whose hold it takes over. A `ROBOT` is held by the fetch that keeps a
    clinic's robot busy.
    """

    kind: Literal["IDEMPOTENCY", "FLIGHT", "ROBOT"]
    name: str
    until: datetime
    replacing: str | None = None


class Holder(NamedTuple):
    """Who has a hold: the question it asks, its request (None where its row is gone), its job."""

    fingerprint: str
    request_id: str
    request: RequestRecord | None
    job: Job | None


class Due(NamedTuple):
    """A row that is to be looked at. `row` is None where it cannot be read."""

    kind: Literal["JOB", "REQUEST", "EVENT", "CONNECTION", "CHANGE", "RANGE"]
    id: str
    due_at: str
    row: "Job | RequestRecord | EventRecord | Connection | ConnectionChange | FetchRange | None"


class Known(NamedTuple):
    """What is known about a delivery: its event, and the job it names."""

    event: EventRecord | None
    job: Job | None


class Landing(StrEnum):
    """What became of an attempt to take in an event."""

    LANDED = "landed"
    EVENT_KNOWN = "event_known"
    JOB_CHANGED = "job_changed"
    """The job is not in the state in which it was read."""
    CONNECTION_DIFFERS = "connection_differs"
    """Its connection is suspended, or has no row: a success is not just noted."""


class ClinicSettings(_Frozen):
    """What Cobalt knows of a clinic (docs: Settings); None for what it does not say."""

    access_token_reference_id: str | None = None
    time_zone: str | None = None
    """The name of an IANA time zone that there is."""
    visit_statuses: Mapping[str, str] | None = None
    """What the clinic's status codes mean, by its own description of each."""


class Connection(_FromCobalt):
    """A set of EMR credentials that Cobalt holds, known by its access token.

    Those moments are ours, of what this relay did or heard; None for what never happened or is not
    known.
    """

    connection_id: str
    state: ConnectionState
    registered_at: Instant
    access_token_reference_id: str | None = None
    time_zone: str | None = None
    visit_statuses: Mapping[str, str] | None = None
    emr_name: str | None = None
    settings_read_at: Instant | None = None
    last_success_at: Instant | None = None
    last_failure_at: Instant | None = None
    last_failure_code: str | None = None
    suspended_at: Instant | None = None
    suspended_by: "Reporter | None" = None
    password_warning_at: Instant | None = None
    replaced_by: str | None = None
    replaces: str | None = None
    looks: int = 0
    """How often its settings were asked for without an answer."""

    @property
    def is_suspended(self) -> bool:
        """Whether its clinic has to link its account again before a schedule may fetch it."""
        return self.state is ConnectionState.LOGIN_REQUIRED


Reporter = Literal["answer", "event", "result"]
"""What told that a link is broken: Cobalt's answer to a fetch, its event, or a fetch's result."""


class ConnectionChange(_FromCobalt):
    """That a connection was suspended or resumed: a row of its own, until it is announced.

    So that each change has its event, however soon the next one follows.
    """

    change_id: str
    connection_id: str
    access_token_reference_id: str | None = None
    state: Literal[ConnectionState.LOGIN_REQUIRED, ConnectionState.ACTIVE]
    changed_at: Instant
    suspended_at: Instant | None = None
    """Of one that was resumed: when it had been suspended."""
    reported_by: Reporter | None = None
    job_execution_id: str | None = None
    """Of one that was resumed: the job whose success showed it."""
    trace_id: str | None = None
    """Of what showed it."""
    notification: Notification | None = None
    looks: int = 0


RANGE_LIFE = timedelta(hours=24)
"""How long the pieces of a range may take, from when it was accepted."""


class RangePlan(_Frozen):
    """A range of days to be fetched for a connection, piece by piece."""

    range_id: str
    connection_id: str
    trigger: Trigger
    request: RangeRequest
    accepted_at: Instant
    caller_trace_id: str | None = None
    """Of the call that asked for it; a schedule's has none."""

    @property
    def trace_id(self) -> str:
        """Under which all that happens to it and to its pieces is told."""
        return self.caller_trace_id or trace_id_of(self.range_id)

    @property
    def deadline(self) -> datetime:
        """When a piece that has not begun does not begin any more."""
        return self.accepted_at + RANGE_LIFE

    def works(self, begin: datetime, spacing: timedelta = timedelta(0)) -> "Iterator[FetchWork]":
        """Give the messages of its pieces: the first is for `begin`, each other a while later."""
        for number in range(len(self.request.pieces)):
            yield FetchWork(plan=self, piece=number, not_before=begin + number * spacing)


class FetchWork(_Frozen):
    """One message of the queue: a piece of a range that is to be fetched, but not too early.

    `round` goes up each time an operator puts it back, `busy` each time it finds the robot so.
    """

    plan: RangePlan
    piece: int = Field(ge=0)
    not_before: Instant
    round: int = Field(default=0, ge=0)
    busy: int = Field(default=0, ge=0)

    @property
    def fetch(self) -> FetchRequest:
        """What is to be fetched."""
        return self.plan.request.pieces[self.piece]

    def request_id(self, attempt: int) -> str:
        """Name the request of an attempt: the same for each delivery of the message."""
        name = f"{self.plan.range_id}/{self.piece}/{self.round}/{attempt}"
        return str(uuid5(_ATTEMPTS, name))


class PieceOutcome(_Frozen):
    """What became of a piece of a range.

    `PENDING` while it waits for its turn. A piece that came to no job has a code only.
    """

    window: Window
    status: Literal["PENDING", "ACCEPTED", "COMPLETED", "FAILED", "EXPIRED"] = "PENDING"
    job_execution_id: str | None = None
    appointment_count: int | None = None
    error_code: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.status not in {"PENDING", "ACCEPTED"}


class FetchRange(_FromCobalt):
    """A parent job: what is known of a range; `outcomes` once all of its pieces have ended."""

    plan: RangePlan
    state: RangeState
    request_id: str | None = None
    queued: bool = False
    """Whether all its pieces are known to be in the queue."""
    pieces: "Mapping[int, PieceNote]" = {}
    completed_at: Instant | None = None
    outcomes: tuple[PieceOutcome, ...] = ()
    notification: Notification | None = None
    looks: int = 0


class PieceNote(_Frozen):
    """What a range's row knows of a piece: whose rows tell more, or why there are none."""

    request_id: str | None = None
    job_execution_id: str | None = None
    error_code: str | None = None


class RangeReport(_Frozen):
    """A range as its caller sees it; None for what is not known (yet)."""

    job_execution_id: str
    status: RangeState
    window: Window
    trigger: Trigger
    accepted_at: Instant
    completed_at: Instant | None
    deadline: Instant
    appointment_count: int
    """Of the pieces that have completed so far."""
    pieces: tuple[PieceOutcome, ...]
    trace_id: str
    """What the logs and events about it and its pieces have in common."""

    @classmethod
    def of(cls, found: FetchRange, outcomes: tuple[PieceOutcome, ...]) -> Self:
        """Put together what the rows hold."""
        return cls(
            job_execution_id=found.plan.range_id,
            status=found.state,
            window=found.plan.request.window,
            trigger=found.plan.trigger,
            accepted_at=found.plan.accepted_at,
            completed_at=found.completed_at,
            deadline=found.plan.deadline,
            appointment_count=sum(each.appointment_count or 0 for each in outcomes),
            pieces=outcomes,
            trace_id=found.plan.trace_id,
        )


_ATTEMPTS = UUID("0c5b0f0e-55a4-5c5e-8d5e-1f2f6a1b7c10")
_RANGE = "range_"
_RANGE_ID = pattern(_RANGE + r"[0-9a-f]{32}", re.ASCII)


def range_id_of(*parts: str) -> str:
    """Name a range by what makes it what it is: the same parts give the same range."""
    text = "\n".join(parts)
    return _RANGE + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def trace_id_of(range_id: str) -> str:
    """Give the trace of a range that no caller asked for: the digits of its id."""
    return range_id.removeprefix(_RANGE)


def is_range_id(text: str) -> bool:
    """Whether a job's id is that of a range."""
    return _RANGE_ID.fullmatch(text) is not None


def utc_now() -> datetime:
    """Now, in UTC: the only clock of the relay, so that tests can hand in another."""
    return datetime.now(UTC)


def in_days(start: date, from_day: int, days: int) -> Window:
    """Give the window of `days` days, ends included, that begins `from_day` days after `start`."""
    first = start + timedelta(days=from_day)
    return Window(start_date=first, end_date=first + timedelta(days=days - 1))
