"""What is measured: every metric is described, and what is described is measured."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, get_args

import pytest

from cobalt_relay import observability
from cobalt_relay.api import STATUS_OF
from cobalt_relay.errors import (
    DaysNotBrought,
    RateLimited,
    UpstreamBroken,
    UpstreamFault,
    UpstreamRefusal,
)
from cobalt_relay.models import Channel, ConnectionState, Due, WebhookKey
from cobalt_relay.services.take_in import Verdict
from cobalt_relay.services.watch import FRESH_FOR
from cobalt_relay.snapshots import KINDS
from functions.reconcile_jobs.handler import lambda_handler as reconcile
from tests.unit.conftest import LambdaContextStub, World
from tests.unit.test_shape import RELAY, leaves
from tools.local.paths import ROOT

DOCUMENT = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
REFUSALS = [
    each.__name__
    for family in (UpstreamRefusal, UpstreamFault)
    for each in leaves(family)
    if not getattr(each, "may_have_started", False) and each is not DaysNotBrought
]
VOCABULARIES: dict[str, list[str]] = {
    "SignatureForm": ["Raw", "Canonical"],
    "SignatureKey": list(get_args(WebhookKey.__annotations__["name"])),
    "Planned": ["Messages", "Suspended", "WithoutTimeZone"],
    "FetchRefused": REFUSALS,
    "Delivery": [verdict.capitalize() for verdict in Verdict],
    "DeliveredBy": [channel.capitalize() for channel in get_args(Channel)],
    "Connections": ["Fresh", "Stale", "Suspended"],
    "Appointments": [kind.capitalize() for kind in KINDS],
    "JobFailed": [*observability._FAILURES.values(), "Otherwise"],
    "Refused": [str(int(status)) for status in set(STATUS_OF.values())],
}
"""Of metrics whose names have a reason, a channel or the like in them."""


def measured() -> Iterator[str]:
    """Every name that the code measures under; those with a part that varies are spelt out."""
    for path in RELAY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            if getattr(node.func, "id", "") in {"count", "measure_seconds", "measure_percent"}:
                yield from names_of(node.args[0])


def names_of(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(name)):
            yield name
        case ast.IfExp():
            yield from names_of(node.body)
            yield from names_of(node.orelse)
        case ast.JoinedStr(values=[ast.Constant(value=str(prefix)), *_]):
            yield from (prefix + each for each in VOCABULARIES[prefix])
        case ast.BinOp(left=ast.Constant(value=str(prefix))):
            yield from (prefix + each for each in VOCABULARIES[prefix])


def described() -> list[str]:
    rows = [line.split("|")[1] for line in DOCUMENT.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


def test_every_metric_is_described_once_and_none_besides() -> None:
    names = described()

    assert len(names) == len(set(names))
    assert set(names) == set(measured())


def test_names_say_nothing_of_anybody() -> None:
    assert all(re.fullmatch(r"[A-Z][A-Za-z0-9]+", name) for name in described())


# ------------------------------------------------------------------------- measured by the reconciler


def figures(text: str) -> dict[str, float]:
    """The metrics of what was logged."""
    lines = [json.loads(line) for line in text.splitlines() if '"_aws"' in line]
    names = [
        metric["Name"]
        for line in lines
        for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]
    ]
    return {name: sum(line.get(name, [0])[0] for line in lines) for name in names}


def look(world: World, logged: Callable[[], str], minute: int = 0) -> dict[str, float]:
    world.clock.moment = world.clock.moment.replace(minute=minute)
    logged()
    reconcile({}, LambdaContextStub())
    return figures(logged())


def test_nothing_open_is_measured_as_nothing(world: World, logged: Callable[[], str]) -> None:
    found = look(world, logged)

    assert (found["OpenJobs"], found["OldestOpenJobAge"]) == (0, 0)


def test_open_jobs_and_the_age_of_the_oldest_are_measured(
    world: World, logged: Callable[[], str]
) -> None:
    world.silent |= {"job_1", "job_2"}
    for token in ("token-1", "token-2"):
        start(world, token)
        world.clock.sleep(20)
    start(world, "token-3")
    world.deliver("job_3")

    found = look(world, logged, world.clock.moment.minute)

    assert found["OpenJobs"] == 2
    assert found["OldestOpenJobAge"] == pytest.approx(40, abs=1)
    assert found["OpenJobPatience"] == pytest.approx(100 * 40 / (120 * 60), abs=0.02)


def test_freshness_is_told_of_every_connection_once_in_half_an_hour(
    world: World, logged: Callable[[], str]
) -> None:
    now = world.clock.moment.replace(minute=0)
    world.clock.moment = now
    ages = {
        "new": timedelta(hours=1),
        "edge": FRESH_FOR,
        "old": FRESH_FOR + timedelta(minutes=40),
    }
    for token, age in ages.items():
        connection = world.connections.add(token)
        row = world.jobs.table.items[f"CONNECTION#{connection}", "CONNECTION"]
        row["last_success_at"] = (now - age).isoformat().replace("+00:00", "Z")
    suspended = world.connections.add("suspended")
    row = world.jobs.table.items[f"CONNECTION#{suspended}", "CONNECTION"]
    row["state"] = ConnectionState.LOGIN_REQUIRED.value

    told = [look(world, logged, minute) for minute in range(30)]

    def total(name: str) -> float:
        return sum(each.get(name, 0) for each in told)

    assert (total("ConnectionsFresh"), total("ConnectionsStale")) == (2, 1)
    assert total("ConnectionsSuspended") == 1
    assert [minute for minute, each in enumerate(told) if "ConnectionsFresh" in each] == [0]
    oldest = told[0]["StalestConnectionAge"]
    assert oldest == (FRESH_FOR + timedelta(minutes=40)).total_seconds()


def test_freshness_is_told_of_all_clinics_or_of_none(
    world: World, logged: Callable[[], str]
) -> None:
    for number in range(3):
        world.connections.add(f"token-{number}")
    world.clock.moment = world.clock.moment.replace(minute=30)
    left = iter([180.0, 180.0])  # for two of them; then the time is up

    logged()
    world.reconcile_jobs.run(lambda: next(left, 0.0))
    observability.metrics.flush_metrics()
    text = logged()

    assert '"freshness_not_measured"' in text
    assert "OpenJobs" in figures(text)
    assert "ConnectionsFresh" not in figures(text)


# --------------------------------------------------------------------------------- Cobalt and failures


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (None, {"UpstreamError": 0}),
        (UpstreamBroken(), {"UpstreamError": 1}),
        (RateLimited(None), {"UpstreamError": 0, "UpstreamRateLimited": 1}),
    ],
)
def test_calls_of_cobalt_are_measured(
    error: Any, counted: dict[str, float], logged: Callable[[], str]
) -> None:
    @observability.observed
    def handle(_event: dict[str, Any], _context: object) -> None:
        observability.upstream_answered(1.5, error)

    handle({}, LambdaContextStub())

    assert figures(logged()) == {"UpstreamLatency": 1.5, **counted}


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("login_required", "JobFailedLoginRequired"),
        (None, "JobFailedUnexplained"),
        ("fetch_failed", "JobFailedUnexplained"),
        ("something_new_of_cobalt", "JobFailedOtherwise"),
    ],
)
def test_failed_jobs_are_counted_by_codes_that_are_known(
    code: str | None, name: str, logged: Callable[[], str]
) -> None:
    @observability.observed
    def handle(_event: dict[str, Any], _context: object) -> None:
        observability.job_failed(code)

    handle({}, LambdaContextStub())

    assert figures(logged()) == {"JobFailed": 1, name: 1}


def start(world: World, token: str) -> None:
    from cobalt_relay.models import FetchRequest  # noqa: PLC0415

    request = FetchRequest.from_body({"start_date": "2025-01-06", "end_date": "2025-01-12"})
    world.fetch_appointments.start(token, request, request_id=f"request-{token}", trigger="api")


def test_a_row_that_nobody_can_read_fails_no_run(world: World, logged: Callable[[], str]) -> None:
    world.connections.add("token-1")
    [item] = [row for (_, sk), row in world.connections.table.items.items() if sk == "CONNECTION"]
    item["registered_at"] = "yesterday"
    world.clock.moment = world.clock.moment.replace(minute=0)

    done = world.reconcile_jobs.run(lambda: 180.0)

    assert done["not_measured"] == 1
    assert '"not_measured"' in logged()


@pytest.mark.parametrize(
    ("for_minute", "begins", "is_read"),
    [(30, 31, True), (29, 30, False)],
    ids=["begins late", "begins in the minute of another"],
)
def test_the_minute_that_a_run_is_for_tells_whether_the_register_is_read(
    world: World, logged: Callable[[], str], for_minute: int, begins: int, is_read: bool
) -> None:
    scheduled = world.clock.moment.replace(minute=for_minute, second=0)
    world.clock.moment = scheduled.replace(minute=begins, second=10)

    logged()
    world.reconcile_jobs.run(lambda: 180.0, scheduled.isoformat())
    observability.metrics.flush_metrics()

    assert ("ConnectionsFresh" in figures(logged())) is is_read


def test_a_run_that_is_for_no_minute_takes_the_one_in_which_it_began(
    world: World, logged: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.clock.moment = world.clock.moment.replace(minute=0, second=58)
    due = world.jobs.due

    def due_in_a_while(now: datetime, most: int) -> list[Due]:
        world.clock.moment += timedelta(minutes=2)  # the run takes so long
        return due(now, most)

    monkeypatch.setattr(world.jobs, "due", due_in_a_while)
    logged()
    world.reconcile_jobs.run(lambda: 180.0)
    observability.metrics.flush_metrics()

    assert "ConnectionsFresh" in figures(logged())
