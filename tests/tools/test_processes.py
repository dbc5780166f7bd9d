"""Servers in the background: found again, ended for certain, and never mistaken for another's."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.support import eventually
from tools.local import processes
from tools.local.errors import LocalError

SLEEP = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    processes.stop(tmp_path, "server")


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self").exists():
        listing = subprocess.run(["/bin/ps", "-p", str(pid)], capture_output=True, check=False)
        return listing.returncode == 0
    return stat.exists() and ") Z" not in stat.read_text(encoding="utf-8")


def test_server_is_found_and_ended_when_it_was_started_here(home: Path) -> None:
    pid = processes.start("server", [*SLEEP, str(home)], home, {}, leashed=False)

    assert processes.running(home, "server") == pid
    assert processes.stop(home, "server")
    assert not alive(pid)
    assert not processes.stop(home, "server")


def test_server_is_found_by_its_home_when_another_process_started_it(home: Path) -> None:
    with subprocess.Popen([*SLEEP, str(home)], stdout=subprocess.DEVNULL) as stranger:
        processes.pid_file(home, "server").write_text(str(stranger.pid), encoding="ascii")

        assert eventually(lambda: processes.running(home, "server")) == stranger.pid
        stranger.kill()


def test_stranger_is_left_alone_when_its_id_stands_in_our_file(home: Path) -> None:
    with subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL) as stranger:
        processes.pid_file(home, "server").write_text(str(stranger.pid), encoding="ascii")

        assert processes.running(home, "server") is None
        assert not processes.stop(home, "server")
        assert stranger.poll() is None
        stranger.kill()


def test_server_is_ended_by_force_when_it_does_not_listen(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.3)
    pid = processes.start("server", [sys.executable, "-c", DEAF], home, {}, leashed=False)

    processes.stop(home, "server")

    assert not alive(pid)


def test_failure_quotes_the_log_when_a_server_ends_instead_of_answering(home: Path) -> None:
    command = [sys.executable, "-c", "print('no such luck')"]
    processes.start("server", command, home, {}, leashed=False)

    with pytest.raises(LocalError, match="no such luck"):
        processes.await_ready(home, "server", lambda: False, 10)


def test_leashed_server_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    owner = (
        "import sys, time; from pathlib import Path; from tools.local import processes;"
        f"processes.start('server', {SLEEP!r}, Path({str(tmp_path)!r}), {{}}, leashed=True);"
        "print('started', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        log = processes.log_of(tmp_path, "server")
        server = int(eventually(lambda: log.read_text("utf-8").strip()))
        leash = int(processes.pid_file(tmp_path, "server").read_text(encoding="ascii"))
        process.kill()

    eventually(lambda: not alive(server))
    eventually(lambda: not alive(leash))


def test_another_port_is_taken_when_the_preferred_one_is_in_use() -> None:
    first = processes.free_port()

    assert processes.free_port(first) == first
    with socket.create_server((processes.LOOPBACK, first)):
        assert processes.free_port(first) != first
