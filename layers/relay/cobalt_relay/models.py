"""The domain: what is fetched, for whom, and what became of it. No AWS and no HTTP in here."""

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
)

from cobalt_relay.errors import (
    EndNotAfterStart,
    InvalidDateFormat,
    InvalidMrn,
    InvalidProviderIds,
    MissingParameters,
    SeveralProvidersSeveralDays,
    UnknownSearchBy,
    WindowTooLong,
)

SearchBy = Literal["date_range", "mrn", "provider"]
Trigger = Literal["api", "schedule"]

MAX_WINDOW_DAYS = 7
"""`end_date - start_date` at most (docs: Fetch appointments, "The range cannot exceed 7 days")."""
MAX_PROVIDER_WINDOW_DAYS = 5
MAX_PROVIDERS = 10
MAX_MRN_LENGTH = 128


def iso(moment: datetime) -> str:
    """Write a moment as UTC with milliseconds: of one length, so that text sorts as time does."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Instant = Annotated[datetime, PlainSerializer(iso, return_type=str, when_used="json")]
"""An aware moment; in JSON and in rows `2025-01-15T10:00:00.000Z`."""

_HEADER_TEXT = r"^[\x21-\x7e]+$"
_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class _Frozen(BaseModel):
    """Ours: immutable, closed, and silent about its input when it does not validate."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class _FromCobalt(BaseModel):
    """Theirs: takes whatever fields an edition of Cobalt adds."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


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
    if not isinstance(ids, list) or not 1 <= len(ids) <= MAX_PROVIDERS or not all(map(_is_id, ids)):
        raise InvalidProviderIds
    window = Window.parse(start, end)
    if window.days_between < 0:
        raise EndNotAfterStart
    if len(ids) > 1 and window.days_between:
        raise SeveralProvidersSeveralDays
    if window.days_between > MAX_PROVIDER_WINDOW_DAYS:
        raise WindowTooLong(MAX_PROVIDER_WINDOW_DAYS)
    return window, tuple(ids)


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return value != "" and value.isprintable() and len(value) <= MAX_MRN_LENGTH
    return isinstance(value, int) and not isinstance(value, bool)


# -------------------------------------------------------------------------------- what Cobalt sends


MAX_ID_LENGTH = 256
"""Characters of an id or a type; longer ones than any documented are none."""


def _first_id(fields: Mapping[str, Any], *names: str) -> str | None:
    """Give the first usable id among fields that mean the same in different editions.

    Ids may be JSON strings or numbers (docs: Webhooks). What cannot be one is as good as absent.
    """
    for name in names:
        value = fields.get(name)
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(text, str) and text.isprintable() and 1 <= len(text) <= MAX_ID_LENGTH:
            return text
    return None


def job_id_of(answer: Mapping[str, Any]) -> str | None:
    """Give the job of Cobalt's 202 or webhook, in either edition."""
    return _first_id(answer, "job_execution_id", "job_id")


class CobaltEvent(_Frozen):
    """A webhook's body, in any edition: what the relay needs of it. The bytes go to S3."""

    id: str
    type: str
    access_token_reference_id: str | None
    job_execution_id: str | None
    data: Any = Field(repr=False)

    @classmethod
    def read(cls, document: object) -> Self:
        """Read a body leniently: `ValueError` only where `id` or `type` is not there."""
        fields: Mapping[str, Any] = document if isinstance(document, dict) else {}
        event_id, event_type = _first_id(fields, "id"), _first_id(fields, "type")
        if event_id is None or event_type is None or event_type != fields["type"]:
            raise ValueError
        return cls(
            id=event_id,
            type=event_type,
            access_token_reference_id=_first_id(fields, "access_token_reference_id", "user_id"),
            job_execution_id=job_id_of(fields),
            data=fields.get("data"),
        )

    @property
    def is_live_fetch_result(self) -> bool:
        """Whether it ends a job of `POST /v1/appointments/fetch`."""
        return self.type == "appointment.live_fetch_completed" and self.job_execution_id is not None


class FetchResult(_Frozen):
    """What the relay needs to know of a live fetch's `data`; never a patient's."""

    succeeded: bool
    appointment_count: int
    declared_count: int | None
    window: Window | None
    error_code: str | None

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
_CODE = re.compile(r"[a-z]+(_[a-z]+)*|[A-Z]+(_[A-Z]+)*", re.ASCII)
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


def connection_id_of(access_token: str) -> str:
    """Name the connection of a token: stable, derivable without a look-up, not reversible."""
    return "conn_" + hashlib.sha256(access_token.encode()).hexdigest()[:32]


class RequestState(StrEnum):
    """`REQUESTED` until Cobalt's answer is known.

    `UNKNOWN` where it never will be from the call itself.
    """

    REQUESTED = "REQUESTED"
    ACCEPTED = "ACCEPTED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"


class JobState(StrEnum):
    """`ACCEPTED`, then one terminal state; only `EXPIRED` may still become `COMPLETED`."""

    ACCEPTED = "ACCEPTED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"


class Request(_Frozen):
    """What was asked, by whom: on record before Cobalt is."""

    request_id: str
    connection_id: str
    trigger: Trigger
    search_by: SearchBy
    window: Window | None
    fingerprint: str
    requested_at: Instant


class ResultLocation(_Frozen):
    """Where the bytes of a delivery are.

    The version makes it exact: a later object of that key is not it.
    """

    bucket: str
    key: str
    version_id: str | None = None


class Completion(_Frozen):
    """How a job ended, and what its event will say."""

    job_execution_id: str
    state: Literal[JobState.COMPLETED, JobState.FAILED]
    cobalt_event_id: str
    body_sha256: str
    result: ResultLocation
    delivered_via: Literal["webhook"]
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
    completion: Completion | None = None
    notified_at: Instant | None = None

    @property
    def is_open(self) -> bool:
        """Whether a result may still end it. A late one ends even an expired job."""
        return self.state in {JobState.ACCEPTED, JobState.EXPIRED}


class EventRecord(_FromCobalt):
    """That a signed event was taken in; `notification` and `result` where it ended no job."""

    body_sha256: str
    received_at: Instant
    job_execution_id: str | None = None
    notification: Literal["open", "sent"] | None = None
    result: ResultLocation | None = None


class Announced(NamedTuple):
    """The row whose announcement is meant: a job by its id, or another event by Cobalt's id."""

    kind: Literal["JOB", "EVENT"]
    id: str


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


def utc_now() -> datetime:
    """Now, in UTC: the only clock of the relay, so that tests can hand in another."""
    return datetime.now(UTC)


def in_days(start: date, from_day: int, days: int) -> Window:
    """Give the window of `days` days, ends included, that begins `from_day` days after `start`."""
    first = start + timedelta(days=from_day)
    return Window(start_date=first, end_date=first + timedelta(days=days - 1))
