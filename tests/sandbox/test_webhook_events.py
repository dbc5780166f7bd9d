"""docs: Webhook events."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.sandbox.conftest import Started
from tests.sandbox.support import Answer, Cobalt, Json, Receiver

NEW_ROW = [
    "event_id",
    "event_type",
    "webhook_url",
    "delivery_status",
    "created_at",
    "job_id",
    "access_token_reference_id",
    "data",
]
OLD_ROW = [
    "id",
    "type",
    "object",
    "created",
    "status",
    "delivered",
    "delivery_attempts",
    "last_delivery_attempt",
    "response_status_code",
    "job_id",
    "access_token_reference_id",
    "data",
]


def test_result_is_recorded_when_no_url_is_registered(cobalt: Cobalt) -> None:
    job_id = cobalt.started("lakeside")
    payload = cobalt.payload(job_id)

    answer = cobalt.read("/v1/webhook-events", job_id=job_id)

    body = answer.json()
    [row] = body["webhook_events"]
    assert list(row) == NEW_ROW
    assert row["event_id"] == payload["id"]
    assert row["event_type"] == payload["type"]
    assert row["created_at"] == payload["timestamp"]
    assert row["job_id"] == job_id
    assert row["access_token_reference_id"] == "user_lakeside"
    assert row["data"] == payload["data"]
    assert row["webhook_url"] is None
    assert body["success"] is True
    assert body["pagination"] == {
        "current_page": 1,
        "total_pages": 1,
        "total_count": 1,
        "page_size": 50,
    }


def test_old_row_when_the_edition_is_oldest(start: Started, receiver: Receiver) -> None:
    oldest = start("--edition", "oldest", "--seed", "2")
    oldest.steer("/reset")
    oldest.register(receiver.url())
    payload = oldest.result("lakeside")

    [row] = oldest.rows(job_id=payload["job_execution_id"])

    assert list(row) == OLD_ROW
    assert (row["id"], row["type"], row["object"]) == (payload["id"], payload["type"], "event")
    assert (row["status"], row["delivered"]) == ("success", True)
    assert (row["delivery_attempts"], row["response_status_code"]) == (1, 200)
    assert datetime.fromisoformat(row["last_delivery_attempt"])


def test_one_row_per_url_with_its_own_status_when_several_are_registered(
    cobalt: Cobalt, receiver: Receiver
) -> None:
    receiver.scripts["/bad"] = [Answer(400)]
    for path in ("/good", "/bad"):
        cobalt.register(receiver.url(path))
    cobalt.result()

    rows = cobalt.rows()
    good, bad = cobalt.rows(delivery_status="success"), cobalt.rows(delivery_status="failed")

    assert len(rows) == 2
    assert len({row["event_id"] for row in rows}) == 1
    assert [row["webhook_url"] for row in good] == [receiver.url("/good")]
    assert [row["webhook_url"] for row in bad] == [receiver.url("/bad")]


def test_rows_are_filtered_sorted_and_paged_when_asked_for(cobalt: Cobalt) -> None:
    types = ["patient.created", "appointment.created", "appointment.created"]
    for number, event_type in enumerate(types):
        cobalt.steer("/events", {"type": event_type, "clinic": "mesa", "data": {"n": number}})
        cobalt.idle()

    def numbers(**query: object) -> list[int]:
        return [row["data"]["n"] for row in cobalt.rows(**query)]

    assert numbers() == numbers(sort="-created_at") == [2, 1, 0]
    assert numbers(sort="created_at") == [0, 1, 2]
    assert numbers(event_type="appointment.created") == [2, 1]
    assert numbers(page_size=2) == [2, 1]
    assert numbers(page_size=2, page=2) == [0]
    assert numbers(page_size=2, page=3) == []
    pagination = cobalt.read("/v1/webhook-events", page_size=2, page=2).json()["pagination"]
    assert pagination == {"current_page": 2, "total_pages": 2, "total_count": 3, "page_size": 2}


def test_days_include_both_ends_when_filtered_by_date(cobalt: Cobalt) -> None:
    cobalt.result()
    created = datetime.fromisoformat(cobalt.rows()[0]["created_at"]).astimezone(UTC)
    today, day = created.date(), timedelta(days=1)

    assert len(cobalt.rows(start_date=today, end_date=today)) == 1
    assert len(cobalt.rows(start_date=today - day)) == 1
    assert cobalt.rows(start_date=today + day) == []
    assert cobalt.rows(end_date=today - day) == []


@pytest.mark.parametrize(
    "query",
    [
        {"page": 0},
        {"page": "x"},
        {"page_size": 101},
        {"page_size": 0},
        {"sort": "type"},
        {"delivery_status": "pending"},
        {"start_date": "yesterday"},
    ],
)
def test_refused_when_the_query_breaks_a_rule(cobalt: Cobalt, query: Json) -> None:
    answer = cobalt.read("/v1/webhook-events", **query)

    assert answer.status_code == 400
    assert answer.json()["success"] is False


def test_page_size_may_be_100_when_asked_for(cobalt: Cobalt) -> None:
    answer = cobalt.read("/v1/webhook-events", page_size=100)

    assert answer.json()["pagination"]["page_size"] == 100


def test_only_that_connection_when_an_access_token_is_sent(cobalt: Cobalt) -> None:
    for clinic in ("mesa", "lakeside"):
        cobalt.result(clinic)

    rows = cobalt.read("/v1/webhook-events", "lakeside").json()["webhook_events"]

    assert [row["access_token_reference_id"] for row in rows] == ["user_lakeside"]
    assert len(cobalt.rows()) == 2
