"""GET /v1/appointments, through its handler."""

import base64
import json
import os
import subprocess
import sys
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cobalt_relay.appointments import FIELDS, NOTES, Clinic
from cobalt_relay.errors import RateLimited, ResultsFault
from cobalt_relay.formats import negotiated
from cobalt_relay.models import Window, connection_id_of
from cobalt_relay.reading import MAX_LIMIT, RULES, ReadRequest, spans
from cobalt_relay.services.read_appointments import AHEAD, ReadAppointments
from cobalt_relay.snapshots import Known, SeenAppointment, Snapshot, StoredDay, StoredSnapshot
from functions.read_appointments.handler import lambda_handler as read
from functions.receive_webhook.handler import lambda_handler as receive
from functions.run_fetches.handler import lambda_handler as run_fetches
from tests.unit.conftest import (
    HEADERS,
    LambdaContextStub,
    World,
    appointments_event,
    body_of,
    header,
    queue_event,
    webhook_event,
)
from tests.unit.fakes import FakeSnapshots
from tests.unit.test_shape import COMPLETE

CONNECTION = connection_id_of(HEADERS["access_token"])
CLINIC = Clinic(ZoneInfo("America/New_York"), ZoneInfo("America/New_York"), {})
MONDAY = date(2025, 1, 6)
WEEK = {"start_date": "2025-01-06", "end_date": "2025-01-10"}
AS_OF = datetime(2025, 1, 2, 9, 0, tzinfo=UTC)
"""An hour before the world's now."""

type Answer = dict[str, Any]


def get(
    query: dict[str, Any] | str | None = None, /, headers: dict[str, str] | None = None, **more: Any
) -> Answer:
    asked = query if isinstance(query, str) else {**(WEEK if query is None else query), **more}
    event = appointments_event(asked, {**HEADERS, **(headers or {})})
    event["requestContext"]["requestId"] = str(uuid.uuid4())
    answer: Answer = read(event, LambdaContextStub())
    return answer


def an_item(number: int, **more: Any) -> dict[str, Any]:
    """An appointment of the newest edition; its time follows from its number."""
    begins = datetime(2025, 1, 6, 8, 0, tzinfo=CLINIC.zone) + timedelta(minutes=10 * number)
    return {
        "id": f"appt_{number:04}",
        "datetime": begins.isoformat(),
        "status": "CONF",
        "appointment_mode": "office",
        "patient_name": f"Mary O'Neil {number}",
        "patient_mrn": f"MRN-{number}",
        "patient_phone": f"(555) 010-{number:04}",
        "provider_ehr_id": "7",
        "note": "says “better”",
        **more,
    }


def put(
    snapshots: FakeSnapshots,
    day: date,
    *items: dict[str, Any],
    as_of: datetime | None = AS_OF,
    fetched_by: str = "job_0",
    connection_id: str = CONNECTION,
) -> None:
    """Store a day as it would be after a fetch that saw these."""
    seen_at = as_of or AS_OF
    sights = [SeenAppointment.read(i, CLINIC, as_of=seen_at, fetched_by=fetched_by) for i in items]
    former = snapshots.read(connection_id, day)
    snapshot = Snapshot(
        connection_id=connection_id,
        day=day,
        as_of=as_of,
        fetched_by=fetched_by if as_of else None,
        written_at=seen_at,
        written_by=fetched_by,
        appointment_count=len(sights),
        appointments=Known(None, {each.id: each for each in sights}).in_order(),
    )
    assert snapshots.write(snapshot, former)


def put_week(world: World, per_day: int = 2, **more: Any) -> None:
    for number in range(5):
        items = [an_item(number * 100 + each, **more) for each in range(per_day)]
        put(world.snapshots, MONDAY + timedelta(days=number), *items)


def ids(answer: Answer) -> list[str]:
    return [each["id"] for each in body_of(answer)["appointments"]]


# ------------------------------------------------------------------------------------- what is told


def test_appointments_have_cobalts_keys_and_their_age_when_days_are_known(world: World) -> None:
    put(world.snapshots, MONDAY, an_item(0, unknown="kept"))

    answer = get({"start_date": "2025-01-06", "end_date": "2025-01-06"})

    assert answer["statusCode"] == 200
    body = body_of(answer)
    [told] = body["appointments"]
    assert list(told) == [*(name for name in FIELDS if name not in NOTES), "as_of"]
    assert (told["status"], told["normalized_status"], told["reason"]) == ("CONF", None, None)
    assert (told["datetime"], told["extra"]) == ("2025-01-06T08:00:00-05:00", {"unknown": "kept"})
    assert told["as_of"] == "2025-01-02T09:00:00.000Z"
    assert body == {
        "success": True,
        "appointments": [told],
        "days": [{"date": "2025-01-06", "as_of": "2025-01-02T09:00:00.000Z"}],
        "days_never_fetched": [],
        "next_cursor": None,
    }
    assert header(answer, "x-relay-as-of") == "2025-01-02T09:00:00.000Z"
    assert header(answer, "Cache-Control") == "no-store"


def test_days_are_named_when_they_were_never_fetched_as_a_whole(world: World) -> None:
    put(world.snapshots, MONDAY + timedelta(days=1), an_item(144))
    put(world.snapshots, MONDAY + timedelta(days=3), an_item(432), as_of=None)

    answer = get()

    body = body_of(answer)
    assert body["days_never_fetched"] == ["2025-01-06", "2025-01-08", "2025-01-09", "2025-01-10"]
    assert [day["as_of"] is None for day in body["days"]] == [True, False, True, True, True]
    assert ids(answer) == ["appt_0144", "appt_0432"]
    never = header(answer, "x-relay-days-never-fetched")
    assert never == "2025-01-06,2025-01-08/2025-01-10"
    assert header(answer, "x-relay-as-of") is None


def test_nothing_is_told_when_nobody_knows_the_token(world: World) -> None:
    put_week(world)

    answer = get(headers={"access_token": "token-2"})

    assert answer["statusCode"] == 200
    assert body_of(answer)["appointments"] == []
    assert len(body_of(answer)["days_never_fetched"]) == 5


def test_notes_are_told_when_they_are_asked_for(world: World) -> None:
    put_week(world)

    answer = get(include_note="true")

    told = body_of(answer)["appointments"][0]
    assert told["note"] == "says “better”"
    assert list(told) == [*FIELDS, "as_of"]


def test_day_is_never_fetched_when_it_vanishes_before_it_is_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_week(world)
    days = list(world.snapshots.stored(CONNECTION, Window.parse(*WEEK.values())))
    del world.snapshots.versions[CONNECTION, MONDAY]
    monkeypatch.setattr(world.snapshots, "stored", lambda *_: iter(days))

    answer = get()

    assert body_of(answer)["days_never_fetched"] == ["2025-01-06"]
    assert len(ids(answer)) == 8


def test_moved_appointment_is_told_once_as_it_was_last_seen(world: World) -> None:
    later = AS_OF + timedelta(minutes=5)
    put(world.snapshots, MONDAY, an_item(0), an_item(1))
    moved = an_item(0, datetime="2025-01-08T09:00:00-05:00", status="RESCHED")
    put(world.snapshots, MONDAY + timedelta(days=2), moved, as_of=later)

    answer, by_old_status = get(), get(status="CONF")

    assert ids(answer) == ["appt_0001", "appt_0000"]
    assert body_of(answer)["appointments"][1]["status"] == "RESCHED"
    assert ids(by_old_status) == ["appt_0001"]


def test_answer_tells_of_no_query_when_it_is_logged(
    world: World, logged: Callable[[], str]
) -> None:
    put_week(world)

    get(patient_name="O'Neil", patient_mrn="MRN-1", patient_phone="0100001")
    get(patient_name="O'Neil", limit="many")

    said = logged()
    assert '"appointments_read"' in said
    assert not [each for each in ("Neil", "MRN-1", "0100001", "many") if each in said]


# -------------------------------------------------------------------------------------- its filters


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({"patient_mrn": "MRN-1"}, [1]),
        ({"patient_mrn": ""}, [0, 1, 2, 3]),
        ({"patient_name": "o'neil 2"}, [2]),
        ({"patient_name": "nobody"}, []),
        ({"patient_phone": "555010"}, [0, 1, 2, 3]),
        ({"patient_phone": "010-0003"}, [3]),
        ({"appointment_mode": "telemedicine"}, [3]),
        ({"appointment_mode": "", "include_note": "", "patient_mrn": ""}, [0, 1, 2, 3]),
        ({"status": "CONF"}, [0, 1]),
        ({"status": ["CONF", "cancelled"]}, [0, 1, 2]),
        ({"status": "booked"}, []),
        ({"provider_id": "9"}, [1]),
        ({"provider_id": ["8", "1234567893"]}, [2, 3]),
        ({"status": "CONF", "provider_id": "7"}, [0]),
        ({"unknown": "x"}, [0, 1, 2, 3]),
    ],
)
def test_appointments_are_those_that_the_filters_want(
    world: World, query: dict[str, Any], numbers: list[int]
) -> None:
    put(
        world.snapshots,
        MONDAY,
        an_item(0),
        an_item(1, provider_ehr_id="9"),
        an_item(2, status="Cancelled", provider_ehr_id="1", secondary_provider_ehr_id="8"),
        an_item(
            3,
            appointment_mode="telemedicine",
            status="X",
            provider_ehr_id=None,
            provider_npi="1234567893",
        ),
    )

    answer = get({**WEEK, **query})

    assert ids(answer) == [f"appt_{number:04}" for number in numbers]


def test_name_is_put_together_when_there_are_its_parts_alone(world: World) -> None:
    item = an_item(0, patient_name=None, patient_first_name="Ann", patient_last_name="Lee")
    put(world.snapshots, MONDAY, item)

    assert ids(get(patient_name="ann lee")) == ["appt_0000"]


# ------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({}, "Missing required parameters: start_date, end_date."),
        (
            {"start_date": "", "end_date": "2025-01-01"},
            "Missing required parameters: start_date, end_date.",
        ),
        (
            {"start_date": "20250101", "end_date": "2025-01-01"},
            "Invalid date format. Use ISO format (YYYY-MM-DD).",
        ),
        (
            {"start_date": "2025-01-02", "end_date": "2025-01-01"},
            "end_date must be after start_date.",
        ),
        (
            {"start_date": "2025-01-01", "end_date": "2026-01-02"},
            "Date range cannot exceed 366 days.",
        ),
        (
            {**WEEK, "start_date": ["2025-01-06", "2025-01-07"]},
            "start_date must not be given more than once.",
        ),
        ({**WEEK, "limit": ["1", "2"]}, "limit must not be given more than once."),
        ({**WEEK, "status": ["x"] * 101}, "status must not be given more than 100 times."),
        ({**WEEK, "include_note": "yes"}, "include_note must be true or false."),
        (
            {**WEEK, "appointment_mode": "phone"},
            "appointment_mode must be office or telemedicine.",
        ),
        (
            {**WEEK, "max_age": "1.5"},
            "max_age must be a whole number of seconds from 0 to 31536000.",
        ),
        (
            {**WEEK, "max_age": "٣"},
            "max_age must be a whole number of seconds from 0 to 31536000.",
        ),
        (
            {**WEEK, "max_age": "31536001"},
            "max_age must be a whole number of seconds from 0 to 31536000.",
        ),
        ({**WEEK, "limit": "0"}, "limit must be a whole number from 1 to 1000."),
        ({**WEEK, "limit": ""}, "limit must be a whole number from 1 to 1000."),
        ({**WEEK, "allow_stale": "1"}, "allow_stale must be true or false."),
        (
            {**WEEK, "patient_phone": "call me"},
            "patient_phone must be at most 128 printable characters, digits among them.",
        ),
        (
            {**WEEK, "patient_name": "x" * 129},
            "patient_name must be at most 128 printable characters.",
        ),
        ({**WEEK, "status": ""}, "status must be 1 to 128 printable characters."),
    ],
)
def test_400_with_a_constant_text_when_the_query_is_wrong(
    world: World, query: dict[str, Any], message: str
) -> None:
    answer = get(query)

    assert answer["statusCode"] == 400
    assert body_of(answer) == {"success": False, "message": message}


def test_year_is_read_when_it_is_a_leap_year(world: World) -> None:
    assert get({"start_date": "2024-01-01", "end_date": "2024-12-31"})["statusCode"] == 200


@pytest.mark.parametrize(
    "cursor", ["x", "e30", "WzFd", "bm90aGluZw==", "W10", "!" * 10, "ɐ", "WzEsMl" * 300]
)
def test_400_when_the_cursor_is_none(world: World, cursor: str) -> None:
    put_week(world)

    answer = get(cursor=cursor)

    assert answer["statusCode"] == 400
    assert "next_cursor of an answer" in body_of(answer)["message"]


def test_400_when_the_cursor_is_of_another_query_or_connection(world: World) -> None:
    put_week(world)
    cursor = body_of(get(limit="1"))["next_cursor"]

    others = [
        get(cursor=cursor, status="CONF"),
        get({**WEEK, "end_date": "2025-01-11"}, cursor=cursor),
        get(cursor=cursor, headers={"access_token": "token-2"}),
    ]

    assert [each["statusCode"] for each in others] == [400] * 3
    assert get(cursor=cursor, limit="3")["statusCode"] == 200


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"client_id": "stranger"}, "Invalid client_id or client_secret."),
        ({"client_secret": "wrong"}, "Invalid client_id or client_secret."),
        ({"access_token": "a b"}, "Invalid access_token."),
        ({"access_token": ""}, "Missing required headers: access_token."),
    ],
)
def test_401_as_for_a_fetch_when_the_caller_is_a_stranger(
    world: World, wrong: dict[str, str], message: str
) -> None:
    put_week(world)

    answer = get({}, headers=wrong)

    assert answer["statusCode"] == 401
    assert body_of(answer)["message"] == message


def test_caller_is_let_in_when_the_credentials_were_just_replaced(world: World) -> None:
    assert world.secrets.current
    world.secrets.refreshed = world.secrets.current.model_copy(update={"client_secret": "new"})

    assert get(headers={"client_secret": "new"})["statusCode"] == 200


@pytest.mark.parametrize("call", ["stored", "read"])
def test_503_when_the_bucket_fails(world: World, call: str) -> None:
    put_week(world)
    world.snapshots.fail(call, *[ResultsFault()] * 9)

    assert get()["statusCode"] == 503


def test_503_when_a_snapshot_is_none(world: World) -> None:
    world.snapshots.versions[CONNECTION, MONDAY] = [b"{"]

    assert get()["statusCode"] == 503


# ----------------------------------------------------------------------------------------- its pages


def pages(query: dict[str, Any]) -> Iterator[Answer]:
    cursor: str | None = None
    while True:
        answer = get({**query, **({"cursor": cursor} if cursor else {})})
        assert answer["statusCode"] == 200, answer["body"]
        yield answer
        cursor = body_of(answer)["next_cursor"]
        if cursor is None:
            return


@given(
    limit=st.integers(1, 12),
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=5),
    moved=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), max_size=3),
)
def test_pages_together_are_the_whole(
    limit: int, counts: list[int], moved: list[tuple[int, int, int]]
) -> None:
    snapshots = FakeSnapshots()
    days: list[list[dict[str, Any]]] = [
        [an_item(number * 144 + each) for each in range(many)] for number, many in enumerate(counts)
    ]
    for origin, number, target in moved:
        if origin < len(days) and number < counts[origin] and target < len(days):
            days[target].append(an_item(origin * 144 + number, datetime=None))
    for number, items in enumerate(days):
        unique = {each["id"]: each for each in items}
        put(
            snapshots, MONDAY + timedelta(days=number), *unique.values(), fetched_by=f"job_{number}"
        )
    world = World(snapshots=snapshots)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cobalt_relay.bootstrap.read_appointments", lambda: world.read_appointments)

        whole = body_of(get())
        answers = [body_of(each) for each in pages({**WEEK, "limit": str(limit)})]

    told = [item for each in answers for item in each["appointments"]]
    assert told == whole["appointments"]
    assert all(len(each["appointments"]) <= limit for each in answers)
    covered = {day["date"]: day for each in answers for day in each["days"]}
    assert list(covered.values()) == whole["days"]
    assert len({item["id"] for item in told}) == len(told)


def test_link_leads_to_the_next_page(world: World) -> None:
    put_week(world)
    first = get(limit="3", status=["CONF", "ä&>"])
    link = header(first, "Link") or ""

    second = get(link.removeprefix("<?").removesuffix('>; rel="next"'))

    assert header(first, "x-relay-next-cursor") == body_of(first)["next_cursor"]
    assert link.isascii()
    assert link.count(">") == 1
    assert ids(second) == ["appt_0101", "appt_0200", "appt_0201"]


def test_link_is_left_out_when_no_header_has_the_room(world: World) -> None:
    put_week(world)

    answer = get(limit="1", status=["CONF", *(f"{each}{'ä' * 100}" for each in range(20))])

    assert header(answer, "Link") is None
    assert header(answer, "x-relay-next-cursor")


def test_next_page_neither_repeats_nor_skips_when_a_day_is_fetched_in_between(world: World) -> None:
    put(world.snapshots, MONDAY, *(an_item(number) for number in (0, 2, 4, 6)))
    first = get(limit="2")
    newer = [an_item(number) for number in (1, 3, 4, 6)]
    put(world.snapshots, MONDAY, *newer, as_of=AS_OF + timedelta(minutes=1))

    second = get(cursor=body_of(first)["next_cursor"])

    assert ids(first) == ["appt_0000", "appt_0002"]
    assert ids(second) == ["appt_0003", "appt_0004", "appt_0006"]


def test_cursor_holds_no_name(world: World) -> None:
    put_week(world)
    cursor = body_of(get(limit="1", patient_name="O'Neil", patient_mrn="MRN-0"))["next_cursor"]
    assert cursor is None  # there is just one

    cursor = body_of(get(limit="1", patient_name="O'Neil"))["next_cursor"]

    fields = json.loads(base64.urlsafe_b64decode(cursor + "=="))
    assert [type(each) for each in fields] == [int, str, int, bool, float, str]
    assert fields[-1] == "appt_0000"
    assert "Neil" not in str(fields)


def test_page_ends_when_lambda_would_take_no_more(world: World) -> None:
    put_week(world, note='"\\' * 500)
    world.read_appointments = ReadAppointments(
        world.snapshots,
        world.connections,
        world.secrets,
        lambda: world.freshen,
        now=world.clock,
        most_page_bytes=9_000,
    )

    answers = list(pages({**WEEK, "include_note": "true"}))

    assert [len(ids(each)) for each in answers] == [1, 1] * 5
    assert all(len(json.dumps(each["body"])) < 9_000 for each in answers)


def test_days_are_not_read_again_when_what_matters_of_them_is_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_week(world, per_day=10)
    read_days: list[date] = []
    reading = world.snapshots.read

    def noted(connection_id: str, day: date) -> StoredSnapshot | None:
        read_days.append(day)
        return reading(connection_id, day)

    cursor = body_of(get(limit="45"))["next_cursor"]
    monkeypatch.setattr(world.snapshots, "read", noted)

    answer = get(limit="45", cursor=cursor)

    assert read_days == [MONDAY + timedelta(days=4)]
    assert len(ids(answer)) == 5


# ----------------------------------------------------------------------------------------- its forms


def test_lines_are_the_appointments_when_ndjson_is_wanted(world: World) -> None:
    put_week(world)

    answer = get(headers={"Accept": "application/x-ndjson"}, limit="3")

    assert header(answer, "Content-Type") == "application/x-ndjson"
    lines = [json.loads(line) for line in answer["body"].splitlines()]
    assert lines == body_of(get(limit="3"))["appointments"]
    assert answer["body"].endswith("\n")
    assert header(answer, "x-relay-next-cursor") == body_of(get(limit="3"))["next_cursor"]


def test_nothing_is_written_when_there_are_no_lines(world: World) -> None:
    answer = get(headers={"Accept": "application/x-ndjson"})

    assert answer["body"] == ""
    assert header(answer, "x-relay-days-never-fetched") == "2025-01-06/2025-01-10"


@pytest.mark.parametrize(
    ("accept", "name"),
    [
        ("", "json"),
        ("*/*", "json"),
        ("application/*", "json"),
        ("application/json; charset=utf-8", "json"),
        ("text/html, application/xhtml+xml, */*;q=0.1", "json"),
        ("application/x-ndjson", "ndjson"),
        ("APPLICATION/X-NDJSON", "ndjson"),
        ("application/ndjson", "ndjson"),
        ("application/fhir+json; fhirVersion=4.0", "fhir"),
        ("application/json;q=0.5, application/x-ndjson;q=0.9", "ndjson"),
        ("application/json;q=0, */*", "ndjson"),
        ("application/x-ndjson;q=0.2, */*;q=0.1", "ndjson"),
        ("nonsense, application/json", "json"),
    ],
)
def test_form_is_the_one_that_is_wanted_most(accept: str, name: str) -> None:
    form, media_type = negotiated(accept)

    assert form.name == name
    assert media_type in form.media_types


@pytest.mark.parametrize(
    "accept", ["text/html", "application/json;q=0", "nonsense", "image/*", "*/*;q=0.000"]
)
def test_406_in_json_when_no_form_is_wanted(world: World, accept: str) -> None:
    answer = get(headers={"Accept": accept})

    assert answer["statusCode"] == 406
    assert header(answer, "Content-Type") == "application/json"
    assert body_of(answer)["success"] is False


FHIR = {"Accept": "application/fhir+json"}


def test_bundle_tells_what_the_clinic_means_when_fhir_is_wanted(world: World) -> None:
    world.connections.add(HEADERS["access_token"], visit_statuses={"CONF": "Cancelled by patient"})
    put(world.snapshots, MONDAY, an_item(0, patient_name="Ann 李 🙂"), an_item(1))

    answer = get(limit="1", max_age="60", allow_stale="true", headers=FHIR)

    bundle = body_of(answer)
    assert header(answer, "Content-Type") == "application/fhir+json"
    assert answer["body"].isascii()
    told, outcome = bundle["entry"]
    assert told["resource"]["start"] == "2025-01-06T08:00:00-05:00"
    assert "comment" not in told["resource"]
    patient = next(each for each in told["resource"]["contained"] if each["id"] == "patient")
    assert patient["name"][0]["text"] == "Ann 李 🙂"
    described = {each["url"]: each for each in told["resource"]["extension"]}
    description = described["urn:cobalt-relay:fhir:status_description"]["valueString"]
    assert description == "Cancelled by patient"
    assert [issue["diagnostics"] for issue in outcome["resource"]["issue"]] == [
        "As of 2025-01-02T09:00:00.000Z: 2025-01-06."
    ]
    following = {link["relation"]: link["url"] for link in bundle["link"]}["next"]
    assert header(answer, "Link") == f'<{following}>; rel="next"'


def test_empty_bundle_names_the_days_that_were_never_fetched(world: World) -> None:
    [entry] = body_of(get(headers=FHIR))["entry"]

    assert entry["search"] == {"mode": "outcome"}
    assert "2025-01-06 to 2025-01-10" in entry["resource"]["issue"][0]["diagnostics"]


def test_tag_is_another_one_when_statuses_mean_something_else(world: World) -> None:
    put_week(world)
    tags = [header(get(headers=FHIR), "ETag")]

    world.connections.add(HEADERS["access_token"], visit_statuses={"CONF": "Confirmed"})
    tags.append(header(get(headers=FHIR), "ETag"))

    assert tags[0] != tags[1]
    assert get(headers={**FHIR, "If-None-Match": str(tags[1])})["statusCode"] == 304


@pytest.mark.parametrize(
    "accept", ["application/x-ndjson", "application/json", "application/fhir+json"]
)
def test_memory_is_less_than_two_copies_when_much_is_read(accept: str) -> None:
    """A list of texts that is joined would be two; so would bytes beside their text."""
    snapshots = FakeSnapshots()
    for number in range(20):
        items = [an_item(number * 144 + each, note="x" * 1_000) for each in range(100)]
        put(snapshots, MONDAY + timedelta(days=number), *items)
    stored = _FromDisk(snapshots)
    service = ReadAppointments(
        stored, World().connections, World().secrets, _nobody, now=World().clock
    )
    query = {"start_date": ["2025-01-06"], "end_date": ["2025-01-25"], "include_note": ["true"]}

    tracemalloc.start()
    reading = service.read(
        HEADERS["access_token"], query, accept=accept, known_tags=frozenset(), request_id="r"
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert reading.page
    assert len(reading.page) > 3_000_000
    assert peak < 1.9 * len(reading.page)


class _FromDisk:
    """Snapshots of which each read is a copy of its own, as the bytes of an answer are."""

    def __init__(self, snapshots: FakeSnapshots) -> None:
        self._snapshots = snapshots
        self.stored: Callable[[str, Window], Iterator[StoredDay]] = snapshots.stored

    def read(
        self, connection_id: str, day: date, version_id: str | None = None
    ) -> StoredSnapshot | None:
        found = self._snapshots.read(connection_id, day)
        return found and found._replace(body=bytes(bytearray(found.body)))


def _nobody() -> Any:
    raise AssertionError("nothing is to be fetched")


# ------------------------------------------------------------------------------------------- its tag


def test_304_without_a_read_when_the_caller_has_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_week(world)
    tag = header(get(), "ETag") or ""
    monkeypatch.setattr(world.snapshots, "read", _nobody)

    answers = [
        get(headers={"If-None-Match": value}) for value in (tag, f"W/{tag}", f'"other", {tag}', "*")
    ]

    for answer in answers:
        assert answer["statusCode"] == 304
        assert not answer.get("body")
        assert header(answer, "ETag") == tag
        assert header(answer, "Cache-Control") == "no-store"


def test_tag_is_another_one_when_anything_is_different(world: World) -> None:
    put_week(world)
    asked: list[dict[str, Any]] = [
        {},
        {"status": "CONF"},
        {"include_note": "true"},
        {"limit": "1"},
        {"limit": "1", "cursor": body_of(get(limit="1"))["next_cursor"]},
        {"max_age": "86400"},
        {"max_age": "86400", "allow_stale": "true"},
    ]
    tags = [header(get({**WEEK, **each}), "ETag") for each in asked]
    tags.append(header(get(headers={"Accept": "application/x-ndjson"}), "ETag"))
    put(world.snapshots, MONDAY, an_item(0))

    tags.append(header(get(), "ETag"))

    assert len(set(tags)) == len(tags)
    assert get(headers={"If-None-Match": str(tags[0])})["statusCode"] == 200


def test_tag_tells_nobody_what_was_asked(world: World) -> None:
    """An MRN could be found out by trying them all, were the token no part of what is hashed."""
    put_week(world)
    window = {name: [value] for name, value in WEEK.items()}
    request = ReadRequest.from_query({**window, "patient_mrn": ["MRN-1"]})

    assert request.digest("token-1") != request.digest("token-2")
    assert "MRN" not in repr(request)


# ------------------------------------------------------------------------------------------- max_age


def test_answer_is_as_without_it_when_no_day_is_too_old(world: World) -> None:
    put_week(world)

    answer = get(max_age="3600")

    assert answer["statusCode"] == 200
    assert [day["stale"] for day in body_of(answer)["days"]] == [False] * 5
    assert "jobs" not in body_of(answer)
    assert world.cobalt.calls == []


def test_one_fetch_of_the_span_is_begun_when_days_are_too_old(world: World) -> None:
    put_week(world)
    put(world.snapshots, MONDAY, an_item(0), as_of=AS_OF + timedelta(minutes=59))
    del world.snapshots.versions[CONNECTION, MONDAY + timedelta(days=4)]

    first, second = get(max_age="120"), get(max_age="120")

    assert first["statusCode"] == second["statusCode"] == 202
    assert body_of(first) == body_of(second)
    assert body_of(first)["jobs"] == [
        {
            "job_execution_id": "job_1",
            "window": {"start_date": "2025-01-07", "end_date": "2025-01-10"},
        }
    ]
    assert body_of(first)["stale_days"] == ["2025-01-07", "2025-01-08", "2025-01-09", "2025-01-10"]
    assert header(first, "Location") == "appointments/fetch/job_1"
    assert header(first, "Retry-After") == "5"
    assert len(world.cobalt.calls) == 1


@pytest.mark.parametrize(
    ("day", "first", "last"),
    [("2025-01-06", "2025-01-06", "2025-01-07"), ("9999-12-31", "9999-12-30", "9999-12-31")],
)
def test_two_days_are_fetched_when_one_is_too_old(
    world: World, day: str, first: str, last: str
) -> None:
    answer = get({"start_date": day, "end_date": day}, max_age="60")

    [job] = body_of(answer)["jobs"]
    assert job["window"] == {"start_date": first, "end_date": last}
    assert world.jobs.jobs["job_1"].trigger == "api"


def test_smaller_span_joins_when_a_greater_one_is_under_way(world: World) -> None:
    get(max_age="60")
    world.clock.sleep(300)

    answer = get({"start_date": "2025-01-07", "end_date": "2025-01-08"}, max_age="60")

    assert [each["job_execution_id"] for each in body_of(answer)["jobs"]] == ["job_1"]
    assert len(world.cobalt.calls) == 1


def test_fetch_is_begun_anew_when_the_one_under_way_is_silent_for_long(world: World) -> None:
    get(max_age="60")
    world.clock.sleep(31 * 60)

    answer = get(max_age="60")

    assert [each["job_execution_id"] for each in body_of(answer)["jobs"]] == ["job_2"]


def test_landing_job_is_awaited_when_its_days_are_not_there_yet(world: World) -> None:
    put_week(world)
    get(max_age="60")
    world.clock.sleep(20)
    receive(webhook_event(world.result("job_1")), LambdaContextStub())

    landing = get(max_age="60")
    for number in range(5):
        day = MONDAY + timedelta(days=number)
        put(world.snapshots, day, as_of=world.clock(), fetched_by="job_1")
    landed = get(max_age="60")
    world.clock.sleep(90)
    old_again = get(max_age="60")

    assert (landing["statusCode"], landed["statusCode"]) == (202, 200)
    assert body_of(landing)["jobs"][0]["job_execution_id"] == "job_1"
    assert header(landing, "Retry-After") == "1"
    assert body_of(old_again)["jobs"][0]["job_execution_id"] == "job_2"


def land(world: World, *jobs: str) -> None:
    """Put the days into their snapshots as jobs brought them, as many days of each in turn."""
    for number in range(15):
        day = MONDAY + timedelta(days=number)
        job_id = jobs[number * len(jobs) // 15]
        put(world.snapshots, day, as_of=world.clock(), fetched_by=job_id)


def test_days_are_told_when_they_were_just_brought_however_new_they_have_to_be(
    world: World,
) -> None:
    get(max_age="0")
    world.deliver("job_1")
    land(world, "job_1")
    world.clock.sleep(5)

    brought = get(max_age="0")
    world.clock.sleep(60)
    later = get(max_age="0")

    assert brought["statusCode"] == 200
    assert [each["stale"] for each in body_of(brought)["days"]] == [False] * 5
    assert body_of(later)["jobs"][0]["job_execution_id"] == "job_2"


def test_days_of_a_range_are_told_when_the_whole_of_it_was_just_brought(world: World) -> None:
    """Its first days are older by then than they may be."""
    get(FORTNIGHT, max_age="60")
    _end_range(world)
    land(world, *world.jobs.jobs)
    world.clock.sleep(59)

    brought = get(FORTNIGHT, max_age="30")
    world.clock.sleep(2)
    later = get(FORTNIGHT, max_age="30")

    assert (brought["statusCode"], later["statusCode"]) == (200, 202)


def test_robot_is_left_alone_when_a_job_does_not_land(world: World) -> None:
    get(max_age="60")
    receive(webhook_event(world.result("job_1")), LambdaContextStub())
    world.clock.sleep(121)

    resting = get(max_age="60")
    world.clock.sleep(60)
    again = get(max_age="60")

    assert (resting["statusCode"], header(resting, "Retry-After")) == (502, "59")
    assert body_of(again)["jobs"][0]["job_execution_id"] == "job_2"


FAILED = {"success": False, "message": "The robot could not log in."}


def test_robot_is_left_alone_when_a_fetch_has_failed(world: World) -> None:
    """Otherwise whoever asks every second has it work without a pause, for nothing."""
    put_week(world)
    get(max_age="60")
    world.clock.sleep(5)
    world.deliver("job_1", FAILED)

    resting = [get(max_age="60", allow_stale=each) for each in ("false", "true")]
    calls = len(world.cobalt.calls)
    world.clock.sleep(60.5)
    again = get(max_age="60")

    assert resting[0]["statusCode"] == 502
    assert header(resting[0], "Retry-After") == "60"
    assert len(body_of(resting[1])["appointments"]) == 10
    assert body_of(resting[1])["fetch_error"]["code"] == "days_not_brought"
    assert calls == 1
    assert body_of(again)["jobs"][0]["job_execution_id"] == "job_2"


def test_fetch_under_way_is_awaited_when_another_one_has_failed(world: World) -> None:
    get(max_age="60")
    world.clock.sleep(5)
    get({**WEEK, "end_date": "2025-01-11"}, max_age="60")
    world.deliver("job_2", FAILED)

    answer = get(max_age="60")

    assert body_of(answer)["jobs"][0]["job_execution_id"] == "job_1"


def test_failure_is_forgotten_when_the_days_were_seen_since(world: World) -> None:
    get(max_age="60")
    world.deliver("job_1", FAILED)
    world.clock.sleep(1)
    for number in range(5):
        put(world.snapshots, MONDAY + timedelta(days=number), as_of=world.clock())
    world.clock.sleep(10)

    answer = get(max_age="5")

    assert body_of(answer)["jobs"][0]["job_execution_id"] == "job_2"


def test_one_range_is_begun_when_the_days_are_many(world: World) -> None:
    quarter = {"start_date": "2025-01-06", "end_date": "2025-03-31"}

    first, second = get(quarter, max_age="60"), get(quarter, max_age="60")
    world.clock.sleep(120)
    part = get({"start_date": "2025-02-01", "end_date": "2025-02-20"}, max_age="60")

    [work] = body_of(first)["jobs"]
    assert work["job_execution_id"].startswith("range_")
    assert work["window"] == quarter
    assert body_of(first)["jobs"] == body_of(second)["jobs"] == body_of(part)["jobs"]
    assert header(first, "Retry-After") == "30"
    assert len({work.plan.range_id for work in world.queue.sent}) == 1


def test_one_range_is_begun_when_two_readers_see_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.jobs, "recent", lambda *_: iter(()))
    quarter = {"start_date": "2025-01-06", "end_date": "2025-03-31"}

    answers = [get(quarter, max_age="60"), get(quarter, max_age="60")]

    assert body_of(answers[0])["jobs"] == body_of(answers[1])["jobs"]


def test_open_range_is_not_awaited_when_it_has_brought_the_days_before(world: World) -> None:
    quarter = {"start_date": "2025-01-06", "end_date": "2025-03-31"}
    get(quarter, max_age="60")
    world.clock.sleep(600)
    put(world.snapshots, MONDAY, as_of=world.clock())
    world.clock.sleep(600)

    answer = get({"start_date": "2025-01-06", "end_date": "2025-01-06"}, max_age="60")

    assert body_of(answer)["jobs"][0]["job_execution_id"] == "job_1"


def test_open_range_is_awaited_when_another_one_would_be_begun(world: World) -> None:
    """It may take longer than a day may be old; ranges would pile up before the clinic's robot."""
    quarter = {"start_date": "2025-01-06", "end_date": "2025-03-31"}
    first = get(quarter, max_age="300")
    world.clock.sleep(60)
    put(world.snapshots, MONDAY, as_of=world.clock())
    world.clock.sleep(400)

    second = get(quarter, max_age="300")

    assert body_of(second)["jobs"] == body_of(first)["jobs"]
    assert len({work.plan.range_id for work in world.queue.sent}) == 1


FORTNIGHT = {"start_date": "2025-01-06", "end_date": "2025-01-20"}


def _end_range(world: World, data: dict[str, Any] | None = None) -> None:
    """Have all pieces of the one range fetched, and tell what came of them."""
    for number, work in enumerate(world.queue.sent, 1):
        world.clock.sleep(30)
        run_fetches(queue_event(work), LambdaContextStub())
        world.deliver(f"job_{number}", data)


def test_landing_range_is_awaited_when_its_days_are_not_there_yet(world: World) -> None:
    first = get(FORTNIGHT, max_age="3600")
    _end_range(world)

    landing = get(FORTNIGHT, max_age="3600")
    world.clock.sleep(121)
    resting = get(FORTNIGHT, max_age="3600")

    assert body_of(landing)["jobs"] == body_of(first)["jobs"]
    assert header(landing, "Retry-After") == "1"
    assert (resting["statusCode"], header(resting, "Retry-After")) == (502, "179")


def test_robot_is_left_alone_for_each_fetch_when_a_range_has_failed(world: World) -> None:
    first = get(FORTNIGHT, max_age="3600")
    _end_range(world, FAILED)

    resting = get(FORTNIGHT, max_age="3600")
    world.clock.sleep(181)
    again = get(FORTNIGHT, max_age="3600")

    assert (resting["statusCode"], header(resting, "Retry-After")) == (502, "180")
    assert again["statusCode"] == 202
    assert body_of(again)["jobs"] != body_of(first)["jobs"]


def test_refusal_is_passed_on_when_days_are_too_old(world: World) -> None:
    put_week(world)
    world.cobalt.errors[HEADERS["access_token"]] = RateLimited("Slow down.", retry_after="7")

    answer = get(max_age="60")

    assert answer["statusCode"] == 429
    assert body_of(answer) == {"success": False, "message": "Slow down."}
    assert header(answer, "Retry-After") == "7"


def test_stale_days_are_told_when_the_caller_takes_them(world: World) -> None:
    put_week(world)
    put(world.snapshots, MONDAY, an_item(0), as_of=AS_OF + timedelta(minutes=59))

    answer = get(max_age="120", allow_stale="true")

    assert answer["statusCode"] == 200
    body = body_of(answer)
    assert [day["stale"] for day in body["days"]] == [False, True, True, True, True]
    assert [each["job_execution_id"] for each in body["jobs"]] == ["job_1"]
    assert len(body["appointments"]) == 9
    assert "fetch_error" not in body
    assert (
        get(
            max_age="120",
            allow_stale="true",
            headers={"If-None-Match": header(answer, "ETag") or ""},
        )["statusCode"]
        == 304
    )


def test_stale_days_are_told_with_the_reason_when_they_cannot_be_fetched(world: World) -> None:
    put_week(world)
    world.cobalt.errors[HEADERS["access_token"]] = RateLimited("Slow down.", error="too_many")

    answer = get(max_age="60", allow_stale="true")

    body = body_of(answer)
    assert answer["statusCode"] == 200
    assert len(body["appointments"]) == 10
    assert (body["jobs"], body["fetch_error"]) == (
        [],
        {"code": "too_many", "message": "Slow down."},
    )


# ----------------------------------------------------------------------------------------- its parts


@pytest.mark.parametrize(
    ("days", "text"),
    [
        ([], ""),
        ([0], "2025-01-06"),
        ([0, 1], "2025-01-06/2025-01-07"),
        ([0, 1, 2, 4, 6, 7], "2025-01-06/2025-01-08,2025-01-10,2025-01-12/2025-01-13"),
    ],
)
def test_days_in_a_row_are_one_span(days: list[int], text: str) -> None:
    assert spans(MONDAY + timedelta(days=each) for each in days) == text


LOADED = """
import sys
import functions.read_appointments.handler
print(*(name for name in sys.modules if name.startswith("cobalt_relay") or name == "requests"))
"""


def test_function_loads_nothing_of_a_refresh_nor_of_fhir_when_it_starts() -> None:
    environment = {**os.environ, **COMPLETE, "PYTHONPATH": os.pathsep.join(sys.path)}

    ran = subprocess.run(
        [sys.executable, "-c", LOADED], env=environment, capture_output=True, text=True, check=True
    )

    loaded = set(ran.stdout.split())
    assert loaded >= {f"cobalt_relay.services.read_{each}" for each in ("jobs", "appointments")}
    unwanted = ("fhir", "adapters.cobalt", "services.fetch_appointments", "events")
    assert not loaded & {"requests", *(f"cobalt_relay.{each}" for each in unwanted)}


def test_rules_say_what_they_hold() -> None:
    assert str(MAX_LIMIT) in RULES["limit"].must
    assert AHEAD <= 8
