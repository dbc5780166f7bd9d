"""Every fault, over real HTTP."""

import hashlib
import hmac
import threading
import time

import httpx
import pytest

from sandbox.faults import KINDS
from tests.sandbox.conftest import Started
from tests.sandbox.support import FRIDAY, MONDAY, Cobalt, Json, Receiver, until


def _signature(body: bytes, secret: str) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    ("fault", "options", "status"),
    [
        ("rate_limited", {}, 429),
        ("server_error", {}, 500),
        ("unavailable", {}, 503),
        ("wrong_credentials", {}, 401),
    ],
)
def test_json_error_and_no_job_when_the_call_is_to_fail(
    cobalt: Cobalt, fault: str, options: Json, status: int
) -> None:
    cobalt.fault(fault, **options)

    answer = cobalt.fetch()

    assert answer.status_code == status
    assert answer.json()["success"] is False
    assert "retry-after" not in answer.headers
    assert cobalt.control("/jobs")["jobs"] == []
    assert cobalt.fetch().status_code == 202


@pytest.mark.parametrize("fault", ["rate_limited", "unavailable"])
def test_retry_after_when_asked_for(cobalt: Cobalt, fault: str) -> None:
    cobalt.fault(fault, retry_after=7)

    answer = cobalt.fetch()

    assert answer.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    "fault", ["rate_limited", "server_error", "unavailable", "wrong_credentials", "html"]
)
def test_own_words_when_the_fault_has_a_message(cobalt: Cobalt, fault: str) -> None:
    cobalt.fault(fault, message="Chart of Zoë is locked")

    assert "Chart of Zoë is locked" in cobalt.fetch().text


@pytest.mark.parametrize(("options", "status"), [({}, 500), ({"status": 504}, 504)])
def test_page_when_the_fault_is_html(cobalt: Cobalt, options: Json, status: int) -> None:
    cobalt.fault("html", **options)

    answer = cobalt.fetch()

    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.text.startswith("<html>")


@pytest.mark.parametrize("accepted", [True, False])
def test_no_answer_when_the_connection_is_closed(cobalt: Cobalt, accepted: bool) -> None:
    cobalt.fault("hang_up", accepted=accepted)

    with pytest.raises(httpx.RemoteProtocolError):
        cobalt.fetch()

    assert len(cobalt.control("/jobs")["jobs"]) == int(accepted)
    [request] = cobalt.control("/requests")["requests"]
    assert (request["status"], request["fault"]) == (None, "hang_up")


@pytest.mark.parametrize(("options", "jobs"), [({}, 1), ({"accepted": False}, 0)])
def test_no_answer_when_the_call_hangs(cobalt: Cobalt, options: Json, jobs: int) -> None:
    cobalt.fault("hang", **options)

    with pytest.raises(httpx.ReadTimeout):
        cobalt.http.post(
            "/v1/appointments/fetch",
            json={"start_date": MONDAY, "end_date": FRIDAY},
            headers=cobalt.headers("mesa"),
            timeout=0.2,
        )

    assert len(cobalt.control("/jobs")["jobs"]) == jobs
    assert cobalt.control("/requests")["requests"][0]["status"] is None


def test_answer_is_late_when_the_call_is_slow(cobalt: Cobalt) -> None:
    cobalt.fault("slow", seconds=0.3)
    started = time.monotonic()

    answer = cobalt.fetch()

    assert answer.status_code == 202
    assert 0.3 <= time.monotonic() - started < 1


def test_answer_is_bent_when_the_acceptance_is_to_be_odd(cobalt: Cobalt) -> None:
    cobalt.fault("accepted_as_200")
    assert cobalt.fetch().status_code == 200

    cobalt.fault("no_job_id")
    assert set(cobalt.fetch().json()) == {"success", "message"}

    cobalt.fault("numeric_job_id")
    job_id = cobalt.fetch().json()["job_execution_id"]
    assert isinstance(job_id, int)
    assert cobalt.payload(str(job_id))["job_id"] == str(job_id)


def test_only_that_path_when_a_fault_names_one(cobalt: Cobalt) -> None:
    cobalt.fault("server_error", path="/v1/webhook-events")

    assert cobalt.fetch().status_code == 202
    assert cobalt.read("/v1/webhook-events").status_code == 500
    assert cobalt.read("/v1/webhook-events").status_code == 200
    cobalt.fault("unavailable", path="*")
    assert cobalt.read("/v1/settings", "riverside").status_code == 503


def test_only_that_clinic_when_a_fault_names_one(cobalt: Cobalt) -> None:
    cobalt.fault("server_error", clinic="lakeside")

    assert cobalt.fetch("mesa").status_code == 202
    assert cobalt.fetch("lakeside").status_code == 500


def test_about_that_share_when_a_fault_has_a_rate(cobalt: Cobalt) -> None:
    assert cobalt.steer("/faults", {"fault": "server_error", "rate": 0.3}).status_code == 201

    statuses = [cobalt.fetch().status_code for _ in range(60)]

    assert 6 <= statuses.count(500) <= 32
    assert statuses.count(202) == 60 - statuses.count(500)


def test_nothing_is_sent_but_all_is_recorded_when_lost(cobalt: Cobalt, receiver: Receiver) -> None:
    cobalt.register(receiver.url())
    cobalt.fault("lost")

    job_id = cobalt.started()

    payload = cobalt.payload(job_id)
    assert receiver.received == []
    [row] = cobalt.rows(job_id=job_id)
    assert (row["data"], row["delivery_status"]) == (payload["data"], "failed")
    assert cobalt.control("/deliveries", job_id=job_id)["deliveries"] == []


@pytest.mark.parametrize("together", [True, False])
def test_two_deliveries_of_one_event_when_duplicated(
    cobalt: Cobalt, receiver: Receiver, together: bool
) -> None:
    cobalt.register(receiver.url())
    cobalt.fault("duplicated", together=together)

    cobalt.result()

    first, second = receiver.received
    assert first.body == second.body
    assert first.headers == second.headers


def test_the_later_job_comes_first_when_reordered(cobalt: Cobalt, receiver: Receiver) -> None:
    cobalt.register(receiver.url())
    cobalt.fault("reordered", clinic="lakeside")
    first = cobalt.started("lakeside")
    until(lambda: cobalt.control(f"/jobs/{first}")["event_id"])

    second = cobalt.started("mesa")

    until(lambda: len(receiver.received) == 2)
    assert [each.payload["job_id"] for each in receiver.received] == [second, first]


def test_delivered_before_the_202_when_early(cobalt: Cobalt, receiver: Receiver) -> None:
    cobalt.register(receiver.url())
    cobalt.fault("early")

    job_id = cobalt.started()

    answered = time.monotonic()
    [request] = receiver.received
    assert request.at < answered
    assert request.payload["job_id"] == job_id
    assert cobalt.control("/deliveries")["deliveries"][0]["outcome"] == "delivered"


def test_neither_recorded_nor_delivered_at_first_when_late(
    cobalt: Cobalt, receiver: Receiver
) -> None:
    cobalt.register(receiver.url())
    cobalt.fault("late", seconds=0.4)
    started = time.monotonic()

    job_id = cobalt.started()

    assert cobalt.rows(job_id=job_id) == []
    cobalt.payload(job_id)
    assert receiver.received[0].at - started >= 0.4


@pytest.mark.parametrize(("options", "megabytes"), [({}, 5), ({"megabytes": 1.5}, 1.5)])
def test_about_that_many_megabytes_when_oversized(
    cobalt: Cobalt, receiver: Receiver, options: Json, megabytes: float
) -> None:
    secret = cobalt.register(receiver.url())
    cobalt.fault("oversized", **options)

    payload = cobalt.result("riverside")

    [request] = receiver.received
    assert len(request.body) == pytest.approx(megabytes * 1_000_000, rel=0.01)
    assert request.headers["cobalt-verification"] == _signature(request.body, secret)
    assert payload["data"]["appointment_count"] == len(payload["data"]["appointments"])


def test_signature_is_bent_when_asked_for(cobalt: Cobalt, receiver: Receiver) -> None:
    secret = cobalt.register(receiver.url())

    for fault in ("wrong_signature", "missing_signature", "uppercase_signature"):
        cobalt.fault(fault)
        cobalt.result()

    wrong, missing, upper = receiver.received
    assert wrong.headers["cobalt-verification"] != _signature(wrong.body, secret)
    assert len(wrong.headers["cobalt-verification"]) == 64
    assert "cobalt-verification" not in missing.headers
    assert upper.headers["cobalt-verification"] == _signature(upper.body, secret).upper()


def test_failure_with_patient_data_when_failed(cobalt: Cobalt) -> None:
    cobalt.fault("failed")

    payload = cobalt.result("riverside")

    data = payload["data"]
    assert payload["type"] == "appointment.live_fetch_completed"
    assert data["success"] is False
    assert data["failure_reason"]
    assert all(set(reason) == {"code", "description"} for reason in data["reasons"])
    assert "-Sample" in data["reasons"][0]["description"]
    assert "appointments" not in data
    assert cobalt.control("/jobs")["jobs"][0]["state"] == "failed"


def test_nothing_ever_when_silent(cobalt: Cobalt, receiver: Receiver) -> None:
    cobalt.register(receiver.url())
    cobalt.fault("silent")

    job_id = cobalt.started()

    until(lambda: cobalt.control(f"/jobs/{job_id}")["state"] == "silent")
    cobalt.idle()
    assert receiver.received == []
    assert cobalt.rows() == []


def test_edition_of_that_job_when_a_fault_asks_for_it(cobalt: Cobalt) -> None:
    cobalt.fault("newest_edition")
    newest = cobalt.fetch().json()
    cobalt.fault("oldest_edition")
    oldest = cobalt.fetch().json()

    assert "job_id" in newest
    assert "job_execution_id" in oldest
    assert cobalt.payload(newest["job_id"])["job_id"] == newest["job_id"]
    payload = cobalt.payload(oldest["job_execution_id"])
    assert payload["job_execution_id"] == oldest["job_execution_id"]
    assert "date_time" in payload["data"]["appointments"][0]


def test_numbers_for_ids_when_numeric(cobalt: Cobalt, receiver: Receiver) -> None:
    cobalt.register(receiver.url())
    cobalt.fault("numeric_ids")

    job_id = cobalt.started()

    payload = cobalt.payload(job_id)
    assert isinstance(payload["id"], int)
    assert payload["job_id"] == int(job_id)
    assert all(isinstance(item["id"], int) for item in payload["data"]["appointments"])
    assert receiver.received[0].headers["webhook-id"] == str(payload["id"])
    [row] = cobalt.rows(job_id=job_id)
    assert row["event_id"] == payload["id"]


def test_counts_are_bent_when_asked_for(cobalt: Cobalt) -> None:
    cobalt.fault("empty")
    empty = cobalt.result()["data"]
    cobalt.fault("count_mismatch")
    mismatch = cobalt.result()["data"]

    assert (empty["success"], empty["appointment_count"], empty["appointments"]) == (True, 0, [])
    assert mismatch["appointment_count"] > len(mismatch["appointments"]) > 0


def test_only_that_job_when_a_fault_names_it(cobalt: Cobalt) -> None:
    cobalt.fault("late", seconds=0.5, clinic="mesa")
    job_id = cobalt.started("mesa")
    other = cobalt.started("lakeside")
    assert cobalt.payload(other)["data"]["success"] is True
    cobalt.steer("/faults", {"fault": "failed", "job_id": "job_other"})

    payload = cobalt.payload(job_id)

    assert payload["data"]["success"] is True
    assert cobalt.control(f"/jobs/{job_id}")["faults"] == ["late"]


def test_running_job_fails_when_a_fault_names_it(start: Started) -> None:
    slow = start("--fetch-seconds", "0.5")
    job_id = slow.started()
    slow.fault("failed", job_id=job_id)

    payload = slow.payload(job_id)

    assert payload["data"]["success"] is False
    assert slow.control(f"/jobs/{job_id}")["faults"] == ["failed"]
    assert slow.control("/faults")["faults"] == []


def test_other_events_are_bent_too_when_a_delivery_fault_is_set(
    cobalt: Cobalt, receiver: Receiver
) -> None:
    cobalt.register(receiver.url())
    cobalt.fault("missing_signature")

    cobalt.steer("/events", {"type": "patient.updated", "clinic": "mesa", "data": {}})

    until(lambda: bool(receiver.received))
    assert "cobalt-verification" not in receiver.received[0].headers


@pytest.mark.parametrize(
    "given",
    [
        {"fault": "nonsense"},
        {},
        {"fault": "lost", "count": 0},
        {"fault": "lost", "count": "many"},
        {"fault": "lost", "rate": 1.5},
        {"fault": "lost", "seconds": 3},
        {"fault": "late", "seconds": -1},
        {"fault": "lost", "clinic": "nowhere"},
        {"fault": "server_error", "job_id": "job_1"},
        {"fault": "lost", "path": "/v1/settings"},
        {"fault": "html", "status": 200},
        {"fault": "oversized", "megabytes": 0},
        {"fault": "lost", "colour": "red"},
    ],
)
def test_refused_with_what_is_allowed_when_a_fault_is_wrong(cobalt: Cobalt, given: Json) -> None:
    answer = cobalt.steer("/faults", given)

    assert answer.status_code == 400
    assert answer.json()["message"]
    assert set(answer.json()["allowed"]) == set(KINDS)
    assert cobalt.control("/faults")["faults"] == []


def test_fault_is_gone_when_it_is_removed_or_spent(cobalt: Cobalt) -> None:
    ids = [cobalt.fault("failed", count=2)["id"] for _ in range(3)]
    removed = cobalt.http.delete(f"/_sandbox/faults/{ids[1]}")
    again = cobalt.http.delete(f"/_sandbox/faults/{ids[1]}")

    left = [fault["id"] for fault in cobalt.control("/faults")["faults"]]

    assert (removed.status_code, again.status_code) == (204, 404)
    assert left == [ids[0], ids[2]]
    assert cobalt.http.delete("/_sandbox/faults").status_code == 204
    assert cobalt.control("/faults")["faults"] == []


def test_all_faults_are_drawn_once_when_calls_come_at_the_same_time(cobalt: Cobalt) -> None:
    cobalt.fault("server_error", count=5)
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(cobalt.fetch().status_code))
        for _ in range(12)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(statuses) == [202] * 7 + [500] * 5
