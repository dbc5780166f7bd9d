"""From the sandbox's delivery to S3, the job row and the bus, on the deployed stack."""

import hashlib
import hmac
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from cobalt_relay.models import connection_id_of, iso, utc_now
from tests.integration.support import Relay, eventually
from tests.unit.fakes import validate_event
from tools.local.eventlog import EventLog
from tools.local.sandbox import Sandbox
from tools.local.stack import Stack

WEEK = {"start_date": "2025-01-06", "end_date": "2025-01-10"}


def start(relay: Relay, clinic: str = "riverside") -> str:
    answer = relay.fetch(WEEK, clinic=clinic)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["job_execution_id"]
    return job_id


def only_event(events: EventLog, job_id: str) -> dict[str, Any]:
    """The one event of a job, held against its schema."""
    found = eventually(lambda: events.of(job_id))
    assert len(found) == 1
    validate_event(found[0]["detail-type"], found[0]["detail"])
    return found[0]


def signed(stack: Stack, body: bytes) -> dict[str, str]:
    key = stack.sandbox.webhook_secret()["current"].encode()
    return {
        "cobalt-verification": hmac.new(key, body, hashlib.sha256).hexdigest(),
        "content-type": "application/json",
    }


def a_result(job_id: str, **changes: Any) -> bytes:
    document = {
        "id": f"evt_{uuid.uuid4().hex}",
        "access_token_reference_id": "user_1",
        "job_id": job_id,
        "timestamp": iso(utc_now()),
        "type": "appointment.live_fetch_completed",
        "action": "sync",
        "data": {"success": True, "appointment_count": 0, **WEEK, "appointments": []},
        **changes,
    }
    return json.dumps(document, ensure_ascii=False).encode()


def test_previous_secret_fits_for_a_day_after_a_rotation(
    relay: Relay, stack: Stack, sandbox: Sandbox
) -> None:
    sandbox.rotate_webhook_secret()
    stack.aws.secretsmanager.put_secret_value(
        SecretId=stack.outputs["WebhookSecretArn"],
        SecretString=json.dumps({"webhook_secret_key": sandbox.webhook_secret()["current"]}),
    )
    sandbox.add_fault("previous_secret", count=1)

    states = [relay.ended_job(start(relay))["state"] for _ in range(2)]

    assert states == ["COMPLETED", "COMPLETED"]


@pytest.mark.parametrize("clinic", ["riverside", "harbor", "mesa"])
def test_live_fetch_lands_byte_for_byte_and_is_announced(
    relay: Relay, stack: Stack, events: EventLog, clinic: str
) -> None:
    job_id = start(relay, clinic)

    job = relay.ended_job(job_id)

    result = job["completion"]["result"]
    sent = stack.sandbox.event_body(job["completion"]["cobalt_event_id"])
    appointments = json.loads(sent)["data"]["appointments"]
    connection = connection_id_of(stack.access_tokens[clinic])
    assert relay.object(result["key"]) == sent
    assert result["key"].startswith(f"appointments/connection={connection}/date=")
    assert len(appointments) == job["completion"]["appointment_count"] > 0
    event = only_event(events, job_id)
    assert event["detail-type"] == "Appointments Fetched"
    assert event["detail"]["result"] == result
    assert (event["detail"]["connection_id"], event["detail"]["window"]) == (connection, WEEK)
    assert eventually(lambda: (relay.job(job_id) or {}).get("notified_at"))
    deliveries = eventually(lambda: stack.sandbox.deliveries(job_id))
    assert [(d["outcome"], d["attempt"]) for d in deliveries] == [("delivered", 1)]


@pytest.mark.parametrize(
    "fault",
    ["oldest_edition", "newest_edition", "numeric_ids", "empty", "count_mismatch", "oversized"],
)
def test_result_lands_whatever_its_form(
    relay: Relay, stack: Stack, events: EventLog, fault: str
) -> None:
    stack.sandbox.add_fault(fault, count=1)

    job = relay.ended_job(start(relay))

    sent = stack.sandbox.event_body(job["completion"]["cobalt_event_id"])
    data = json.loads(sent)["data"]
    assert job["state"] == "COMPLETED"
    assert relay.object(job["completion"]["result"]["key"]) == sent
    detail = only_event(events, job["job_execution_id"])["detail"]
    assert detail["appointment_count"] == len(data["appointments"])
    assert detail["declared_count"] == data["appointment_count"]


def test_delivery_that_overtakes_the_202_is_claimed_by_its_fetch(
    relay: Relay, stack: Stack, events: EventLog, sandbox: Sandbox
) -> None:
    sandbox.add_fault("early", count=1)

    job_id = start(relay)

    job = relay.ended_job(job_id)
    assert job["state"] == "COMPLETED"
    assert job["connection_id"] == connection_id_of(stack.access_tokens["riverside"])
    assert job["window"] == WEEK
    only_event(events, job_id)


@pytest.mark.parametrize("together", [False, True])
def test_delivery_that_comes_twice_changes_nothing_twice(
    relay: Relay, stack: Stack, events: EventLog, sandbox: Sandbox, together: bool
) -> None:
    sandbox.add_fault("duplicated", count=1, together=together)

    job_id = start(relay)

    relay.ended_job(job_id)
    deliveries = eventually(lambda: _pair(stack.sandbox.deliveries(job_id)))
    assert {d["outcome"] for d in deliveries} == {"delivered"}
    only_event(events, job_id)
    assert len([key for key in relay.object_keys() if job_id in key]) == 1


def _pair(deliveries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert len(deliveries) == 2
    return deliveries


def test_many_deliveries_at_once_have_one_winner(
    relay: Relay, stack: Stack, events: EventLog, sandbox: Sandbox
) -> None:
    sandbox.add_fault("silent", count=1)
    job_id = start(relay)
    body = a_result(job_id)
    headers = signed(stack, body)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: relay.webhook(body, headers), range(6)))

    assert {answer.status_code for answer in answers} == {200}
    only_event(events, job_id)


def test_failure_is_an_outcome(
    relay: Relay, stack: Stack, events: EventLog, sandbox: Sandbox
) -> None:
    sandbox.add_fault("failed", count=1)

    job = relay.ended_job(start(relay))

    event = only_event(events, job["job_execution_id"])
    assert job["state"] == "FAILED"
    assert event["detail-type"] == "Appointment Fetch Failed"
    assert event["detail"]["error_code"]
    sent = stack.sandbox.event_body(job["completion"]["cobalt_event_id"])
    assert relay.object(job["completion"]["result"]["key"]) == sent


@pytest.mark.parametrize("fault", ["wrong_signature", "missing_signature", "uppercase_signature"])
def test_forged_delivery_is_refused_and_leaves_nothing(
    relay: Relay, stack: Stack, sandbox: Sandbox, fault: str
) -> None:
    sandbox.add_fault(fault, count=1)

    job_id = start(relay)

    [delivery] = eventually(lambda: stack.sandbox.deliveries(job_id))
    assert (delivery["outcome"], delivery["response_status"]) == ("refused", 401)
    assert (relay.job(job_id) or {})["state"] == "ACCEPTED"
    assert not [key for key in relay.object_keys() if job_id in key]


@pytest.mark.parametrize("event_type", ["access_token.login_required", "patient.updated"])
def test_other_event_is_archived_and_announced(
    relay: Relay, stack: Stack, events: EventLog, sandbox: Sandbox, event_type: str
) -> None:
    event_id = sandbox.emit(event_type, "riverside", {"note": "Zoë 🦊"})

    def announced() -> dict[str, Any] | None:
        return next(
            (e for e in events.all() if e["detail"].get("cobalt_event_id") == event_id), None
        )

    event = eventually(announced)
    assert event is not None
    validate_event(event["detail-type"], event["detail"])
    assert event["detail"]["event_type"] == event_type
    key = event["detail"]["result"]["key"]
    assert key.startswith(f"webhooks/type={event_type}/date=")
    assert relay.object(key) == sandbox.event_body(event_id)


def test_job_of_somebody_else_is_kept_as_unclaimed(
    relay: Relay, stack: Stack, events: EventLog
) -> None:
    job_id = f"job_{uuid.uuid4().hex}"
    body = a_result(job_id)

    answer = relay.webhook(body, signed(stack, body))

    assert answer.status_code == 200
    event = only_event(events, job_id)
    assert event["detail"]["connection_id"] is None
    assert event["detail"]["result"]["key"].startswith("appointments/connection=unclaimed/")


def test_same_id_with_another_body_changes_nothing(
    relay: Relay, stack: Stack, events: EventLog
) -> None:
    job_id, event_id = f"job_{uuid.uuid4().hex}", f"evt_{uuid.uuid4().hex}"
    first = a_result(job_id, id=event_id)
    second = a_result(job_id, id=event_id, action="other")

    answers = [relay.webhook(body, signed(stack, body)) for body in (first, second)]

    assert [answer.status_code for answer in answers] == [200, 200]
    detail = only_event(events, job_id)["detail"]
    assert relay.object(detail["result"]["key"]) == first


@pytest.mark.parametrize("body", [b"", b"[]", b"not json", b'{"id": "evt_1"}', b'{"type": "t"}'])
def test_signed_body_that_is_no_event_is_a_400(relay: Relay, stack: Stack, body: bytes) -> None:
    answer = relay.webhook(body, signed(stack, body))

    assert answer.status_code == 400
    assert answer.json()["success"] is False


def test_body_that_was_written_anew_on_the_way_fits_and_lands_as_it_came(
    relay: Relay, stack: Stack, events: EventLog
) -> None:
    job_id = f"job_{uuid.uuid4().hex}"
    text = a_result(job_id, weight=1.5e-7, note="Zoë 🦊 \u2028").decode()
    compact = json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")).encode()
    body = json.dumps(json.loads(text), indent=1).encode()

    answer = relay.webhook(body, signed(stack, compact.replace(b"1.5e-07", b"1.5e-7")))

    assert answer.status_code == 200
    detail = only_event(events, job_id)["detail"]
    assert relay.object(detail["result"]["key"]) == body


def test_replay_after_its_time_is_refused_unless_its_job_waits_for_it(
    relay: Relay, stack: Stack, events: EventLog, sandbox: Sandbox
) -> None:
    sandbox.add_fault("silent", count=1)
    job_id, other = start(relay), f"job_{uuid.uuid4().hex}"
    long_ago = iso(utc_now() - timedelta(days=2))
    awaited, replay = a_result(job_id, timestamp=long_ago), a_result(other, timestamp=long_ago)

    answers = [relay.webhook(body, signed(stack, body)) for body in (awaited, replay)]

    assert [answer.status_code for answer in answers] == [200, 400]
    only_event(events, job_id)
    assert relay.job(other) is None
    assert not [key for key in relay.object_keys() if other in key]


@pytest.mark.parametrize("signature", ["", "0" * 64, "zz", "é" * 64, "0" * 63])
def test_unsigned_or_forged_body_is_a_401(relay: Relay, signature: str) -> None:
    headers = {"cobalt-verification": signature.encode().decode("latin-1")}

    answer = relay.webhook(a_result("job_x"), headers)

    assert answer.status_code == 401
    assert answer.json() == {"success": False, "message": "Invalid signature."}
