"""A fleet's morning planned in one run, and what a month of it costs: see `docs/scale.md`."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from bench import cost
from bench.planning import DAYS, Figures, planned, planned_naively
from cobalt_relay.observability import logger

RESULTS = Path(__file__).parent / "results" / "scale.json"
MEBI = 1024 * 1024
CONNECTIONS = 10_000


def tables(connections: int = CONNECTIONS) -> list[Table]:
    """Plan a morning, add up a month, write both; give the two tables."""
    logger.setLevel("ERROR")
    planned(100)  # what is loaded on first use is no part of either
    whole = planned(connections)
    tenth = planned(max(connections // 10, 1))
    naive = planned_naively(connections)
    document = {
        "days": DAYS,
        "planned": asdict(whole),
        "planned_a_tenth": asdict(tenth),
        "planned_naively": asdict(naive),
        "ratios": {
            "calls_to_naive": sum(whole.calls.values()) / sum(naive.calls.values()),
            "cpu_to_naive": whole.cpu_seconds / naive.cpu_seconds,
            "memory_to_naive": whole.peak_bytes / naive.peak_bytes,
            "memory_to_a_tenth": whole.peak_bytes / tenth.peak_bytes,
        },
        "months": cost.months(),
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return [_planning(whole, tenth, naive), cost.table()]


def _planning(whole: Figures, tenth: Figures, naive: Figures) -> Table:
    table = Table(title=f"Planning {DAYS} days in one run", title_justify="left")
    table.add_column("figure")
    columns = (
        (f"{whole.connections:,} connections", whole),
        (f"{tenth.connections:,} connections", tenth),
        (f"{naive.connections:,}, naively", naive),
    )
    for title, _ in columns:
        table.add_column(title, justify="right")
    table.add_column("to naive", justify="right")

    def row(name: str, show: str, values: list[float]) -> None:
        cells = [format(value, show) for value in values]
        table.add_row(name, *cells, f"{values[0] / values[-1]:.3f}" if values[-1] else "")

    figures = [each for _, each in columns]
    row("messages", ",.0f", [each.messages for each in figures])
    row("bytes a message", ",.0f", [each.message_bytes / each.messages for each in figures])
    for name in sorted({name for each in figures for name in each.calls}):
        row(f"calls: {name}", ",.0f", [each.calls.get(name, 0) for each in figures])
    row("calls a connection", ".3f", [each.calls_per_connection for each in figures])
    row("CPU, s", ".2f", [each.cpu_seconds for each in figures])
    row("wall, s, without network", ".2f", [each.seconds for each in figures])
    row("peak memory, MiB", ".2f", [each.peak_bytes / MEBI for each in figures])
    return table
