"""Whatever comes in, through whole handlers: an answer in the declared form, and nothing stored unsigned.

What a signature lets through, what the parsers make of it, and each of them on its own.
"""

import base64
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cobalt_relay.javascript import canonical
from functions.fetch_appointments.handler import lambda_handler as fetch_appointments
from functions.receive_webhook.handler import lambda_handler as receive_webhook
from tests.unit.conftest import HEADERS, LambdaContextStub, World, api_event, body_of, sign

fuzzed = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
type Stored = tuple[dict[Any, Any], dict[Any, Any], list[Any]]

GENUINE = json.dumps(
    {
        "id": "evt_1",
        "access_token_reference_id": "user_1",
        "job_id": "job_1",
        "timestamp": "2025-01-02T10:00:00Z",
        "type": "appointment.live_fetch_completed",
        "action": "sync",
        "data": {
            "success": True,
            "appointment_count": 1,
            "start_date": "2025-01-01",
            "end_date": "2025-01-07",
            "appointments": [{"id": 7, "patient_name": "Zoë 🦊", "weight": 70.5, "note": "a\n[b"}],
        },
    },
    ensure_ascii=False,
    separators=(",", ":"),
).encode()
WEEK = b'{"start_date": "2023-12-01", "end_date": "2023-12-07"}'

BOMBS = [
    b"[" * 1_000_000,
    b'{"a":' * 200_000,
    b"[" * 5_000 + b"]" * 5_000,
    b'{"id":"e","type":"t","data":' + b"[" * 9_000 + b"]" * 9_000 + b"}",
    b'{"id":"e","type":"t","n":' + b"9" * 3_000_000 + b"}",
    b'{"id":"e","type":"t","n":1e' + b"9" * 100_000 + b"}",
    b'{"id":"e","type":"t","n":-0.' + b"0" * 100_000 + b"1}",
    b'{"id":"e","type":"t","s":"' + b"a" * 5_000_000 + b'"}',
    b'{"id":"e","type":"t",' + b",".join(b'"%x":1' % n for n in range(300_000)) + b"}",
    b'{"id":"e","type":"t",' + b",".join([b'"id":"f"'] * 50_000) + b"}",
    b'"' + b'\\"' * 1_000_000,
    b'"' + b"\\ud800" * 100_000 + b'"',
    b"\xff\xfe" + '{"id":"e","type":"t"}'.encode("utf-16-le"),
    b"\xef\xbb\xbf{}",
    b"\x00" * 100_000,
    b"\xff" * 100_000,
    b"x" * (6 * 1024 * 1024 + 1),
]

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([10**400, -(10**25), 1e308, "\ud800", "0001-01-01T00:00:00+14:00", "9" * 300])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
MUTATIONS = st.lists(
    st.tuples(
        st.integers(min_value=0),
        st.integers(min_value=0, max_value=3),
        st.binary(max_size=3) | st.sampled_from([b" ", b"\n", b'"', b"\\", b"[[", b"NaN", b"\xff"]),
    ),
    min_size=1,
    max_size=3,
)
SIGNATURES = st.one_of(
    st.just(sign(GENUINE)),
    st.text(max_size=70),
    st.text("0123456789abcdef", min_size=64, max_size=64),
    st.sampled_from(["", "0" * 64, sign(b"another"), sign(GENUINE, b""), sign(GENUINE).upper()]),
    st.sampled_from(["a" * 5_000_000, "é" * 64, sign(GENUINE) + "," + sign(GENUINE), "\ud800"]),
)
ODD_HEADERS = st.dictionaries(
    st.sampled_from(
        ["webhook-id", "Webhook-Timestamp", "webhook-attempt", "content-type", "Content-Encoding"]
    )
    | st.text(max_size=12),
    st.lists(
        st.text(max_size=20)
        | st.sampled_from(
            ["9" * 1_000_000, "-1", "2025-01-02T10:00:00Z", "1735812000", "x" * 10**6]
        ),
        max_size=2,
    ),
    max_size=4,
)


def mutate(body: bytes, mutations: list[tuple[int, int, bytes]]) -> bytes:
    for at, cut, inserted in mutations:
        place = at % (len(body) + 1)
        body = body[:place] + inserted + body[place + cut :]
    return body


def event_of(path: str, body: bytes, headers: dict[str, list[str]]) -> dict[str, Any]:
    first = {name: values[0] for name, values in headers.items() if values}
    return {**api_event(path, body, first, encode=True), "multiValueHeaders": headers}


def ask(handler: Callable[..., dict[str, Any]], event: dict[str, Any]) -> dict[str, Any]:
    """The answer, of which the form is held against the declared one."""
    answer = handler(event, LambdaContextStub())
    body = body_of(answer)
    assert body["success"] is (answer["statusCode"] < 300)
    assert isinstance(body["message"], str)
    assert answer["multiValueHeaders"]["Content-Type"] == ["application/json"]
    return answer


def deliver(body: bytes, signature: str, headers: dict[str, list[str]]) -> int:
    every = {**headers, "cobalt-verification": [signature]}
    status: int = ask(receive_webhook, event_of("/webhooks/cobalt", body, every))["statusCode"]
    return status


def stored(world: World) -> Stored:
    return dict(world.results.objects), dict(world.jobs.table.items), list(world.bus.events)


# ----------------------------------------------------------------------------------------- signature


@fuzzed
@given(
    body=st.binary(max_size=200) | st.sampled_from(BOMBS), signature=SIGNATURES, headers=ODD_HEADERS
)
def test_nothing_unsigned_is_taken_in(
    world: World, body: bytes, signature: str, headers: dict[str, list[str]]
) -> None:
    status = deliver(body, signature, headers)

    assert status == (413 if len(body) > 6 * 1024 * 1024 else 401)
    assert stored(world) == ({}, {}, [])


@fuzzed
@given(mutations=MUTATIONS)
def test_altered_delivery_is_taken_in_only_where_it_says_the_very_same(
    world: World, mutations: list[tuple[int, int, bytes]]
) -> None:
    body = mutate(GENUINE, mutations)
    is_same = GENUINE in (body, canonical(body))
    before = stored(world)

    status = deliver(body, sign(GENUINE), {})

    assert status == (200 if is_same else 401)
    assert is_same or stored(world) == before


@pytest.mark.parametrize(
    "values", [[], [sign(GENUINE)] * 2, [sign(GENUINE), "0" * 64], ["0" * 64, sign(GENUINE)]]
)
@pytest.mark.parametrize("second_name", ["cobalt-verification", "COBALT-VERIFICATION"])
def test_one_signature_in_one_header_or_none(
    world: World, values: list[str], second_name: str
) -> None:
    headers: dict[str, list[str]] = {}
    for name, value in zip(["Cobalt-Verification", second_name], values, strict=False):
        headers[name] = [*headers.get(name, []), value]

    answer = ask(receive_webhook, event_of("/webhooks/cobalt", GENUINE, headers))

    assert answer["statusCode"] == 401
    assert stored(world) == ({}, {}, [])


def test_no_flipped_bit_is_overlooked(world: World) -> None:
    dice = random.Random(1)  # noqa: S311
    for place in range(len(GENUINE)):
        flipped = GENUINE[place] ^ (1 << dice.randrange(8))
        body = GENUINE[:place] + bytes([flipped]) + GENUINE[place + 1 :]

        status = deliver(body, sign(GENUINE), {})

        assert status == 401
    assert stored(world) == ({}, {}, [])


# ----------------------------------------------------------------------------------- parser, webhook


def deliver_signed(world: World, body: bytes, headers: dict[str, list[str]] | None = None) -> None:
    """A signed body is taken in or refused as none, and a refused one leaves nothing."""
    before = stored(world)

    status = deliver(body, sign(body), headers or {})

    assert status in {200, 400}
    assert status == 200 or stored(world) == before


@fuzzed
@given(body=st.binary(max_size=200), headers=ODD_HEADERS)
def test_any_signed_bytes_are_answered(
    world: World, body: bytes, headers: dict[str, list[str]]
) -> None:
    deliver_signed(world, body, headers)


@fuzzed
@given(
    changes=st.dictionaries(
        st.sampled_from([*json.loads(GENUINE), "user_id", "job_execution_id", "created"]), JSON
    ),
    data=st.dictionaries(
        st.sampled_from([*json.loads(GENUINE)["data"], "error", "error_code", "reasons"]), JSON
    ),
    headers=ODD_HEADERS,
)
def test_any_signed_event_is_answered(
    world: World, changes: dict[str, Any], data: dict[str, Any], headers: dict[str, list[str]]
) -> None:
    genuine = json.loads(GENUINE)
    document = {**genuine, "data": {**genuine["data"], **data}, **changes}

    deliver_signed(world, json.dumps(document).encode(), headers)


@fuzzed
@given(mutations=MUTATIONS)
def test_any_altered_event_is_answered(
    world: World, mutations: list[tuple[int, int, bytes]]
) -> None:
    deliver_signed(world, mutate(GENUINE, mutations))


@pytest.mark.parametrize("body", BOMBS[:-1], ids=range(len(BOMBS) - 1))
def test_signed_bombs_are_answered(world: World, body: bytes) -> None:
    deliver_signed(world, body)


# ------------------------------------------------------------------------------------- parser, fetch


def fetch(world: World, body: bytes, headers: dict[str, list[str]] | None = None) -> int:
    """A call is accepted or refused as the caller's mistake, and Cobalt hears of accepted ones only."""
    world.jobs.table.items.clear()
    calls = len(world.cobalt.calls)
    every = {name: [value] for name, value in HEADERS.items()} | (headers or {})

    status = ask(fetch_appointments, event_of("/appointments/fetch", body, every))["statusCode"]

    assert status in {202, 400, 413, 415}
    assert len(world.cobalt.calls) == calls + (status == 202)
    assert status == 202 or stored(world) == ({}, {}, [])
    return int(status)


@fuzzed
@given(body=st.binary(max_size=200) | st.sampled_from(BOMBS), headers=ODD_HEADERS)
def test_any_bytes_are_refused_as_a_fetch(
    world: World, body: bytes, headers: dict[str, list[str]]
) -> None:
    status = fetch(world, body, headers)

    assert status != 202


@fuzzed
@given(mutations=MUTATIONS, headers=ODD_HEADERS)
def test_any_altered_fetch_is_answered(
    world: World, mutations: list[tuple[int, int, bytes]], headers: dict[str, list[str]]
) -> None:
    fetch(world, mutate(WEEK, mutations), headers)


@fuzzed
@given(
    st.dictionaries(
        st.sampled_from(["start_date", "end_date", "search_by", "mrn", "provider_ids", "x"]),
        JSON | st.sampled_from(["2023-12-01", "2023-12-05", "date_range", "mrn", "provider", [1]]),
    )
)
def test_any_fields_of_a_fetch_are_answered(world: World, document: dict[str, Any]) -> None:
    fetch(world, json.dumps(document).encode())


@fuzzed
@given(
    headers=st.dictionaries(
        st.sampled_from([*HEADERS, "Access_Token", "Idempotency-Key"]),
        st.lists(
            st.text(max_size=20) | st.sampled_from(["client", "sesame", "t" * 10**6]), max_size=2
        ),
    ),
    body=st.sampled_from([base64.b64encode(WEEK).decode(), "", "???", "\ud800", None]),
)
def test_any_headers_of_a_fetch_are_answered(
    world: World, headers: dict[str, list[str]], body: str | None
) -> None:
    event = {**event_of("/appointments/fetch", WEEK, headers), "body": body}

    answer = ask(fetch_appointments, event)

    assert answer["statusCode"] in {202, 400, 401, 422}
