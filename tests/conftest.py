"""The deployed stack, once per session. See `tools/local/snapshot.py` for how it starts fast."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.integration.support import Relay
from tools.local import snapshot
from tools.local.aws import forget_user_settings
from tools.local.errors import LocalError
from tools.local.eventlog import EventLog
from tools.local.paths import LOCAL
from tools.local.sandbox import Sandbox
from tools.local.stack import Stack

SUMMARY = LOCAL / "crash-matrix-summary.txt"
"""What the crash matrix has to say, whichever process ran it."""
_BEGAN = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make soak` ask for more than `make test` has the time for."""
    parser.addoption("--every-case", action="store_true", help="all cases of the crash matrix")


def pytest_configure(config: pytest.Config) -> None:
    """Note when the session began; be interruptible, and what is started here with it.

    A shell lets what it runs in the background ignore interrupts, and its children inherit that.
    """
    config.stash[_BEGAN] = time.time()
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the count of the cases of the crash matrix, if it was run."""
    if SUMMARY.exists() and SUMMARY.stat().st_mtime >= config.stash[_BEGAN]:
        terminalreporter.section("crash matrix")
        terminalreporter.write(SUMMARY.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The stack on a local AWS of its own, configured, with a sandbox of its own."""
    before = dict(os.environ)
    forget_user_settings()
    try:
        with snapshot.session() as running:
            yield running
    except LocalError as error:
        pytest.exit(str(error), returncode=1)
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def sandbox(stack: Stack) -> Iterator[Sandbox]:
    """The sandbox behind the stack; faults and broken links are mended after the test."""
    linked = {clinic["name"]: clinic["linked"] for clinic in stack.sandbox.clinics()}
    yield stack.sandbox
    stack.sandbox.clear_faults()
    for clinic in stack.sandbox.clinics():
        if clinic["linked"] != linked.get(clinic["name"], clinic["linked"]):
            stack.sandbox.set_linked(clinic["name"], linked=linked[clinic["name"]])


@pytest.fixture
def relay(stack: Stack) -> Relay:
    return Relay(stack)


@pytest.fixture(scope="session")
def events(stack: Stack) -> EventLog:
    """Every event on the bus; pick a job's own with ``events.of(job_execution_id)``."""
    return EventLog(stack.aws, stack.outputs["EventLogUrl"])
