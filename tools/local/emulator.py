"""The local AWS: MiniStack with IAM enforced, bound to loopback, its state in a home of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import requests

from tools.local import launcher, processes
from tools.local.aws import Aws
from tools.local.errors import LocalError
from tools.local.paths import WORKER

NAME = "local-aws"
START_SECONDS = 30.0


def start(home: Path, port: int | None, *, leashed: bool, shelf: Path | None = None) -> str:
    """Start it on the port where that is free, else on another; give its endpoint.

    The shelf is where unpacked layers lie; several servers may share one.
    """
    ensure_worker()
    chosen = processes.free_port(port)
    state = state_of(home)
    temporary = home / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "tools.local.launcher", str(home)),
        *(str(WORKER / "bin/python"), str(shelf or shelf_of(home))),
    ]
    # The functions inherit this environment: nothing of ours may be in it, and it looks like AWS's.
    environment = {
        "PATH": os.defpath,
        "HOME": str(temporary),
        "LANG": "en_US.UTF-8",
        "TZ": "UTC",
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "GATEWAY_PORT": str(chosen),
        "BIND_HOST": processes.LOOPBACK,
        "AUTH": "true",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "TMPDIR": str(temporary),
        "PERSIST_STATE": "1",
        "STATE_DIR": str(state / "state"),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(state / "s3"),
    }
    processes.start(NAME, command, home, environment, leashed=leashed)
    endpoint = f"http://{processes.LOOPBACK}:{chosen}"
    processes.await_ready(home, NAME, lambda: answers(endpoint), START_SECONDS)
    return endpoint


def state_of(home: Path) -> Path:
    """Where the state is saved when the server is asked to end."""
    return home / "aws"


def shelf_of(home: Path) -> Path:
    """Where unpacked layers lie."""
    return home / "layers"


def unpack_layers(aws: Aws, function: str, shelf: Path) -> None:
    """Unpack a function's layers now, which its first worker would have to wait for."""
    for layer in aws.functions.get_function_configuration(FunctionName=function)["Layers"]:
        content = aws.functions.get_layer_version_by_arn(Arn=layer["Arn"])["Content"]
        # The address is the one at which the layer was published; the port may have changed since.
        answer = requests.get(aws.endpoint + urlsplit(content["Location"]).path, timeout=30)
        answer.raise_for_status()
        launcher.unpacked(answer.content, shelf)


def was_saved(home: Path) -> bool:
    """Tell whether there is a saved state that a server can start from."""
    return any((state_of(home) / "state").glob("*.json"))


def answers(endpoint: str) -> bool:
    """Tell whether the local AWS is up at an address."""
    try:
        return requests.get(f"{endpoint}/_ministack/ready", timeout=2).ok
    except requests.RequestException:
        return False


def ensure_worker() -> None:
    """Make the interpreter of the functions where it is missing or its Python is gone."""
    python = WORKER / "bin/python"
    works = python.exists() and not subprocess.run([python, "-c", ""], check=False).returncode
    with processes.exclusive(WORKER.with_suffix(".lock"), "the functions' interpreter"):
        if works or python.exists():
            return
        draft = WORKER.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        command = [sys.executable, "-m", "venv", "--without-pip", str(draft)]
        status, said = processes.run(command, os.environ)
        if status:
            raise LocalError(f"The functions' interpreter could not be made:\n{said.strip()}")
        draft.rename(WORKER)
