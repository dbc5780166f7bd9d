"""What a fleet's morning takes, in counted calls: the figures of `docs/scale.md`."""

import math
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from bench import cost
from bench.planning import planned
from cobalt_relay.adapters.table import Put
from functions.run_fetches.handler import lambda_handler as run_fetches
from tests.unit.conftest import LambdaContextStub, World, queue_event
from tests.unit.test_detect_changes import MONDAY, at, detect, fetch, seen
from tests.unit.test_run_fetches import TOKEN, a_work

MEBI = 1024 * 1024


@pytest.fixture
def counted(world: World, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Calls of the table, and their rows: a transaction costs each of its rows."""
    table, counted = world.jobs.table, Counter[str]()
    get, write = table.get, table.write

    def reads(*keys: Any) -> Any:
        counted.update(calls_to_read=1, reads=len(keys))
        return get(*keys)

    def writes(*rows: Any) -> None:
        counted.update(calls_to_write=1, writes=len(rows))
        counted.update(puts=sum(isinstance(row, Put) for row in rows))
        write(*rows)

    monkeypatch.setattr(table, "get", reads)
    monkeypatch.setattr(table, "write", writes)
    return counted


@pytest.mark.parametrize("connections", [1, 1_001, 2_500])
def test_calls_are_counted_when_a_fleet_is_planned(
    connections: int, logged: Callable[[], str]
) -> None:
    figures = planned(connections)

    assert figures.messages == 2 * connections
    assert figures.calls == {
        "Query": 8,  # one page of each shard of the register
        "BatchGetItem": math.ceil(connections / 100),
        "SendMessageBatch": math.ceil(2 * connections / 10),
    }


def test_memory_does_not_grow_with_the_fleet(logged: Callable[[], str]) -> None:
    small, large = planned(500), planned(4_000)

    # A shard's page of the register is the largest thing in memory, and it has a bound of its own.
    assert large.peak_bytes < 3 * MEBI
    assert large.peak_bytes - small.peak_bytes < (4_000 - 500) * 300


def test_calls_of_a_piece_are_those_that_the_costs_are_made_of(
    world: World, counted: Counter[str]
) -> None:
    world.connections.add(TOKEN)
    counted.clear()

    run_fetches(queue_event(a_work()), LambdaContextStub())
    first = dict(counted)
    counted.clear()
    world.deliver("job_1")

    assert len(world.cobalt.calls) == 1
    assert first == {
        "calls_to_read": 5,
        "reads": cost.PIECE_READS,
        "calls_to_write": 4,
        "writes": 1 + cost.PIECE_ROWS,  # the range is written with its first piece
        "puts": 5,
    }
    assert (counted["reads"], counted["writes"]) == (cost.WEBHOOK_READS, cost.WEBHOOK_ROWS)


def test_calls_of_a_put_off_are_those_that_the_costs_are_made_of(
    world: World, counted: Counter[str]
) -> None:
    world.connections.add(TOKEN)
    for each in (a_work(0), a_work(1)):
        run_fetches(queue_event(each), LambdaContextStub())
    counted.clear()

    run_fetches(queue_event(a_work(1)), LambdaContextStub())

    assert len(world.cobalt.calls) == 1
    assert counted == {
        "calls_to_read": 8,
        "reads": cost.PUT_OFF_READS,
        "calls_to_write": 1,
        "writes": cost.PUT_OFF_ROWS,
        "puts": 3,
    }


def test_calls_of_changes_are_those_that_the_costs_are_made_of(
    world: World, counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of seven days that were seen before, with something new on one of them."""
    days = [MONDAY + timedelta(days=number) for number in range(cost.DAYS_OF_A_PIECE)]
    seen(world, *(at(day, name=f"of {day}") for day in days))
    job_id = fetch(world, at(MONDAY, name="new"))
    calls = Counter[str]()
    for part in (world.snapshots, world.results, world.bus):
        monkeypatch.setattr(part, "meet", lambda call: calls.update([call]))
    counted.clear()

    detect(world, job_id)

    assert (counted["reads"], counted["writes"]) == (cost.DETECT_READS, 0)
    assert calls["read"] == cost.DETECT_GETS
    assert calls["stored"] + calls["write"] + calls["put_beside"] == cost.DETECT_PUTS
    assert calls["publish"] == 1


def test_spread_costs_messages_beyond_what_sqs_can_wait_for() -> None:
    gentle, short, long = (cost.month(1_000_000, minutes).lines for minutes in (0, 15, 480))

    assert gentle == short
    assert long["SQS"] > 5 * short["SQS"]
    assert long["Lambda"] > short["Lambda"]
    assert long["DynamoDB"] == short["DynamoDB"]


def test_a_connection_costs_less_in_a_larger_fleet() -> None:
    months = [cost.month(each) for each in cost.FLEETS]

    assert [each.connections for each in months] == [1, 1_000, 1_000_000]
    assert months[0].per_connection > months[1].per_connection > months[2].per_connection
    assert all(value >= 0 for each in months for value in each.lines.values())
