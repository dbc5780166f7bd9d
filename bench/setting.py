"""Where the bench finds what it measures: the functions, their layers, and the rivals' packages."""

import hashlib
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tools.local.errors import LocalError
from tools.local.paths import BUILD, LOCAL, ROOT
from tools.local.stack import FUNCTIONS as LOGICAL_IDS

FUNCTIONS = {
    "".join(f"_{each.lower()}" if each.isupper() else each for each in name).lstrip("_"): name
    for name in LOGICAL_IDS
}
"""The folder of each function, and what it is called in the template."""
BENCH = LOCAL / "bench"
DEPENDENCIES = ROOT / "layers" / "dependencies" / "requirements.txt"
RIVALS = ROOT / "bench" / "rivals" / "requirements.txt"


def environment_of() -> dict[str, str]:
    """Give the environment of a function, which calls nobody: no name in it leads anywhere."""
    return {
        "PATH": "/usr/bin:/bin",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "POWERTOOLS_SERVICE_NAME": "cobalt-relay",
        "PYDANTIC_DISABLE_PLUGINS": "__all__",
        "POWERTOOLS_METRICS_NAMESPACE": "CobaltRelay",
        "COBALT_BASE_URL": "https://cobalt.example.com",
        "CREDENTIALS_SECRET_ARN": "arn:aws:secretsmanager:us-east-1:0:secret:credentials",
        "WEBHOOK_SECRET_ARN": "arn:aws:secretsmanager:us-east-1:0:secret:webhook",
        "TABLE_NAME": "table",
        "BUCKET_NAME": "bucket",
        "EVENT_BUS_NAME": "bus",
        "TOKEN_PATH": "/cobalt-relay/bench/tokens",
        "TOKEN_KEY_ARN": "arn:aws:kms:us-east-1:000000000000:key/bench",
        "JOB_DEADLINE_MINUTES": "120",
        "SINGLE_FLIGHT_SECONDS": "60",
        "RESULT_RETENTION_DAYS": "30",
        "FETCH_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/000000000000/fetches",
        "FETCHES_PER_CONNECTION": "1",
        "DEFAULT_TIME_ZONE": "America/New_York",
        "WEBHOOK_URL": "https://relay.example.com/v1/webhooks/cobalt",
    }


def packages_of() -> dict[str, Path]:
    """Give the folders that a function has on its path, as `sam build` made them.

    `runtime` is what Lambda's own Python has besides the standard library, as far as it is used.
    """
    return {
        "dependencies": BUILD / "DependenciesLayer" / "python",
        "relay": BUILD / "RelayLayer" / "python",
        "runtime": _runtime(),
    }


@cache
def _runtime() -> Path:
    spec = find_spec("snapshot_restore_py")
    if spec is None or spec.origin is None:
        raise LocalError("snapshot_restore_py is not installed: run make environment.")
    folder = BENCH / "runtime"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(spec.origin, folder)
    return folder


def naive_packages() -> Path:
    """Give what `pip install --target` makes of the requirements of the layer."""
    return _installed("naive", DEPENDENCIES)


def rival_packages() -> Path:
    """Give the packages of the rivals that are built on a framework."""
    return _installed("rivals", RIVALS)


def size_of(*folders: Path) -> int:
    """Add up the bytes of all files."""
    files = (each for folder in folders for each in folder.rglob("*"))
    return sum(each.stat().st_size for each in files if each.is_file())


@cache
def _installed(name: str, requirements: Path) -> Path:
    """Install packages once for each state of their requirements; pip compiles them."""
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]
    folder = BENCH / f"{name}-{digest}"
    if folder.exists():
        return folder
    draft = folder.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--require-hashes", "--no-deps", "--requirement", str(requirements)),
        *("--target", str(draft)),
    ]
    ran = subprocess.run(  # noqa: S603 - pip, with names of our own
        command, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise LocalError(f"The rival's packages could not be installed:\n{ran.stderr.strip()}")
    for old in BENCH.glob(f"{name}-*"):
        if old != draft:
            shutil.rmtree(old)
    draft.rename(folder)
    return folder
