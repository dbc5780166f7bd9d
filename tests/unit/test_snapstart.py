"""What a snapshot of the initialisation holds, and what of it is still good for whoever goes on."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import HEADERS, appointments_event, fetch_event, webhook_event

ROOT = Path(__file__).parents[2]
SECONDS = 60
SETTINGS = {
    "COBALT_BASE_URL": "https://cobalt.example.com",
    "CREDENTIALS_SECRET_ARN": "arn:credentials",
    "WEBHOOK_SECRET_ARN": "arn:webhook",
    "TABLE_NAME": "table",
    "BUCKET_NAME": "bucket",
    "EVENT_BUS_NAME": "bus",
    "TOKEN_PATH": "/relay/tokens",
    "TOKEN_KEY_ARN": "arn:key",
    "JOB_DEADLINE_MINUTES": "120",
    "SINGLE_FLIGHT_SECONDS": "60",
    "RESULT_RETENTION_DAYS": "30",
    "FETCH_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/0/fetches",
    "FETCHES_PER_CONNECTION": "1",
}
SECRET = {"client_id": "another", "client_secret": "another", "webhook_secret_key": "another"}
API_FUNCTIONS = {
    "functions.fetch_appointments.handler": fetch_event({}, HEADERS),
    "functions.read_appointments.handler": appointments_event("", HEADERS),
    "functions.receive_webhook.handler": webhook_event(b"{}", "0" * 64),
}
"""Each with a call that is answered 401 after a secret was read."""


class Aws(ThreadingHTTPServer):
    """Lambda's credentials, the first of which are over soon, and the secrets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[str] = []
        self.keys_given = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Aws

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        if self.path != "/credentials":
            self._say({})
            return
        self.server.keys_given += 1
        is_first = self.server.keys_given == 1
        until = datetime.now(UTC) + (timedelta(0) if is_first else timedelta(hours=6))
        self._say(
            {
                "AccessKeyId": f"ASIA{self.server.keys_given}",
                "SecretAccessKey": "nothing",
                "Token": "none",
                "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        )

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        key = self.headers["Authorization"].partition("Credential=")[2].partition("/")[0]
        self.server.seen.append(f"{self.headers['X-Amz-Target']} {key}")
        version = "v" * 32
        self._say(
            {
                "SecretString": json.dumps(SECRET),
                "VersionId": version,
                "CreatedDate": 1_700_000_000,
                "VersionIdsToStages": {version: ["AWSCURRENT"]},
            }
        )

    def _say(self, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def aws() -> Iterator[Aws]:
    with Aws() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("module", API_FUNCTIONS)
def test_snapshot_has_no_secret_no_connection_and_is_good_for_days(aws: Aws, module: str) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "layers" / "relay")]),
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": aws.url,
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{aws.url}/credentials",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "of Lambda",
        "AWS_EC2_METADATA_DISABLED": "true",
        **SETTINGS,
    }
    event = json.dumps(API_FUNCTIONS[module])

    ran = subprocess.run(
        [sys.executable, "-m", "tests.unit.snapshot", module, event],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    before = aws.seen[: aws.seen.index("/snapshot")]
    after = aws.seen[len(before) + 1 :]
    assert set(before) == {"/credentials"}  # the clients are made, and none was used
    assert told["open_sockets"] == 0
    signed = [each.split() for each in after if each.startswith("secretsmanager.")]
    assert [each["status"] for each in told["gone_on"]] == [401, 401]
    assert {key for _, key in signed} == {
        f"ASIA{number}" for number in range(2, aws.keys_given + 1)
    }
    assert after.count("/credentials") == 2  # each copy renews those that are over

    one, other = (each["random"] for each in told["gone_on"])
    control = {each["random"] for each in told["without_hooks"]}
    assert one != other
    assert len(control) == 1  # left alone, copies draw the same numbers


@pytest.mark.parametrize("module", API_FUNCTIONS)
def test_handler_is_imported_for_free_when_there_is_no_environment(module: str) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "layers" / "relay")]),
    }
    said = f"import {module}, sys; print('botocore.client' in sys.modules)"

    ran = subprocess.run(
        [sys.executable, "-c", said], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=SECONDS, check=False,
    )  # fmt: skip

    assert (ran.returncode, ran.stdout.strip()) == (0, "False"), ran.stderr
