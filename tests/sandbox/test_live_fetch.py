"""docs: Live fetch."""

import pytest

from tests.sandbox.conftest import Started
from tests.sandbox.support import FRIDAY, MONDAY, Cobalt, Json

MISSING = "Missing required parameters: start_date, end_date."
BAD_DATE = "Invalid date format. Use ISO format (YYYY-MM-DD)."
NOT_AFTER = "end_date must be after start_date."
TOO_LONG = "Date range cannot exceed 7 days."
TEN_PROVIDERS = [str(number) for number in range(10)]


def test_founding_answer_when_a_fetch_is_accepted(cobalt: Cobalt) -> None:
    answer = cobalt.fetch("riverside", start_date="2023-12-01", end_date="2023-12-07")

    body = answer.json()
    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/json"
    assert body.pop("job_execution_id")
    assert body == {
        "success": True,
        "message": "Live fetch request accepted. Results will be sent via webhook when ready.",
    }


def test_job_is_named_job_id_when_the_edition_is_newest(start: Started) -> None:
    answer = start("--edition", "newest").fetch()

    assert list(answer.json()) == ["success", "message", "job_id"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"start_date": MONDAY}, MISSING),
        ({"end_date": MONDAY}, MISSING),
        ({"start_date": "", "end_date": None}, MISSING),
        ({"start_date": "03/02/2026", "end_date": FRIDAY}, BAD_DATE),
        ({"start_date": MONDAY, "end_date": "2026-02-30"}, BAD_DATE),
        ({"start_date": "20260302", "end_date": FRIDAY}, BAD_DATE),
        ({"start_date": 20260302, "end_date": FRIDAY}, BAD_DATE),
        ({"start_date": MONDAY, "end_date": MONDAY}, NOT_AFTER),
        ({"start_date": FRIDAY, "end_date": MONDAY}, NOT_AFTER),
        ({"start_date": "2026-03-02", "end_date": "2026-03-10"}, TOO_LONG),
        ({"search_by": "mrn"}, "Missing required parameters: mrn."),
        (
            {"search_by": "provider", "start_date": MONDAY, "end_date": FRIDAY},
            "Missing required parameters: provider_ids, start_date, end_date.",
        ),
        (
            {
                "search_by": "provider",
                "provider_ids": [*TEN_PROVIDERS, "x"],
                "start_date": MONDAY,
                "end_date": MONDAY,
            },
            "provider_ids must be a list of 1 to 10 provider ids.",
        ),
        (
            {
                "search_by": "provider",
                "provider_ids": ["1"],
                "start_date": "2026-03-02",
                "end_date": "2026-03-08",
            },
            "end_date must be at most 5 days after start_date for one provider.",
        ),
        (
            {
                "search_by": "provider",
                "provider_ids": ["1", "2"],
                "start_date": MONDAY,
                "end_date": FRIDAY,
            },
            "start_date must equal end_date for more than one provider.",
        ),
        ({"search_by": "name"}, "Invalid search_by. Use date_range, mrn or provider."),
    ],
)
def test_documented_refusal_when_the_body_breaks_a_rule(
    cobalt: Cobalt, body: Json, message: str
) -> None:
    answer = cobalt.fetch("mesa", **body)

    assert answer.status_code == 400
    assert answer.json() == {"success": False, "message": message}
    assert cobalt.control("/jobs")["jobs"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"start_date": "2026-03-02", "end_date": "2026-03-09"},
        {"search_by": "date_range", "start_date": "0001-01-01", "end_date": "0001-01-08"},
        {"start_date": "9999-12-24", "end_date": "9999-12-31"},
        {"search_by": "provider", "provider_ids": ["1"], "start_date": MONDAY, "end_date": MONDAY},
        {
            "search_by": "provider",
            "provider_ids": ["1"],
            "start_date": "2026-03-02",
            "end_date": "2026-03-07",
        },
        {
            "search_by": "provider",
            "provider_ids": TEN_PROVIDERS,
            "start_date": MONDAY,
            "end_date": MONDAY,
        },
        {"search_by": "mrn", "mrn": "100001"},
    ],
)
def test_accepted_when_the_body_is_at_a_limit(cobalt: Cobalt, body: Json) -> None:
    answer = cobalt.fetch("mesa", **body)

    assert answer.status_code == 202
    assert cobalt.payload(answer.json()["job_execution_id"])["data"]["success"] is True


def test_emr_is_named_when_it_does_not_support_live_fetch(cobalt: Cobalt) -> None:
    answer = cobalt.fetch("summit")

    assert answer.status_code == 400
    assert answer.json()["message"] == (
        "Live fetch for appointments is not supported for athenahealth."
        " Currently supported: eClinicalWorks."
    )


def test_login_required_when_the_link_is_broken(cobalt: Cobalt) -> None:
    answer = cobalt.fetch("old-mill")

    assert answer.status_code == 403
    assert answer.json() == {
        "success": False,
        "error": "login_required",
        "message": "Account link expired. Please go through the integration setup again.",
    }


@pytest.mark.parametrize("content", [b"{", b"[]", b'"x"', b"", b"[" * 100_000])
def test_refused_when_the_body_is_no_json_object(cobalt: Cobalt, content: bytes) -> None:
    headers = {**cobalt.headers("mesa"), "content-type": "application/json"}

    answer = cobalt.http.post("/v1/appointments/fetch", content=content, headers=headers)

    assert answer.status_code == 400
    assert answer.json()["success"] is False


def test_body_is_not_looked_at_when_it_is_not_said_to_be_json(cobalt: Cobalt) -> None:
    content = b'{"start_date": "2026-03-02", "end_date": "2026-03-06"}'

    answer = cobalt.http.post(
        "/v1/appointments/fetch", content=content, headers=cobalt.headers("mesa")
    )

    assert answer.status_code == 400
    assert answer.json()["message"] == MISSING


def test_refused_when_the_body_is_huge(cobalt: Cobalt) -> None:
    answer = cobalt.fetch("mesa", start_date=MONDAY, end_date=FRIDAY, more="x" * 1_100_000)

    assert answer.status_code == 413
    assert answer.json()["success"] is False


def test_two_jobs_when_the_same_fetch_is_sent_twice(cobalt: Cobalt) -> None:
    headers = {**cobalt.headers("mesa"), "idempotency-key": "same"}
    body = {"start_date": MONDAY, "end_date": FRIDAY}

    answers = [
        cobalt.http.post("/v1/appointments/fetch", json=body, headers=headers) for _ in range(2)
    ]

    assert len({answer.json()["job_execution_id"] for answer in answers}) == 2


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_not_found_when_a_job_is_asked_for_or_cancelled(cobalt: Cobalt, method: str) -> None:
    job_id = cobalt.started()

    for path in (
        f"/v1/appointments/fetch/{job_id}",
        "/v1/appointments/fetch",
        f"/v1/jobs/{job_id}",
    ):
        answer = cobalt.http.request(method, path, headers=cobalt.headers("mesa"))

        assert answer.status_code == 404
        assert answer.json() == {"success": False, "message": "Not found."}


def test_only_that_patient_with_its_author_when_fetched_by_mrn(cobalt: Cobalt) -> None:
    data = cobalt.result("riverside", search_by="mrn", mrn="100007")["data"]

    items = data["appointments"]
    assert data["appointment_count"] == len(items) > 0
    assert {item["patient_mrn"] for item in items} == {"100007"}
    assert all(item["created_at"] and item["created_by"] for item in items)
    assert "start_date" not in data


@pytest.mark.parametrize(
    "mrn", ["999999", "none", "\u0661\u0660\u0660\u0660\u0660\u0661", "0100001"]
)
def test_nothing_when_nobody_has_the_mrn(cobalt: Cobalt, mrn: str) -> None:
    data = cobalt.result("riverside", search_by="mrn", mrn=mrn)["data"]

    assert data == {"success": True, "appointment_count": 0, "appointments": []}


def test_only_that_provider_when_fetched_by_provider(cobalt: Cobalt) -> None:
    everything = cobalt.result("lakeside", start_date=MONDAY, end_date=FRIDAY)["data"]
    provider = everything["appointments"][0]["provider_ehr_id"]

    found = cobalt.result(
        "lakeside",
        search_by="provider",
        provider_ids=[provider],
        start_date=MONDAY,
        end_date=FRIDAY,
    )["data"]

    wanted = [item for item in everything["appointments"] if item["provider_ehr_id"] == provider]
    assert found["appointments"] == wanted
    assert 0 < found["appointment_count"] < everything["appointment_count"]
