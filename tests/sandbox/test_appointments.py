"""docs: Appointments, Settings."""

from collections.abc import Callable
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from tests.sandbox.support import FRIDAY, MONDAY, SUNDAY, Cobalt, Json

FIELDS = {
    *("id", "ehr_appointment_id", "datetime", "duration", "status", "appointment_type"),
    *("appointment_mode", "location", "reason", "complaint_type", "patient_name"),
    *("patient_first_name", "patient_last_name", "patient_mrn", "patient_ehr_id", "patient_dob"),
    *("patient_gender", "patient_phone", "provider_ehr_id", "provider_name", "provider_npi"),
    *("secondary_provider_ehr_id", "insurance", "insurance_number", "insurance_group_number"),
    *("insurance_subscriber", "secondary_insurance", "secondary_insurance_number", "insurances"),
    *("diagnoses", "medications", "note", "progress_note", "created_at", "object_metadata"),
}
ZONES = {
    "riverside": "America/New_York",
    "lakeside": "America/Chicago",
    "harbor": "America/Los_Angeles",
}


def _cached(cobalt: Cobalt, clinic: str = "riverside", **query: str) -> list[Json]:
    asked = {"start_date": MONDAY, "end_date": FRIDAY, **query}
    answer = cobalt.read("/v1/appointments", clinic, **asked)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert list(body) == ["success", "appointments"]
    found: list[Json] = body["appointments"]
    return found


def test_documented_fields_when_an_appointment_is_written(cobalt: Cobalt) -> None:
    items = cobalt.result("riverside")["data"]["appointments"]

    assert all(set(item) == FIELDS for item in items)
    assert len({item["id"] for item in items}) == len(items)


@pytest.mark.parametrize(("clinic", "zone"), ZONES.items())
def test_local_time_with_offset_when_a_clinic_has_its_zone(
    cobalt: Cobalt, clinic: str, zone: str
) -> None:
    window = {"start_date": "2026-03-06", "end_date": "2026-03-09"}

    items = cobalt.result(clinic, **window)["data"]["appointments"]

    moments = [datetime.fromisoformat(item["datetime"]) for item in items]
    assert all(each.utcoffset() == each.astimezone(ZoneInfo(zone)).utcoffset() for each in moments)
    assert {each.date().isoformat() for each in moments} == {"2026-03-06", "2026-03-09"}
    assert len({each.utcoffset() for each in moments}) == 2
    assert cobalt.read("/v1/settings", clinic).json()["data"]["timezone"] == zone


def test_status_codes_are_explained_when_settings_are_read(cobalt: Cobalt) -> None:
    vocabularies = []
    for clinic in ("riverside", "lakeside", "harbor"):
        answer = cobalt.read("/v1/settings", clinic).json()
        items = cobalt.result(clinic, start_date=MONDAY, end_date=SUNDAY)["data"]["appointments"]

        data = answer["data"]
        assert answer["success"] is True
        assert list(data) == [
            "access_token_reference_id",
            "visit_types",
            "visit_statuses",
            "required_patient_fields",
            "timezone",
        ]
        codes = {each["code"] for each in data["visit_statuses"]}
        assert {item["status"] for item in items} <= codes
        types = {each["description"] for each in data["visit_types"]}
        assert {item["appointment_type"] for item in items} <= types
        vocabularies.append(codes)
    assert len(set(map(frozenset, vocabularies))) == 3


def test_no_settings_until_a_label_is_set_when_a_clinic_has_none(cobalt: Cobalt) -> None:
    before = cobalt.read("/v1/settings", "mesa")
    written = cobalt.send("/v1/settings", {"access_token_reference_id": "tenant-7"}, "mesa")

    assert before.status_code == 404
    assert before.json()["success"] is False
    assert written.status_code == 200
    settings = cobalt.read("/v1/settings", "mesa").json()["data"]
    assert settings["access_token_reference_id"] == "tenant-7"
    assert cobalt.result("mesa")["access_token_reference_id"] == "tenant-7"
    assert cobalt.send("/v1/settings", {}, "mesa").status_code == 400


def test_notes_only_when_include_note_is_true(cobalt: Cobalt) -> None:
    with_notes = _cached(cobalt, include_note="true")

    assert all(set(item) == FIELDS for item in with_notes)
    for items in (_cached(cobalt), _cached(cobalt, include_note="false")):
        assert all(set(item) == FIELDS - {"note", "progress_note"} for item in items)
        assert len(items) == len(with_notes)


@pytest.mark.parametrize(
    ("query", "field", "given"),
    [
        ("patient_mrn", "patient_mrn", str),
        ("patient_name", "patient_name", str.upper),
        ("patient_phone", "patient_phone", str),
        ("patient_phone", "patient_phone", lambda text: f"({text[:3]}) {text[4:]}"),
        ("appointment_mode", "appointment_mode", str),
    ],
)
def test_only_what_matches_when_a_filter_is_given(
    cobalt: Cobalt, query: str, field: str, given: Callable[[str], str]
) -> None:
    everything = _cached(cobalt)
    value = everything[0][field]

    found = _cached(cobalt, **{query: given(value)})

    assert found == [item for item in everything if item[field] == value]
    assert 0 < len(found) < len(everything)


@pytest.mark.parametrize(
    "query",
    [
        {"start_date": ""},
        {"end_date": "tomorrow"},
        {"end_date": "2026-03-01"},
        {"end_date": "2027-03-03"},
        {"appointment_mode": "phone"},
        {"include_note": "yes"},
    ],
)
def test_refused_when_a_cached_read_breaks_a_rule(cobalt: Cobalt, query: Json) -> None:
    asked = {"start_date": MONDAY, "end_date": FRIDAY, **query}

    answer = cobalt.read("/v1/appointments", "riverside", **asked)

    assert answer.status_code == 400
    assert answer.json()["success"] is False


def test_cache_is_stale_until_a_live_fetch_completes_when_the_diary_changes(
    cobalt: Cobalt,
) -> None:
    today = datetime.fromisoformat(cobalt.control("/clock")["now"]).date()
    start, end = (today.fromordinal(today.toordinal() + ahead).isoformat() for ahead in (12, 19))
    window = {"start_date": start, "end_date": end}
    before = _cached(cobalt, include_note="true", **window)
    cobalt.steer("/clock", {"advance_seconds": 10 * 86_400})

    stale = _cached(cobalt, include_note="true", **window)
    live = cobalt.result("riverside", **window)["data"]["appointments"]
    fresh = _cached(cobalt, include_note="true", **window)

    assert stale == before
    assert fresh == live
    old, new = ({item["id"]: item for item in items} for items in (before, live))
    assert new.keys() - old.keys(), "nothing was booked"
    assert old.keys() - new.keys(), "nothing was taken out or moved away"
    both = old.keys() & new.keys()
    assert any(old[key]["datetime"] != new[key]["datetime"] for key in both), "nothing moved"
    assert any(old[key]["status"] != new[key]["status"] for key in both), "no status changed"


def test_people_are_obviously_made_up_when_a_diary_is_read(cobalt: Cobalt) -> None:
    items = cobalt.result("harbor")["data"]["appointments"]

    for item in items:
        assert item["patient_name"].endswith("-Sample")
        assert item["provider_name"].endswith("-Sample")
        assert "-555-01" in item["patient_phone"]
        assert item["provider_npi"][0] not in "12"
    assert any(not item["patient_name"].isascii() for item in items)
