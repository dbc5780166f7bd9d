"""Stored appointments as FHIR, judged by two libraries and by the rules that neither of them knows.

`fhirclient` has the elements of R4, none besides; `fhir.resources` has the datatypes, of R4B, whose
`Appointment` is R4's. What both pass over, `violations` holds: R4's invariants, codes and texts.
"""

import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from fhir.resources.R4B.bundle import Bundle as DatatypesBundle
from fhirclient.models.bundle import Bundle as ElementsBundle
from fhirclient.models.fhirabstractbase import FHIRValidationError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cobalt_relay import fhir
from cobalt_relay.appointments import FIELDS, OLDER_NAMES, Clinic, Fetched, NormalizedStatus
from cobalt_relay.snapshots import SeenAppointment
from sandbox.appointments import newest, oldest, with_author
from sandbox.clinics import PROFILES
from sandbox.clinics import Clinic as SandboxClinic
from sandbox.diary import window

PAGE = (Path(__file__).parents[2] / "docs" / "fhir.md").read_text()
CONNECTION = "conn_0123456789abcdef0123456789abcdef"
STATUSES = {"CONF": "Confirmed", "X": "Cancelled by patient or office", "A": "\x00", "B": " "}
SELF = {"self": "https://relay.example.com/v1/appointments?start_date=2025-01-15"}
AS_OF = datetime(2025, 1, 15, 18, tzinfo=UTC)
NEW_YORK = ZoneInfo("America/New_York")
ABSENT = {
    "extension": [
        {
            "url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason",
            "valueCode": "unknown",
        }
    ]
}


def stored(item: dict[str, Any], zone: ZoneInfo | None = NEW_YORK) -> dict[str, Any]:
    """What a snapshot holds of an item of Cobalt's."""
    body = json.dumps({"id": "e", "type": "t", "data": {"appointments": [item]}}).encode()
    clinic = Clinic(zone=zone, default=NEW_YORK, visit_statuses=STATUSES)
    [given] = Fetched.read(body).items
    seen = SeenAppointment.read(given, clinic, as_of=AS_OF, fetched_by="job_1")
    text: dict[str, Any] = json.loads(seen.model_dump_json(exclude_unset=True))
    return text


def fhir_of(**item: Any) -> dict[str, Any]:
    return fhir.resource(stored({"id": "appt_1", **item}), CONNECTION, STATUSES)


def bundle_of(*items: dict[str, Any], **facts: Any) -> dict[str, Any]:
    entries = (fhir.entry(item, CONNECTION, STATUSES) for item in items)
    bundle: dict[str, Any] = json.loads("".join(fhir.write_bundle(entries, links=SELF, **facts)))
    return bundle


def kept(resource: dict[str, Any]) -> dict[str, Any]:
    """The extensions, by the names of their fields."""
    return {
        each["url"].removeprefix(fhir.EXTENSION): each.get("valueString", each.get("valueDecimal"))
        for each in resource.get("extension", [])
    }


def contained(resource: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = (each for each in resource["contained"] if each["id"] == name)
    return found


# ---------------------------------------------------------------------------------------- the judges


def nodes(value: Any) -> Iterator[Any]:
    yield value
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            yield from nodes(each)
        else:
            yield each


STATUS_CODES = {
    *("proposed", "pending", "booked", "arrived", "fulfilled", "cancelled", "noshow"),
    *("entered-in-error", "checked-in", "waitlist"),
}
GENDER_CODES = {"male", "female", "other", "unknown"}
ISSUE_CODES = {"incomplete", "informational"}
INSTANT = (
    r"\d{4}-\d\d-\d\dT([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(Z|[+-](0\d|1[0-3]):[0-5]\d|[+-]14:00)"
)
ID = r"[A-Za-z0-9\-.]{1,64}"


def violations(bundle: dict[str, Any]) -> list[str]:
    """R4's rules that the libraries do not know; their names are R4's where it names them."""
    found = []
    for node in nodes(bundle):
        match node:
            case _ if node in (None, "", [], {}):
                found.append("ele-1: nothing is empty")
            case str():
                if node.isspace() or len(node) > 1024 * 1024:
                    found.append("string: of its length")
                if re.search("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", node):
                    found.append("string: of characters")
            case {"url": _} if "relation" not in node and len(node) != 2:
                found.append("ext-1: one value")
            case {"value": _} if "system" not in node:
                found.append("cpt-2, and our own: a system")
            case {"resourceType": _} if not re.fullmatch(ID, node.get("id", "1")):
                found.append("id: of its characters")
    entries = bundle.get("entry", [])
    names = {(e["fullUrl"], e["resource"]["meta"]["versionId"]) for e in entries if "fullUrl" in e}
    if len(names) != sum(each["search"]["mode"] == "match" for each in entries):
        found.append("bdl-7: each entry is another")
    for each in entries:
        resource = each["resource"]
        if resource["resourceType"] == "Appointment":
            found += broken_by(resource)
        elif not {issue["code"] for issue in resource["issue"]} <= ISSUE_CODES:
            found.append("issue.code: of its value set")
    return found


def broken_by(appointment: dict[str, Any]) -> list[str]:
    parts = appointment.get("contained", [])
    references = {
        each["actor"]["reference"]
        for each in appointment.get("participant", ())
        if "reference" in each.get("actor", {})
    }
    moments = [appointment.get(name) for name in ("start", "end")]
    has = [
        moment is not None or f"_{name}" in appointment
        for moment, name in zip(moments, ("start", "end"), strict=True)
    ]
    rules = {
        "app-1: type or actor": all(
            each.keys() & {"type", "actor"} for each in appointment.get("participant", ())
        ),
        "app-2: start and end": has[0] == has[1],
        "app-3: start": all(has)
        or appointment.get("status") in ("proposed", "cancelled", "waitlist"),
        "app-4: no reason": "cancelationReason" not in appointment,
        "dom-3: each is referred to": references == {f"#{each['id']}" for each in parts},
        "dom-4: no version": not any("meta" in each for each in parts),
        "status: of its value set": appointment.get("status") in {None, *STATUS_CODES},
        "status: told or absent": ("status" in appointment) != ("_status" in appointment),
        "gender: of its value set": all(
            each.get("gender", "other") in GENDER_CODES for each in parts
        ),
        "instant: with a zone": all(
            re.fullmatch(INSTANT, moment)
            for moment in (*moments, appointment["meta"]["lastUpdated"])
            if moment
        ),
        "duration: positive": appointment.get("minutesDuration") != 0,
    }
    return [rule for rule, holds in rules.items() if not holds]


def with_a_status(bundle: dict[str, Any]) -> dict[str, Any]:
    """`fhirclient` insists on a status, though FHIR takes an extension of it in its place."""
    text = json.dumps(bundle).replace('"_status":', '"status": "booked", "_status":')
    filled: dict[str, Any] = json.loads(text)
    return filled


def judged(bundle: dict[str, Any]) -> dict[str, Any]:
    """The bundle, which passed all three."""
    ElementsBundle(with_a_status(bundle), strict=True)
    DatatypesBundle.model_validate(bundle)
    assert violations(bundle) == []
    return bundle


# ------------------------------------------------------------------------------- whatever Cobalt sends

SANDBOX = [
    write(newest(7, SandboxClinic(profile, "at", "x.ehr.example"), each))
    for profile in PROFILES
    for each in window(7, profile, date(2025, 1, 15), date(2025, 1, 15), 739_266 * 1440)[:4]
    for write in (with_author, oldest)
]
fuzzed = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
NUMBERS = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(max_size=20) | st.sampled_from(
    [
        *(
            "",
            " ",
            "\t",
            "\x00",
            "\x1c",
            "a\x0bb",
            "\u00a0",
            "\ufffe",
            "<b>&",
            "{}",
            "CONF",
            "X",
            "A",
            "B",
        ),
        *("M", "f ", "Male", "UNKNOWN", "nonbinary", "1980", "1980-02-30", "1980-12", "01/02/1980"),
        *("1234567893", "12345", "45 min", "0", "1e3", "booked", "NaN", "9" * 30),
    ]
)
MOMENTS = st.one_of(
    st.datetimes(timezones=st.none() | st.timezones()).map(datetime.isoformat),
    st.sampled_from(
        [
            *("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "9999-12-31 23:59"),
            *("2025-01-15T10:00:00Z", "2025-11-02T01:30:00-04:00", "1850-01-01T00:00:00"),
            *("2025-01-15", "2025-01-15T24:00:00", "2025-01-15T10:00:60Z"),
        ]
    ),
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(TEXTS, each, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from([*FIELDS, *OLDER_NAMES, "no_field"])
ITEMS = st.dictionaries(NAMES, TEXTS | MOMENTS | NUMBERS | JSON, max_size=25)


@fuzzed
@given(items=st.lists(ITEMS, max_size=3), zone=st.sampled_from([NEW_YORK, None]))
def test_bundle_is_valid_when_cobalt_sent_anything_at_all(
    items: list[dict[str, Any]], zone: ZoneInfo | None
) -> None:
    all_stored = [stored(item, zone) for item in items]

    bundle = bundle_of(*all_stored)

    judged(bundle)
    for item in all_stored:
        assert leaves_lost(item, fhir.resource(item, CONNECTION, STATUSES)) == []


@pytest.mark.parametrize("item", SANDBOX, ids=map(str, range(len(SANDBOX))))
def test_bundle_is_valid_and_nothing_is_lost_when_the_item_is_realistic(
    item: dict[str, Any],
) -> None:
    one = stored(item)

    bundle = judged(bundle_of(one, total=1))

    assert leaves_lost(one, bundle["entry"][0]["resource"]) == []


def leaves(value: Any) -> Iterator[str]:
    match value:
        case dict():
            for name, each in value.items():
                yield from leaves(each)
                yield from leaves(name)
        case list():
            for each in value:
                yield from leaves(each)
        case str():
            if value and not value.isspace():
                yield re.sub(
                    "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", value
                )
        case _:
            yield json.dumps(value)


def leaves_lost(item: dict[str, Any], resource: dict[str, Any]) -> list[str]:
    """What an item says that its resource does not, in whichever element; blanks say nothing."""
    told = set(leaves(resource))
    for text in kept(resource).values():
        if isinstance(text, str) and text[0] in "[{":
            try:
                told |= set(leaves(json.loads(text)))
            except ValueError:
                continue
    said = {name: value for name, value in item.items() if name not in fhir.LEFT_OUT}
    return [
        leaf
        for value in said.values()
        for leaf in leaves(value)
        if leaf not in told and leaf != "null"
    ]


# ------------------------------------------------------------------------------------ negative control


ANN = {"resourceType": "Patient", "id": "patient", "birthDate": "01/02/1980"}


@pytest.mark.parametrize(
    ("broken", "judges"),
    [
        ({"status": None}, "elements datatypes ours"),
        ({"status": "no show"}, "ours"),
        ({"participant": None}, "elements datatypes ours"),
        ({"participant": [{"status": "accepted"}], "contained": None}, "ours"),
        ({"participant": [{"actor": {"display": "Ann"}}], "contained": None}, "elements datatypes"),
        ({"contained": [ANN]}, "elements datatypes ours"),
        ({"room": "Suite 200"}, "elements datatypes"),
        ({"id": "appt_123"}, "datatypes ours"),
        ({"start": "2025-01-15T10:00:00"}, "elements datatypes ours"),
        ({"end": None}, "ours"),
        ({"created": "01/15/2025"}, "elements datatypes"),
        ({"minutesDuration": "20"}, "elements"),
        ({"minutesDuration": 0}, "datatypes ours"),
        ({"reasonCode": []}, "ours"),
        ({"comment": " "}, "ours"),
        ({"comment": "\x00"}, "ours"),
        ({"extension": [{"url": "urn:x"}]}, "ours"),
        ({"extension": [{"valueString": "x"}]}, "elements datatypes"),
        ({"extension": [{"url": "urn:x", "valueCode": "a  b"}]}, "datatypes"),
    ],
)  # fmt: skip
def test_appointment_is_refused_when_it_is_broken(broken: dict[str, Any], judges: str) -> None:
    bundle = judged(bundle_of(stored(SANDBOX[0])))

    appointment = bundle["entry"][0]["resource"] | broken
    bundle["entry"][0]["resource"] = {k: v for k, v in appointment.items() if v is not None}

    assert " ".join(refused_by(bundle)) == judges


def refused_by(bundle: dict[str, Any]) -> Iterator[str]:
    try:
        ElementsBundle(bundle, strict=True)
    except FHIRValidationError:
        yield "elements"
    try:
        DatatypesBundle.model_validate(bundle)
    except ValidationError:
        yield "datatypes"
    if violations(bundle):
        yield "ours"


# ------------------------------------------------------------------------------------ what is told how


@pytest.mark.parametrize(
    ("status", "code"), [("CONF", "booked"), ("X", "cancelled"), ("Q7", None), (None, None)]
)
def test_status_is_fhirs_code_or_said_to_be_unknown_when_it_means_nothing(
    status: str | None, code: str | None
) -> None:
    appointment = fhir_of(status=status)

    assert appointment.get("status") == code
    assert appointment.get("_status") == (None if code else ABSENT)
    assert kept(appointment).get("status") == status
    assert kept(appointment).get("status_description") == STATUSES.get(status or "")


def test_every_normalized_status_is_a_code_of_fhir() -> None:
    assert set(NormalizedStatus) == STATUS_CODES


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("CONF", {"status": "accepted"}),
        ("waitlisted", {"status": "needs-action"}),
        ("X", {"status": "declined"}),
        ("no show", {"status": "accepted"}),
        ("in error", {"_status": ABSENT}),
        ("Q7", {"_status": ABSENT}),
    ],
)
def test_participants_accepted_only_when_the_status_says_so(
    status: str, told: dict[str, Any]
) -> None:
    appointment = fhir_of(status=status, patient_name="Ann Sample", location="Main Office")

    assert appointment["participant"] == [
        {"actor": {"reference": "#patient", "type": "Patient", "display": "Ann Sample"}, **told},
        {"actor": {"reference": "#location", "type": "Location", "display": "Main Office"}, **told},
    ]


@pytest.mark.parametrize(
    ("begins", "minutes", "start", "end"),
    [
        ("2025-01-15T10:00:00-05:00", 20, "2025-01-15T10:00:00-05:00", "2025-01-15T10:20:00-05:00"),
        ("2025-01-15T10:00:00", 22.5, "2025-01-15T10:00:00-05:00", "2025-01-15T10:22:30-05:00"),
        ("2025-01-15T10:00:00", 0, "2025-01-15T10:00:00-05:00", "2025-01-15T10:00:00-05:00"),
        ("2025-11-02T01:30:00-04:00", 60, "2025-11-02T01:30:00-04:00", "2025-11-02T02:30:00-04:00"),
        ("2025-01-15T10:00:00", None, "2025-01-15T10:00:00-05:00", None),
        ("2025-01-15T10:00:00", 10**30, "2025-01-15T10:00:00-05:00", None),
        ("soon", 20, None, None),
    ],
)
def test_end_follows_from_the_duration_or_is_said_to_be_unknown(
    begins: str, minutes: float | None, start: str | None, end: str | None
) -> None:
    appointment = fhir_of(datetime=begins, duration=minutes)

    assert (appointment.get("start"), appointment.get("end")) == (start, end)
    assert appointment.get("_start") == (None if start else ABSENT)
    assert appointment.get("_end") == (None if end else ABSENT)


@pytest.mark.parametrize("minutes", [0, 22.5, 2**31])
def test_duration_is_kept_when_it_is_no_count_of_minutes(minutes: float) -> None:
    appointment = fhir_of(duration=minutes)

    assert "minutesDuration" not in appointment
    assert kept(appointment)["duration"] == minutes


def test_moment_is_in_utc_when_fhir_does_not_know_its_offset() -> None:
    item = stored({"id": "1", "datetime": "2025-01-15T10:00:00+15:30", "duration": 5}, zone=None)

    appointment = fhir.resource(item, CONNECTION)

    assert appointment["start"] == "2025-01-14T18:30:00Z"
    assert appointment["end"] == "2025-01-14T18:35:00Z"
    assert kept(appointment)["datetime"] == "2025-01-15T10:00:00+15:30"


@pytest.mark.parametrize(
    ("given_gender", "code", "as_given"),
    [
        ("female", "female", None),
        ("F", "female", "F"),
        ("Male", "male", "Male"),
        (" m ", "male", " m "),
        ("U", "unknown", "U"),
        ("O", "other", "O"),
        ("Two-Spirit", None, "Two-Spirit"),
    ],
)
def test_gender_is_fhirs_code_and_kept_as_given_when_it_is_another(
    given_gender: str, code: str | None, as_given: str | None
) -> None:
    appointment = fhir_of(patient_gender=given_gender, patient_name="Ann Sample")

    assert contained(appointment, "patient").get("gender") == code
    assert kept(appointment).get("patient_gender") == as_given


@pytest.mark.parametrize(
    ("dob", "is_date"),
    [
        ("1980-02-29", True),
        ("1980-02", True),
        ("1980", True),
        ("1981-02-29", False),
        ("19800229", False),
        ("1980-W05", False),
        ("02/29/1980", False),
        ("1980-02-29T00:00:00Z", False),
        ("0000-01-01", False),
        ("198", False),
    ],
)
def test_date_of_birth_is_kept_as_given_when_it_is_no_date_of_fhir(dob: str, is_date: bool) -> None:
    appointment = fhir_of(patient_dob=dob, patient_name="Ann Sample")

    assert contained(appointment, "patient").get("birthDate") == (dob if is_date else None)
    assert kept(appointment).get("patient_dob") == (None if is_date else dob)


def test_provider_has_an_npi_only_when_it_is_one() -> None:
    right, wrong = fhir_of(provider_npi="1234567893"), fhir_of(provider_npi="pending")

    assert contained(right, "provider")["identifier"] == [
        {"system": "http://hl7.org/fhir/sid/us-npi", "value": "1234567893"}
    ]
    assert kept(wrong)["provider_npi"] == "pending"


def test_same_number_is_another_patients_when_the_clinic_is_another() -> None:
    item = stored({"id": "appt_1", "patient_mrn": "1001"})

    here, there = fhir.resource(item, CONNECTION), fhir.resource(item, "conn_other")

    (mine,), (theirs,) = (contained(it, "patient")["identifier"] for it in (here, there))
    assert mine["value"] == theirs["value"] == "1001"
    assert mine["system"] != theirs["system"]
    assert here["id"] != there["id"]


def test_participant_is_unknown_when_nobody_is_named() -> None:
    appointment = fhir_of()

    assert appointment["participant"] == [{"actor": ABSENT, "_status": ABSENT}]
    assert "contained" not in appointment


def test_nothing_is_told_of_the_job_that_fetched_it() -> None:
    appointment = fhir_of()

    assert "job_1" not in json.dumps(appointment)


def test_comment_is_there_only_when_the_item_has_its_note() -> None:
    item = stored(SANDBOX[0])
    without = {name: value for name, value in item.items() if name not in ("note", "progress_note")}

    appointments = fhir.resource(item, CONNECTION), fhir.resource(without, CONNECTION)

    assert appointments[0]["comment"] == item["note"]
    assert "comment" not in appointments[1]
    assert appointments[0]["id"] == appointments[1]["id"]
    assert appointments[0]["meta"]["versionId"] != appointments[1]["meta"]["versionId"]


def test_characters_are_replaced_when_no_fhir_text_may_have_them() -> None:
    appointment = fhir_of(
        note="a\x00b\tc", complaint_type="\x0b", object_metadata={"k": "\x00\ufffe"}
    )

    assert appointment["comment"] == "a\ufffdb\tc"
    assert "complaint_type" not in kept(appointment)
    assert kept(appointment)["object_metadata"] == r'{"k":"\u0000\ufffe"}'


def test_text_comes_in_pieces_when_it_is_too_long_for_one() -> None:
    note = "word " * 250_000

    appointment = fhir_of(note=note)

    pieces = [each["valueString"] for each in appointment["extension"]]
    assert "comment" not in appointment
    assert len(pieces) == 2
    assert "".join(pieces) == note
    judged(bundle_of(stored({"id": "appt_1", "note": note})))


# -------------------------------------------------------------------------------------------- bundles


def test_bundle_has_no_entry_when_there_is_nothing_to_tell() -> None:
    bundle = judged(bundle_of(total=0))

    assert bundle == {
        "resourceType": "Bundle",
        "type": "searchset",
        "total": 0,
        "link": [{"relation": "self", "url": SELF["self"]}],
    }


def test_bundle_holds_one_entry_at_a_time_when_it_is_written() -> None:
    made: list[str] = []

    def entries() -> Iterator[dict[str, Any]]:
        for item in map(stored, SANDBOX[:3]):
            made.append(item["id"])
            yield fhir.entry(item, CONNECTION)

    pieces = fhir.write_bundle(entries(), links={}, total=None, outcome=None)

    assert [len(made) for _ in pieces] == [0, 1, 2, 3, 3]


def test_version_is_written_once_when_two_days_have_it() -> None:
    item, later = (stored({"id": "appt_1", "reason": reason}) for reason in ("cough", "rash"))

    bundle = judged(bundle_of(item, later, item))

    assert [each["resource"]["reasonCode"] for each in bundle["entry"]] == [
        [{"text": "cough"}],
        [{"text": "rash"}],
    ]


def test_outcome_names_the_days_in_runs_when_some_were_never_fetched() -> None:
    days = [date(2025, 1, day) for day in (31, 15, 16, 17, 20)]
    ages = {
        date(2025, 1, 21): None,
        date(2025, 1, 22): "2025-01-15T18:00:00.000Z",
        date(2025, 1, 23): AS_OF,
        date(2025, 1, 25): AS_OF,
    }

    outcome = fhir.outcome(days, ages)

    assert outcome
    assert [tuple(issue.values()) for issue in outcome["resource"]["issue"]] == [
        ("warning", "incomplete", "Never fetched: 2025-01-15 to 2025-01-17."),
        ("warning", "incomplete", "Never fetched: 2025-01-20."),
        ("warning", "incomplete", "Never fetched: 2025-01-31."),
        ("warning", "incomplete", "Never fetched as a whole: 2025-01-21."),
        (
            "information",
            "informational",
            "As of 2025-01-15T18:00:00.000Z: 2025-01-22 to 2025-01-23.",
        ),
        ("information", "informational", "As of 2025-01-15T18:00:00.000Z: 2025-01-25."),
    ]
    entries = judged(bundle_of(stored(SANDBOX[0]), outcome=outcome))["entry"]
    assert [each["search"]["mode"] for each in entries] == ["match", "outcome"]
    assert judged(bundle_of(outcome=outcome))["entry"] == [outcome]


def test_outcome_is_none_when_there_is_nothing_to_say() -> None:
    outcome = fhir.outcome([])

    assert outcome is None


# ----------------------------------------------------------------------------------------- docs/fhir.md


def row(field: str, element: fhir.Element) -> str:
    part, path, read, system, _ = element
    place = f"contained `#{part}`" if part else "`Appointment`"
    path = re.sub(r"\[.?\]", "", path)
    within = f", `system` {fhir.system_of(system, '<connection>')}" if system else ""
    return f"| `{field}` | {place} | `{path}`{within} | {read.__doc__} |"


def test_page_has_every_element_and_every_extension() -> None:
    elements = [row(*each) for each in fhir.ELEMENTS.items()]
    participants = [
        f"| `#{part}` | `{kind}` | {f'`{role}`' if role else ''} |"
        for part, (kind, _, role) in fhir.PARTICIPANTS.items()
    ]
    participations = [f"| `{status}` | `{code}` |" for status, code in fhir.PARTICIPATION.items()]
    extensions = [name for name in FIELDS if name not in fhir.ELEMENTS]

    drawn = [line for line in PAGE.splitlines() if re.match(r"\| `", line)]

    assert drawn == [*elements, *participants, *participations]
    listed = PAGE.partition("Always extensions: ")[2].partition(".\n")[0]
    assert re.findall(r"`(\w+)`", listed) == [*extensions, "status_description"]


def test_example_of_the_page_is_what_the_code_makes_of_it() -> None:
    item, example = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
    seen = SeenAppointment.model_validate_json(json.dumps(item))

    entry = fhir.entry(item, "conn_5f2c", {"CHK": "Checked Out"})

    assert json.loads(seen.model_dump_json(exclude_unset=True)) == item
    assert entry["resource"] == example
    judged(json.loads("".join(fhir.write_bundle([entry], links=SELF))))
