"""What the Cobalt adapter does beyond a single fetch: asks again, lists events, reads labels."""

import json
import re
import socket
import tempfile
import threading
import time as time_module
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from cobalt_relay.adapters import cobalt as cobalt_module
from cobalt_relay.adapters.cobalt import Cobalt
from cobalt_relay.adapters.front_door import FrontDoor
from cobalt_relay.errors import (
    AccessTokenRefused,
    PendingSecretUnproven,
    RateLimited,
    RelayError,
    UpstreamBroken,
    UpstreamMalformed,
    UpstreamUnanswered,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from cobalt_relay.models import FetchResult, ListedEvent, Window
from tests.unit.test_cobalt import CREDENTIALS, WEEK, Behave, Upstream, answers, upstream

__all__ = ["upstream"]

ACCEPTED = answers(202, {"success": True, "job_execution_id": "job_1"})
NOON = datetime(2025, 1, 2, 12, 0, tzinfo=UTC)


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds


@pytest.fixture
def time() -> Time:
    return Time()


def cobalt_at(url: str, time: Time) -> Cobalt:
    return Cobalt(url, clock=time.clock, sleep=time.sleep)


def in_turn(upstream: Upstream, *behaviours: Behave) -> None:
    """Let the server behave so at its first, second ... connection, and as last at all others."""
    left = list(behaviours)

    def behave(connection: socket.socket) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(connection)

    upstream.behave = behave


# ------------------------------------------------------------------------------------------- retries


@pytest.mark.parametrize("status", [429, 503])
def test_refusal_that_names_a_pause_is_waited_out(
    upstream: Upstream, time: Time, status: int
) -> None:
    in_turn(upstream, answers(status, {}, "Retry-After: 2"), ACCEPTED)

    job = cobalt_at(upstream.url, time).fetch_appointments(CREDENTIALS, "token", WEEK)

    assert (job, time.slept, len(upstream.requests)) == ("job_1", [2.0], 2)


@pytest.mark.parametrize(
    ("behave", "error"),
    [
        (answers(429, {}), RateLimited),
        (answers(429, {}, "Retry-After: 20"), RateLimited),
        (answers(429, {}, "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT"), RateLimited),
        (answers(503, {}, "Retry-After: 600"), UpstreamUnavailable),
        (answers(503, {}), UpstreamBroken),
        (answers(500, {}, "Retry-After: 1"), UpstreamBroken),
        (answers(404, {}), UpstreamUnavailable),
        (answers(202, {}), UpstreamMalformed),
        (lambda connection: connection.close(), UpstreamUnanswered),
    ],
)
def test_nothing_else_is_sent_twice(
    upstream: Upstream, time: Time, behave: Behave, error: type[RelayError]
) -> None:
    in_turn(upstream, behave)

    with pytest.raises(error):
        cobalt_at(upstream.url, time).fetch_appointments(CREDENTIALS, "token", WEEK)

    assert (time.slept, len(upstream.requests)) == ([], 1)


def test_patience_ends_when_cobalt_keeps_asking_for_it(upstream: Upstream, time: Time) -> None:
    in_turn(upstream, answers(429, {}, "Retry-After: 5"))

    with pytest.raises(RateLimited) as refusal:
        cobalt_at(upstream.url, time).fetch_appointments(CREDENTIALS, "token", WEEK)

    assert refusal.value.retry_after == "5"
    assert time.seconds < 21 - 8
    assert len(upstream.requests) == len(time.slept) + 1 == 3


def test_unreachable_cobalt_is_called_a_few_times(time: Time) -> None:
    with pytest.raises(UpstreamUnreachable):
        cobalt_at("http://127.0.0.1:9", time).fetch_appointments(CREDENTIALS, "token", WEEK)

    assert len(time.slept) == 3
    assert [pause >= 0.5 * base for pause, base in zip(time.slept, (0.5, 1, 2), strict=True)]


# --------------------------------------------------------------------------------------- the listing

DATA = {"success": True, "start_date": "2025-01-01", "end_date": "2025-01-07", "appointments": []}


def new_row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "event_id": f"evt_{number}",
        "event_type": "appointment.live_fetch_completed",
        "webhook_url": "https://relay.example/hook",
        "delivery_status": "failed",
        "created_at": (NOON - timedelta(minutes=number)).isoformat().replace("+00:00", "Z"),
        "job_id": f"job_{number}",
        "access_token_reference_id": "user_1",
        "data": DATA,
        **changes,
    }


def old_row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": number,
        "type": "appointment.live_fetch_completed",
        "object": "event",
        "created": NOON.isoformat(),
        "status": "failed",
        "delivered": False,
        "delivery_attempts": 2,
        "last_delivery_attempt": None,
        "response_status_code": 503,
        "data": DATA,
        "job_id": f"job_{number}",
        "access_token_reference_id": "user_1",
        **changes,
    }


def pages(rows: list[Any], size: int, *, total: bool = True, compact: bool = True) -> list[Behave]:
    """A server's answers, page by page, and an empty page for all that follow."""
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    found = []
    for number, part in enumerate([*parts, []], 1):
        pagination = {"current_page": number, "total_pages": len(parts)} if total else {}
        body = {"success": True, "webhook_events": part, "pagination": pagination}
        text = json.dumps(
            body,
            ensure_ascii=False,
            separators=(",", ":") if compact else (" , ", " : "),
            indent=None if compact else 2,
        )
        found.append(answers(200, text))
    return found


def of_job(upstream: Upstream, job: str) -> list[ListedEvent]:
    return list(Cobalt(upstream.url).events_of_job(CREDENTIALS, job))


def since(upstream: Upstream, moment: datetime) -> Iterator[ListedEvent]:
    return Cobalt(upstream.url).live_fetches_since(CREDENTIALS, moment)


def test_job_is_asked_for_with_the_clients_credentials_alone(upstream: Upstream) -> None:
    in_turn(upstream, *pages([], 1))

    of_job(upstream, "job/1&x=y")

    head = upstream.requests[0].decode().lower().split("\r\n")
    assert head[0] == "get /v1/webhook-events?job_id=job%2f1%26x%3dy&page_size=1&page=1 http/1.1"
    assert {"client_id: client", "client_secret: sesame"} <= set(head)
    assert not any(line.startswith(("access_token", "content-type")) for line in head)


@pytest.mark.parametrize("compact", [True, False])
def test_body_is_the_webhooks_when_a_row_is_new(upstream: Upstream, *, compact: bool) -> None:
    data = {**DATA, "appointments": [{"patient_name": 'Zoë "🦊" \\', "note": "]}{[,"}, {}]}
    in_turn(upstream, *pages([new_row(1, data=data)], 1, compact=compact))

    [listed] = of_job(upstream, "job_1")

    assert json.loads(listed.body()) == {
        "id": "evt_1",
        "access_token_reference_id": "user_1",
        "job_id": "job_1",
        "timestamp": "2025-01-02T11:59:00Z",
        "type": "appointment.live_fetch_completed",
        "action": "sync",
        "data": data,
    }
    assert compact is (b": " not in listed.body())
    fetched = FetchResult.from_data(listed.event.data)
    assert (fetched.succeeded, fetched.appointment_count) == (True, 2)
    assert fetched.window == Window.parse("2025-01-01", "2025-01-07")
    assert listed.created_at == NOON - timedelta(minutes=1)


def test_body_is_the_webhooks_when_a_row_is_old(upstream: Upstream) -> None:
    in_turn(upstream, *pages([old_row(7)], 1))

    [listed] = of_job(upstream, "job_7")

    body = json.loads(listed.body())
    assert list(body) == [
        "id",
        "user_id",
        "job_execution_id",
        "timestamp",
        "type",
        "action",
        "data",
    ]
    assert (body["id"], body["user_id"], body["job_execution_id"]) == (7, "user_1", "job_7")
    assert listed.event.id == "7"


def test_lone_surrogates_stay_as_javascript_writes_them(upstream: Upstream) -> None:
    text = json.dumps({"webhook_events": [new_row(1, access_token_reference_id="a\ud800")]})
    text = text.replace('"appointments": []', '"appointments":[{"note":"\\ud83e"}]')
    in_turn(upstream, answers(200, text))

    [listed] = of_job(upstream, "job_1")

    assert b'"note":"\\ud83e"' in listed.body()
    assert b"a\\ud800" in listed.body()


def test_each_event_comes_once_however_many_urls_got_it(upstream: Upstream) -> None:
    rows = [new_row(number, webhook_url=url) for number in range(1, 4) for url in "abc"]
    in_turn(upstream, *pages(rows, 2))

    listed = list(since(upstream, NOON - timedelta(hours=1)))

    assert [each.event.id for each in listed] == ["evt_1", "evt_2", "evt_3"]
    assert len(upstream.requests) == 5


def test_other_rows_are_passed_over(upstream: Upstream) -> None:
    rows = [
        new_row(1, event_type="appointment.created"),
        new_row(2, job_id=None),
        new_row(3, event_id=None),
        new_row(4, data="x" * 70_000),
        "no row",
        new_row(5, job_id="job_other"),
        new_row(6, job_id="job_1"),
    ]
    in_turn(upstream, *pages(rows, 10))

    assert [each.event.id for each in of_job(upstream, "job_1")] == ["evt_6"]


@pytest.mark.parametrize("total", [True, False])
def test_pages_end_where_the_list_does(upstream: Upstream, *, total: bool) -> None:
    in_turn(upstream, *pages([new_row(1), old_row(2), new_row(3)], 1, total=total))

    listed = list(since(upstream, NOON - timedelta(hours=1)))

    assert [each.event.id for each in listed] == ["evt_1", "2", "evt_3"]
    assert len(upstream.requests) == (3 if total else 4)


def test_pages_end_where_a_server_repeats_itself(upstream: Upstream) -> None:
    in_turn(upstream, *pages([new_row(1)], 1, total=False)[:1])

    assert len(of_job(upstream, "job_1")) == 1
    assert len(upstream.requests) == 2


def test_list_is_read_no_further_than_the_moment(upstream: Upstream) -> None:
    in_turn(upstream, *pages([new_row(number) for number in range(50)], 10))

    listed = list(since(upstream, NOON - timedelta(minutes=12)))

    assert [each.event.id for each in listed] == [f"evt_{number}" for number in range(13)]
    assert len(upstream.requests) == 2
    query = upstream.requests[0].decode().split(" ", 2)[1]
    assert "start_date=2025-01-01" in query
    assert "event_type=appointment.live_fetch_completed" in query


@pytest.mark.parametrize("created", [None, "yesterday", True, 1e30])
def test_row_without_a_time_is_listed_without_one(upstream: Upstream, created: Any) -> None:
    in_turn(upstream, *pages([new_row(1, created_at=created)], 1))

    [listed] = since(upstream, NOON)

    assert listed.created_at is None


@pytest.mark.parametrize("time", [NOON.timestamp(), int(NOON.timestamp() * 1000)])
def test_time_is_read_when_it_is_a_unix_time_as_in_a_webhook(
    upstream: Upstream, time: float
) -> None:
    in_turn(upstream, *pages([new_row(1, created_at=time), new_row(2, created_at=time - 9000)], 1))

    listed = list(since(upstream, NOON))

    assert [each.created_at for each in listed] == [NOON]  # and the list is read no further


@pytest.mark.parametrize("text", ["2025-01-02T12:00:00", "2025-01-02T13:00:00+01:00"])
def test_time_without_a_zone_is_utc(upstream: Upstream, text: str) -> None:
    in_turn(upstream, *pages([new_row(1, created_at=text)], 1))

    [listed] = since(upstream, NOON)

    assert listed.created_at == NOON


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "<html>",
        "{",
        '{"success":true}',
        '{"webhook_events":{}}',
        '{"webhook_events":[{"a":1}',
        '{"webhook_events":["a" "b"]}',
        '{"webhook_events" []}',
        '{"webhook_events":[],"pagination":nope}',
        '{"webhook_events":[[[}',
    ],
)
def test_what_is_no_page_is_malformed(upstream: Upstream, text: str) -> None:
    in_turn(upstream, answers(200, text))

    with pytest.raises(UpstreamMalformed):
        of_job(upstream, "job_1")


@pytest.mark.parametrize(
    "ask",
    [
        lambda url: list(Cobalt(url).events_of_job(CREDENTIALS, "job_1")),
        lambda url: Cobalt(url).settings_of(CREDENTIALS, "token"),
    ],
)
def test_refusal_of_a_look_has_its_name(upstream: Upstream, ask: Callable[[str], Any]) -> None:
    in_turn(upstream, answers(429, {"message": "Slow down."}, "Retry-After: 1"))

    with pytest.raises(RateLimited):
        ask(upstream.url)

    assert len(upstream.requests) == 1


def test_page_of_any_size_is_not_taken(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cobalt_module, "MAX_PAGE_BYTES", 100_000)
    in_turn(upstream, *pages([new_row(1, data="x" * 200_000)], 1))

    with pytest.raises(UpstreamMalformed):
        of_job(upstream, "job_1")


def test_page_that_is_too_large_is_read_row_by_row(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cobalt_module, "MAX_PAGE_BYTES", 70_000)
    rows = [new_row(number, data={**DATA, "notes": "x" * 40_000}) for number in range(4)]
    whole, *_ = pages(rows, 4)
    in_turn(upstream, whole, *pages(rows, 1))

    listed = list(since(upstream, NOON - timedelta(hours=1)))

    assert [each.event.id for each in listed] == [f"evt_{number}" for number in range(4)]
    sizes = [re.search(rb"page_size=(\d+)&page=(\d+)", asked) for asked in upstream.requests]
    assert [found and found.groups() for found in sizes] == [
        (b"20", b"1"),
        *((b"1", number) for number in (b"1", b"2", b"3", b"4")),
    ]


def test_full_disk_is_a_fault_of_its_own_kind(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    disk = nullcontext(SimpleNamespace(write=full))
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: disk)
    in_turn(upstream, *pages([new_row(1)], 1))

    with pytest.raises(UpstreamMalformed):
        of_job(upstream, "job_1")


def test_download_ends_when_nobody_waits_for_it_any_more(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cobalt_module, "LIST_SECONDS", 0.3)
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        with suppress(OSError):
            while True:
                connection.sendall(b" " * 65_536)
                time_module.sleep(0.05)
        ended.set()

    in_turn(upstream, drip)

    with pytest.raises(UpstreamUnanswered):
        of_job(upstream, "job_1")
    assert ended.wait(5)


def test_large_result_is_in_memory_only_as_the_body(upstream: Upstream) -> None:
    note = json.dumps({"id": "appt", "note": "Zoë 🦊 ]}" * 200}, ensure_ascii=False)
    data = '{"success":true,"appointments":[' + ",".join([note] * 8_000) + "]}"
    text = json.dumps({"webhook_events": [new_row(1, data=0)]}).replace(
        '"data": 0', f'"data":{data}'
    )
    raw = text.encode()
    size = len(raw)
    del data, text

    def behave(connection: socket.socket) -> None:
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        connection.sendall(raw)

    in_turn(upstream, behave)
    cobalt = Cobalt(upstream.url)
    reading = cobalt.events_of_job(CREDENTIALS, "job_1")
    tracemalloc.start()

    listed = next(reading)
    read = tracemalloc.get_traced_memory()[1]
    body = listed.body()
    written = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert size > 15_000_000
    assert len(body) > 0.99 * size
    assert read < 0.1 * size
    assert written < 1.1 * size
    assert FetchResult.from_data(listed.event.data).appointment_count == 8_000


# ----------------------------------------------------------------------------------------- the label


@pytest.mark.parametrize(
    ("status", "body", "label"),
    [
        (200, {"success": True, "data": {"access_token_reference_id": "user_1"}}, "user_1"),
        (200, {"success": True, "data": {"access_token_reference_id": None}}, None),
        (200, {"success": True, "data": []}, None),
        (200, "<html>", None),
        (404, {"success": False, "message": "Settings not found."}, None),
    ],
)
def test_label_is_read_from_the_settings(
    upstream: Upstream, status: int, body: Any, label: str | None
) -> None:
    in_turn(upstream, answers(status, body))

    found = Cobalt(upstream.url).settings_of(CREDENTIALS, "token-1").access_token_reference_id

    assert found == label
    head = upstream.requests[0].decode().lower().split("\r\n")
    assert head[0] == "get /v1/settings http/1.1"
    assert "access_token: token-1" in head


# --------------------------------------------------------------------------------- managing webhooks


REGISTERED = {
    "success": True,
    "webhook_url": "https://a.example.com/hook",
    "webhook_urls": [
        {"id": "wh_a", "url": "https://a.example.com/hook"},
        {"id": 7, "url": "https://b.example.com/hook"},
        {"id": "wh_c"},
        "nonsense",
    ],
    "webhook_secret_key": "whsec_canary",
}


def request_lines(upstream: Upstream) -> list[str]:
    return [request.decode().partition(" HTTP/")[0] for request in upstream.requests]


def test_registered_urls_and_the_key_are_read_with_the_clients_credentials_alone(
    upstream: Upstream,
) -> None:
    in_turn(upstream, answers(200, REGISTERED))

    registration = Cobalt(upstream.url).webhook(CREDENTIALS)

    assert registration.secret == "whsec_canary"
    assert registration.ids == {
        "https://a.example.com/hook": "wh_a",
        "https://b.example.com/hook": "7",
    }
    assert request_lines(upstream) == ["GET /v1/webhook"]
    assert b"client_id: client" in upstream.requests[0]
    assert b"access_token" not in upstream.requests[0]
    assert "canary" not in repr(registration)


@pytest.mark.parametrize(
    ("changes", "ids"),
    [
        ({"webhook_urls": None}, {"https://a.example.com/hook": None}),
        ({"webhook_urls": [], "webhook_url": None}, {}),
    ],
)
def test_url_may_come_without_an_id_or_not_at_all(
    upstream: Upstream, changes: dict[str, Any], ids: dict[str, str | None]
) -> None:
    in_turn(upstream, answers(200, REGISTERED | changes))

    assert Cobalt(upstream.url).webhook(CREDENTIALS).ids == ids


@pytest.mark.parametrize("body", ["{}", "[]", "<html>", {**REGISTERED, "success": False}])
def test_registration_is_malformed_when_it_is_none(upstream: Upstream, body: Any) -> None:
    in_turn(upstream, answers(200, body))

    with pytest.raises(UpstreamMalformed):
        Cobalt(upstream.url).webhook(CREDENTIALS)


@pytest.mark.parametrize("missing", [404, 405])
@pytest.mark.parametrize(
    "answer",
    [
        {"success": True, "webhook": {"id": "wh_a", "secret": "whsec_1"}},
        {"success": True, "message": "Rotated.", "webhook_secret_key": "whsec_1"},
    ],
)
def test_key_is_rotated_by_either_edition(
    upstream: Upstream, answer: dict[str, Any], missing: int
) -> None:
    in_turn(upstream, answers(200, answer), answers(missing, {}), answers(201, answer))
    cobalt = Cobalt(upstream.url)

    keys = [cobalt.rotate_webhook_secret(CREDENTIALS, id_) for id_ in ("wh_a", "wh/b")]

    assert keys == ["whsec_1", "whsec_1"]
    assert request_lines(upstream) == [
        "POST /v1/webhook/wh_a/rotate-secret",
        "POST /v1/webhook/wh%2Fb/rotate-secret",
        "POST /v1/webhook/rotate-secret",
    ]


def test_key_of_all_urls_is_rotated_when_ours_has_no_id(upstream: Upstream) -> None:
    in_turn(upstream, answers(200, {"webhook_secret_key": "whsec_1"}))

    assert Cobalt(upstream.url).rotate_webhook_secret(CREDENTIALS, None) == "whsec_1"

    assert request_lines(upstream) == ["POST /v1/webhook/rotate-secret"]


@pytest.mark.parametrize("key", [None, "", "with blank", "é", 7, "x" * 2000])
def test_rotation_is_malformed_when_it_gives_no_key(upstream: Upstream, key: Any) -> None:
    in_turn(upstream, answers(200, {"webhook": {"secret": key}, "webhook_secret_key": key}))

    with pytest.raises(UpstreamMalformed):
        Cobalt(upstream.url).rotate_webhook_secret(CREDENTIALS, "wh_a")


@pytest.mark.parametrize(
    ("status", "error"), [(401, AccessTokenRefused), (429, RateLimited), (500, UpstreamBroken)]
)
def test_rotation_is_sent_once_when_it_fails(
    upstream: Upstream, status: int, error: type[Exception]
) -> None:
    in_turn(upstream, answers(status, {"message": "No."}))

    with pytest.raises(error):
        Cobalt(upstream.url).rotate_webhook_secret(CREDENTIALS, "wh_a")

    assert len(upstream.requests) == 1


def test_probe_goes_to_the_front_door_as_a_delivery(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # the way of Cobalt knows none
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    in_turn(upstream, answers(401, {}))

    status = FrontDoor(f"{upstream.url}/v1/webhooks/cobalt").deliver(b'{"id": 1}', "ab" * 32)

    head, _, body = upstream.requests[0].partition(b"\r\n\r\n")
    assert (status, body) == (401, b'{"id": 1}')
    assert head.startswith(b"POST /v1/webhooks/cobalt HTTP/1.1")
    assert b"cobalt-verification: " + b"ab" * 32 in head


def test_redirection_of_the_front_door_is_its_answer(upstream: Upstream) -> None:
    in_turn(upstream, answers(302, {}, f"Location: {upstream.url}/elsewhere"), answers(200, {}))

    status = FrontDoor(f"{upstream.url}/v1").deliver(b"{}", "ab" * 32)

    assert (status, len(upstream.requests)) == (302, 1)


def test_unproven_when_the_front_door_does_not_answer() -> None:
    with pytest.raises(PendingSecretUnproven):
        FrontDoor("http://127.0.0.1:1/v1").deliver(b"{}", "")
