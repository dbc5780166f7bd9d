"""Handlers that crash, on exceptions that quote patients: nothing of it leaves the function.

`tests/leaks` goes down the paths that can be provoked on a deployed stack; these cannot.
"""

import hashlib
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cobalt_relay import api
from cobalt_relay.errors import RelayError, TableFault
from cobalt_relay.models import (
    FetchWork,
    RangePlan,
    RangeRequest,
    Window,
    connection_id_of,
    range_id_of,
)
from functions.fetch_appointments.handler import lambda_handler as fetch_appointments
from functions.plan_fetches.handler import lambda_handler as plan_fetches
from functions.receive_webhook.handler import lambda_handler as receive_webhook
from functions.reconcile_jobs.handler import lambda_handler as reconcile_jobs
from functions.run_fetches.handler import lambda_handler as run_fetches
from tests.leaks.canaries import DATE_OF_BIRTH, MRN, NAME, NOTE, PATIENTS, WORDING
from tests.leaks.search import Canary, Finding, Search, Text
from tests.unit.conftest import (
    HEADERS,
    LambdaContextStub,
    World,
    fetch_event,
    queue_event,
    webhook_event,
)

ROOT = Path(__file__).parents[2]
TOKEN = "at_canary_5c0d9b7e31f84a62"
QUOTE = f"{NAME} {DATE_OF_BIRTH} {MRN}\n{NOTE} {TOKEN}"
SEARCH = Search([*PATIENTS, Canary("token", TOKEN)], documented=[connection_id_of(TOKEN)])
MRN_FETCH = fetch_event(
    {"search_by": "mrn", "mrn": MRN}, {**HEADERS, "access_token": TOKEN, "Idempotency-Key": MRN}
)
RESULT = webhook_event(
    json.dumps(
        {
            "id": "evt_1",
            "type": "appointment.live_fetch_completed",
            "job_id": "job_1",
            "data": {"success": True, "appointments": [WORDING]},
        }
    ).encode()
)
WORK = FetchWork(
    plan=RangePlan(
        range_id=range_id_of("canary"),
        connection_id=connection_id_of(TOKEN),
        trigger="schedule",
        request=RangeRequest(window=Window.parse("2025-01-06", "2025-01-07")),
        accepted_at=datetime(2025, 1, 2, 9, 0, tzinfo=UTC),
    ),
    piece=0,
    not_before=datetime(2025, 1, 2, 9, 0, tzinfo=UTC),
)
OTHER = webhook_event(json.dumps({"id": "evt_2", "type": "t", "data": WORDING}).encode())

type Handle = Callable[[dict[str, Any], LambdaContextStub], Any]


def client_error() -> None:
    """What an adapter raises where AWS quotes the request that it refuses."""
    answer: Any = {"Error": {"Code": "ValidationException", "Message": QUOTE}}
    raise TableFault from ClientError(answer, "PutItem")


def unforeseen() -> None:
    raise ValueError(QUOTE)


def missing_key() -> None:
    raise KeyError({MRN: NAME})


def not_text() -> None:
    NOTE.encode()  # UnicodeEncodeError carries the whole text


CRASHES = [client_error, unforeseen, missing_key, not_text]
CALLS: list[tuple[Handle, Any, str]] = [
    *(
        (fetch_appointments, MRN_FETCH, call)
        for call in (
            *("secrets.credentials", "jobs.record_request", "connections.is_registered"),
            *("connections.keep_token", "cobalt.fetch_appointments", "jobs.accept"),
            "connections.register",
        )
    ),
    *(
        (receive_webhook, RESULT, call)
        for call in (
            *("secrets.webhook_keys", "jobs.look_up", "results.create", "jobs.create_ended"),
            *("bus.publish", "jobs.close_announcement"),
        )
    ),
    *((receive_webhook, OTHER, call) for call in ("results.create", "jobs.record_event")),
    *(
        (plan_fetches, {}, call)
        for call in (
            *("secrets.credentials", "connections.ids", "connections.several", "queue.send"),
        )
    ),
    *(
        (run_fetches, queue_event(WORK), call)
        for call in (
            *("ranges.get", "ranges.paused_until", "connections.get", "jobs.rows"),
            *("connections.token", "ranges.create", "ranges.note_piece"),
            *("secrets.credentials", "jobs.record_request", "cobalt.fetch_appointments"),
            "jobs.accept",
        )
    ),
    *(
        (reconcile_jobs, {}, call)
        for call in (
            *("jobs.due", "jobs.put_off", "secrets.credentials", "cobalt.events_of_job"),
            *("cobalt.live_fetches_since", "connections.token", "jobs.open_requests"),
        )
    ),
]


@pytest.fixture
def told(
    logged: Callable[[], str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[[Handle, Any], list[Text]]:
    """Run a handler as Lambda does; give all that leaves it, what Lambda itself writes included."""
    caplog.set_level(logging.DEBUG)

    def run(handle: Handle, event: Any) -> list[Text]:
        capsys.readouterr()
        try:
            outcome = json.dumps(handle(event, LambdaContextStub()))
        except RelayError as error:
            # Lambda tells type, text and place of what left the function, not what caused it.
            outcome = "".join(traceback.format_exception(error, chain=False))
        output = capsys.readouterr()
        return [
            Text("answer", outcome),
            *(Text("log", line) for line in output.out.splitlines()),
            Text("stderr", output.err),
            Text("log of a library", caplog.text),
        ]

    return run


@pytest.mark.parametrize("crash", CRASHES)
@pytest.mark.parametrize(
    ("handle", "event", "call"),
    CALLS,
    ids=[f"{handle.__module__.split('.')[1]}-{call}" for handle, _, call in CALLS],
)
def test_nothing_is_told_when_a_call_fails_and_quotes_a_patient(
    world: World,
    told: Callable[[Handle, Any], list[Text]],
    monkeypatch: pytest.MonkeyPatch,
    handle: Handle,
    event: Any,
    call: str,
    crash: Callable[[], None],
) -> None:
    if handle in (plan_fetches, reconcile_jobs):
        _fill(world)
    if handle is run_fetches:
        world.connections.add(TOKEN)
    fake, name = call.split(".")
    monkeypatch.setattr(getattr(world, fake), name, lambda *_, **__: crash())

    texts = told(handle, event)

    lines = [json.loads(text.text) for text in texts if text.place == "log"]
    assert SEARCH([*texts, *_kept(world)]) == []
    assert crash is client_error or "unexpected_error" in {line.get("message") for line in lines}


def _fill(world: World) -> None:
    """A connection, an open job of it, and a request of which nobody knows."""
    world.connections.add(TOKEN)
    days = {"start_date": "2025-01-06", "end_date": "2025-01-07"}
    headers = {**HEADERS, "access_token": TOKEN}
    fetch_appointments(fetch_event(days, headers), LambdaContextStub())
    world.cobalt.errors[TOKEN] = TimeoutError(QUOTE)
    unknown = fetch_event({**days, "end_date": "2025-01-08"}, headers)
    unknown["requestContext"]["requestId"] = "request-2"
    fetch_appointments(unknown, LambdaContextStub())
    world.cobalt.errors.clear()
    world.clock.moment += timedelta(minutes=10)


def _kept(world: World) -> Iterator[Text]:
    """Give what lies in the rows, on the bus and in the keys."""
    for item in world.jobs.table.items.values():
        yield Text("row", json.dumps(item, default=str, ensure_ascii=False))
    for event in world.bus.events:
        yield Text("bus", json.dumps(event))
    yield from (Text("key", key) for key in world.results.objects)


def test_leak_of_a_crash_is_found_when_it_is_planted(
    world: World, told: Callable[[Handle, Any], list[Text]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.jobs, "record_request", lambda *_, **__: unforeseen())
    monkeypatch.setattr(api, "failure", lambda error: {"error": str(error)})
    monkeypatch.setattr(api, "UNEXPECTED_MESSAGE", QUOTE)

    found = SEARCH(told(fetch_appointments, MRN_FETCH))

    assert Finding("log", "MRN", "plain") in found
    assert Finding("answer", "MRN", "plain") in found


def test_idempotency_key_cannot_be_found_out_by_trying_when_it_is_an_mrn(world: World) -> None:
    fetch_appointments(MRN_FETCH, LambdaContextStub())

    [(name, _)] = world.jobs.rows_of("IDEMPOTENCY")
    known = (connection_id_of(TOKEN), *(key for key, _ in world.jobs.rows_of("REQUEST")))
    guesses = [f"{each}{gap}{MRN}" for each in ("", *known) for gap in ("", "\n", "#", ":", " ")]
    assert name not in {hashlib.sha256(guess.encode()).hexdigest() for guess in guesses}
    assert name == hashlib.sha256(f"{TOKEN}\n{MRN}".encode()).hexdigest()


def test_no_code_traces_calls_and_no_function_is_told_to() -> None:
    sources = [*(ROOT / "layers" / "relay").rglob("*.py"), *(ROOT / "functions").rglob("*.py")]

    text = "".join(path.read_text(encoding="utf-8") for path in sources)

    assert "racer" not in text  # Powertools' captures answers and exceptions, texts included
    assert "aws_xray_sdk" not in text


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "events").glob("*.json")), ids=lambda path: path.stem
)
def test_event_has_no_field_for_free_text_but_the_operators_own_label(path: Path) -> None:
    schema = json.loads(path.read_text(encoding="utf-8"))

    assert set(_free_texts(schema, "")) <= {"access_token_reference_id", "bucket", "version_id"}


def _free_texts(schema: Any, name: str) -> Iterator[str]:
    """Name the fields that may hold any text; `bucket` and `version_id` are AWS's."""
    if isinstance(schema, list):
        for each in schema:
            yield from _free_texts(each, name)
    elif isinstance(schema, dict):
        if schema.get("type") == "string" and not schema.keys() & {"pattern", "format", "enum"}:
            yield name
        for key, each in schema.items():
            yield from _free_texts(each, name if key == "anyOf" else key)
