"""The one appointment that both editions of Cobalt become, and the days that they make up.

Nothing is lost on the way: what no field takes is kept under `extra`, as it came. The fields have
the names of Cobalt's newest edition (docs: Appointments), so that a client of Cobalt knows them.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, timedelta, timezone, tzinfo
from datetime import datetime as Moment  # noqa: N812 - a field has the name of the class
from enum import StrEnum
from hashlib import sha256
from typing import Any, NamedTuple, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from cobalt_relay.json_limits import MAX_EVENT_DEPTH, nests_within
from cobalt_relay.models import MAX_ID_LENGTH, CobaltEvent, first_id, moment_of
from cobalt_relay.patterns import pattern


class NormalizedStatus(StrEnum):
    """What a status means, in the words of FHIR R4 (value set `appointmentstatus`)."""

    PROPOSED = "proposed"
    PENDING = "pending"
    BOOKED = "booked"
    ARRIVED = "arrived"
    CHECKED_IN = "checked-in"
    FULFILLED = "fulfilled"
    CANCELLED = "cancelled"
    NOSHOW = "noshow"
    ENTERED_IN_ERROR = "entered-in-error"
    WAITLIST = "waitlist"


_MEANINGS: tuple[tuple[NormalizedStatus, str], ...] = (
    (
        NormalizedStatus.NOSHOW,
        r"no[ -]?shows?|n/s|did not (show|come|arrive)|dns|dna|missed|failed to attend",
    ),
    (NormalizedStatus.CANCELLED, r"cancel\w*|cance?l?d|canc|cxl|re-?scheduled|r/s|bumped"),
    (NormalizedStatus.ENTERED_IN_ERROR, r"(entered )?in error|deleted|void(ed)?"),
    (NormalizedStatus.WAITLIST, r"wait(ing)? ?-?list(ed)?"),
    (NormalizedStatus.FULFILLED, r"check(ed)?[ -]?out|complete[d]?|seen|done|discharged|departed"),
    (
        NormalizedStatus.CHECKED_IN,
        r"check(ed)?[ -]?in|in (the )?(exam )?room|roomed|in progress|with (the )?provider",
    ),
    (NormalizedStatus.ARRIVED, r"arrived|here|in (the )?lobby|in (the )?waiting room"),
    (NormalizedStatus.PENDING, r"pending|unconfirmed|not confirmed|tentative|left (a )?message"),
    (NormalizedStatus.PROPOSED, r"proposed|requested"),
    (NormalizedStatus.BOOKED, r"confirmed|scheduled|booked|re-?confirmed|active|new"),
)
"""Words of clinics for a status; the first row that has one of them says what it means."""
_WORDS = tuple(
    (status, pattern(rf"(?<!\w)(?<!\bnot )({words})(?!\w)", re.IGNORECASE))
    for status, words in _MEANINGS
)


def normalized(status: str | None, visit_statuses: Mapping[str, str]) -> NormalizedStatus | None:
    """Tell what a clinic's status code means, by its own list (docs: Settings, `visit_statuses`).

    A code that the list does not have is read as if it were its own description. None where neither
    says anything: nothing is made up.
    """
    if not status:
        return None
    text = visit_statuses.get(status) or status
    return next((meaning for meaning, words in _WORDS if words.search(text)), None)


class Clinic(NamedTuple):
    """What has to be known of a clinic to read its appointments.

    `zone` is None where Cobalt has not told it: then a time that brings its own offset keeps it,
    and any other is read in the `default` zone.
    """

    zone: tzinfo | None
    default: tzinfo
    visit_statuses: Mapping[str, str]

    def local(self, moment: Moment) -> Moment:
        """Put a moment into the clinic's time, with the offset that this has then."""
        if moment.tzinfo is None:
            there = moment.replace(tzinfo=self.zone or self.default)
            return there.replace(tzinfo=_offset(there))
        if self.zone is None and moment.tzinfo is not UTC:
            return moment
        return moment.astimezone(_offset(moment.astimezone(self.zone or self.default)))


def _offset(moment: Moment) -> timezone:
    """Give a moment's offset, which JSON keeps as it is, in whole minutes.

    A zone would not do: when clocks change, a moment of it equals none that was read (PEP 495).
    """
    minutes = (moment.utcoffset() or timedelta()) / timedelta(minutes=1)
    return timezone(timedelta(minutes=int(minutes)))


class Appointment(BaseModel):
    """An appointment of a clinic, as Cobalt last told it.

    Ids are strings. Times are aware, in the clinic's zone; `duration` is in minutes. `status` is
    the clinic's own code, `normalized_status` what it means. A field that its edition of Cobalt
    does not have is unset; `extra` has what no field takes, under the name that it came with.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True
    )

    id: str
    ehr_appointment_id: str | None = None
    datetime: AwareDatetime | None = None
    duration: int | float | None = None
    status: str | None = None
    normalized_status: NormalizedStatus | None = None
    appointment_type: str | None = None
    appointment_mode: str | None = None
    location: str | None = None
    reason: str | None = None
    complaint_type: str | None = None
    patient_name: str | None = None
    patient_first_name: str | None = None
    patient_last_name: str | None = None
    patient_mrn: str | None = None
    patient_ehr_id: str | None = None
    patient_dob: str | None = None
    patient_gender: str | None = None
    patient_phone: str | None = None
    provider_ehr_id: str | None = None
    provider_name: str | None = None
    provider_npi: str | None = None
    secondary_provider_ehr_id: str | None = None
    insurance: str | None = None
    insurance_number: str | None = None
    insurance_group_number: str | None = None
    insurance_subscriber: str | None = None
    secondary_insurance: str | None = None
    secondary_insurance_number: str | None = None
    insurances: list[Any] | None = None
    diagnoses: list[Any] | None = None
    medications: list[Any] | None = None
    note: str | None = None
    progress_note: str | None = None
    created_at: AwareDatetime | None = None
    created_by: str | None = None
    object_metadata: dict[str, Any] | None = None
    extra: dict[str, Any] = Field(default_factory=dict)

    def __repr__(self) -> str:
        """Tell nothing of a patient."""
        return f"{type(self).__name__}(id={self.id!r})"

    __str__ = __repr__

    @property
    def day(self) -> date | None:
        """Where the clinic is: that of its time, or the one that came in place of a time."""
        if self.datetime:
            return self.datetime.date()
        given = [self.extra.get(name) for name in ("datetime", "date_time")]
        return next(filter(None, map(_day_alone, given)), None)

    @classmethod
    def read(cls, item: Mapping[str, Any], clinic: Clinic, **facts: Any) -> Self:  # noqa: ANN401
        """Read an appointment of either edition; nothing that Cobalt may send makes it fail.

        `facts` are the fields that a kind of appointment has besides, which come from elsewhere.
        The newest edition leaves out what is null, so all its fields count as set. Where an item
        has a field by both of its names, the newer one counts.
        """
        is_older = not item.keys().isdisjoint(OLDER_NAMES)
        values: dict[str, Any] = {} if is_older else dict.fromkeys(_NEWEST)
        extra: dict[str, Any] = {}
        for name in sorted(item, key=OLDER_NAMES.__contains__):
            field, given = OLDER_NAMES.get(name, name), item[name]
            reader = READERS.get(field)
            value = reader(given, clinic) if reader and given is not None else None
            is_lost = value is None and (given is not None or not reader)
            if is_lost or values.get(field) not in (None, value):
                extra[name] = given
            elif values.get(field) is None:
                values[field] = value
        values["id"] = values.get("id") or _id_of(item)
        status = values.get("status")
        values["normalized_status"] = normalized(status, clinic.visit_statuses)
        return cls(**values, extra=extra, **facts)

    def differences(self, later: "Appointment") -> list[str]:
        """Name the fields in which a later sight of the same appointment differs.

        Of what both sights tell: an edition of Cobalt that has fewer fields changes nothing. What a
        status means follows from the status, so it differs only with that.
        """
        both = (self.model_fields_set & later.model_fields_set) - {"normalized_status", "extra"}
        names = [name for name in FIELDS if name in both]
        changed = [name for name in names if getattr(self, name) != getattr(later, name)]
        known = self.extra.keys() & later.extra.keys()
        if any(self.extra[name] != later.extra[name] for name in known):
            changed.append("extra")
        return changed


FIELDS = tuple(Appointment.model_fields)
NOTES = ("note", "progress_note")
"""What a cached read leaves out unless it is asked for (docs: Appointments, `include_note`)."""
OLDER_NAMES = {
    "date_time": "datetime",
    "mrn": "patient_mrn",
    "patient_id": "patient_ehr_id",
    "patient_sex": "patient_gender",
    "provider_id": "provider_ehr_id",
}
"""What older editions call a field (docs: Webhooks, Appointments)."""

Place = tuple[bool, float, str]
"""Where an appointment stands in its day: by time, then by id; those without a time come last."""


def place_in_day(begins: Moment | None, name: str) -> Place:
    """Tell where an appointment stands in its day, by its time and its id."""
    return begins is None, begins.timestamp() if begins else 0.0, name


Reader = Callable[[Any, Clinic], Any]


def _text(given: object, _clinic: Clinic) -> str | None:
    if isinstance(given, int | float) and not isinstance(given, bool):
        return json.dumps(given)
    return given if isinstance(given, str) else None


def _own_id(given: object, _clinic: Clinic) -> str | None:
    return first_id({"id": given}, "id")


_LOCAL = pattern(
    r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:?\d{2})?", re.ASCII
)


def _moment(given: object, clinic: Clinic) -> Moment | None:
    """Read a time; None for a day alone, which has none, and for what is no time."""
    try:
        if isinstance(given, str):
            return clinic.local(Moment.fromisoformat(given)) if _LOCAL.fullmatch(given) else None
        moment = moment_of(given)
        return clinic.local(moment) if moment else None
    except (ValueError, OverflowError):
        return None


def _day_alone(given: object) -> date | None:
    try:
        return date.fromisoformat(given) if isinstance(given, str) else None
    except ValueError:
        return None


_MINUTES = pattern(r"(\d{1,6}(?:\.\d{1,6})?) ?(?:m|mins?|minutes?)?", re.ASCII | re.IGNORECASE)


def _minutes(given: object, _clinic: Clinic) -> int | float | None:
    if isinstance(given, str):
        found = _MINUTES.fullmatch(given)
        given = float(found[1]) if found else None
    if isinstance(given, bool) or not isinstance(given, int | float) or given < 0:
        return None
    return int(given) if given == int(given) else given


def _list(given: object, _clinic: Clinic) -> list[Any] | None:
    return given if isinstance(given, list) else None


def _object(given: object, _clinic: Clinic) -> dict[str, Any] | None:
    return given if isinstance(given, dict) else None


READERS: dict[str, Reader] = {
    **dict.fromkeys(FIELDS, _text),
    "id": _own_id,
    **dict.fromkeys(("datetime", "created_at"), _moment),
    "duration": _minutes,
    **dict.fromkeys(("insurances", "diagnoses", "medications"), _list),
    "object_metadata": _object,
}
"""How each field is read; None for what is not of its kind, which is kept under `extra`."""
for _ours in ("normalized_status", "extra"):
    del READERS[_ours]
_NEWEST = tuple(name for name in READERS if name != "created_by")


def _id_of(item: Mapping[str, Any]) -> str:
    """Name an appointment whose `id` is none.

    By the id that the EMR has for it; else by all that it says, so that equal ones are one.
    """
    of_emr = first_id(item, "ehr_appointment_id")
    if of_emr:
        return f"ehr-{of_emr}"
    text = json.dumps(item, sort_keys=True, separators=(",", ":"))
    return f"unidentified-{sha256(text.encode()).hexdigest()[:32]}"


# ------------------------------------------------------------------------------ what a fetch brings


class Fetched(NamedTuple):
    """What a result says.

    `created_at` is when Cobalt made it, by its own word. `is_complete` where it lists as many
    appointments as it says that there are, and each of them is one.
    """

    created_at: Moment | None
    is_complete: bool
    items: list[dict[str, Any]]

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Read the bytes of a result; `ValueError` where they are none.

        Half of a surrogate pair, which no UTF-8 can hold, becomes U+FFFD. A number beyond a float,
        and one longer than any id, stays the text that it was.
        """
        document = json.loads(body, parse_float=_float, parse_int=_int, parse_constant=str)
        if not nests_within(document, MAX_EVENT_DEPTH):
            raise ValueError
        event = CobaltEvent.read(_whole(document) if _SURROGATE.search(body) else document)
        data = event.data if isinstance(event.data, dict) else {}
        listed = data.get("appointments")
        if listed is None:
            listed = []
        if not isinstance(listed, list):
            raise ValueError  # noqa: TRY004 - one error for all that is no result
        items = [each for each in listed if isinstance(each, dict)]
        told = data.get("appointment_count")
        is_complete = not isinstance(told, bool) and told == len(listed) == len(items)
        return cls(event.created_at, is_complete, items)


_SURROGATE = pattern(rb"\\u[dD][89a-fA-F]")


def _float(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _int(text: str) -> int | str:
    return int(text) if len(text) <= MAX_ID_LENGTH else text


def _whole(value: Any) -> Any:  # noqa: ANN401 - whatever JSON gives
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, dict):
        return {_whole(name): _whole(each) for name, each in value.items()}
    return value
