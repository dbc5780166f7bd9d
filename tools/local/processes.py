"""Servers in the background, and their certain end.

A server is known by its process id *and* by its home, a folder that stands in its command line:
ids are used again after a restart of the machine, and a stranger must not be killed.
"""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from tools.local.errors import LocalError
from tools.local.paths import ROOT

LOOPBACK = "127.0.0.1"
STOP_SECONDS = 10.0
POLL_SECONDS = 0.02

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Servers that this process started: they have to be reaped."""


def start(
    name: str,
    command: Sequence[str],
    home: Path,
    environment: Mapping[str, str],
    *,
    leashed: bool,
) -> int:
    """Start a server with its output in ``<home>/<name>.log``; give its process id.

    It gets a session of its own, so that Ctrl-C reaches us alone and we end it in good order. A
    leashed server also ends by itself when we are gone without having ended it.
    """
    home.mkdir(parents=True, exist_ok=True)
    if leashed:
        command = _leashed(command, home)
    with log_of(home, name).open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _children[process.pid] = process
    pid_file(home, name).write_text(f"{process.pid}\n", encoding="ascii")
    return process.pid


def run(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a program to its end; give its status and what it said.

    Whatever interrupts us ends it at once, with everything that it started.
    """
    with subprocess.Popen(
        _leashed(command, ROOT),
        cwd=ROOT,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, said


def log_of(home: Path, name: str) -> Path:
    """Where a server writes."""
    return home / f"{name}.log"


def pid_file(home: Path, name: str) -> Path:
    """Where the process id of a server is kept."""
    return home / f"{name}.pid"


def running(home: Path, name: str) -> int | None:
    """Give the process id of a server that runs and is ours."""
    try:
        pid = int(pid_file(home, name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return pid if _is_ours(pid, home) else None


def exists(pid: int) -> bool:
    """Tell whether there is a process with this id, whosever it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def stop(home: Path, name: str) -> bool:
    """End a server and its workers: by request, by force after 10 s. Tell whether it ran."""
    pid = running(home, name)
    if pid is not None:
        _signal(pid, signal.SIGTERM)
        with suppress(TimeoutError):
            wait_until(lambda: not _is_ours(pid, home), STOP_SECONDS, f"the {name} to end")
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        if child := _children.pop(pid, None):
            child.wait()
    pid_file(home, name).unlink(missing_ok=True)
    return pid is not None


def await_ready(home: Path, name: str, is_ready: Callable[[], bool], seconds: float) -> None:
    """Wait until a server that was just started answers.

    `LocalError`, with the end of its log, where it ends instead or takes too long.
    """
    deadline = time.monotonic() + seconds
    while not is_ready():
        if running(home, name) is None or time.monotonic() > deadline:
            lines = log_of(home, name).read_text(encoding="utf-8", errors="replace").splitlines()
            tail = "\n".join(f"    {line}" for line in lines[-15:])
            raise LocalError(f"The {name} did not start. The end of its log:\n{tail}")
        time.sleep(POLL_SECONDS)


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll; raise ``TimeoutError`` that names what was awaited."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(POLL_SECONDS)


def free_port(preferred: int | None = None) -> int:
    """Give the preferred port where it is free, else one that the system picks."""
    for port in (preferred, 0) if preferred else (0,):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, port))
            return int(probe.getsockname()[1])
    raise LocalError("No free port on 127.0.0.1.")


@contextmanager
def exclusive(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock file; say so when another process has it, and wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"Waiting for another process to finish {doing} ...", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def end_on_signals() -> None:
    """Turn SIGTERM and SIGHUP into ``SystemExit``, so that ``finally`` blocks stop the servers."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore signals while servers are being stopped: a second Ctrl-C must not strand them."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _leashed(command: Sequence[str], home: Path) -> list[str]:
    leash = [sys.executable, "-m", "tools.local.leash", str(home), str(os.getpid())]
    return [*leash, *command]


def _is_ours(pid: int, home: Path) -> bool:
    child = _children.get(pid)
    if child is not None:  # its command line can be empty in the moment after its start
        return child.poll() is None
    return str(home) in _command_line(pid)


def _command_line(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return ""
        found = subprocess.run(  # macOS has no /proc
            ["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, check=False
        )
        raw = found.stdout
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace")


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
