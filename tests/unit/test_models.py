"""The documented checks of a fetch request, and the lenient reading of what Cobalt sends."""

from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cobalt_relay.errors import InvalidFetchRequest
from cobalt_relay.models import (
    CobaltEvent,
    FetchRequest,
    FetchResult,
    RangeRequest,
    Window,
    connection_id_of,
    in_days,
)

MISSING = "Missing required parameters: start_date, end_date."
FORMAT = "Invalid date format. Use ISO format (YYYY-MM-DD)."
ORDER = "end_date must be after start_date."
SPAN = "Date range cannot exceed 7 days."


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (None, "2023-12-07", MISSING),
        ("2023-12-01", None, MISSING),
        ("", "2023-12-07", MISSING),
        (20231201, "2023-12-07", FORMAT),
        (12345678901234567890, "2023-12-07", FORMAT),
        (0, "2023-12-07", FORMAT),
        (False, "2023-12-07", FORMAT),
        (["2023-12-01"], "2023-12-07", FORMAT),
        ("2023-2-30", "2023-12-07", FORMAT),
        ("2023-02-30", "2023-03-02", FORMAT),
        ("2023-02-29", "2023-03-02", FORMAT),
        ("20231201", "2023-12-07", FORMAT),
        ("2023-W48-5", "2023-12-07", FORMAT),
        ("2023-12-01T00:00:00", "2023-12-07", FORMAT),
        ("2023-12-01Z", "2023-12-07", FORMAT),
        (" 2023-12-01", "2023-12-07", FORMAT),
        ("2023-12-01 ", "2023-12-07", FORMAT),
        ("2023-12-01\n", "2023-12-07", FORMAT),
        ("２０２３-12-01", "2023-12-07", FORMAT),
        ("0000-01-01", "0000-01-02", FORMAT),
        ("2023-12-01", "soon", FORMAT),
        ("2023-12-02", "2023-12-01", ORDER),
        ("2023-12-01", "2023-12-01", ORDER),
        ("9999-12-31", "0001-01-01", ORDER),
        ("2023-12-01", "2023-12-09", SPAN),
        ("0001-01-01", "9999-12-31", SPAN),
    ],
)
def test_documented_text_when_a_window_is_invalid(start: object, end: object, message: str) -> None:
    body = {"start_date": start, "end_date": end}

    with pytest.raises(InvalidFetchRequest) as refusal:
        FetchRequest.from_body(body)

    assert refusal.value.message == message


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2023-12-01", "2023-12-07"),
        ("2023-12-01", "2023-12-02"),
        ("2023-12-01", "2023-12-08"),
        ("2024-02-28", "2024-02-29"),
        ("2023-12-28", "2024-01-03"),
        ("0001-01-01", "0001-01-08"),
        ("9999-12-24", "9999-12-31"),
    ],
)
def test_body_travels_unchanged_when_a_window_is_valid(start: str, end: str) -> None:
    body = {"start_date": start, "end_date": end}

    request = FetchRequest.from_body(body)

    assert request.to_cobalt() == body


def test_unknown_fields_stay_behind_when_the_documented_ones_are_valid() -> None:
    body = {"start_date": "2023-12-01", "end_date": "2023-12-07", "include_note": True, "x": [1]}

    request = FetchRequest.from_body(body)

    assert request.to_cobalt() == {"start_date": "2023-12-01", "end_date": "2023-12-07"}


DAYS = {"start_date": "2025-01-06", "end_date": "2025-01-06"}


def test_number_of_a_provider_is_the_same_however_it_is_written() -> None:
    one, other = (
        FetchRequest.from_body({"search_by": "provider", "provider_ids": [number], **DAYS})
        for number in (7, 7.0)
    )

    assert one.to_cobalt() == other.to_cobalt()
    assert [type(each) for each in other.provider_ids] == [int]
    assert one.fingerprint("token") == other.fingerprint("token")


@pytest.mark.parametrize(
    "body",
    [
        {"search_by": "date_range", "start_date": "2025-01-06", "end_date": "2025-01-07"},
        {"search_by": "mrn", "mrn": "MRN 00-1"},
        {"search_by": "provider", "provider_ids": ["7"], **DAYS},
        {
            "search_by": "provider",
            "provider_ids": [7],
            "start_date": "2025-01-06",
            "end_date": "2025-01-11",
        },
        {"search_by": "provider", "provider_ids": [str(n) for n in range(10)], **DAYS},
    ],
)
def test_body_travels_unchanged_when_a_later_edition_is_valid(body: dict[str, Any]) -> None:
    request = FetchRequest.from_body(body)

    assert request.to_cobalt() == body


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"search_by": "name"}, "search_by must be one of: date_range, mrn, provider."),
        ({"search_by": 1}, "search_by must be one of: date_range, mrn, provider."),
        ({"search_by": ["mrn"]}, "search_by must be one of: date_range, mrn, provider."),
        ({"search_by": "mrn"}, "Missing required parameters: mrn."),
        ({"search_by": "mrn", "mrn": 12}, "mrn must be a string of 1 to 128 printable characters."),
        (
            {"search_by": "mrn", "mrn": "a\nb"},
            "mrn must be a string of 1 to 128 printable characters.",
        ),
        (
            {"search_by": "mrn", "mrn": "\ud800"},
            "mrn must be a string of 1 to 128 printable characters.",
        ),
        (
            {"search_by": "mrn", "mrn": "1" * 129},
            "mrn must be a string of 1 to 128 printable characters.",
        ),
        (
            {"search_by": "provider", **DAYS},
            "Missing required parameters: provider_ids, start_date, end_date.",
        ),
        (
            {"search_by": "provider", "provider_ids": ["1"]},
            "Missing required parameters: provider_ids, start_date, end_date.",
        ),
        (
            {"search_by": "provider", "provider_ids": [], **DAYS},
            "provider_ids must be a list of 1 to 10 provider ids.",
        ),
        (
            {"search_by": "provider", "provider_ids": "1", **DAYS},
            "provider_ids must be a list of 1 to 10 provider ids.",
        ),
        (
            {"search_by": "provider", "provider_ids": [True], **DAYS},
            "provider_ids must be a list of 1 to 10 provider ids.",
        ),
        (
            {"search_by": "provider", "provider_ids": [""], **DAYS},
            "provider_ids must be a list of 1 to 10 provider ids.",
        ),
        (
            {"search_by": "provider", "provider_ids": [7.5], **DAYS},
            "provider_ids must be a list of 1 to 10 provider ids.",
        ),
        (
            {"search_by": "provider", "provider_ids": [-1], **DAYS},
            "provider_ids must be a list of 1 to 10 provider ids.",
        ),
        (
            {"search_by": "provider", "provider_ids": [2**53], **DAYS},
            "provider_ids must be a list of 1 to 10 provider ids.",
        ),
        (
            {"search_by": "provider", "provider_ids": ["1"] * 11, **DAYS},
            "provider_ids must be a list of 1 to 10 provider ids.",
        ),
        (
            {
                "search_by": "provider",
                "provider_ids": ["1", "2"],
                "start_date": "2025-01-06",
                "end_date": "2025-01-07",
            },
            "With 2 to 10 provider_ids, start_date and end_date must be the same day.",
        ),
        (
            {
                "search_by": "provider",
                "provider_ids": ["1"],
                "start_date": "2025-01-06",
                "end_date": "2025-01-12",
            },
            "Date range cannot exceed 5 days.",
        ),
        (
            {
                "search_by": "provider",
                "provider_ids": ["1"],
                "start_date": "2025-01-06",
                "end_date": "2025-01-05",
            },
            ORDER,
        ),
    ],
)
def test_clear_text_when_a_later_edition_is_invalid(body: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidFetchRequest) as refusal:
        FetchRequest.from_body(body)

    assert refusal.value.message == message


@given(start=st.dates(), days=st.integers(-400, 400))
def test_accepted_exactly_when_the_window_is_one_to_seven_days_long(start: date, days: int) -> None:
    ordinal = min(max(start.toordinal() + days, 1), date.max.toordinal())
    end = date.fromordinal(ordinal)
    body = {"start_date": start.isoformat(), "end_date": end.isoformat()}

    try:
        FetchRequest.from_body(body)
        is_accepted = True
    except InvalidFetchRequest:
        is_accepted = False

    assert is_accepted == (1 <= (end - start).days <= 7)


def test_nothing_of_a_patient_in_repr_when_searched_by_mrn() -> None:
    request = FetchRequest.from_body({"search_by": "mrn", "mrn": "MRN-4711"})

    text = repr(request)

    assert "4711" not in text


def test_fingerprints_agree_exactly_when_request_and_connection_do() -> None:
    week = {"start_date": "2023-12-01", "end_date": "2023-12-07"}
    first = FetchRequest.from_body(week)
    same = FetchRequest.from_body({**week, "search_by": "date_range"})
    other = FetchRequest.from_body({**week, "end_date": "2023-12-06"})

    prints = [
        first.fingerprint("token-1"),
        same.fingerprint("token-1"),
        other.fingerprint("token-1"),
        first.fingerprint("token-2"),
    ]

    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_connection_id_is_the_documented_digest_of_its_token() -> None:
    connection_id = connection_id_of("abc")

    assert connection_id == "conn_ba7816bf8f01cfea414140de5dae2223"


def test_window_has_its_days_when_counted_with_both_ends() -> None:
    window = in_days(date(2025, 1, 30), from_day=1, days=7)

    assert (window.start_date, window.end_date) == (date(2025, 1, 31), date(2025, 2, 6))


@pytest.mark.parametrize(
    ("fields", "job", "reference"),
    [
        ({"job_id": "job_1", "access_token_reference_id": "user_1"}, "job_1", "user_1"),
        ({"job_execution_id": 4711, "user_id": 7}, "4711", "7"),
        ({"job_id": 12345678901234567890}, "12345678901234567890", None),
        ({"job_execution_id": None, "job_id": "job_1"}, "job_1", None),
        ({"job_execution_id": "", "job_id": "job_1"}, "job_1", None),
        ({"access_token_reference_id": None, "user_id": "user_2"}, None, "user_2"),
        ({"job_id": True, "user_id": 1.5}, None, None),
        ({"job_id": "x" * 257, "user_id": {"id": 1}}, None, None),
        ({"job_id": "a\nb", "user_id": "\ud800"}, None, None),
        (
            {"job_id": "Jane Doe", "user_id": "Riverside Clinic, Zürich"},
            None,
            "Riverside Clinic, Zürich",
        ),
        ({"job_id": "Zoë", "user_id": "a\u2028b"}, None, None),
        ({"job_id": "\x7f", "user_id": "x" * 257}, None, None),
    ],
)
def test_first_usable_id_is_taken_whatever_an_edition_calls_it(
    fields: dict[str, Any], job: str | None, reference: str | None
) -> None:
    event = CobaltEvent.read({"id": 7, "type": "t", "more": {"x": 1}, **fields})

    assert event.id == "7"
    assert (event.job_execution_id, event.access_token_reference_id) == (job, reference)


@pytest.mark.parametrize(
    ("data", "succeeded", "counted", "declared", "code"),
    [
        ({"success": True, "appointment_count": 2, "appointments": [{}, {}]}, True, 2, 2, None),
        ({"appointments": [{}]}, True, 1, None, None),
        ({"success": True, "appointment_count": 0, "appointments": []}, True, 0, 0, None),
        ({"success": True, "appointment_count": 3, "appointments": [{}]}, True, 1, 3, None),
        ({"success": True, "appointment_count": "3", "appointments": [{}]}, True, 1, None, None),
        ({"success": True, "appointments": None}, True, 0, None, None),
        ({"success": True, "appointments": "none"}, False, 0, None, "fetch_failed"),
        ({"success": False, "error": "login_required"}, False, 0, None, "login_required"),
        ({"success": False, "error": "Jane Doe has no chart"}, False, 0, None, "fetch_failed"),
        (
            {"success": False, "reasons": [{"code": "EMR_BUSY", "description": "Jane"}]},
            False,
            0,
            None,
            "emr_busy",
        ),
        ({"success": False, "error": "Garcia_Maria"}, False, 0, None, "fetch_failed"),
        ({"success": False, "error": "mrn_7305519284"}, False, 0, None, "fetch_failed"),
        ({"success": False, "reasons": ["x"]}, False, 0, None, "fetch_failed"),
        ({"success": None, "appointments": [{}]}, True, 1, None, None),
        ({"success": "true", "appointments": [{}]}, True, 1, None, None),
        ({"success": [], "appointments": [{}]}, False, 0, None, "fetch_failed"),
        ({"success": True, "appointment_count": 10**45, "appointments": []}, True, 0, None, None),
        ({"success": "no"}, False, 0, None, "fetch_failed"),
        ("text", False, 0, None, "fetch_failed"),
        (None, False, 0, None, "fetch_failed"),
    ],
)
def test_result_is_read_leniently_when_data_varies(
    data: object, succeeded: bool, counted: int, declared: int | None, code: str | None
) -> None:
    result = FetchResult.from_data(data)

    assert (result.succeeded, result.appointment_count) == (succeeded, counted)
    assert (result.declared_count, result.error_code) == (declared, code)


def test_window_of_a_result_is_left_out_when_it_is_none() -> None:
    result = FetchResult.from_data({"appointments": [], "start_date": "today", "end_date": 7})

    assert result.window is None


# ------------------------------------------------------------------------------------------- ranges

PROVIDERS = st.lists(
    st.one_of(st.integers(0, 2**53 - 1), st.text("aZ7é ", min_size=1, max_size=8)),
    min_size=1,
    max_size=30,
    unique_by=lambda each: (type(each), each),
)


@given(
    st.dates(date(2020, 1, 1), date(2030, 1, 1)),
    st.integers(1, 13),
    st.one_of(st.none(), PROVIDERS),
)
def test_same_pieces_come_of_the_same_range_when_a_message_carries_it(
    start: date, days: int, providers: list[str | int] | None
) -> None:
    body = {"start_date": f"{start}", "end_date": f"{start + timedelta(days=days)}"}
    mode = {"search_by": "provider", "provider_ids": providers} if providers else {}
    request = RangeRequest.from_body(body | mode)

    carried = RangeRequest.model_validate_json(request.model_dump_json())
    asked_again = RangeRequest.from_body(body | mode)

    assert carried.pieces == asked_again.pieces == request.pieces
    assert carried.fingerprint("token") == asked_again.fingerprint("token")
    kinds = [[type(each) for each in some.provider_ids] for some in (carried, request)]
    assert kinds[0] == kinds[1]


@given(st.dates(date(2020, 1, 1), date(2030, 1, 1)), st.integers(1, 366))
def test_every_piece_is_a_fetch_that_cobalt_takes(start: date, days: int) -> None:
    """What a caller may ask for is what a piece may ask for: the documented checks let it pass."""
    request = RangeRequest(window=Window(start_date=start, end_date=start + timedelta(days=days)))

    for piece in request.pieces:
        assert FetchRequest.from_body(piece.to_cobalt()) == piece
        assert piece.window
        assert piece.window.days_between + 1 <= 7  # should both ends count


def test_fingerprint_of_a_range_is_not_that_of_a_fetch_for_the_same_days() -> None:
    body = {"start_date": "2025-01-01", "end_date": "2025-01-05"}

    prints = {
        FetchRequest.from_body(body).fingerprint("token"),
        RangeRequest.from_body(body).fingerprint("token"),
        RangeRequest.from_body(body).fingerprint("another"),
        RangeRequest.from_body(body | {"end_date": "2025-01-06"}).fingerprint("token"),
    }

    assert len(prints) == 4
