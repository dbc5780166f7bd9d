"""Stored appointments as FHIR R4 (4.0.1): an `Appointment` each, in a `Bundle` of type `searchset`.

What goes in is the JSON of a `SeenAppointment` as it lies in a snapshot. Nothing but `fetched_by`
is lost: what FHIR has no element for, or what does not fit into its element, is an extension
(docs/fhir.md). Nothing is made up: a required element that nobody told has a `data-absent-reason`.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from cobalt_relay.appointments import NormalizedStatus
from cobalt_relay.models import MAX_NUMBER, Window, iso
from cobalt_relay.patterns import pattern

EXTENSION = "urn:cobalt-relay:fhir:"
"""Before the name of a field, the `url` of its extension."""
NPI = "http://hl7.org/fhir/sid/us-npi"
MEDICAL_RECORD_NUMBER = {
    "coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]
}
ABSENT = {
    "extension": [
        {
            "url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason",
            "valueCode": "unknown",
        }
    ]
}
MAX_TEXT = 1024 * 1024
"""Characters of a FHIR `string` at most."""
LEFT_OUT = ("fetched_by",)
"""Names a job of the relay, which is nothing of the appointment's."""

_NAMESPACE = UUID("0b6f6c0e-5d0b-4b8e-9c0e-6f1f5f6d7a42")
_NOTHING: Mapping[Any, Any] = MappingProxyType({})


def resource(
    item: Mapping[str, Any], connection_id: str, visit_statuses: Mapping[str, str] = _NOTHING
) -> dict[str, Any]:
    """Give a stored appointment as a FHIR `Appointment`; whatever Cobalt sent, it is a valid one.

    `visit_statuses` is the clinic's own list of what its status codes mean. The `id` stays the same
    for a connection's appointment, `meta.versionId` for what is told of it.
    """
    parts: dict[str, dict[str, Any]] = {part: {} for part in ("", *PARTICIPANTS)}
    kept: dict[str, Any] = {}
    for field, given in item.items():
        if given is None or field in LEFT_OUT:
            continue
        element = ELEMENTS.get(field)
        value = element.read(given) if element else None
        if element and value is not None:
            element.put(value, parts[element.part], connection_id)
        if element is None or value is None or (value != given and element.read is not _text):
            kept[field] = given
    if item.get("status"):
        kept["status_description"] = visit_statuses.get(item["status"])
    appointment: dict[str, Any] = {
        "resourceType": "Appointment",
        "id": str(uuid5(_NAMESPACE, f"{connection_id}\n{item['id']}")),
        **parts.pop(""),
    }
    status, start = appointment.get("status"), appointment.get("start")
    told = {part: content for part, content in parts.items() if content}
    others = {
        "end": _end(start, item.get("duration")),
        "contained": [
            {"resourceType": PARTICIPANTS[part].kind, "id": part, **content}
            for part, content in told.items()
        ],
        "participant": [_participant(part, item, status) for part in told]
        or [{"actor": ABSENT, **_participation(status)}],
        "extension": [each for field, given in kept.items() for each in _extensions(field, given)],
    }
    appointment |= {name: value for name, value in others.items() if value}
    appointment |= {f"_{name}": ABSENT for name in REQUIRED if name not in appointment}
    version = uuid5(_NAMESPACE, _json(appointment, sort_keys=True))
    appointment["meta"] = {**appointment.get("meta", {}), "versionId": str(version)}
    return appointment


REQUIRED = ("status", "start", "end")
"""Of FHIR's own accord, or by its rules app-2 and app-3: told, or told that nobody knows."""


def entry(
    item: Mapping[str, Any], connection_id: str, visit_statuses: Mapping[str, str] = _NOTHING
) -> dict[str, Any]:
    """Give a stored appointment as an entry of a `searchset`; see `resource`."""
    appointment = resource(item, connection_id, visit_statuses)
    return {
        "fullUrl": f"urn:uuid:{appointment['id']}",
        "resource": appointment,
        "search": {"mode": "match"},
    }


def outcome(
    days_never_fetched: Sequence[date],
    days_stale: Mapping[date, datetime | str | None] = _NOTHING,
) -> dict[str, Any] | None:
    """Say which days a bundle may lack something of, as an entry; None where it lacks nothing.

    `days_stale` has the days whose age the reader should know, and as of when each is: an aware
    moment or the snapshot's text; None where nobody saw the whole day, only some of its
    appointments. Days in a row that have the same said of them are one issue.
    """
    by_age: dict[str | None, list[date]] = {}
    for day, as_of in days_stale.items():
        text = iso(as_of) if isinstance(as_of, datetime) else as_of
        by_age.setdefault(text, []).append(day)
    said = [
        (
            "warning",
            "incomplete",
            "Never fetched: {}.",
            days_never_fetched,
        ),
        (
            "warning",
            "incomplete",
            "Never fetched as a whole: {}.",
            by_age.pop(None, []),
        ),
        *(
            ("information", "informational", f"As of {as_of}: {{}}.", days)
            for as_of, days in sorted(by_age.items(), key=lambda each: each[0] or "")
        ),
    ]
    issues = [
        {"severity": severity, "code": code, "diagnostics": words.format(run)}
        for severity, code, words, days in said
        for run in map(_span, Window.runs(days))
    ]
    if not issues:
        return None
    return {
        "resource": {"resourceType": "OperationOutcome", "issue": issues},
        "search": {"mode": "outcome"},
    }


def write_bundle(
    entries: Iterable[Mapping[str, Any]],
    *,
    links: Mapping[str, str],
    total: int | None = None,
    outcome: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """Write a `searchset` in ASCII, piece by piece, one entry at a time; the outcome comes last.

    `links` are URLs by their relation (`self`, `next`). `total` counts the matches of all pages,
    where that is known. The same version of an appointment is written once, however often it comes:
    no two entries of a bundle may be alike (FHIR's rule bdl-7).
    """
    head: dict[str, Any] = {"resourceType": "Bundle", "type": "searchset"}
    if total is not None:
        head["total"] = total
    if links:
        head["link"] = [{"relation": relation, "url": url} for relation, url in links.items()]
    yield _ascii(head)[:-1]
    before, after = ',"entry":[', "}"
    for each in _distinct(entries):
        yield before + _ascii(each)
        before, after = ",", "]}"
    if outcome is not None:
        yield before + _ascii(outcome)
        after = "]}"
    yield after


_ascii = json.JSONEncoder(separators=(",", ":")).encode


def _distinct(entries: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    seen: set[tuple[str, str]] = set()
    for each in entries:
        version = (each["fullUrl"], each["resource"]["meta"]["versionId"])
        if version not in seen:
            seen.add(version)
            yield each


# ----------------------------------------------------------------------- what each element can hold

_NO_CHARACTER = pattern("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What FHIR's JSON discourages and its XML cannot hold (XML 1.0, 2.2)."""
_INSTANT = pattern(
    r"(?!0000)\d{4}-\d{2}-\d{2}T(?!24)\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-](0\d|1[0-3]):[0-5]\d|[+-]14:00)",
    re.ASCII,
)
_DATE = pattern(r"\d{4}(-\d{2}(-\d{2})?)?", re.ASCII)
_NPI = pattern(r"\d{10}", re.ASCII)


def _text(given: str) -> str | None:
    """Any text, up to 1 MiB."""
    text = _readable(given)
    return text if 0 < len(text) <= MAX_TEXT else None


def _readable(given: str) -> str:
    """FHIR knows no blank text: it becomes an empty one, which nobody may write either."""
    return "" if given.isspace() else _NO_CHARACTER.sub("\ufffd", given)


def _moment(given: str) -> str | None:
    """Moments; in UTC where FHIR does not know the offset, and as given besides."""
    try:
        moment = datetime.fromisoformat(given)
        if _INSTANT.fullmatch(given):
            return given
        return _instant(moment) or _instant(moment.astimezone(UTC))
    except (ValueError, OverflowError):
        return None


def _instant(moment: datetime) -> str | None:
    text = moment.isoformat().replace("+00:00", "Z")
    return text if _INSTANT.fullmatch(text) else None


def _end(start: str | None, minutes: object) -> str | None:
    if start is None or isinstance(minutes, bool) or not isinstance(minutes, int | float):
        return None
    try:
        return _instant(datetime.fromisoformat(start) + timedelta(minutes=minutes))
    except (ValueError, OverflowError):
        return None


def _minutes(given: float) -> float | None:
    """Whole minutes, at least one."""
    return given if isinstance(given, int) and 1 <= given < 2**31 else None


def _date(given: str) -> str | None:
    """`YYYY-MM-DD`, `YYYY-MM` or `YYYY`, of the calendar."""
    try:
        date.fromisoformat(f"{given}-01-01"[:10])
    except ValueError:
        return None
    return given if _DATE.fullmatch(given) else None


GENDERS: Mapping[str, str] = {
    **dict.fromkeys(("male", "m"), "male"),
    **dict.fromkeys(("female", "f"), "female"),
    **dict.fromkeys(("other", "o", "ambiguous", "a"), "other"),
    **dict.fromkeys(("unknown", "u"), "unknown"),
}
"""FHIR's code for a gender, by the words and letters of HL7 v2 (table 0001) in lower case."""


def _gender(given: str) -> str | None:
    """Words and letters of `GENDERS`; as given besides, where that is no code of FHIR's."""
    return GENDERS.get(given.strip().casefold())


def _npi(given: str) -> str | None:
    """Ten digits."""
    return given if _NPI.fullmatch(given) else None


def _status(given: str) -> str | None:
    """Codes of FHIR's."""
    return given if given in NormalizedStatus else None


# ------------------------------------------------------------------------------ where each field is


class Element(NamedTuple):
    """Where a field is in FHIR: in which contained resource, or `""` for the appointment itself.

    In a path, `[]` is the one object of a list and `[+]` one more of them. `read` gives None for
    what the element cannot hold. `beside` is what stands next to the value; `system` too, within
    the connection where it is no URL: another clinic may have the same number for somebody else.
    """

    part: str
    path: str
    read: Callable[[Any], Any] = _text
    system: str | None = None
    beside: Mapping[str, Any] = _NOTHING

    def put(self, value: object, into: dict[str, Any], connection_id: str) -> None:
        """Set the element in its resource."""
        *steps, last = self.path.split(".")
        for step in steps:
            name, bracket, kind = step.partition("[")
            if not bracket:
                into = into.setdefault(name, {})
                continue
            listed = into.setdefault(name, [])
            if kind == "+]" or not listed:
                listed.append({})
            into = listed[-1]
        name, bracket, _ = last.partition("[")
        into |= self.beside
        if self.system:
            into["system"] = system_of(self.system, connection_id)
        into[name] = [value] if bracket else value


def system_of(name: str, connection_id: str) -> str:
    """Give the namespace of an identifier: of the connection, if it is not everybody's."""
    return name if ":" in name else f"urn:cobalt-relay:{connection_id}:{name}"


ELEMENTS: Mapping[str, Element] = {
    "id": Element("", "identifier[+].value", system="appointment-id"),
    "ehr_appointment_id": Element("", "identifier[+].value", system="ehr-appointment-id"),
    "datetime": Element("", "start", _moment),
    "duration": Element("", "minutesDuration", _minutes),
    "normalized_status": Element("", "status", _status),
    "appointment_type": Element("", "appointmentType.text"),
    "location": Element("location", "name"),
    "reason": Element("", "reasonCode[].text"),
    "patient_name": Element("patient", "name[].text"),
    "patient_first_name": Element("patient", "name[].given[]"),
    "patient_last_name": Element("patient", "name[].family"),
    "patient_mrn": Element(
        "patient",
        "identifier[+].value",
        system="patient-mrn",
        beside={"type": MEDICAL_RECORD_NUMBER},
    ),
    "patient_ehr_id": Element("patient", "identifier[+].value", system="ehr-patient-id"),
    "patient_dob": Element("patient", "birthDate", _date),
    "patient_gender": Element("patient", "gender", _gender),
    "patient_phone": Element("patient", "telecom[].value", beside={"system": "phone"}),
    "provider_ehr_id": Element("provider", "identifier[+].value", system="ehr-provider-id"),
    "provider_name": Element("provider", "name[].text"),
    "provider_npi": Element("provider", "identifier[+].value", _npi, system=NPI),
    "secondary_provider_ehr_id": Element(
        "secondary-provider", "identifier[+].value", system="ehr-provider-id"
    ),
    "note": Element("", "comment"),
    "created_at": Element("", "created", _moment),
    "as_of": Element("", "meta.lastUpdated", _moment),
}
"""Every other field is an extension."""


class Participant(NamedTuple):
    """A contained resource that takes part: its type, its role and the field that names it.

    The role is a code of HL7's v3-ParticipationType: it alone tells the two providers apart.
    """

    kind: str
    named_by: str | None = None
    role: str | None = None


PARTICIPANTS: Mapping[str, Participant] = {
    "patient": Participant("Patient", "patient_name"),
    "provider": Participant("Practitioner", "provider_name", "PPRF"),
    "secondary-provider": Participant("Practitioner", role="SPRF"),
    "location": Participant("Location", "location"),
}
"""By the id of the contained resource. Each is left out where nothing is told of it."""
_ROLES = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"


PARTICIPATION: Mapping[str, str] = {
    **dict.fromkeys(("booked", "arrived", "checked-in", "fulfilled", "noshow"), "accepted"),
    **dict.fromkeys(("proposed", "pending", "waitlist"), "needs-action"),
    "cancelled": "declined",
}
"""What the status of an appointment says of everybody in it, by the definitions of FHIR's codes.

`booked`, say: "All participant(s) have been considered and the appointment is confirmed to go
ahead"; `declined`: "will not participate". The others say nothing, and Cobalt never does.
"""


def _participant(part: str, item: Mapping[str, Any], status: str | None) -> dict[str, Any]:
    kind, named_by, role = PARTICIPANTS[part]
    name = _text(item.get(named_by) or "") if named_by else None
    coding = {"system": _ROLES, "code": role}
    return {
        **({"type": [{"coding": [coding]}]} if role else {}),
        "actor": {
            "reference": f"#{part}",
            "type": kind,
            **({"display": name} if name else {}),
        },
        **_participation(status),
    }


def _participation(status: str | None) -> dict[str, Any]:
    known = PARTICIPATION.get(status or "")
    return {"status": known} if known else {"_status": ABSENT}


# --------------------------------------------------------------------------------------- extensions


def _extensions(field: str, given: object) -> Iterator[dict[str, Any]]:
    """Give what a field says: as text, as a number, else as the text of its JSON.

    Text too long for one comes in pieces, to be joined; what is empty says nothing.
    """
    url = EXTENSION + field
    if isinstance(given, int | float) and not isinstance(given, bool) and abs(given) <= MAX_NUMBER:
        yield {"url": url, "valueDecimal": given}
        return
    if isinstance(given, str):
        text = _readable(given)
    else:
        text = "" if given in (None, [], {}) else _NO_CHARACTER.sub(_escaped, _json(given))
    for start in range(0, len(text), MAX_TEXT):
        yield {"url": url, "valueString": text[start : start + MAX_TEXT]}


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _json(value: object, *, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys)


def _span(days: Window) -> str:
    return f"{days.start_date} to {days.end_date}" if days.days_between else f"{days.start_date}"
