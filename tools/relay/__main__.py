"""``python -m tools.relay``, which `.venv/bin/relay` starts."""

import sys

from tools.local import processes
from tools.relay.app import run

if __name__ == "__main__":
    processes.end_on_signals()
    sys.exit(run(sys.argv[1:]))
