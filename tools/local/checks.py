"""`make check`: every check, also after one failed; nothing is changed."""

import subprocess
import sys
import time
from pathlib import Path

from tools.local.aws import REGION
from tools.local.deploy import sam_environment
from tools.local.paths import ROOT

CHECKS = (
    ("format", ["ruff", "format", "--check", "--quiet", "."]),
    ("lint", ["ruff", "check", "--quiet", "."]),
    ("types", ["mypy", "--no-error-summary"]),
    ("template (SAM)", ["sam", "validate", "--lint", "--region", REGION]),
    ("template (CloudFormation)", ["cfn-lint"]),
)


def run() -> int:
    """Run the checks side by side; print each one's findings; 1 where there is any."""
    began = time.monotonic()
    programs = Path(sys.executable).parent
    running = [
        (
            name,
            subprocess.Popen(
                [programs / command[0], *command[1:]],
                cwd=ROOT,
                env=sam_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ),
        )
        for name, command in CHECKS
    ]
    failed = []
    for name, process in running:
        findings, _ = process.communicate()
        if process.returncode:
            failed.append(name)
            print(f"{name}:\n{findings.strip() or 'failed'}\n", flush=True)
    if failed:
        print(f"Checks failed: {', '.join(failed)}. make fix mends format and some of lint.")
        return 1
    print(f"All checks passed: {', '.join(name for name, _ in CHECKS)} "
          f"({time.monotonic() - began:.1f} s).")  # fmt: skip
    return 0
