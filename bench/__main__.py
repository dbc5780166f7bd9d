"""`make bench`: one table, each figure beside its rival of the same run; results in JSON too.

python -m bench [--connections 10000]
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import cost
from bench.planning import DAYS, Figures, planned, planned_naively
from cobalt_relay.observability import logger

RESULTS = Path(__file__).parent / "results" / "scale.json"
MEBI = 1024 * 1024


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    chosen = parser.parse_args()
    logger.setLevel("ERROR")
    planned(100)  # what is loaded on first use is no part of either
    whole = planned(chosen.connections)
    tenth = planned(max(chosen.connections // 10, 1))
    naive = planned_naively(chosen.connections)

    console = Console(width=100)
    console.print(_planning(whole, tenth, naive))
    console.print(cost.table())
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
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    console.print(f"Written to {RESULTS.parent.parent.name}/{RESULTS.parent.name}/{RESULTS.name}.")


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


if __name__ == "__main__":
    main()
