"""One beginning of a function, in a fresh interpreter that has nothing but what is on its path.

    python -I bench/beginning.py probe|ours|floor|rival <JSON of what it takes>

It is run by `cold_start`, never imported, and uses the standard library alone. Prints one JSON
document: CPU of the process in milliseconds, from the first import to the last client, and the most
memory that it had.

It begins as many calls deep as it is told. CPython keeps the frames of its calls in pieces of 16 KB
and gives a piece back as soon as it is empty: what happens to be called at a piece's end, again and
again, has one mapped anew each time, thousands of page faults in a beginning, a tenth of its CPU.
Whether that meets anyone is for the depth to say, and that of Lambda's own runtime is not known.
"""

import importlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Do what is asked for."""
    _, mode, text = sys.argv
    given = json.loads(text)
    sys.path[:0] = given["path"]
    begin = {"probe": probe, "ours": ours, "floor": floor, "rival": rival}[mode]
    told = _deeper(given.get("depth", 0), begin, given)
    sys.stdout.write(json.dumps(told) + "\n")


def _deeper(
    calls: int, begin: "Callable[[dict[str, Any]], dict[str, Any]]", given: dict[str, Any]
) -> dict[str, Any]:
    return _deeper(calls - 1, begin, given) if calls else begin(given)


def probe(given: dict[str, Any]) -> dict[str, Any]:
    """Begin, and tell which third-party modules that takes, and which clients of AWS."""
    import boto3  # noqa: PLC0415 - it is on the path by now

    clients: list[Any] = []
    make: Any = boto3.client

    def noted(service: str, config: Any = None, **others: Any) -> Any:  # noqa: ANN401
        clients.append((service, config._user_provided_options if config else {}))  # noqa: SLF001
        return make(service, config=config, **others)

    boto3.client = noted  # type: ignore[assignment]
    _begin(given)
    modules = [
        name
        for name, module in sys.modules.items()
        if (getattr(module, "__file__", None) or "").startswith(given["packages"])
    ]
    return {"modules": modules, "clients": clients}


def ours(given: dict[str, Any]) -> dict[str, float]:
    """Begin as on Lambda: import the handler, put its use cases together."""
    began = time.process_time()
    _begin(given)
    return _since(began)


def floor(given: dict[str, Any]) -> dict[str, float]:
    """Import the same third-party modules and make the same clients, for an empty handler."""
    began = time.process_time()
    for name in given["modules"]:
        importlib.import_module(name)
    import boto3  # noqa: PLC0415 - as above
    from botocore.config import Config  # noqa: PLC0415

    for service, options in given["clients"]:
        boto3.client(service, config=Config(**options))
    return _since(began)


def rival(given: dict[str, Any]) -> dict[str, float]:
    """Import a handler that makes its clients by itself."""
    began = time.process_time()
    importlib.import_module(given["module"])
    return _since(began)


def _begin(given: dict[str, Any]) -> None:
    importlib.import_module("handler")
    bootstrap: Any = importlib.import_module("cobalt_relay.bootstrap")
    for name in given["use_cases"]:
        getattr(bootstrap, name)()


def _since(began: float) -> dict[str, float]:
    return {"cpu_ms": (time.process_time() - began) * 1000, "peak_mb": peak_mb()}


def peak_mb() -> float:
    """Give the most memory that this process had; Linux's own figure has the parent's in it."""
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [each for each in status.read_text().splitlines() if each.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024 / 1_000_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_000_000


if __name__ == "__main__":
    main()
