"""Both editions become one appointment, and nothing that Cobalt says gets lost on the way."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cobalt_relay.appointments import (
    FIELDS,
    OLDER_NAMES,
    Appointment,
    Clinic,
    Fetched,
    NormalizedStatus,
    normalized,
)
from cobalt_relay.json_limits import MAX_EVENT_DEPTH
from sandbox.appointments import newest, oldest
from sandbox.clinics import PROFILES, VOCABULARIES
from sandbox.clinics import Clinic as SandboxClinic
from sandbox.diary import DAY, day_of

DAY_SHOWN = 739_000
"""As `date.toordinal` counts: a Wednesday of 2024."""
NEW_YORK = ZoneInfo("America/New_York")
CHICAGO = ZoneInfo("America/Chicago")
STATUSES = {"PEN": "Pending", "X": "Cancelled by patient or office"}
CLINIC = Clinic(NEW_YORK, CHICAGO, STATUSES)
UNKNOWN_ZONE = Clinic(None, CHICAGO, {})
DOCUMENTED = [
    "id",
    "ehr_appointment_id",
    "datetime",
    "duration",
    "status",
    "appointment_type",
    "appointment_mode",
    "location",
    "reason",
    "complaint_type",
    "patient_name",
    "patient_first_name",
    "patient_last_name",
    "patient_mrn",
    "patient_ehr_id",
    "patient_dob",
    "patient_gender",
    "patient_phone",
    "provider_ehr_id",
    "provider_name",
    "provider_npi",
    "secondary_provider_ehr_id",
    "insurance",
    "insurance_number",
    "insurance_group_number",
    "insurance_subscriber",
    "secondary_insurance",
    "secondary_insurance_number",
    "insurances",
    "diagnoses",
    "medications",
    "note",
    "progress_note",
    "created_at",
    "object_metadata",
]
"""docs: Appointments, the fields of the newest edition."""


def read(clinic: Clinic = CLINIC, **item: Any) -> Appointment:
    return Appointment.read({"id": "appt_1", **item}, clinic)


def sandbox_items() -> Iterator[tuple[dict[str, Any], Clinic]]:
    for profile in PROFILES[:3]:
        clinic = SandboxClinic(profile, "token", "emr.example")
        for entry in day_of(1, profile, 0, DAY_SHOWN, DAY_SHOWN * DAY):
            statuses = dict(profile.statuses.values())
            yield newest(1, clinic, entry), Clinic(profile.zone, CHICAGO, statuses)


# ---------------------------------------------------------------------------------------- its fields


def test_fields_are_the_documented_ones_and_ours() -> None:
    ours = {"normalized_status", "created_by", "extra"}

    assert set(FIELDS) == {*DOCUMENTED, *ours}
    assert set(OLDER_NAMES.values()) < set(DOCUMENTED)


def test_editions_say_the_same_when_they_tell_of_the_same() -> None:
    for item, clinic in sandbox_items():
        new, old = Appointment.read(item, clinic), Appointment.read(oldest(item), clinic)

        assert new.differences(old) == old.differences(new) == []
        assert old.extra == new.extra == {}
        shared = old.model_fields_set - {"extra"}
        assert {name: getattr(old, name) for name in shared} == {
            name: getattr(new, name) for name in shared
        }
        assert {"patient_mrn", "patient_ehr_id", "patient_gender", "datetime"} < shared
        assert new.datetime is not None
        assert new.datetime.isoformat() == item["datetime"]


@pytest.mark.parametrize(
    ("item", "field", "value"),
    [
        ({"patient_ehr_id": 4711}, "patient_ehr_id", "4711"),
        ({"patient_id": 4711}, "patient_ehr_id", "4711"),
        ({"mrn": "a"}, "patient_mrn", "a"),
        ({"mrn": "old", "patient_mrn": "new"}, "patient_mrn", "new"),
        ({"mrn": "old", "patient_mrn": None}, "patient_mrn", "old"),
        ({"duration": "15"}, "duration", 15),
        ({"duration": "15 minutes"}, "duration", 15),
        ({"duration": 22.5}, "duration", 22.5),
        ({"duration": -5}, "duration", None),
        ({"duration": "soon"}, "duration", None),
        ({"duration": True}, "duration", None),
        ({"note": ""}, "note", ""),
        ({"diagnoses": "J20.9"}, "diagnoses", None),
        ({"object_metadata": [1]}, "object_metadata", None),
        ({"location": {"name": "Main"}}, "location", None),
    ],
)
def test_field_is_read_or_kept_as_it_came(item: dict[str, Any], field: str, value: object) -> None:
    appointment = read(**item)

    assert getattr(appointment, field) == value
    lost = {name: given for name, given in item.items() if given is not None and value is None}
    lost |= {"mrn": "old"} if value == "new" else {}
    assert appointment.extra == lost


@pytest.mark.parametrize(
    ("given", "clinic", "read_as"),
    [
        ("2025-01-15T10:00:00-05:00", CLINIC, "2025-01-15T10:00:00-05:00"),
        ("2025-01-15T15:00:00Z", CLINIC, "2025-01-15T10:00:00-05:00"),
        ("2025-07-15T10:00:00.250-07:00", CLINIC, "2025-07-15T13:00:00.250000-04:00"),
        ("2025-01-15T10:00", CLINIC, "2025-01-15T10:00:00-05:00"),
        ("2025-01-15 10:00:00", CLINIC, "2025-01-15T10:00:00-05:00"),
        (1736953200, CLINIC, "2025-01-15T10:00:00-05:00"),
        ("2025-01-15T23:30:00-08:00", UNKNOWN_ZONE, "2025-01-15T23:30:00-08:00"),
        ("2025-01-15T15:00:00Z", UNKNOWN_ZONE, "2025-01-15T09:00:00-06:00"),
        ("2025-01-15T10:00:00", UNKNOWN_ZONE, "2025-01-15T10:00:00-06:00"),
    ],
)
def test_time_is_aware_and_the_clinics(given: object, clinic: Clinic, read_as: str) -> None:
    appointment = read(clinic, datetime=given, created_at=given)

    document = json.loads(appointment.model_dump_json())
    assert datetime.fromisoformat(document["datetime"]).isoformat() == read_as
    assert document["created_at"] == document["datetime"]


@pytest.mark.parametrize(
    ("given", "kept_as"),
    [
        ("2025-11-02T01:30:00-04:00", "2025-11-02T01:30:00-04:00"),
        ("2025-11-02T06:30:00Z", "2025-11-02T01:30:00-05:00"),
        ("2025-11-02T01:30:00", "2025-11-02T01:30:00-04:00"),
        ("2025-03-09T02:30:00", "2025-03-09T02:30:00-05:00"),
        ("0001-01-01T00:00:00", "0001-01-01T00:00:00-04:56"),
        ("1850-01-01T05:00:00Z", "1850-01-01T00:04:00-04:56"),
    ],
)
def test_time_is_the_same_after_it_was_kept_when_clocks_change(given: str, kept_as: str) -> None:
    appointment = read(datetime=given, created_at=given)

    kept = Appointment.model_validate_json(appointment.model_dump_json())

    assert (kept.datetime, kept.created_at) == (datetime.fromisoformat(kept_as),) * 2
    assert kept == appointment
    assert kept.differences(appointment) == []


@pytest.mark.parametrize(
    "given",
    ["2025-01-15", "tomorrow", "2025-02-30T10:00:00Z", "0001-01-01T00:00:00+12:00", [], 1e30],
)
def test_time_is_kept_as_it_came_when_it_is_none(given: object) -> None:
    appointment = read(datetime=given)

    assert appointment.datetime is None
    assert appointment.extra == {"datetime": given}


# ------------------------------------------------------------------------------------ what it means


@pytest.mark.parametrize(
    ("description", "meaning"),
    [
        ("Pending", "pending"),
        ("Not confirmed", "pending"),
        ("CONFIRMED by phone", "booked"),
        ("Arrived", "arrived"),
        ("Not arrived", None),
        ("Checked In", "checked-in"),
        ("In room", "checked-in"),
        ("Check-out", "fulfilled"),
        ("Visit done", "fulfilled"),
        ("Canceled - patient", "cancelled"),
        ("Cancellation", "cancelled"),
        ("Rescheduled", "cancelled"),
        ("No-Show", "noshow"),
        ("Did not come", "noshow"),
        ("Entered in error", "entered-in-error"),
        ("Waitlist", "waitlist"),
        ("Requested online", "proposed"),
        ("Reminder answered", None),
        ("Newcastle", None),
    ],
)
def test_status_means_what_the_clinic_describes(description: str, meaning: str | None) -> None:
    assert normalized("code", {"code": description}) == meaning


def test_status_of_every_clinic_of_the_sandbox_is_understood() -> None:
    wanted = {
        "cancelled": NormalizedStatus.CANCELLED,
        "no_show": NormalizedStatus.NOSHOW,
        "checked_out": NormalizedStatus.FULFILLED,
    }
    for vocabulary in VOCABULARIES:
        statuses = dict(vocabulary.values())

        told = {stage.value: normalized(code, statuses) for stage, (code, _) in vocabulary.items()}

        assert wanted.items() <= told.items()


def test_status_is_read_by_itself_when_the_clinic_does_not_describe_it() -> None:
    assert read(status="PEN").normalized_status == "pending"
    assert read(status="Cancelled").normalized_status == "cancelled"
    assert read(status="CANC").normalized_status == "cancelled"
    assert read(status="N/S").normalized_status == "noshow"
    assert read(status="Z9").normalized_status is None
    assert read(status=None).normalized_status is None


# ------------------------------------------------------------------------------------------- its id


def test_id_is_made_up_when_it_comes_without() -> None:
    of_emr = Appointment.read({"ehr_appointment_id": 12, "id": None}, CLINIC)
    nameless = Appointment.read({"id": {"a": 1}, "reason": "x"}, CLINIC)
    same = Appointment.read({"reason": "x", "id": {"a": 1}}, CLINIC)
    spoken = Appointment.read({"id": "Jane Doe"}, CLINIC)

    assert of_emr.id == "ehr-12"
    assert nameless.id == same.id
    assert nameless.id.startswith("unidentified-")
    assert nameless.extra == {"id": {"a": 1}}
    assert "Jane" not in spoken.id
    assert spoken.extra == {"id": "Jane Doe"}


def test_patient_is_not_shown_when_it_is_printed() -> None:
    appointment = read(patient_name="Jane Doe")

    assert str(appointment) == repr(appointment) == "Appointment(id='appt_1')"


# ------------------------------------------------------------------------------------ nothing is lost

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
ITEMS = st.dictionaries(
    st.sampled_from([*FIELDS, *OLDER_NAMES, "as_of"]) | st.text(), JSON, max_size=12
)
TIMES = st.sampled_from(["2025-01-15T10:00:00-05:00", "2025-01-15T10:00", 1736953200])


def said(value: object) -> Iterator[object]:
    """What is said in a JSON value, with a number as its text."""
    match value:
        case Mapping():
            for each in value.values():
                yield from said(each)
        case list():
            for each in value:
                yield from said(each)
        case None:
            return
        case bool() | str():
            yield value
        case _:
            yield json.dumps(value)


@given(ITEMS)
def test_nothing_gets_lost_whatever_cobalt_sends(item: dict[str, Any]) -> None:
    appointment = Appointment.read(item, CLINIC)

    document = json.loads(appointment.model_dump_json())
    told = set(map(str, said(document)))
    converted = {"datetime", "date_time", "created_at", "duration"}
    for name, value in item.items():
        if name not in converted:
            assert {str(each) for each in said(value)} <= told, name
    assert Appointment.model_validate_json(appointment.model_dump_json()) == appointment


@given(TIMES, TIMES)
def test_times_stay_the_same_moments(begins: object, created: object) -> None:
    appointment = read(datetime=begins, created_at=created)

    for text, told in ((begins, appointment.datetime), (created, appointment.created_at)):
        moment = datetime.fromtimestamp(text, UTC) if isinstance(text, int) else None
        parsed = moment or datetime.fromisoformat(str(text))
        assert told == (parsed if parsed.tzinfo else parsed.replace(tzinfo=NEW_YORK))


# ----------------------------------------------------------------------------------- its differences


def test_difference_is_named_by_its_field() -> None:
    before = read(status="PEN", datetime="2025-01-15T10:00", foo=1)
    after = read(status="X", datetime="2025-01-16T10:00", foo=2, bar=3)

    assert before.differences(after) == ["datetime", "status", "extra"]
    assert before.differences(before) == []


def test_nothing_differs_when_only_the_edition_does() -> None:
    older = read(date_time="2025-01-15T10:00", status="PEN", old_thing=1)
    newer = read(datetime="2025-01-15T15:00:00Z", status="PEN", insurance="Payer", new_thing=2)

    assert older.differences(newer) == newer.differences(older) == []


def test_difference_is_seen_when_the_newest_edition_leaves_out_what_is_null() -> None:
    assert read(reason="Cough").differences(read()) == ["reason"]
    assert read().differences(read(reason="Cough")) == ["reason"]


def test_meaning_alone_is_no_difference() -> None:
    before = Appointment.read({"id": "1", "status": "X"}, Clinic(NEW_YORK, CHICAGO, {}))
    after = Appointment.read({"id": "1", "status": "X"}, CLINIC)

    assert (before.normalized_status, after.normalized_status) == (None, "cancelled")
    assert before.differences(after) == []


# ------------------------------------------------------------------------------------------- results


def body(data: object, **event: Any) -> bytes:
    return json.dumps({"id": "evt_1", "type": "t", "data": data, **event}).encode()


@pytest.mark.parametrize(
    ("data", "is_complete", "number"),
    [
        ({"appointment_count": 2, "appointments": [{}, {}]}, True, 2),
        ({"appointment_count": 0, "appointments": []}, True, 0),
        ({"appointment_count": 0}, True, 0),
        ({"appointment_count": 3, "appointments": [{}, {}]}, False, 2),
        ({"appointments": [{}, {}]}, False, 2),
        ({"appointment_count": 2, "appointments": [{}, "x"]}, False, 1),
        ({"appointment_count": False, "appointments": []}, False, 0),
        ({"appointment_count": True, "appointments": [{}]}, False, 1),
    ],
)
def test_result_is_complete_when_it_lists_what_it_counts(
    data: object, is_complete: bool, number: int
) -> None:
    fetched = Fetched.read(body(data, timestamp="2025-01-15T10:00:00Z"))

    assert (fetched.is_complete, len(fetched.items)) == (is_complete, number)
    assert fetched.created_at == datetime(2025, 1, 15, 10, tzinfo=UTC)


def test_result_is_read_when_it_holds_what_json_can_not_keep() -> None:
    raw = b'{"id":"e","type":"t","data":{"appointments":[{"id":"\\ud800x","v":1e999,"n":%b,"duration":NaN}]}}'

    fetched = Fetched.read(raw % (b"9" * 5000))

    [item] = fetched.items
    assert item == {"id": "\ufffdx", "v": "1e999", "n": "9" * 5000, "duration": "NaN"}
    appointment = Appointment.read(item, CLINIC)
    assert Appointment.model_validate_json(appointment.model_dump_json()) == appointment


def nested(levels: int) -> bytes:
    """A result that has so many levels, four of which are those of a result with an appointment."""
    odd: Any = []
    for _ in range(levels - 5):
        odd = [odd]
    return body({"appointments": [{"id": 1, "odd": odd}]})


def test_nothing_is_lost_when_an_appointment_nests_as_deep_as_is_taken() -> None:
    [item] = Fetched.read(nested(MAX_EVENT_DEPTH)).items

    appointment = Appointment.read(item, CLINIC)
    assert Appointment.model_validate_json(appointment.model_dump_json()) == appointment
    assert appointment.extra["odd"] == item["odd"]


@pytest.mark.parametrize(
    "broken",
    [
        *(b"", b"[]", b"{}", body({"appointments": {}}), b"\xff"),
        nested(MAX_EVENT_DEPTH + 1),
        nested(500),
    ],
)
def test_result_is_refused_when_it_is_none(broken: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        Fetched.read(broken)
