"""``python -m tools.relay``, which `.venv/bin/relay` starts."""

import signal
import sys

# Ctrl-C in the middle of the imports ends us without a traceback; where it is ignored it stays so.
_of_python = signal.getsignal(signal.SIGINT)
if _of_python is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from tools.local import processes  # noqa: E402
from tools.relay.app import run  # noqa: E402

if __name__ == "__main__":
    processes.end_on_signals()
    signal.signal(signal.SIGINT, _of_python)
    sys.exit(run(sys.argv[1:]))
