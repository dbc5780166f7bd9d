"""The run of `make fuzz`, short enough for every test session; and that it would tell."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from tests.fuzz.run import Target, fuzz, target_of
from tools.local.sandbox import Sandbox
from tools.local.stack import Stack


def test_every_answer_is_as_described(stack: Stack, sandbox: Sandbox) -> None:
    outcome = fuzz(target_of(stack), most_per_route=5)

    assert outcome.passed, outcome.said
    assert outcome.cases > 250


class Careless(BaseHTTPRequestHandler):
    """An API that takes everything, tells too much, and falls over now and then."""

    bodies: ClassVar[dict[str, tuple[int, dict[str, object]]]] = {
        "/v1/appointments/fetch": (202, {"success": True, "trace": "line 1"}),
        "/v1/webhooks/cobalt": (200, {"success": True, "message": "Webhook received."}),
    }

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.reply(*self.bodies.get(self.path, (500, {})))

    def do_GET(self) -> None:
        self.reply(500, {"success": False, "message": "Oh."})

    def reply(self, status: int, body: dict[str, object]) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(raw)),
            "x-request-id": "1",
            "Cache-Control": "no-store",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Be silent."""


@pytest.fixture
def careless() -> Iterator[Target]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Careless)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Target(
        url=f"http://127.0.0.1:{server.server_port}/v1",
        headers={"client_id": "c", "client_secret": "s", "access_token": "t"},
        webhook_key="k",
        own_job="job_1",
        foreign_job="job_2",
    )
    server.shutdown()
    thread.join()
    server.server_close()


def test_careless_api_is_found_out(careless: Target) -> None:
    outcome = fuzz(careless, most_per_route=5, phases="coverage")

    assert not outcome.passed
    found = outcome.said.partition("Failures:")[2]
    for check in (
        "ST101 Server error",
        "ST108 Response violates schema",
        "ST201 Schema-violating request accepted",
        "ST401 API accepts requests without authentication",
        "webhooks_are_taken_only_when_signed",
        "nobody_elses_job_is_read",
    ):
        assert check in found, outcome.said
