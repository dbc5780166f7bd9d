"""`make bench`: one table, each figure beside its rival of the same run; results in JSON too.

    PYTHONPATH=layers/relay python -m bench [--only calls,package] [--quick]

`docs/performance.md` explains the figures. A goal that is missed is said and no error: figures are
read by people, and machines are noisy.
"""

import argparse
import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.figures import Figure
from tools.local import processes
from tools.local.aws import forget_user_settings
from tools.local.errors import LocalError

RESULTS = Path(__file__).parent / "results"
PARTS = ("calls", "package", "designs", "memory", "requests", "cold_start", "throughput")
"""Modules of this package, each with `measure`; what is over soon comes first."""
SCALE = "scale"
WIDTH = 132


def main(arguments: list[str]) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", metavar="PARTS", help=", ".join((*PARTS, SCALE)))
    parser.add_argument("--quick", action="store_true", help="few rounds: whether it works")
    chosen = parser.parse_args(arguments)
    parts = chosen.only.split(",") if chosen.only else [*PARTS, SCALE]
    if unknown := set(parts) - {*PARTS, SCALE}:
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    forget_user_settings()
    processes.end_on_signals()
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    figures: list[Figure] = []
    try:
        for part in (each for each in PARTS if each in parts):
            with console.status(f"Measuring {part} ..."):
                found = importlib.import_module(f"bench.{part}").measure(quick=chosen.quick)
            write(part, found)
            figures += found
    except LocalError as error:
        console.print(f"\n{error}")
        return 1
    if figures:
        console.print(table(figures))
        console.print(verdict(figures))
    if SCALE in parts:
        from bench import scale  # noqa: PLC0415 - it silences the log for good

        for each in scale.tables():
            console.print(each)
    console.print(f"Written to {RESULTS.parent.name}/{RESULTS.name}.")
    return 0


def write(part: str, figures: list[Figure]) -> None:
    """Keep what was measured."""
    document = {"figures": [asdict(each) | {"is_met": each.is_met} for each in figures]}
    path = RESULTS / f"{part}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def table(figures: list[Figure]) -> Table:
    """Show each figure beside its rival."""
    shown = Table()
    for name in ("figure", "unit", "here", "rival", "there", "to rival", "goal", "met"):
        is_number = name in {"here", "there", "to rival"}
        shown.add_column(name, justify="right" if is_number else "left")
    for each in figures:
        shown.add_row(
            each.name,
            each.unit,
            f"{each.value:,.4g}",
            each.rival,
            f"{each.rival_value:,.4g}",
            each.beside,
            each.goal,
            "yes" if each.is_met else "NO",
        )
    return shown


def verdict(figures: list[Figure]) -> str:
    """Say how many goals are met, and name the others."""
    missed = [f"{each.name} ({each.rival})" for each in figures if not each.is_met]
    said = f"{len(figures) - len(missed)} of {len(figures)} goals are met."
    return f"{said} MISSED: {'; '.join(missed)}." if missed else said


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
