"""`make audit`: every gate, also after one failed; 1 where any found something or did not run.

``python -m tools.audit semgrep bandit`` runs those two.
"""

import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tools.audit.findings import Verdict, judge, registered
from tools.audit.gates import GATES, Gate, GateBrokenError
from tools.audit.inputs import Inputs
from tools.audit.paths import NODE_MODULES


@dataclass(frozen=True)
class Outcome:
    """One gate's line, and below it what is wrong, if anything is."""

    line: str
    wrong: tuple[str, ...]


def main(names: Sequence[str]) -> int:
    """Run the named gates, or all; print a line for each and the findings in full."""
    unknown = set(names) - {gate.name for gate in GATES}
    if unknown:
        print(f"No such gate: {', '.join(sorted(unknown))}.", file=sys.stderr)
        return 2
    wanted = [gate for gate in GATES if not names or gate.name in names]
    without = [gate for gate in wanted if gate.needs_node and not _node_is_there()]
    began = time.monotonic()
    inputs = Inputs()
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        running = [pool.submit(_outcome, gate, inputs) for gate in wanted if gate not in without]
        outcomes = [future.result() for future in running]
    for outcome in outcomes:
        print(outcome.line)
        for wrong in outcome.wrong:
            print(f"    {wrong}")
    failed = sum(bool(outcome.wrong) for outcome in outcomes)
    if without:
        print(
            f"Not run, for Node.js 20 or newer with npm is missing or was when the gates were "
            f"installed: {', '.join(gate.name for gate in without)}. Install it, then make audit."
        )
    print(
        f"{len(outcomes) - failed} gates passed, {failed} failed, {len(without)} not run "
        f"({time.monotonic() - began:.0f} s)."
    )
    return int(bool(failed or without))


def _node_is_there() -> bool:
    return shutil.which("node") is not None and (NODE_MODULES / "installed.txt").is_file()


def _outcome(gate: Gate, inputs: Inputs) -> Outcome:
    began = time.monotonic()
    try:
        report = gate.examine(inputs)
    except GateBrokenError as error:
        return Outcome(f"{gate.name:15}did not run", (str(error),))
    verdict = judge(report.findings, [*report.allowances, *registered().get(gate.name, [])])
    unseen = gate.must_see - {finding.rule for finding in report.planted}
    wrong = (
        *(str(finding) for finding in verdict.open),
        *(f"allowed, but nothing needs it: {allowance}" for allowance in verdict.unused),
        *(f"blind: {rule} does not find what was planted for it" for rule in sorted(unseen)),
    )
    return Outcome(
        f"{gate.name:15}{report.looked_at}; {_counted(verdict)} ({time.monotonic() - began:.1f} s)",
        wrong,
    )


def _counted(verdict: Verdict) -> str:
    return f"{len(verdict.open)} findings, {verdict.allowed} allowed"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
