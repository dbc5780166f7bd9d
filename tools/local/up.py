"""`make up` and `make down`: a stack that stays; what died is started, what changed deployed."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from tools.local import deploy, emulator, processes, sandbox
from tools.local import stack as stacks
from tools.local.aws import Aws
from tools.local.errors import LocalError
from tools.local.paths import LOCAL, STACK_FILE, UP
from tools.local.sandbox import Sandbox
from tools.local.stack import Stack

FETCH_SECONDS = "2,4"
LOCK = LOCAL / "up.lock"
PORTS = LOCAL / "ports.json"
"""Outlives the stack, so that the URL is the same after `make down` and `make up`."""

type Say = Callable[[str], None]


@dataclass
class Ports:
    """The ports that were used last; they are taken again where they are free."""

    aws: int | None = None
    sandbox: int | None = None


def up() -> None:
    """Bring the stack up, or up to date, and tell how to use it."""
    with processes.exclusive(LOCK, "make up or make down"):
        ports = _read_ports()
        if not all(processes.running(UP, name) for name in stacks.SERVERS):
            STACK_FILE.unlink(missing_ok=True)  # it names what is no longer there
        with _stopped_on_failure(UP):
            stack = bring_up(UP, ports, say=_say, leashed=False)
        PORTS.write_text(json.dumps(asdict(ports)), encoding="utf-8")
        stack.write(STACK_FILE)
    print(f"\nThe stack is up; {STACK_FILE.relative_to(LOCAL.parent)} says where everything is.")
    print("Fetch a clinic's appointments as you would from Cobalt:\n")
    print(curl(stack, "riverside"))
    print("\nmake logs shows what the functions log, make down stops everything.")


def down() -> None:
    """Stop the stack and remove its state; harmless where there is none."""
    with processes.exclusive(LOCK, "make up or make down"):
        STACK_FILE.unlink(missing_ok=True)
        ran = stacks.stop(UP)
    print("The stack is stopped, its state removed." if ran else "No stack was running.")


def running() -> Stack:
    """Give the stack that `make up` left running; `LocalError` where there is none."""
    if STACK_FILE.exists() and all(processes.running(UP, name) for name in stacks.SERVERS):
        return Stack.read(STACK_FILE)
    raise LocalError("No stack is running. Start one with make up.")


def bring_up(home: Path, ports: Ports, *, say: Say, leashed: bool, **overrides: str) -> Stack:
    """Start what does not run, deploy what is not deployed, configure; leave the rest alone.

    Overrides are parameters of the template. The ports taken are written into `ports`.
    """
    box = _sandbox(home, ports, say, leashed=leashed)
    aws = Aws(_emulator(home, ports, say, leashed=leashed))
    values = deploy.parameters(box.url, **overrides)
    wanted, deployed = deploy.fingerprint(values), home / "deployed"
    outputs = deploy.outputs(aws)
    if outputs is None or not deployed.exists() or deployed.read_text("ascii") != wanted:
        say("Building and deploying the template (the first time takes half a minute) ...")
        deployed.unlink(missing_ok=True)
        deploy.deploy(aws, values)
        outputs = deploy.outputs(aws)
        if outputs is None:
            raise LocalError("The local AWS took the deployment but has no healthy stack.")
        emulator.unpack_layers(aws, outputs["FetchAppointmentsName"], emulator.shelf_of(home))
    stack = stacks.describe(aws.endpoint, box, outputs)
    stacks.configure(stack)
    deployed.write_text(wanted, encoding="ascii")
    return stack


def curl(stack: Stack, clinic: str, first_day: date | None = None) -> str:
    """Give the documented request as a command to paste into a shell."""
    start = first_day or date.today()  # noqa: DTZ011 - the days that the person at the keyboard sees
    body = {"start_date": start.isoformat(), "end_date": (start + timedelta(days=6)).isoformat()}
    headers = stack.headers(clinic) | {"Content-Type": "application/json"}
    return " \\\n".join(
        [
            f"curl -X POST {stack.api_url}/appointments/fetch",
            *(f"  -H '{name}: {value}'" for name, value in headers.items()),
            f"  -d '{json.dumps(body)}'",
        ]
    )


def _sandbox(home: Path, ports: Ports, say: Say, *, leashed: bool) -> Sandbox:
    if processes.running(home, sandbox.NAME) is None:
        say("Starting the sandbox, which stands in for Cobalt ...")
        sandbox.start(home, ports.sandbox, fetch_seconds=FETCH_SECONDS, leashed=leashed)
    box = sandbox.connect(home)
    ports.sandbox = urlsplit(box.url).port
    return box


def _emulator(home: Path, ports: Ports, say: Say, *, leashed: bool) -> str:
    endpoint = f"http://{processes.LOOPBACK}:{ports.aws}"
    if processes.running(home, emulator.NAME) is not None:
        if ports.aws and emulator.answers(endpoint):
            return endpoint
        processes.stop(home, emulator.NAME)
    say("Starting the local AWS ...")
    if not emulator.was_saved(home):  # killed before it could save: what is left fits nothing
        shutil.rmtree(emulator.state_of(home), ignore_errors=True)
    endpoint = emulator.start(home, ports.aws, leashed=leashed)
    ports.aws = urlsplit(endpoint).port
    return endpoint


@contextmanager
def _stopped_on_failure(home: Path) -> Iterator[None]:
    """Stop what was started when it does not end well; a stack that ran before stays."""
    ran_before = any(processes.running(home, name) for name in stacks.SERVERS)
    try:
        yield
    except BaseException:
        if ran_before:
            print("\nThe stack that was running is left as it is; make down stops it.")
        else:
            stacks.stop(home)
        raise


def _read_ports() -> Ports:
    try:
        return Ports(**json.loads(PORTS.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Ports()


def _say(text: str) -> None:
    print(text, flush=True)
