"""docs: Webhooks."""

import hashlib
import hmac
import json
from datetime import datetime

import pytest

from tests.sandbox.conftest import Schedule, Started
from tests.sandbox.support import FRIDAY, MONDAY, Cobalt, Receiver


def _signature(body: bytes, secret: str) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def test_signed_event_arrives_when_a_fetch_completes(cobalt: Cobalt, receiver: Receiver) -> None:
    secret = cobalt.register(receiver.url())

    job_id = cobalt.started("riverside")

    payload = cobalt.payload(job_id)
    [request] = receiver.received
    assert request.payload == payload
    assert request.headers["content-type"] == "application/json"
    assert request.headers["cobalt-verification"] == _signature(request.body, secret)
    assert request.headers["webhook-id"] == payload["id"]
    assert request.headers["webhook-attempt"] == "1"
    assert datetime.fromisoformat(request.headers["webhook-timestamp"]).utcoffset() is not None
    compact = json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode()
    assert request.body == compact
    assert payload["job_id"] == job_id
    assert list(payload) == [
        "id",
        "access_token_reference_id",
        "job_id",
        "timestamp",
        "type",
        "action",
        "data",
    ]
    assert payload["access_token_reference_id"] == "user_riverside"
    assert (payload["type"], payload["action"]) == ("appointment.live_fetch_completed", "sync")
    assert payload["timestamp"] == request.headers["webhook-timestamp"]
    data = payload["data"]
    assert data["success"] is True
    assert data["appointment_count"] == len(data["appointments"]) > 0
    assert (data["start_date"], data["end_date"]) == (MONDAY, FRIDAY)


def test_old_names_when_the_edition_is_oldest(start: Started) -> None:
    oldest = start("--edition", "oldest", "--seed", "2")

    payload = oldest.result("riverside")

    item = payload["data"]["appointments"][0]
    assert payload["user_id"] == "user_riverside"
    assert payload["job_execution_id"]
    assert not {"access_token_reference_id", "job_id"} & set(payload)
    assert {"patient_id", "date_time", "provider_id"} <= set(item)
    assert not {"datetime", "patient_ehr_id", "provider_ehr_id"} & set(item)


def test_text_is_not_escaped_when_it_is_not_ascii(cobalt: Cobalt, receiver: Receiver) -> None:
    cobalt.register(receiver.url())

    payload = cobalt.result("harbor")

    [request] = receiver.received
    notes = " ".join(item["note"] for item in payload["data"]["appointments"])
    assert "🙂" in notes
    assert "🙂".encode() in request.body
    assert b"\\u" not in request.body


def test_every_url_gets_every_event_when_several_are_registered(
    cobalt: Cobalt, receiver: Receiver
) -> None:
    for path in ("/one", "/two"):
        cobalt.register(receiver.url(path))

    for clinic in ("mesa", "lakeside"):
        cobalt.result(clinic)

    assert len(receiver.at("/one")) == len(receiver.at("/two")) == 2
    assert {each.body for each in receiver.at("/one")} == {
        each.body for each in receiver.at("/two")
    }


def test_general_shape_when_the_event_is_no_live_fetch(cobalt: Cobalt, receiver: Receiver) -> None:
    cobalt.register(receiver.url())
    data = {
        "access_token_reference_id": "user_mesa",
        "emr_instance_domain": "mesa.ehr.example",
        "message": "Log in again.",
        "error_type": "login_required",
    }

    event = {"type": "access_token.login_required", "clinic": "riverside", "data": data}
    cobalt.steer("/events", event)
    cobalt.idle()

    payload = receiver.received[0].payload
    assert payload.pop("id").startswith("evt_")
    assert datetime.fromisoformat(payload.pop("created"))
    assert payload == {
        "object": "event",
        "access_token_reference_id": "user_riverside",
        "type": "access_token.login_required",
        "data": data,
    }


def test_foreign_job_is_announced_when_asked_for(cobalt: Cobalt) -> None:
    event = {
        "type": "appointment.live_fetch_completed",
        "clinic": "mesa",
        "data": {"success": True},
        "job_id": 77,
        "id": "evt_given",
    }

    cobalt.steer("/events", event)
    cobalt.idle()

    payload = cobalt.control("/events/evt_given/body")
    assert payload["job_id"] == 77
    assert payload["action"] == "sync"
    assert "object" not in payload


def test_one_retry_a_second_later_when_the_answer_earns_it(schedule: Schedule) -> None:
    for status in (500, 503, 429):
        attempts = schedule.attempts(f"/{status}")

        assert [each["outcome"] for each in attempts] == ["refused", "refused"]
        first, second = schedule.receiver.at(f"/{status}")
        assert 1.0 <= second.at - first.at < 3
        assert [each.headers["webhook-attempt"] for each in (first, second)] == ["1", "2"]
        assert first.body == second.body
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert second.headers["cobalt-verification"] == _signature(second.body, schedule.secret)
        assert schedule.delivery_status(f"/{status}") == "failed"


def test_delivered_when_the_retry_goes_well(schedule: Schedule) -> None:
    attempts = schedule.attempts("/recovers")

    assert [each["outcome"] for each in attempts] == ["refused", "delivered"]
    assert schedule.delivery_status("/recovers") == "success"


@pytest.mark.parametrize("path", ["/gone", "/cut"])
def test_one_retry_when_the_network_fails(schedule: Schedule, path: str) -> None:
    attempts = schedule.attempts(path)

    assert [each["outcome"] for each in attempts] == ["network_error", "network_error"]
    assert [each["attempt"] for each in attempts] == [1, 2]


@pytest.mark.parametrize("status", [302, 400, 401, 404, 408, 422])
def test_no_retry_when_the_answer_is_another_refusal(schedule: Schedule, status: int) -> None:
    [attempt] = schedule.attempts(f"/{status}")

    assert (attempt["outcome"], attempt["response_status"]) == ("refused", status)
    assert len(schedule.receiver.at(f"/{status}")) == 1


def test_cut_off_after_5_seconds_and_never_retried_when_the_receiver_is_slow(
    schedule: Schedule,
) -> None:
    [attempt] = schedule.attempts("/slow")

    assert (attempt["outcome"], attempt["response_status"]) == ("timeout", None)
    assert 4.9 <= attempt["seconds"] < 7
    assert len(schedule.receiver.at("/slow")) == 1


def test_cut_off_after_2_seconds_when_the_retry_is_slow(schedule: Schedule) -> None:
    first, second = schedule.attempts("/slow-again")

    assert (first["outcome"], second["outcome"]) == ("refused", "timeout")
    assert 1.9 <= second["seconds"] < 4
    assert len(schedule.receiver.at("/slow-again")) == 2


def test_documented_answers_when_urls_are_managed(cobalt: Cobalt) -> None:
    url = "https://relay.example/hook"

    registered = cobalt.send("/v1/webhook", {"webhook_url": url}).json()
    twice = cobalt.send("/v1/webhook", {"webhook_url": url}).json()
    listed = cobalt.read("/v1/webhook").json()

    assert registered == twice
    assert list(registered) == ["success", "message", "webhook_secret_key"]
    [entry] = listed.pop("webhook_urls")
    assert listed == {
        "success": True,
        "webhook_url": url,
        "webhook_secret_key": registered["webhook_secret_key"],
    }
    assert list(entry) == ["id", "url"]
    deleted = cobalt.http.delete(f"/v1/webhook/{entry['id']}", headers=cobalt.client_headers)
    assert deleted.json()["success"] is True
    assert cobalt.read("/v1/webhook").json()["webhook_urls"] == []
    gone = cobalt.http.delete(f"/v1/webhook/{entry['id']}", headers=cobalt.client_headers)
    assert gone.status_code == 404


@pytest.mark.parametrize("url", [None, "", "relay", "ftp://relay.example/", "http://", 7])
def test_refused_when_the_webhook_url_is_none(cobalt: Cobalt, url: object) -> None:
    answer = cobalt.send("/v1/webhook", {"webhook_url": url})

    assert answer.status_code == 400
    assert answer.json()["success"] is False


def test_new_secret_signs_when_it_was_rotated(cobalt: Cobalt, receiver: Receiver) -> None:
    first = cobalt.register(receiver.url())
    [entry] = cobalt.read("/v1/webhook").json()["webhook_urls"]

    guide = cobalt.send("/v1/webhook/rotate-secret").json()
    reference = cobalt.send(f"/v1/webhook/{entry['id']}/rotate-secret").json()
    cobalt.result()

    second, third = guide["webhook_secret_key"], reference["webhook"]["secret"]
    [request] = receiver.received
    assert len({first, second, third}) == 3
    assert reference == {"success": True, "webhook": {"id": entry["id"], "secret": third}}
    assert request.headers["cobalt-verification"] == _signature(request.body, third)
    secrets = cobalt.control("/webhook-secret")
    assert (secrets["current"], secrets["previous"]) == (third, second)
    assert cobalt.send("/v1/webhook/wh_none/rotate-secret").status_code == 404


def test_old_secret_signs_when_the_fault_previous_secret_is_set(
    cobalt: Cobalt, receiver: Receiver
) -> None:
    first = cobalt.register(receiver.url())
    cobalt.send("/v1/webhook/rotate-secret")
    cobalt.fault("previous_secret")

    cobalt.result()

    [request] = receiver.received
    assert request.headers["cobalt-verification"] == _signature(request.body, first)
