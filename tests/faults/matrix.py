"""The cases of every path: each of its calls, each kind of fault, with and without a retry.

Every call meets every fault, with and without Cobalt's retry, if every case is asked for. Else what
a crash leaves is met once: a crash after a call is one before the next call of the process, and
around a call that only reads nothing differs, nor where its answer is lost. The lost answer meets a
retry or none, in turns, and so do an error and a throttle.
Some processes work the cases off, each on a site of its own.
"""

import logging
import multiprocessing
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count, product
from pathlib import Path as File
from typing import TYPE_CHECKING

from tests.faults import promises
from tests.faults.case import Case
from tests.faults.lab import Lab
from tests.faults.paths import PATHS, Path
from tests.faults.site import Site, open_site
from tests.faults.wire import Call, Fault, Kind, no_waiting
from tools.local.stack import Stack

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

RETRIES = ("retry", "no retry")
"""Whether Cobalt delivers (once more) after the fault."""
WORKERS = 3
"""More than the two cores they are meant for: each of them often waits for the local AWS."""
CASES_AT_ONCE = 4
CRASHES = (Kind.CRASH_BEFORE, Kind.CRASH_AFTER)
REFUSALS = (Kind.ERROR, Kind.THROTTLE)
OF_EFFECTS = (Kind.CRASH_AFTER, Kind.TIMEOUT)
"""What only a call meets that has an effect."""
READS = re.compile(
    r"dynamodb (BatchGetItem|Query) |secretsmanager GetSecretValue |ssm GetParameter |cobalt GET "
    r"|s3 (GetObject|ListObjectsV2) "
)

_numbers = count()
_worker: list[Lab] = []
"""The lab of this process, where it is a worker."""
_kept = ExitStack()
"""What holds as long as this process."""


@dataclass(frozen=True)
class Run:
    """How one case went."""

    calls: list[Call]
    met: Call | None
    outcomes: list[str]
    channel: str
    broken: list[str]


@dataclass(frozen=True)
class Result:
    """One line of the table of cases."""

    path: str
    number: int
    call: str
    kind: Kind
    retry: str
    outcome: str
    channel: str
    broken: tuple[str, ...]

    def line(self) -> str:
        """Write the line."""
        where = f"{self.path:<22} {self.number:>3}  {self.call:<66} {self.kind:<13} {self.retry:<9}"
        return f"{where} {self.outcome:<34} {self.channel:<8} {'; '.join(self.broken) or 'kept'}"


@dataclass(repr=False)
class Matrix:
    """The cases of all paths that were run, with what became of each."""

    workers: Executor
    is_full: bool = False
    """Whether every kind of fault is met with and without a retry."""
    calls: dict[str, list[Call]] = field(default_factory=dict)
    """Of each path, as they go when nothing goes wrong."""
    results: list[Result] = field(default_factory=list)

    def run(self, name: str) -> list[Result]:
        """Count the calls of a path, then run it once for each case."""
        clean = self.workers.submit(_run, name, None, RETRIES[0]).result()
        assert not clean.broken, f"{name}, with nothing going wrong: {clean.broken}"
        self.calls[name] = clean.calls
        cases = list(self.cases(clean.calls))
        runs = self.workers.map(
            _run,
            [name] * len(cases),
            [Fault(number, kind) for number, kind, _ in cases],
            [retry for *_, retry in cases],
            chunksize=CASES_AT_ONCE,
        )
        results = [
            _result(name, clean.calls[number], Fault(number, kind), retry, run)
            for (number, kind, retry), run in zip(cases, runs, strict=True)
        ]
        self.results += results
        return results

    def cases(self, calls: list[Call]) -> Iterator[tuple[int, Kind, str]]:
        """List the cases of a path of such calls."""
        for (number, call), (turn, kind) in product(enumerate(calls), enumerate(Kind)):
            both = self.is_full or kind in CRASHES
            if not self.is_full and (
                kind is REFUSALS[number % 2]
                or (
                    kind is Kind.CRASH_BEFORE
                    and number
                    and calls[number - 1].process == call.process
                )
                or (kind in OF_EFFECTS and READS.match(call.name))
            ):
                continue
            yield from (
                (number, kind, retry)
                for retry in (RETRIES if both else RETRIES[(number + turn) % 2 :][:1])
            )

    def summary(self) -> list[str]:
        """Count the cases, a line for each path."""
        lines = []
        for name, calls in self.calls.items():
            of_path = [result for result in self.results if result.path == name]
            channels = Counter(result.channel for result in of_path)
            kept = sum(not result.broken for result in of_path)
            told = ", ".join(f"{channel} {number}" for channel, number in sorted(channels.items()))
            lines.append(
                f"{name:<22} {len(calls):>3} calls,"
                f" {len(of_path):>4} cases, {kept:>4} kept  ({told})"
            )
        lines.append(f"{len(self.results)} cases")
        return lines

    def write(self, file: File) -> None:
        """Write the whole table."""
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [*(result.line() for result in self.results), "", *self.summary()]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_case(lab: Lab, path: Path, fault: Fault | None, retry: str) -> Run:
    """Run a path to its rest, and look at what is left."""
    case = Case(lab, next(_numbers), fault, comes_again=retry == RETRIES[0])
    try:
        path(case)
        broken = promises.broken(case)
        channels = {row["completion"]["delivered_via"] for row in case.rest if "completion" in row}
    finally:
        case.clear()
    return Run(
        calls=lab.wire.calls,
        met=lab.wire.met,
        outcomes=case.outcomes,
        channel=", ".join(sorted(channels)) or "none",
        broken=broken,
    )


def _result(name: str, call: Call, fault: Fault, retry: str, run: Run) -> Result:
    broken = list(run.broken)
    if not run.met or run.met.name != call.name:
        broken.append(f"the fault befell {run.met and run.met.name}")
    return Result(
        path=name,
        number=fault.number,
        call=call.name,
        kind=fault.kind,
        retry=retry,
        outcome=", ".join(run.outcomes),
        channel=run.channel,
        broken=tuple(broken),
    )


# -------------------------------------------------------------------------------------------- workers


@contextmanager
def open_workers(stack: Stack, home: File) -> Iterator[Executor]:
    """Start the workers, each with a site. They are started anew, not forked: we have threads."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as opened:
        sites = context.Queue()
        for number in range(WORKERS):
            name = f"worker-{number}"
            sites.put(opened.enter_context(open_site(stack, home / name, name)))
        yield opened.enter_context(ProcessPoolExecutor(WORKERS, context, _begin, (sites,)))


def _begin(sites: "Queue[Site]") -> None:
    logging.disable()
    _kept.enter_context(no_waiting())
    _worker.append(Lab(sites.get()))


def _run(name: str, fault: Fault | None, retry: str) -> Run:
    (lab,) = _worker
    return run_case(lab, PATHS[name], fault, retry)
