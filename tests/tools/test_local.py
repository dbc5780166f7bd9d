"""The parts of the local tooling that decide something."""

import re
import stat
import subprocess
from datetime import date
from pathlib import Path

import pytest

from tools.local import deploy, fixups, launcher, logs
from tools.local.aws import Aws
from tools.local.errors import LocalError
from tools.local.fixups import DeployedStack
from tools.local.paths import ROOT
from tools.local.stack import Stack
from tools.local.up import curl

STACK = Stack(
    stack_name="cobalt-relay",
    region="us-east-1",
    aws_endpoint="http://127.0.0.1:4566",
    api_url="http://127.0.0.1:4566/v1",
    webhook_url="http://127.0.0.1:4566/v1/webhooks/cobalt",
    sandbox_url="http://127.0.0.1:4567",
    client_id="id",
    client_secret="secret",
    access_tokens={"riverside": "token"},
    bucket="bucket",
    table="table",
    bus="bus",
    outputs={"TableName": "table"},
)


def test_stack_file_is_its_owners_alone_and_reads_back(tmp_path: Path) -> None:
    file = tmp_path / "stack.json"

    STACK.write(file)

    assert Stack.read(file) == STACK
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_curl_line_is_the_documented_request_but_for_the_host() -> None:
    assert curl(STACK, "riverside", date(2023, 12, 1)) == (
        "curl -X POST http://127.0.0.1:4566/v1/appointments/fetch \\\n"
        "  -H 'client_id: id' \\\n"
        "  -H 'client_secret: secret' \\\n"
        "  -H 'access_token: token' \\\n"
        "  -H 'Content-Type: application/json' \\\n"
        '  -d \'{"start_date": "2023-12-01", "end_date": "2023-12-07"}\''
    )


@pytest.mark.parametrize("endpoint", ["https://s3.amazonaws.com", "http://10.0.0.1:4566", ""])
def test_no_client_is_made_when_the_endpoint_is_not_on_this_machine(endpoint: str) -> None:
    with pytest.raises(LocalError, match="not a local address"):
        Aws(endpoint)


def test_lifecycle_rule_keeps_its_days_when_they_are_a_parameter() -> None:
    stack = DeployedStack(resources={}, ids={}, parameters={"ResultRetentionDays": "30"})

    turned = fixups.lifecycle_rule(
        {
            "Id": "results-expire",
            "Status": "Enabled",
            "ExpirationInDays": {"Ref": "ResultRetentionDays"},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 7},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        },
        stack,
    )

    assert turned == {
        "ID": "results-expire",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "Expiration": {"Days": 30},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 7},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }


def test_fingerprint_changes_when_a_parameter_does() -> None:
    values = deploy.parameters("http://127.0.0.1:1")

    assert deploy.fingerprint(values) == deploy.fingerprint(dict(values))
    assert deploy.fingerprint(values) != deploy.fingerprint(values | {"LogLevel": "DEBUG"})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words \n", "plain words"),
        ('{"level":"INFO","location":"f:1","message":"accepted","n":2}', "INFO accepted n=2"),
        ('{"_aws":{"Timestamp":1},"service":"x","Accepted":[1.0]}', "METRIC Accepted=[1.0]"),
        ("[1]", "[1]"),
    ],
)
def test_log_line_is_readable(text: str, shown: str) -> None:
    assert logs.readable(text) == shown


def test_layer_is_locked_to_the_versions_that_tests_run_on() -> None:
    def pins(name: str) -> set[str]:
        text = (ROOT / name).read_text(encoding="utf-8")
        return set(re.findall(r"^([a-z0-9._-]+==\S+)", text, re.MULTILINE))

    layer = pins("layers/dependencies/requirements.txt")

    assert layer
    assert layer <= pins("requirements/dev.txt")


# ------------------------------------------------------------------------------------------ Makefile


@pytest.mark.parametrize("target", ["soak", "fuzz", "bench"])
def test_program_of_a_target_starts(target: str) -> None:
    """With all that it imports; pytest finds more than the target's own line does."""
    told = subprocess.run(
        ["/usr/bin/env", "make", "--dry-run", target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [each for each in told.stdout.splitlines() if re.search(r" -m (tests|bench)", each)]
    assert lines

    for line in lines:
        shown = subprocess.run(
            ["/bin/sh", "-c", f"{line.strip()} --help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.startswith("usage:")


def test_log_is_taken_line_by_line_and_once(tmp_path: Path) -> None:
    log = tmp_path / launcher.LOG
    assert launcher.taken(log) == ""

    with log.open("ab", buffering=0) as worker:
        worker.write(b"one\n\ntwo\n")
        assert launcher.taken(log) == "one\n\ntwo"
        assert launcher.taken(log) == ""
        worker.write(b"of the next, torn \xc3")
        assert launcher.taken(log) == "of the next, torn \ufffd"
