"""POST /v1/webhooks/cobalt, through its handler."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cobalt_relay import javascript
from cobalt_relay.errors import BusFault, ResultsFault, SecretsFault, TableFault
from cobalt_relay.models import (
    PROBE,
    EventRecord,
    JobState,
    Landing,
    LiveKeys,
    Request,
    Window,
    iso,
)
from cobalt_relay.services import take_in
from cobalt_relay.services.receive_webhook import MAX_DELIVERY_BYTES
from functions.receive_webhook.handler import lambda_handler
from tests.unit.conftest import (
    LambdaContextStub,
    World,
    body_of,
    header,
    sign,
    webhook_event,
)
from tests.unit.fakes import FakeJobs, live_keys

CONNECTION = "conn_" + "a" * 32
WINDOW = {"start_date": "2025-01-01", "end_date": "2025-01-07"}
KEY = f"appointments/connection={CONNECTION}/date=2025-01-02/job_1.json"


def call(event: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = lambda_handler(event, LambdaContextStub())
    return answer


def deliver(world: World, body: bytes, **how: Any) -> dict[str, Any]:
    del world  # bound to the handler
    return call(webhook_event(body, **how))


def result(**changes: Any) -> dict[str, Any]:
    """The newest edition's body of a live fetch."""
    data = {
        "success": True,
        "appointment_count": 1,
        **WINDOW,
        "appointments": [{"id": "appt_1", "patient_name": "Zoë 🦊 O’Neil", "note": "a\nb"}],
    }
    return {
        "id": "evt_1",
        "access_token_reference_id": "user_1",
        "job_id": "job_1",
        "timestamp": "2025-01-02T10:00:00Z",
        "type": "appointment.live_fetch_completed",
        "action": "sync",
        "data": data,
        **changes,
    }


def as_bytes(document: Any, *, ascii_only: bool = False) -> bytes:
    return json.dumps(document, ensure_ascii=ascii_only, separators=(",", ":")).encode()


def accept(world: World) -> None:
    """A fetch is asked for, and accepted as job_1."""
    request = Request(
        request_id="request-1",
        connection_id=CONNECTION,
        trigger="api",
        search_by="date_range",
        window=Window.model_validate(WINDOW),
        fingerprint="f",
        requested_at=world.clock(),
    )
    world.jobs.record_request(request)
    world.jobs.accept(request, "job_1", world.clock())


@pytest.fixture
def accepted(world: World) -> World:
    """A world in which job_1 was accepted for a connection."""
    accept(world)
    return world


def test_bytes_land_and_the_job_ends_when_a_result_arrives(accepted: World) -> None:
    body = as_bytes(result())

    answer = deliver(accepted, body)

    assert (answer["statusCode"], body_of(answer)["success"]) == (200, True)
    assert accepted.results.objects == {KEY: body}
    job = accepted.jobs.jobs["job_1"]
    assert (job.state, job.notified_at) == (JobState.COMPLETED, accepted.clock())
    assert job.completion is not None
    assert (job.completion.appointment_count, job.completion.delivered_via) == (1, "webhook")


def test_one_thin_event_is_sent_when_a_result_arrives(accepted: World) -> None:
    deliver(accepted, as_bytes(result()))

    [(detail_type, detail)] = accepted.bus.events
    assert detail_type == "Appointments Fetched"
    assert detail["job_execution_id"] == "job_1"
    assert detail["connection_id"] == CONNECTION
    assert detail["access_token_reference_id"] == "user_1"
    assert detail["window"] == WINDOW
    assert detail["result"] == {"bucket": "results", "key": KEY, "version_id": "v1"}
    assert (detail["appointment_count"], detail["declared_count"]) == (1, 1)
    assert (detail["trigger"], detail["request_id"]) == ("api", "request-1")
    assert "Neil" not in json.dumps(detail, ensure_ascii=False)


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("encode", [True, False])
def test_bytes_are_kept_as_they_came_whatever_their_encoding(
    accepted: World, ascii_only: bool, encode: bool
) -> None:
    body = as_bytes(result(), ascii_only=ascii_only)

    answer = deliver(accepted, body, encode=encode)

    assert answer["statusCode"] == 200
    assert accepted.results.objects[KEY] == body


def test_result_lands_when_it_is_of_the_oldest_edition(accepted: World) -> None:
    document = result(user_id="user_9", job_execution_id="job_1")
    del document["job_id"], document["access_token_reference_id"]

    answer = deliver(accepted, as_bytes(document))

    assert answer["statusCode"] == 200
    assert accepted.bus.events[0][1]["access_token_reference_id"] == "user_9"
    assert accepted.jobs.jobs["job_1"].state is JobState.COMPLETED


def test_result_lands_when_its_ids_are_numbers(world: World) -> None:
    answer = deliver(world, as_bytes(result(id=7, job_id=12345678901234567890)))

    assert answer["statusCode"] == 200
    assert world.jobs.jobs["12345678901234567890"].state is JobState.COMPLETED


@pytest.mark.parametrize(
    "changes",
    [
        {"access_token_reference_id": ""},
        {"access_token_reference_id": "x" * 300},
        {"access_token_reference_id": 1.5},
        {"access_token_reference_id": {"id": 1}},
        {"job_execution_id": ""},
        {"job_execution_id": None},
        {"data": {**WINDOW, "appointments": [], "appointment_count": 10**45}},
        {"data": {**WINDOW, "appointments": [], "start_date": 7}},
    ],
)
def test_result_lands_when_something_unimportant_is_odd(
    accepted: World, changes: dict[str, Any]
) -> None:
    answer = deliver(accepted, as_bytes(result(**changes)))

    assert answer["statusCode"] == 200
    assert accepted.jobs.jobs["job_1"].state is JobState.COMPLETED


def test_result_lands_when_a_number_is_longer_than_python_reads(accepted: World) -> None:
    body = as_bytes(result()).replace(b'"action":"sync"', b'"action":' + b"9" * 5000)

    answer = deliver(accepted, body)

    assert answer["statusCode"] == 200
    assert accepted.results.objects[KEY] == body


def test_duplicate_leaves_the_announcement_to_the_winner_however_slow_the_landing_was(
    accepted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, publish = accepted.results.create, accepted.bus.publish
    body = as_bytes(result())

    def slow_create(*arguments: Any) -> Any:
        accepted.clock.sleep(2.0)
        return create(*arguments)

    def duplicate_meanwhile(event: Any) -> None:
        monkeypatch.setattr(accepted.bus, "publish", publish)
        deliver(accepted, body)
        publish(event)

    monkeypatch.setattr(accepted.results, "create", slow_create)
    monkeypatch.setattr(accepted.bus, "publish", duplicate_meanwhile)

    deliver(accepted, body)

    assert len(accepted.bus.events) == 1


def test_zero_appointments_are_a_result(accepted: World) -> None:
    data = {"success": True, "appointment_count": 0, **WINDOW, "appointments": []}

    deliver(accepted, as_bytes(result(data=data)))

    assert accepted.bus.events[0][1]["appointment_count"] == 0
    assert accepted.jobs.jobs["job_1"].state is JobState.COMPLETED


def test_both_counts_are_told_when_they_differ(accepted: World) -> None:
    data = {"success": True, "appointment_count": 5, **WINDOW, "appointments": [{"id": 1}]}

    deliver(accepted, as_bytes(result(data=data)))

    detail = accepted.bus.events[0][1]
    assert (detail["appointment_count"], detail["declared_count"]) == (1, 5)


def test_failure_is_an_outcome_when_cobalt_reports_one(accepted: World) -> None:
    data = {
        "success": False,
        "failure_reason": "Jane Doe was not found",
        "reasons": [{"code": "PATIENT_LOCKED", "description": "Jane Doe"}],
    }
    body = as_bytes(result(data=data))

    answer = deliver(accepted, body)

    assert answer["statusCode"] == 200
    [(detail_type, detail)] = accepted.bus.events
    assert (detail_type, detail["error_code"]) == ("Appointment Fetch Failed", "patient_locked")
    assert "Jane" not in json.dumps(detail)
    assert accepted.jobs.jobs["job_1"].state is JobState.FAILED
    assert accepted.results.objects[KEY] == body


SIGNED = sign(as_bytes(result()))


@pytest.mark.parametrize(
    "signature",
    [
        "",
        SIGNED[:-1],
        SIGNED + "0",
        SIGNED.upper(),
        "sha256=" + SIGNED,
        SIGNED[::-1],
        SIGNED[:-1] + ("0" if SIGNED[-1] != "0" else "1"),
        ("0" if SIGNED[0] != "0" else "1") + SIGNED[1:],
        "0" * 64,
        "é" * 64,
        "０" * 64,
        "none",
        " " + SIGNED,
        SIGNED + "\n",
        sign(as_bytes(result()), b"another key"),
    ],
)
def test_401_and_nothing_is_stored_when_a_signature_is_wrong(
    accepted: World, signature: str, logged: Callable[[], str]
) -> None:
    answer = deliver(accepted, as_bytes(result()), signature=signature)

    assert answer["statusCode"] == 401
    assert body_of(answer) == {"success": False, "message": "Invalid signature."}
    assert accepted.results.objects == {}
    assert accepted.bus.events == []
    assert "Neil" not in logged()


def test_401_when_the_header_is_missing_or_comes_twice(accepted: World) -> None:
    body = as_bytes(result())
    without = webhook_event(body) | {"headers": {}, "multiValueHeaders": None}
    twice = webhook_event(body)
    twice["multiValueHeaders"] = {"cobalt-verification": [SIGNED, "0" * 64]}

    answers = [call(without), call(twice)]

    assert [answer["statusCode"] for answer in answers] == [401, 401]


@pytest.mark.parametrize("name", ["Cobalt-Verification", "COBALT-VERIFICATION"])
def test_signature_is_found_when_its_header_is_in_any_case(accepted: World, name: str) -> None:
    event = webhook_event(as_bytes(result()))
    event["multiValueHeaders"] = {name: [SIGNED]}

    answer = call(event)

    assert answer["statusCode"] == 200


def test_401_when_a_base64_body_is_none(accepted: World) -> None:
    event = webhook_event(b"x") | {"body": "???", "isBase64Encoded": True}

    answer = call(event)

    assert answer["statusCode"] == 401


def metrics_of(output: str) -> dict[str, float]:
    """What was counted, by name."""
    lines = [json.loads(line) for line in output.splitlines()]
    return {
        metric["Name"]: sum(line[metric["Name"]])
        for line in lines
        if "_aws" in line
        for each in line["_aws"]["CloudWatchMetrics"]
        for metric in each["Metrics"]
    }


def lines_of(output: str, message: str) -> list[dict[str, Any]]:
    """The log lines with this message."""
    lines = [json.loads(line) for line in output.splitlines()]
    return [line for line in lines if line.get("message") == message]


KEYS = {"Current": b"webhook-key", "Pending": b"the next one", "Previous": b"the last one"}


@pytest.mark.parametrize("name", KEYS)
def test_any_live_key_fits_and_is_counted_by_its_name(
    accepted: World, logged: Callable[[], str], name: str
) -> None:
    accepted.secrets.keys = live_keys(**KEYS)
    body = as_bytes(result())

    answer = deliver(accepted, body, signature=sign(body, KEYS[name]))

    assert answer["statusCode"] == 200
    counted = metrics_of(logged())
    assert {m for m in counted if m.startswith("Signature")} == {
        "SignatureFormRaw",
        f"SignatureKey{name}",
    }


@pytest.mark.parametrize("name", KEYS)
def test_javascripts_form_fits_when_the_bytes_were_written_anew_on_the_way(
    accepted: World, logged: Callable[[], str], name: str
) -> None:
    accepted.secrets.keys = live_keys(**KEYS)
    signed = as_bytes(result())
    body = json.dumps(result(), indent=2, ensure_ascii=True).encode()

    answer = deliver(accepted, body, signature=sign(signed, KEYS[name]))

    assert answer["statusCode"] == 200
    assert accepted.results.objects == {KEY: body}
    counted = metrics_of(logged())
    assert {m for m in counted if m.startswith("Signature")} == {
        "SignatureFormCanonical",
        f"SignatureKey{name}",
    }


def test_no_other_form_is_made_when_the_raw_bytes_fit(
    accepted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []
    monkeypatch.setattr(javascript, "canonical", made.append)

    answer = deliver(accepted, as_bytes(result()))

    assert answer["statusCode"] == 200
    assert made == []


@pytest.mark.parametrize(
    "body",
    [
        as_bytes(result(), ascii_only=True) + b"x",
        b"\xef\xbb\xbf" + as_bytes(result()),
        as_bytes(result()).replace(b'"sync"', b"NaN"),
        as_bytes(result()).decode().encode("utf-16"),
        as_bytes(result(note=[[]])).replace(b"[[]]", b"[" * 40 + b"]" * 40),
        as_bytes(result(note="x" * javascript.MAX_BYTES)) + b" ",
    ],
)
def test_401_when_a_signed_form_is_not_what_javascript_makes_of_the_body(
    accepted: World, body: bytes
) -> None:
    answer = deliver(accepted, body, signature=sign(as_bytes(result())), encode=True)

    assert answer["statusCode"] == 401
    assert accepted.results.objects == {}


def test_401_when_the_form_is_not_javascripts_but_another_serializers(accepted: World) -> None:
    python_form = json.dumps(result(), separators=(",", ":"), sort_keys=True).encode()
    body = as_bytes(result())

    answer = deliver(accepted, body, signature=sign(python_form))

    assert answer["statusCode"] == 401


def test_new_key_fits_at_once_when_the_kept_ones_do_not(accepted: World) -> None:
    accepted.secrets.refreshed_keys = live_keys(Current=b"brand new")
    body = as_bytes(result())

    answer = deliver(accepted, body, signature=sign(body, b"brand new"))

    assert answer["statusCode"] == 200


def test_javascripts_form_is_made_once_when_keys_are_read_anew(
    accepted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []
    original = javascript.canonical

    def noted(body: bytes) -> bytes | None:
        made.append(body)
        return original(body)

    monkeypatch.setattr(javascript, "canonical", noted)
    accepted.secrets.refreshed_keys = live_keys(Current=b"brand new")
    body = json.dumps(result(), ensure_ascii=False).encode()

    answer = deliver(accepted, body, signature=sign(as_bytes(result()), b"brand new"))

    assert answer["statusCode"] == 200
    assert made == [body]


def test_503_earns_the_retry_when_a_rotation_is_on_and_no_key_fits(
    accepted: World, logged: Callable[[], str]
) -> None:
    accepted.secrets.keys = live_keys(**KEYS)._replace(rotating=True)
    body = as_bytes(result())

    answer = deliver(accepted, body, signature=sign(body, b"made a moment ago"))

    assert answer["statusCode"] == 503
    assert header(answer, "Retry-After") == "1"
    assert accepted.results.objects == {}
    counted = metrics_of(logged())
    assert counted["KeyNotYetKnown"] == 1
    assert "BadSignature" not in counted


def test_503_when_only_the_second_look_tells_of_the_rotation(accepted: World) -> None:
    accepted.secrets.refreshed_keys = accepted.secrets.keys._replace(rotating=True)
    body = as_bytes(result())

    answer = deliver(accepted, body, signature=sign(body, b"made a moment ago"))

    assert answer["statusCode"] == 503
    assert accepted.results.objects == {}


def test_401_again_when_the_second_look_tells_that_the_rotation_is_over(accepted: World) -> None:
    accepted.secrets.refreshed_keys = accepted.secrets.keys
    accepted.secrets.keys = accepted.secrets.keys._replace(rotating=True)
    body = as_bytes(result())

    answer = deliver(accepted, body, signature=sign(body, b"made a moment ago"))

    assert answer["statusCode"] == 401


def test_401_during_a_rotation_when_a_signature_is_malformed(accepted: World) -> None:
    accepted.secrets.keys = live_keys(**KEYS)._replace(rotating=True)

    answer = deliver(accepted, as_bytes(result()), signature="0" * 63)

    assert answer["statusCode"] == 401


def test_retry_is_taken_in_when_the_key_has_come_meanwhile(accepted: World) -> None:
    accepted.secrets.keys = live_keys(Current=b"webhook-key")._replace(rotating=True)
    body = as_bytes(result())
    signature = sign(body, b"made a moment ago")
    first = deliver(accepted, body, signature=signature)
    accepted.secrets.refreshed_keys = live_keys(Pending=b"made a moment ago")

    second = deliver(accepted, body, signature=signature)

    assert (first["statusCode"], second["statusCode"]) == (503, 200)
    assert accepted.jobs.jobs["job_1"].state is JobState.COMPLETED


@pytest.mark.parametrize(("others", "status"), [({}, 503), ({"Previous": b"the last one"}, 401)])
def test_empty_key_opens_nothing(accepted: World, others: dict[str, bytes], status: int) -> None:
    accepted.secrets.keys = live_keys(Current=b"", **others)
    body = as_bytes(result())

    answer = deliver(accepted, body, signature=sign(body, b""))

    assert answer["statusCode"] == status
    assert accepted.results.objects == {}


def test_refusals_are_alike_whatever_is_wrong_with_a_signature(accepted: World) -> None:
    body = as_bytes(result())
    signatures = ["", "none", "0" * 64, SIGNED.upper(), "é" * 64, sign(body, b"another key")]

    answers = [deliver(accepted, body, signature=signature) for signature in signatures]

    assert len({json.dumps(answer, sort_keys=True) for answer in answers}) == 1


def test_genuine_delivery_is_counted_by_its_verdict(
    accepted: World, logged: Callable[[], str]
) -> None:
    body = as_bytes(result())

    deliver(accepted, body)
    first = metrics_of(logged())
    deliver(accepted, body)
    again = metrics_of(logged())

    assert (first["DeliveryReceived"], "DeliveryRepeated" in first) == (1, False)
    assert (again["DeliveryRepeated"], "DeliveryReceived" in again) == (1, False)


def test_probe_is_verified_and_leaves_nothing(world: World, logged: Callable[[], str]) -> None:
    body = as_bytes({"id": "relay-probe-1", "type": PROBE, "timestamp": iso(world.clock())})

    answers = [deliver(world, body), deliver(world, body, signature="0" * 64)]

    assert [answer["statusCode"] for answer in answers] == [200, 401]
    assert body_of(answers[0])["message"] == "Webhook verified."
    assert (world.results.objects, world.jobs.table.items, world.bus.events) == ({}, {}, [])
    assert "DeliveryVerified" in logged()


@pytest.mark.parametrize("at_refresh", [False, True])
def test_503_never_401_when_the_keys_cannot_be_read(
    accepted: World, monkeypatch: pytest.MonkeyPatch, at_refresh: bool
) -> None:
    keys = accepted.secrets.keys

    def fail(*, refresh: bool = False) -> LiveKeys:
        if refresh is at_refresh:
            raise SecretsFault
        return keys

    monkeypatch.setattr(accepted.secrets, "webhook_keys", fail)

    answer = deliver(accepted, as_bytes(result()), signature="0" * 64)

    assert answer["statusCode"] == 503
    assert accepted.results.objects == {}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b'"text"',
        b'{"id": "evt_1"}',
        b'{"type": "t"}',
        b'{"id": null, "type": "t"}',
        b'{"id": true, "type": "t"}',
        b'{"id": 1.5, "type": "t"}',
        b'{"id": "", "type": "t"}',
        b'{"id": "evt_1", "type": 7}',
        b'{"id": NaN, "type": "t"}',
        b'{"id": "evt_1", "type": "t", "data": NaN}',
        b'{"id": "' + b"x" * 257 + b'", "type": "t"}',
        b'{"id": "a\\u2028b", "type": "t"}',
        b'{"id": "Jane Doe", "type": "t"}',
        b'{"id": "evt_1", "type": "Jane Doe"}',
        '{"id": "Zoë", "type": "t"}'.encode(),
        b'{"id": "\\ud800", "type": "t"}',
        b'{"id": ' + b"9" * 5000 + b', "type": "t"}',
        b"\xff\xfe{}",
        b"[" * 100_000,
        as_bytes(result(note=[])).replace(b"[]}", b"[" * 65 + b"]" * 65 + b"}"),
        as_bytes(result()).replace(b'"sync"', b'{"a":' * 64 + b"1" + b"}" * 64),
    ],
)
def test_400_when_a_signed_body_is_no_event(accepted: World, body: bytes) -> None:
    answer = deliver(accepted, body, encode=True)

    assert answer["statusCode"] == 400
    assert body_of(answer)["success"] is False
    assert accepted.results.objects == {}


def test_result_lands_when_it_nests_as_deep_as_is_allowed(accepted: World) -> None:
    body = as_bytes(result()).replace(b'"sync"', b"[" * 63 + b"]" * 63)

    answer = deliver(accepted, body)

    assert answer["statusCode"] == 200


def test_413_before_hashing_when_a_body_is_larger_than_lambda_takes(accepted: World) -> None:
    answer = deliver(accepted, b"x" * (MAX_DELIVERY_BYTES + 1), signature="irrelevant")

    assert answer["statusCode"] == 413


def test_five_megabytes_land_whole(accepted: World) -> None:
    appointments = [{"id": n, "note": "x" * 5000} for n in range(1000)]
    data = {"success": True, "appointment_count": 1000, **WINDOW, "appointments": appointments}
    body = as_bytes(result(data=data))

    answer = deliver(accepted, body)

    assert len(body) > 5_000_000
    assert answer["statusCode"] == 200
    assert accepted.results.objects[KEY] == body


def test_nothing_changes_when_the_same_delivery_comes_again(accepted: World) -> None:
    body = as_bytes(result())

    answers = [deliver(accepted, body) for _ in range(3)]

    assert [answer["statusCode"] for answer in answers] == [200, 200, 200]
    assert accepted.results.objects[KEY] == body
    assert len(accepted.bus.events) == 1


def test_nothing_changes_when_the_same_id_comes_with_another_body(accepted: World) -> None:
    deliver(accepted, as_bytes(result()))

    answer = deliver(accepted, as_bytes(result(job_id="job_2", action="other")))

    assert answer["statusCode"] == 200
    assert list(accepted.jobs.jobs) == ["job_1"]
    assert list(accepted.results.objects) == [KEY]
    assert len(accepted.bus.events) == 1


def test_second_result_is_archived_and_the_state_stays_when_the_job_has_ended(
    accepted: World,
) -> None:
    second = as_bytes(result(id="evt_2"))
    deliver(accepted, as_bytes(result(data={"success": False})))

    answers = [deliver(accepted, second) for _ in range(2)]

    assert [answer["statusCode"] for answer in answers] == [200, 200]
    assert accepted.jobs.jobs["job_1"].state is JobState.FAILED
    key = "webhooks/type=appointment.live_fetch_completed/date=2025-01-02/evt_2.json"
    assert accepted.results.objects[key] == second
    kinds = [detail_type for detail_type, _ in accepted.bus.events]
    assert kinds == ["Appointment Fetch Failed", "Cobalt Event Received"]


def test_late_result_completes_a_job_that_had_expired(accepted: World) -> None:
    accepted.jobs.expire_job(accepted.jobs.jobs["job_1"], accepted.clock())

    deliver(accepted, as_bytes(result()))

    job = accepted.jobs.jobs["job_1"]
    assert (job.state, job.expired_at) == (JobState.COMPLETED, accepted.clock())
    [(detail_type, detail)] = accepted.bus.events
    assert (detail_type, detail["expired_at"]) == ("Appointments Fetched", iso(accepted.clock()))


def test_late_failure_changes_nothing_and_is_archived(accepted: World) -> None:
    accepted.jobs.expire_job(accepted.jobs.jobs["job_1"], accepted.clock())

    answer = deliver(accepted, as_bytes(result(data={"success": False})))

    assert answer["statusCode"] == 200
    assert accepted.jobs.jobs["job_1"].state is JobState.EXPIRED
    assert [kind for kind, _ in accepted.bus.events] == ["Cobalt Event Received"]


def test_result_waits_for_the_202_when_it_overtook_it_a_little(world: World) -> None:
    original = world.clock.sleep
    sleeps: list[float] = []

    def sleep(seconds: float) -> None:
        original(seconds)
        sleeps.append(seconds)
        if len(sleeps) == 2:
            accept(world)

    world.take_in._sleep = sleep

    deliver(world, as_bytes(result()))

    assert sum(sleeps) < 1
    assert world.bus.events[0][1]["connection_id"] == CONNECTION


def test_result_is_unclaimed_when_no_fetch_is_known_for_it(world: World) -> None:
    body = as_bytes(result())

    answer = deliver(world, body)

    assert answer["statusCode"] == 200
    [key] = world.results.objects
    assert key.startswith("appointments/connection=unclaimed/")
    detail = world.bus.events[0][1]
    assert (detail["connection_id"], detail["trigger"]) == (None, None)
    assert detail["window"] == WINDOW


def test_fetch_claims_its_job_when_the_result_came_first(world: World) -> None:
    deliver(world, as_bytes(result()))
    request = Request(
        request_id="request-1",
        connection_id=CONNECTION,
        trigger="api",
        search_by="date_range",
        window=None,
        fingerprint="f",
        requested_at=world.clock(),
    )

    world.jobs.record_request(request)
    world.jobs.accept(request, "job_1", world.clock())

    job = world.jobs.jobs["job_1"]
    assert (job.state, job.connection_id) == (JobState.COMPLETED, CONNECTION)


def test_result_lands_when_the_202_comes_between_look_and_write(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = world.jobs.create_ended

    def late_202(completion: Any, now: Any) -> Any:
        accept(world)
        return create(completion, now)

    monkeypatch.setattr(world.jobs, "create_ended", late_202)

    answer = deliver(world, as_bytes(result()))

    assert answer["statusCode"] == 200
    assert world.jobs.jobs["job_1"].state is JobState.COMPLETED
    assert world.bus.events[0][1]["connection_id"] == CONNECTION


def test_loser_sends_nothing_when_two_deliveries_come_at_once(
    accepted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = accepted.jobs.end

    def rival_wins(*arguments: Any, **options: Any) -> Any:
        end(*arguments, alone=True)
        return end(*arguments, **options)

    monkeypatch.setattr(accepted.jobs, "end", rival_wins)

    answer = deliver(accepted, as_bytes(result()))

    assert answer["statusCode"] == 200
    assert accepted.bus.events == []


@pytest.mark.parametrize("document", [result(), {**result(), "type": "appointment.created"}])
def test_one_copy_is_kept_when_a_rival_lands_while_we_store(
    accepted: World, monkeypatch: pytest.MonkeyPatch, document: dict[str, Any]
) -> None:
    create = accepted.results.create
    body = as_bytes(document)

    def rival_first(*arguments: Any) -> Any:
        monkeypatch.setattr(accepted.results, "create", create)
        deliver(accepted, body)
        return create(*arguments)

    monkeypatch.setattr(accepted.results, "create", rival_first)

    answer = deliver(accepted, body)

    assert answer["statusCode"] == 200
    assert list(accepted.results.objects.values()) == [body]
    assert len(accepted.bus.events) == 1


def test_own_bytes_are_kept_beside_when_the_place_was_left_taken(accepted: World) -> None:
    accepted.results.objects[KEY] = b"left by an attempt that crashed"
    body = as_bytes(result())

    answer = deliver(accepted, body)

    assert answer["statusCode"] == 200
    completion = accepted.jobs.jobs["job_1"].completion
    assert completion is not None
    assert completion.result.key != KEY
    assert accepted.results.objects[completion.result.key] == body


def test_archived_result_is_announced_by_the_retry_while_its_jobs_own_is_open(
    accepted: World,
) -> None:
    accepted.bus.fail("publish", BusFault(), BusFault())
    second = as_bytes(result(id="evt_2"))
    deliver(accepted, as_bytes(result()))
    deliver(accepted, second)

    deliver(accepted, second)

    assert [kind for kind, _ in accepted.bus.events] == ["Cobalt Event Received"]


def test_repeat_leaves_the_announcement_to_a_rival_that_is_at_it(accepted: World) -> None:
    body = as_bytes(result())
    accepted.jobs.fail("close_announcement", TableFault())
    first = deliver(accepted, body)

    second = deliver(accepted, body)

    assert (first["statusCode"], second["statusCode"]) == (503, 200)
    assert len(accepted.bus.events) == 1


def test_repeat_has_the_same_event_id_when_the_first_could_not_close(accepted: World) -> None:
    body = as_bytes(result())
    accepted.jobs.fail("close_announcement", TableFault())
    deliver(accepted, body)
    accepted.clock.moment += timedelta(seconds=1.1)

    deliver(accepted, body)

    first, second = [detail for _, detail in accepted.bus.events]
    assert first == second
    assert accepted.jobs.jobs["job_1"].notified_at is not None


def test_retry_announces_at_once_when_the_bus_had_failed(accepted: World) -> None:
    body = as_bytes(result())
    accepted.bus.fail_once()
    first = deliver(accepted, body)

    second = deliver(accepted, body)

    assert (first["statusCode"], second["statusCode"]) == (503, 200)
    assert len(accepted.bus.events) == 1


def test_503_when_bus_and_table_fail_together(accepted: World) -> None:
    accepted.bus.fail("publish", BusFault())
    accepted.jobs.fail("release_announcement", TableFault())

    answer = deliver(accepted, as_bytes(result()))

    assert answer["statusCode"] == 503


@pytest.mark.parametrize(
    ("part", "call_name", "fault"),
    [
        ("jobs", "look_up", TableFault()),
        ("results", "create", ResultsFault()),
        ("jobs", "end", TableFault()),
        ("bus", "publish", BusFault()),
    ],
)
def test_503_earns_the_retry_that_does_the_rest_when_a_step_fails(
    accepted: World, part: str, call_name: str, fault: Any
) -> None:
    getattr(accepted, part).fail(call_name, fault)
    body = as_bytes(result())

    answers = [deliver(accepted, body), deliver(accepted, body)]

    assert [answer["statusCode"] for answer in answers] == [503, 200]
    assert body in accepted.results.objects.values()
    assert accepted.jobs.jobs["job_1"].notified_at is not None
    assert len(accepted.bus.events) == 1


def other(**changes: Any) -> dict[str, Any]:
    """An event of another type, in the general shape."""
    return {
        "id": "evt_9",
        "object": "event",
        "created": "2025-01-02T10:00:00Z",
        "type": "access_token.login_required",
        "access_token_reference_id": "user_1",
        "data": {"message": "Jane Doe"},
        **changes,
    }


@pytest.mark.parametrize(
    "event_type",
    [
        "access_token.login_required",
        "appointment.created",
        "something.nobody.knows",
        "appointment.live_fetch_completed",
    ],
)
def test_event_is_archived_and_announced_when_it_ends_no_job(world: World, event_type: str) -> None:
    body = as_bytes(other(type=event_type))

    answer = deliver(world, body)

    assert answer["statusCode"] == 200
    key = f"webhooks/type={event_type}/date=2025-01-02/evt_9.json"
    assert world.results.objects == {key: body}
    [(detail_type, detail)] = world.bus.events
    assert (detail_type, detail["event_type"]) == ("Cobalt Event Received", event_type)
    assert detail["result"]["key"] == key
    assert "Jane" not in json.dumps(detail)


def test_archived_event_is_announced_once_when_it_comes_again(world: World) -> None:
    body = as_bytes(other())

    for _ in range(3):
        deliver(world, body)

    assert len(world.bus.events) == 1


def test_archived_event_is_announced_by_the_retry_when_the_bus_had_failed(world: World) -> None:
    body = as_bytes(other())
    world.bus.fail_once()
    deliver(world, body)
    world.clock.moment += timedelta(days=1)

    answer = deliver(world, body)

    assert answer["statusCode"] == 200
    [(_, detail)] = world.bus.events
    assert detail["received_at"] == "2025-01-02T10:00:00.000Z"
    assert world.jobs.events["evt_9"].notification == "sent"


def test_loser_sends_nothing_when_another_event_is_archived_twice_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = world.jobs.record_event

    def rival_wins(*arguments: Any) -> Any:
        record(*arguments)
        return record(*arguments)

    monkeypatch.setattr(world.jobs, "record_event", rival_wins)

    answer = deliver(world, as_bytes(other()))

    assert answer["statusCode"] == 200
    assert world.bus.events == []


def test_nothing_happens_twice_when_a_job_changes_under_our_hands(
    accepted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepted.jobs, "end", lambda job, *_: (Landing.JOB_CHANGED, job))

    answer = deliver(accepted, as_bytes(result()))

    assert answer["statusCode"] == 200
    assert [detail_type for detail_type, _ in accepted.bus.events] == ["Cobalt Event Received"]


# ------------------------------------------------------------------------------------------ replays

NOW = datetime(2025, 1, 2, 10, tzinfo=UTC)  # of the clock, and of `result`


DAY = 24 * 60 * 60.0


def at(seconds: float) -> str:
    return iso(NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize("seconds", [-DAY, 1 - DAY, -360, 0, 299, 300])
@pytest.mark.parametrize("document", [result(), other()])
def test_delivery_is_taken_in_when_it_was_signed_within_a_day(
    world: World, document: dict[str, Any], seconds: float
) -> None:
    name = "timestamp" if "timestamp" in document else "created"

    answer = deliver(world, as_bytes({**document, name: at(seconds)}))

    assert answer["statusCode"] == 200
    assert len(world.results.objects) == 1


@pytest.mark.parametrize("seconds", [-1 - DAY, 301, -(10**8), 10**9])
@pytest.mark.parametrize("document", [result(), other(), result(type="patient.updated")])
def test_400_and_nothing_is_stored_when_a_delivery_is_far_off_and_nobody_waits_for_it(
    world: World, logged: Callable[[], str], document: dict[str, Any], seconds: float
) -> None:
    name = "timestamp" if "timestamp" in document else "created"

    answer = deliver(world, as_bytes({**document, name: at(seconds)}))

    assert answer["statusCode"] == 400
    assert body_of(answer)["success"] is False
    assert (world.results.objects, world.bus.events, world.jobs.table.items) == ({}, [], {})
    output = logged()
    assert metrics_of(output)["DeliveryStale"] == 1
    [line] = lines_of(output, "delivery_stale")
    assert line["cobalt_event_id"] == document["id"]


@pytest.mark.parametrize("data", [result()["data"], {"success": False}])
@pytest.mark.parametrize("seconds", [-1 - DAY, 301])
def test_result_lands_however_far_off_when_its_job_is_open(
    accepted: World, data: dict[str, Any], seconds: float
) -> None:
    answer = deliver(accepted, as_bytes(result(data=data, timestamp=at(seconds))))

    assert answer["statusCode"] == 200
    assert accepted.jobs.jobs["job_1"].state in {JobState.COMPLETED, JobState.FAILED}


@pytest.mark.parametrize(("success", "status"), [(True, 200), (False, 400)])
def test_expired_job_still_waits_for_a_success_only(
    accepted: World, success: bool, status: int
) -> None:
    accepted.jobs.expire_job(accepted.jobs.jobs["job_1"], accepted.clock())
    data = {"success": success, "appointments": []}

    answer = deliver(accepted, as_bytes(result(data=data, timestamp=at(-1 - DAY))))

    assert answer["statusCode"] == status
    assert len(accepted.results.objects) == int(success)


def test_400_when_a_far_off_event_that_is_no_result_names_an_open_job(accepted: World) -> None:
    document = result(type="appointment.created", timestamp=at(-1 - DAY))

    answer = deliver(accepted, as_bytes(document))

    assert answer["statusCode"] == 400
    assert accepted.results.objects == {}


def test_400_when_a_far_off_result_is_of_a_job_that_has_ended(accepted: World) -> None:
    deliver(accepted, as_bytes(result()))

    answer = deliver(accepted, as_bytes(result(id="evt_2", timestamp=at(-1 - DAY))))

    assert answer["statusCode"] == 400
    assert list(accepted.results.objects) == [KEY]


@pytest.mark.parametrize("document", [result(), other()])
def test_repeat_is_answered_as_one_however_late_it_comes(
    accepted: World, document: dict[str, Any]
) -> None:
    body = as_bytes(document)
    deliver(accepted, body)
    accepted.clock.moment += timedelta(days=9)

    answer = deliver(accepted, body)

    assert (answer["statusCode"], body_of(answer)["message"]) == (200, "Webhook repeated.")
    assert len(accepted.results.objects) == len(accepted.bus.events) == 1


def test_row_of_an_event_outlives_the_time_in_which_a_replay_is_not_refused() -> None:
    jobs = FakeJobs(deadline=timedelta(minutes=10), retention=timedelta(days=1))
    record = EventRecord(
        body_sha256="", received_at=NOW, event_type="patient.updated", delivered_via="webhook"
    )

    jobs.record_event("evt_1", record, NOW)

    made_at_last = NOW + take_in.CLOCK_SKEW
    [(_, row)] = jobs.rows_of("EVENT")
    assert row["expires_at"] > (made_at_last + take_in.LATEST_DELIVERY).timestamp()


@pytest.mark.parametrize("document", [result(), other()])
def test_another_body_under_a_known_id_changes_nothing_and_is_told(
    accepted: World, logged: Callable[[], str], document: dict[str, Any]
) -> None:
    accepted.bus.fail_once()
    deliver(accepted, as_bytes(document))
    stored = dict(accepted.results.objects)
    rows = dict(accepted.jobs.table.items)

    answer = deliver(accepted, as_bytes({**document, "data": {"success": False}}))

    assert (answer["statusCode"], body_of(answer)["message"]) == (200, "Webhook conflicting.")
    assert (accepted.results.objects, accepted.jobs.table.items) == (stored, rows)
    assert accepted.bus.events == []
    output = logged()
    assert metrics_of(output.splitlines()[-1])["EventIdConflict"] == 1
    [line] = lines_of(output, "event_id_conflict")
    assert line["cobalt_event_id"] == document["id"]


@pytest.mark.parametrize("time", [None, "", "yesterday", "2025-01-02T10:00:00", True, {}, 1e30])
def test_delivery_is_taken_in_and_counted_when_it_has_no_readable_time(
    world: World, logged: Callable[[], str], time: Any
) -> None:
    answer = deliver(world, as_bytes(result(timestamp=time)))

    assert answer["statusCode"] == 200
    assert metrics_of(logged())["SignedTimeMissing"] == 1


def test_far_off_delivery_does_not_wait_for_a_202(world: World) -> None:
    before = world.clock()

    deliver(world, as_bytes(result(timestamp=at(-1 - DAY))))

    assert world.clock() == before


# ------------------------------------------------------------------------------ headers and the body


def with_headers(body: bytes, **headers: list[str]) -> dict[str, Any]:
    event = webhook_event(body)
    given = {name.replace("_", "-"): values for name, values in headers.items()}
    event["multiValueHeaders"] = {**event["multiValueHeaders"], **given}
    return event


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"webhook_id": ["evt_1"], "webhook_timestamp": ["2025-01-02T10:00:00Z"]},
        {"Webhook_Id": [" evt_1 "], "WEBHOOK_TIMESTAMP": ["2025-01-02T11:00:00.900+01:00"]},
        {"webhook_timestamp": ["1735812000"]},
        {"webhook_timestamp": ["1735812000123"]},
    ],
)
def test_nothing_is_said_when_headers_agree_with_the_body(
    accepted: World, logged: Callable[[], str], headers: dict[str, list[str]]
) -> None:
    answer = call(with_headers(as_bytes(result()), **headers))

    assert answer["statusCode"] == 200
    output = logged()
    assert "HeaderContradiction" not in metrics_of(output)
    assert lines_of(output, "header_contradiction") == []


@pytest.mark.parametrize(
    "headers",
    [
        {"webhook_id": ["evt_2-Jane"]},
        {"webhook_id": ["evt_1", "evt_2-Jane"]},
        {"webhook_id": [""]},
        {"webhook_timestamp": ["2025-01-02T10:00:01Z"]},
        {"webhook_timestamp": ["2025-01-02T10:00:00"]},
        {"webhook_timestamp": ["Jane"]},
        {"webhook_timestamp": ["١٧٣٥٨١٢٠٠٠"]},
        {"webhook_timestamp": ["9" * 100_000]},
        {"webhook_timestamp": ["0001-01-01T00:00:00+14:00"]},
    ],
)
def test_body_is_believed_and_one_line_is_logged_when_a_header_contradicts_it(
    accepted: World, logged: Callable[[], str], headers: dict[str, list[str]]
) -> None:
    answer = call(with_headers(as_bytes(result()), **headers))

    assert answer["statusCode"] == 200
    assert list(accepted.jobs.events) == ["evt_1"]
    output = logged()
    assert metrics_of(output)["HeaderContradiction"] == 1
    [line] = lines_of(output, "header_contradiction")
    assert line["level"] == "WARNING"
    assert (line["cobalt_event_id"], line["job_execution_id"]) == ("evt_1", "job_1")
    assert "Jane" not in output
    assert "99999" not in output


def test_nothing_is_said_of_headers_when_the_signature_is_wrong(
    accepted: World, logged: Callable[[], str]
) -> None:
    event = with_headers(as_bytes(result()), webhook_id=["evt_2"])
    event["multiValueHeaders"]["cobalt-verification"] = ["0" * 64]

    answer = call(event)

    assert answer["statusCode"] == 401
    assert "HeaderContradiction" not in metrics_of(logged())
