"""`make soak`: the run on a stack of its own, told on the terminal, and its verdict."""

import argparse
import json
import sys
import time
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from tests.soak.books import CHANNELS, Books, Numbers, differences, numbers, unshown
from tests.soak.callers import warm_up
from tests.soak.plan import Scale, full
from tests.soak.run import Soak
from tools.local import logs, processes, sandbox
from tools.local import stack as stacks
from tools.local.aws import forget_user_settings
from tools.local.errors import LocalError
from tools.local.eventlog import EventLog
from tools.local.paths import LOCAL, ROOT
from tools.local.stack import Stack
from tools.local.up import Ports, bring_up

HOME = LOCAL / "soak"
BOOKS = LOCAL / "soak-books.json"
LOGS = LOCAL / "soak-functions.log"
FETCHES = 1_050
MOST_FETCHES = 1_500
"""More results than these and the sandbox forgets the first ones: it keeps 256 MiB."""
FETCH_SECONDS = "0.2,1.5"
SHOWN_DIFFERENCES = 40
MOST_CHARACTERS = 1_000
INTERRUPTED = 130


def main(arguments: list[str]) -> int:
    """Soak; give 0 where everything holds, and everything was shown."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument(
        "--fetches", type=int, default=FETCHES, help=f"at most {MOST_FETCHES} (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the sandbox (%(default)s)")
    given = parser.parse_args(arguments)
    fetches = given.fetches
    if not 100 <= fetches <= MOST_FETCHES:
        parser.error(f"--fetches takes 100 to {MOST_FETCHES}.")
    forget_user_settings()
    processes.end_on_signals()
    console = Console(highlight=False)
    try:
        with processes.exclusive(HOME.with_suffix(".lock"), "make soak"):
            return _soak(console, full(fetches), given.seed)
    except LocalError as error:
        console.print(f"\n{error}", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("\nInterrupted.")
        return INTERRUPTED


def _soak(console: Console, scale: Scale, seed: int) -> int:
    stacks.stop(HOME)
    try:
        console.rule("Cobalt Relay: a soak")
        sandbox.start(HOME, None, fetch_seconds=FETCH_SECONDS, leashed=True, seed=seed)
        stack = bring_up(HOME, Ports(), say=console.print, leashed=True, ScheduleState="DISABLED")
        with console.status("Warming up ...") as status:
            warm_up(stack, scale.callers)
            log = EventLog(stack.aws, stack.outputs["EventLogUrl"])
            began = time.monotonic()
            soak = Soak(stack, scale, log, say=status.update)
            books = soak.run()
        problems = tell(console, soak, books, time.monotonic() - began)
        if problems:
            _keep_evidence(console, stack, books)
    finally:
        with console.status("Stopping the stack ..."):
            stacks.stop(HOME)
    return 1 if problems else 0


def tell(console: Console, soak: Soak, books: Books, seconds: float) -> list[str]:
    """Print the numbers and whatever does not hold; give the latter."""
    counted = numbers(books)
    console.print(_table(soak, books, counted, seconds))
    if counted.seconds_by_channel:
        console.print(_times(counted))
        console.print(
            "Polls and sweeps wait minutes by the clock; here the rows were moved instead.",
            style="dim",
        )
    problems = [
        *(f"reconcile_jobs failed: {fault}" for fault in soak.faults_of_lambda),
        *differences(books),
        *(f"Logged as an error: {line[:MOST_CHARACTERS]}" for line in _errors(soak.stack)),
        *(f"Not shown: {what}." for what in unshown(counted)),
    ]
    if problems:
        console.print(f"\n{len(problems)} things do not hold:", style="bold red")
        for problem in problems[:SHOWN_DIFFERENCES]:
            console.print(f"  {problem}", markup=False, soft_wrap=True)
    else:
        console.print("\nEvery job ended, every result is in S3 byte for byte, every row agrees.",
                      style="bold green")  # fmt: skip
    return problems


def _errors(stack: Stack) -> list[str]:
    """Give what the functions logged as errors: all that goes wrong here is Cobalt's doing."""
    lines = [str(line) for line in logs.new_lines(stack, set())]
    return [line for line in lines if " ERROR " in line or " CRITICAL " in line]


def _table(soak: Soak, books: Books, counted: Numbers, seconds: float) -> Table:
    sending = soak.seconds["sending"]
    states = ", ".join(f"{count} {state}" for state, count in sorted(counted.states.items()))
    channels = ", ".join(f"{counted.channels.get(name, 0)} {name}" for name in CHANNELS)
    faults = ", ".join(f"{count} {name}" for name, count in sorted(counted.faults.items()))
    size = sum(sent.length for sent in books.sent.values()) / 1e6
    rows = {
        "fetches": f"{counted.fetches}, {soak.scale.callers} at a time, in {sending:.0f} s",
        "jobs": f"{counted.jobs}: {states}",
        "faults": faults,
        "channels": channels,
        "duplicates absorbed": f"{counted.duplicates} deliveries",
        "joined, same key": f"{counted.joined}, {counted.same_key}",
        "calls unanswered": f"{counted.unknown_attached} got their job, "
        f"{counted.requests_expired} had none and expired",
        "calls refused": f"{counted.refused}",
        "late results": f"{counted.late}",
        "oversized": f"{counted.oversized}, {counted.undeliverable} beyond what a webhook brings",
        "compared": f"{counted.jobs} jobs, {len(books.sent)} results ({size:.0f} MB), "
        f"{len(books.requests)} requests, {len(books.events)} events "
        f"({counted.repeated_events} repeated)",
        "reconcile_jobs": f"invoked {soak.invocations} times, besides its schedule",
        "seconds": ", ".join(f"{name} {lap:.0f}" for name, lap in soak.seconds.items())
        + f"; in all {seconds:.0f}",
        "jobs per second": f"{counted.jobs / sending:.1f} while sending",
    }
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _times(counted: Numbers) -> Table:
    table = Table(title="\nSeconds from acceptance to completion", title_justify="left")
    for name in ("channel", "p50", "p95", "longest"):
        table.add_column(name, justify="left" if name == "channel" else "right")
    for channel, spread in counted.seconds_by_channel.items():
        table.add_row(channel, *(f"{each:.2f}" for each in spread))
    return table


def _keep_evidence(console: Console, stack: Stack, books: Books) -> None:
    """Write the books and what the functions logged, which would go with the stack."""
    lines = [str(line) for line in logs.new_lines(stack, set())]
    BOOKS.write_text(json.dumps(asdict(books), indent=1, default=str), encoding="utf-8")
    LOGS.write_text("\n".join(lines), encoding="utf-8")
    for path in (BOOKS, LOGS):
        console.print(f"Kept: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
