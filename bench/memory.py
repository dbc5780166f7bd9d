"""Whether the memory that the template gives a function fits what it takes.

    PYTHONPATH=layers/relay python -m bench --only memory

With memory comes CPU: a whole processor at 1,769 MB (docs: Lambda, memory). So there are two
questions. Is it enough for the heaviest that comes? That is the most memory that a process had
which began and then did it once. And is it fast enough where Cobalt waits? That is the webhook's
first answer after a cold start: its CPU as measured here, on the part of a processor that it gets,
and the calls of AWS at what they are assumed to take. Lambda gives a beginning more CPU than that.
"""

import contextlib
import io
import json
import subprocess
import sys
import time
from typing import Any

from bench.beginning import peak_mb
from bench.cold_start import beginning, what_begins
from bench.cost import memory_gb
from bench.designs import BUS_SECONDS, STORE_SECONDS, TABLE_SECONDS
from bench.figures import Figure
from bench.setting import FUNCTIONS
from tools.local import deploy, emulator
from tools.local.paths import ROOT

MOST = 0.67
"""Of what a function has: the rest is for what nobody thought of."""
WHOLE_PROCESSOR_GB = 1769 / 1024
COLD_SECONDS = 3.0
"""In which a webhook is to be answered (design, section 5); Cobalt hangs up after 5."""
SECRETS_SECONDS = 0.03
LARGEST_BYTES = 6_000_000
SECONDS = 120
HEAVIEST = {"fetch_appointments": "fetch", "receive_webhook": "webhook of 6 MB"}
"""What is done once, of functions that are called; the others are measured when they have begun."""


def measure(*, quick: bool = False) -> list[Figure]:  # noqa: ARG001 - it is quick as it is
    """Measure every function."""
    deploy.build()
    emulator.ensure_worker()
    figures = []
    for folder, logical_id in FUNCTIONS.items():
        heaviest = HEAVIEST.get(folder)
        peak = _doing(heaviest)["peak_mb"] if heaviest else _begun(folder)["peak_mb"]
        figures.append(
            Figure(f"memory of {folder}: {heaviest or 'begun'}", "MB", peak, "the template",
                   memory_gb(logical_id) * 1024, f"at most {MOST} times", MOST, "ratio_at_most")
        )  # fmt: skip
    return [*figures, _cold_webhook()]


def _cold_webhook() -> Figure:
    begun, answered = _begun("receive_webhook"), _doing("webhook of 42")
    share = min(1.0, memory_gb("ReceiveWebhook") / WHOLE_PROCESSOR_GB)
    calls = 3 * TABLE_SECONDS + STORE_SECONDS + BUS_SECONDS + SECRETS_SECONDS
    seconds = (begun["cpu_ms"] + answered["cpu_ms"]) / 1000 / share + calls
    details = {"begun": begun, "answered": answered, "processors": share, "calls_seconds": calls}
    return Figure("webhook after a cold start, reckoned", "s", seconds, "the design's budget",
                  COLD_SECONDS, "at most 1 times", 1, "ratio_at_most", details)  # fmt: skip


def _begun(folder: str) -> dict[str, Any]:
    return beginning("ours", what_begins(folder, FUNCTIONS[folder]))


def _doing(what: str) -> dict[str, Any]:
    """Begin and do it once, in a process of its own."""
    command = [sys.executable, "-m", "bench.memory", what]
    ran = subprocess.run(  # noqa: S603 - this very module
        command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=True
    )
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


def main() -> None:
    """Do what is named once, and tell what it took on top of the beginning."""
    from bench.answers import Answers, fetch_call, result, webhook_call  # noqa: PLC0415
    from bench.requests import answered, handlers  # noqa: PLC0415

    events = {
        "fetch": ("fetch", fetch_call),
        "webhook of 42": ("webhook", lambda: webhook_call(result())),
        "webhook of 6 MB": ("webhook", lambda: webhook_call(result(size=LARGEST_BYTES))),
    }
    route, event = events[sys.argv[1]]
    with Answers().in_place(), contextlib.redirect_stdout(io.StringIO()):
        handler, given = handlers()[route], event()
        began = time.process_time()
        answered(handler, given)
        cpu = (time.process_time() - began) * 1000
    sys.stdout.write(json.dumps({"cpu_ms": cpu, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()
