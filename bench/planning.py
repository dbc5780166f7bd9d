"""Planning a fleet's morning in one run, beside the planner that one would write first."""

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bench.wire import Wire
from cobalt_relay.models import FetchWork, RangePlan, in_days, range_id_of
from cobalt_relay.services.plan_fetches import PlanFetches, SchedulePlan

NOW = datetime(2025, 1, 2, 10, 0, tzinfo=UTC)
DAYS = 14
RUN_SECONDS = 900.0


@dataclass
class Figures:
    """What one run took. Memory is the peak of what Python allocated on top of the beginning."""

    connections: int
    messages: int
    message_bytes: int
    calls: dict[str, int]
    cpu_seconds: float
    seconds: float
    peak_bytes: int
    calls_per_connection: float = field(init=False)

    def __post_init__(self) -> None:
        self.calls_per_connection = sum(self.calls.values()) / self.connections


def planned(connections: int) -> Figures:
    """Plan with the relay's own use case on its own adapters."""
    wire = Wire(connections)
    registry, queue = wire.adapters()
    stub: Any = _Nothing()
    service = PlanFetches(stub, registry, queue, stub, "America/New_York", now=lambda: NOW)
    plan = SchedulePlan(days=DAYS)
    return _measured(wire, lambda: service.run(plan, "bench", lambda: RUN_SECONDS))


def planned_naively(connections: int) -> Figures:
    """Plan as one would first: list all, read each, make every message, send each."""
    wire = Wire(connections)
    registry, queue = wire.adapters()
    plan = SchedulePlan(days=DAYS)

    def run() -> None:
        everybody = [registry.get(each) for each in list(registry.ids())]
        works = []
        for connection in everybody:
            assert connection  # noqa: S101 - it has just been listed
            window = in_days(NOW.date(), 0, DAYS)
            whole = RangePlan(
                range_id=range_id_of("bench", connection.connection_id),
                connection_id=connection.connection_id,
                trigger="schedule",
                request=plan.request(window),
                accepted_at=NOW,
            )
            works += [
                FetchWork(plan=whole, piece=number, not_before=NOW)
                for number in range(len(whole.request.pieces))
            ]
        for work in works:
            queue._client.send_message(  # noqa: SLF001 - the rival has no adapter of its own
                QueueUrl="fetches", MessageBody=work.model_dump_json()
            )

    return _measured(wire, run)


class _Nothing:
    """Credentials are there, and nothing is announced."""

    def require_credentials(self) -> None:
        """Do nothing."""


def _measured(wire: Wire, run: Callable[[], object]) -> Figures:
    """Run twice: for the time, and for the memory, whose measuring takes time itself."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    calls, messages, size = dict(wire.calls), wire.messages, wire.message_bytes
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return Figures(wire.connections, messages, size, calls, cpu, wall, peak - before)
