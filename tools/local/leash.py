"""Runs a server that must not outlive its owner, even one that is killed without warning.

    python -m tools.local.leash <home> <owner's process id> <command> ...

The home is there to be seen in the command line (see `processes`).
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress

WATCH_SECONDS = 0.3
STOP_SECONDS = 8.0


def main(arguments: list[str]) -> int:
    """Run the command until it ends, we are told to stop, or the owner is gone."""
    owner, command = int(arguments[1]), arguments[2:]
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    server = subprocess.Popen(command)
    while os.getppid() == owner:
        with suppress(subprocess.TimeoutExpired):
            return server.wait(WATCH_SECONDS)
    server.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.wait(STOP_SECONDS)
    os.killpg(0, signal.SIGKILL)  # whatever the server left, and this process too
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
