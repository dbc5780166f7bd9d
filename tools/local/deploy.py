"""Builds the template with SAM and deploys it to the local AWS, as a person would on AWS."""

import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from botocore.exceptions import ClientError

from tools.local import fixups, processes
from tools.local.aws import ACCOUNT, CREDENTIALS, REGION, Aws, environment
from tools.local.errors import LocalError
from tools.local.paths import BUILD, BUILD_CACHE, LOCAL, ROOT, SAM_HOME

STACK_NAME = "cobalt-relay"
HOST = processes.LOOPBACK
ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "arm64": "arm64", "aarch64": "arm64"}
INGREDIENTS = (
    "template.yaml",
    "functions",
    "layers",
    "tools/local/deploy.py",
    "tools/local/fixups.py",
)
"""What decides how a deployed stack looks."""
PLACEHOLDER_URL = f"http://{HOST}:9"
"""The address of Cobalt where it is told later; nothing listens there."""
SHOWN_LINES, SHOWN_WIDTH = 12, 300
"""What is quoted of a SAM that failed; pip can put 20 KB into one line."""
NEVER = 4102444800
"""A moment in the year 2100: SAM looks for a new version of itself a week after the last look."""


def parameters(sandbox_url: str, **others: str) -> dict[str, str]:
    """Give the template's parameters for this machine.

    The optional domain is the loopback address, which the local AWS then routes to the API: its URL
    is Cobalt's own but for the host, and stays the same when a deployment replaces the API.
    """
    machine = platform.machine().lower()
    if machine not in ARCHITECTURES:
        raise LocalError(f"Lambda knows no {machine} processors, so the stack cannot run here.")
    return {
        "Architecture": ARCHITECTURES[machine],
        "CobaltBaseUrl": sandbox_url,
        "DomainName": HOST,
        "DomainCertificateArn": f"arn:aws:acm:{REGION}:{ACCOUNT}:certificate/local",
        "RequireTls": "false",
        **others,
    }


def fingerprint(values: Mapping[str, str]) -> str:
    """Give a digest of everything that a deployment is made of."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for path in _ingredients():
        digest.update(f"\n{path.relative_to(ROOT)}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def build() -> None:
    """Build layers and functions into `BUILD`, as for a deployment. `LocalError` as there."""
    check_syntax()
    with processes.exclusive(LOCAL / "build.lock", "its build"):
        _build(parameters(PLACEHOLDER_URL))


def _build(values: Mapping[str, str]) -> None:
    _sam("build", "--parallel", "--cached", "--cache-dir", str(BUILD_CACHE),
         "--build-dir", str(BUILD), values=values)  # fmt: skip


def deploy(aws: Aws, values: Mapping[str, str]) -> None:
    """Build, deploy, and set what the local AWS drops. `LocalError` with SAM's last words."""
    check_syntax()
    with processes.exclusive(LOCAL / "build.lock", "its build"):
        _build(values)
        _sam("deploy", "--template-file", str(BUILD / "template.yaml"), "--stack-name", STACK_NAME,
             "--resolve-s3", "--s3-prefix", STACK_NAME, "--capabilities", "CAPABILITY_IAM",
             "--no-confirm-changeset", "--no-fail-on-empty-changeset", "--no-progressbar",
             values=values, aws=aws)  # fmt: skip
    fixups.apply(aws, STACK_NAME)


def check_syntax() -> None:
    """Find a syntax error before the local AWS does: `LocalError` names the file and the line."""
    for path in _ingredients():
        if path.suffix == ".py":
            try:
                compile(path.read_bytes(), path, "exec")
            except SyntaxError as error:
                place = f"{path.relative_to(ROOT)}:{error.lineno}"
                raise LocalError(f"{place}: {error.msg}. Mend it and try again.") from None


def outputs(aws: Aws) -> dict[str, str] | None:
    """Give the outputs of the deployed stack; `None` where there is none."""
    try:
        stack = aws.cloudformation.describe_stacks(StackName=STACK_NAME)["Stacks"][0]
    except ClientError:
        return None
    if not stack["StackStatus"].endswith("_COMPLETE") or "ROLLBACK" in stack["StackStatus"]:
        return None
    return {each["OutputKey"]: each["OutputValue"] for each in stack.get("Outputs", [])}


def sam_environment() -> dict[str, str]:
    """Give the environment in which SAM neither phones home nor touches the user's settings."""
    SAM_HOME.mkdir(parents=True, exist_ok=True)
    settings = SAM_HOME / "metadata.json"
    if not settings.exists():
        settings.write_text(json.dumps({"telemetryEnabled": False, "lastVersionCheck": NEVER}))
    own = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "SAM_CLI_TELEMETRY": "0",
        "SAM_CLI_POLL_DELAY": "0.3",  # seconds between looks at the deployment; its default is 5
        "__SAM_CLI_APP_DIR": str(SAM_HOME),
    }
    if sys.platform == "darwin":  # the functions run right here: layers/dependencies/Makefile
        release = platform.mac_ver()[0].partition(".")[0]
        own["LAYER_EXTRA_PLATFORM"] = f"macosx_{release}_0_{platform.machine()}"
    return environment() | own


def _ingredients() -> Iterator[Path]:
    for name in INGREDIENTS:
        path = ROOT / name
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (each for each in files if each.is_file() and each.parent.name != "__pycache__")


def _sam(verb: str, *options: str, values: Mapping[str, str], aws: Aws | None = None) -> None:
    overrides = [f"{name}={value}" for name, value in values.items()]
    command = [_program("sam"), verb, *options, "--parameter-overrides", *overrides]
    settings = sam_environment() | CREDENTIALS
    if aws:
        settings["AWS_ENDPOINT_URL"] = aws.endpoint
    # SAM and pip leave temporary folders behind, the more so when they are interrupted.
    with tempfile.TemporaryDirectory(dir=LOCAL, ignore_cleanup_errors=True) as scratch:
        status, said = processes.run(command, settings | {"TMPDIR": scratch})
    if status:
        log = LOCAL / f"sam-{verb}.log"
        log.write_text(said, encoding="utf-8")
        lines = last_words(said) + (_faults(aws) if aws else [])
        quoted = "\n".join(f"    {line[:SHOWN_WIDTH]}" for line in lines)
        raise LocalError(
            f"sam {verb} failed:\n{quoted}\n"
            f"Mend that and run this again; {log.relative_to(ROOT)} has all that SAM said."
        )


def last_words(said: str) -> list[str]:
    """Give the error at the end of what SAM said, or just the end where it names none."""
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if line.startswith("Error: ")]
    return (lines[errors[-1] :] if errors else lines)[-SHOWN_LINES:]


def _faults(aws: Aws) -> list[str]:
    """Give the reasons of a failed deployment, which SAM does not repeat in its error."""
    try:
        events = aws.cloudformation.describe_stack_events(StackName=STACK_NAME)["StackEvents"]
    except ClientError:  # it failed before there was a stack
        return []
    faults = []
    for event in events:  # the newest first
        name, status = event["LogicalResourceId"], event["ResourceStatus"]
        if name == STACK_NAME and status in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS"):
            break
        if status.endswith("_FAILED") and name != STACK_NAME:
            faults.append(f"{name}: {event.get('ResourceStatusReason', status)}")
    return faults[::-1]


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)
