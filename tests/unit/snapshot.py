"""A function that is initialised once and goes on several times, as with SnapStart; see its tests.

    python -m tests.unit.snapshot <module of the handler> <event, as JSON>

A fork is what a snapshot is: the memory of one process, gone on with by others. Python seeds its
generator of random numbers anew after a fork, which Lambda does not: that is taken back.
"""

import gc
import importlib
import json
import os
import random
import socket
import sys
import urllib.request
from typing import Any

import snapshot_restore_py as lambda_hooks

from tests.unit.conftest import LambdaContextStub


def main() -> None:
    """Initialise, note what a snapshot would hold, go on twice with the hooks and twice without."""
    _, module, event = sys.argv
    handler = importlib.import_module(module).lambda_handler
    sockets = [
        each for each in gc.get_objects() if isinstance(each, socket.socket) and each.fileno() >= 0
    ]
    urllib.request.urlopen(os.environ["AWS_ENDPOINT_URL"] + "/snapshot").close()  # noqa: S310
    found: dict[str, Any] = {
        "open_sockets": len(sockets),
        "gone_on": [go_on(handler, json.loads(event)) for _ in range(2)],
        "without_hooks": [go_on(None, {}) for _ in range(2)],
    }
    sys.stdout.write(json.dumps(found) + "\n")


def go_on(handler: Any, event: dict[str, Any]) -> dict[str, Any]:
    """Fork; where a handler is given, run Lambda's hooks and call it. Tell what the copy had."""
    reading, writing = os.pipe()
    state = random.getstate()
    child = os.fork()
    if child:
        os.close(writing)
        with os.fdopen(reading) as said:
            told: dict[str, Any] = json.loads(said.read())
        os.waitpid(child, 0)
        return told
    random.setstate(state)
    status = None
    if handler:
        for hook, arguments, options in lambda_hooks.get_after_restore():
            hook(*arguments, **options)
        sys.stdout = sys.stderr
        status = handler(event, LambdaContextStub())["statusCode"]
    with os.fdopen(writing, "w") as saying:
        json.dump({"random": random.random(), "status": status}, saying)  # noqa: S311
    os._exit(0)


if __name__ == "__main__":
    main()
