"""Schemathesis over `docs/openapi.yaml`, against a running stack."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.integration.support import Relay
from tools.local.paths import ROOT
from tools.local.stack import Stack

CONFIG = Path(__file__).with_name("schemathesis.toml")
SPEC = ROOT / "docs" / "openapi.yaml"
WEEK = {"start_date": "2025-01-06", "end_date": "2025-01-10"}
PHASES = "examples,coverage,fuzzing"
_CASES = re.compile(r"([\d,]+) generated")


@dataclass(frozen=True)
class Target:
    """An API, and what it takes to get past its doors."""

    url: str
    headers: dict[str, str]
    webhook_key: str
    own_job: str
    foreign_job: str


@dataclass(frozen=True)
class Outcome:
    """What Schemathesis found."""

    cases: int
    passed: bool
    said: str


def target_of(stack: Stack) -> Target:
    """Prepare a stack: two clinics with a job each, and no results that would only cost time."""
    stack.sandbox.add_fault("silent", rate=1)
    started = [Relay(stack).fetch(WEEK, clinic=clinic) for clinic in ("riverside", "lakeside")]
    own, foreign = (answer.json()["job_execution_id"] for answer in started)
    return Target(
        url=stack.api_url,
        headers=stack.headers("riverside"),
        webhook_key=stack.sandbox.webhook_secret()["current"],
        own_job=own,
        foreign_job=foreign,
    )


def fuzz(target: Target, most_per_route: int, seed: int = 1, phases: str = PHASES) -> Outcome:
    """Run the examples, the coverage of every limit, and up to so many made-up cases per route."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    ran = subprocess.run(
        [
            *(Path(sys.executable).with_name("schemathesis"), "--config-file", CONFIG),
            *("run", SPEC, "--url", target.url, "--seed", str(seed), "--workers", "2"),
            *("--phases", phases, "--max-examples", str(most_per_route)),
            *(f"--header={name}:{value}" for name, value in target.headers.items()),
        ],
        cwd=ROOT,
        env=kept
        | {
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
            "FUZZ_WEBHOOK_KEY": target.webhook_key,
            "FUZZ_OWN_JOB": target.own_job,
            "FUZZ_FOREIGN_JOB": target.foreign_job,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    cases = _CASES.search(ran.stdout)
    return Outcome(
        cases=int(cases[1].replace(",", "")) if cases else 0,
        passed=ran.returncode == 0,
        said=f"{ran.stdout}{ran.stderr}",
    )
