"""What a function's beginning costs: importing its handler, and putting its use cases together.

    PYTHONPATH=layers/relay python -m bench.cold_start

Each beginning is a process of its own, on an interpreter without packages, with the layers as `sam
build` made them. Rivals take turns with ours, so that a machine that changes its pace changes it
for both. The floor imports exactly the third-party modules that ours has loaded, and makes the
clients that ours made, with the same options; it is asked anew in each run, never written down.
Each round begins at another depth of calls, for all who take part in it (see `beginning`).
"""

import json
import re
import statistics
import subprocess
from typing import Any

from bench.figures import Figure
from bench.setting import FUNCTIONS, environment_of, packages_of, rival_packages
from tools.local import deploy, emulator
from tools.local.paths import BUILD, ROOT, WORKER

ROUNDS, QUICK_ROUNDS = 15, 3
PIECE_CALLS = 144
"""Calls whose frames fill one of CPython's pieces of 16 KB, about: the depths lie evenly in it."""
FLOOR, FASTAPI = 1.10, 0.5
SECONDS = 60
RIVALS = {"fetch_appointments": "fastapi_fetch", "receive_webhook": "fastapi_webhook"}
_USE_CASES = re.compile(r"^bootstrap\.warm_up\((.*)\)$", re.MULTILINE)


def measure(*, quick: bool = False) -> list[Figure]:
    """Measure all functions; a quick run is for tests, and tells little."""
    deploy.build()
    emulator.ensure_worker()
    rounds = QUICK_ROUNDS if quick else ROUNDS
    figures = []
    for folder, logical_id in FUNCTIONS.items():
        figures += _of(folder, logical_id, rounds, with_rival=not quick)
    return figures


def _of(folder: str, logical_id: str, rounds: int, *, with_rival: bool) -> list[Figure]:
    begin = what_begins(folder, logical_id)
    needed = beginning("probe", begin)
    contenders = {"ours": ("ours", begin), "floor": ("floor", {**begin, **needed})}
    if with_rival and folder in RIVALS:
        rival = {
            "path": [str(ROOT / "bench" / "rivals"), str(rival_packages())],
            "module": RIVALS[folder],
        }
        contenders["fastapi"] = ("rival", rival)
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for depth in range(0, PIECE_CALLS, -(-PIECE_CALLS // rounds)):
        for name, (mode, given) in contenders.items():
            samples[name].append(float(beginning(mode, {**given, "depth": depth})["cpu_ms"]))
    median = {name: statistics.median(each) for name, each in samples.items()}
    details = {"samples": samples, "modules": len(needed["modules"]), "clients": needed["clients"]}
    name = f"cold start of {folder}"
    figures = [
        Figure(name, "CPU ms", median["ours"], "its floor", median["floor"],
               f"at most {FLOOR:.2f} times", FLOOR, "ratio_at_most", details),
    ]  # fmt: skip
    if "fastapi" in median:
        figures.append(
            Figure(name, "CPU ms", median["ours"], "FastAPI, Mangum, boto3, httpx",
                   median["fastapi"], f"at most {FASTAPI} times", FASTAPI, "ratio_at_most")
        )  # fmt: skip
    return figures


def what_begins(folder: str, logical_id: str) -> dict[str, Any]:
    """Give what a beginning of a function takes."""
    layers = packages_of()
    return {
        "path": [str(BUILD / logical_id), *(str(each) for each in layers.values())],
        "packages": str(layers["dependencies"]),
        "use_cases": use_cases_of(folder),
    }


def use_cases_of(folder: str) -> list[str]:
    """Name the use cases that a handler puts together when it begins."""
    text = (ROOT / "functions" / folder / "handler.py").read_text(encoding="utf-8")
    [named] = _USE_CASES.findall(text)
    return [each.strip().removeprefix("bootstrap.") for each in named.split(",")]


def beginning(mode: str, given: dict[str, Any]) -> dict[str, Any]:
    """Begin once, in a process of its own; see `bench/beginning.py`."""
    command = [
        *(str(WORKER / "bin" / "python"), "-I", "-B"),
        *(str(ROOT / "bench" / "beginning.py"), mode, json.dumps(given)),
    ]
    ran = subprocess.run(  # noqa: S603 - our own program
        command, env=environment_of(), capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if ran.returncode:
        raise RuntimeError(f"{mode} of {given['path'][0]} failed:\n{ran.stderr}")
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return told
