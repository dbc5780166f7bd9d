"""What the tests of the sandbox share: a client of it, and a receiver of its webhooks."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 10.0
MONDAY, FRIDAY, SUNDAY = "2026-03-02", "2026-03-06", "2026-03-08"

type Json = dict[str, Any]


def until[T](look: Callable[[], T], seconds: float = DEADLINE_SECONDS) -> T:
    """Look again and again until something is there; fail at the deadline."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError("nothing came before the deadline")
        threading.Event().wait(0.01)
    return found


@dataclass(frozen=True)
class Answer:
    """How the receiver treats one request."""

    status: int = 200
    delay: float = 0.0
    hang_up: bool = False


@dataclass(frozen=True)
class Received:
    """One request as the receiver got it."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def payload(self) -> Json:
        parsed: Json = json.loads(self.body)
        return parsed


class Receiver:
    """A real HTTP server on loopback whose answers are scripted per path."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.scripts: dict[str, list[Answer]] = defaultdict(list)
        self.released = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append(Received(self.path, headers, body, time.monotonic()))
                script = receiver.scripts[self.path]
                answer = script.pop(0) if script else Answer()
                if answer.delay:
                    receiver.released.wait(answer.delay)
                if answer.hang_up:
                    return
                with contextlib.suppress(OSError):
                    self.send_response(answer.status)
                    self.send_header("content-length", "0")
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128  # an event goes to all of its URLs at once; 5 is the default

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{path}"

    def at(self, path: str) -> list[Received]:
        return [each for each in self.received if each.path == path]

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Cobalt:
    """A client of one running sandbox."""

    def __init__(self, ready: Json) -> None:
        self.ready = ready
        self.http = httpx.Client(base_url=ready["url"], timeout=10, trust_env=False)

    @property
    def client_headers(self) -> dict[str, str]:
        return {
            "client_id": self.ready["client_id"],
            "client_secret": self.ready["client_secret"],
        }

    def headers(self, clinic: str) -> dict[str, str]:
        return {**self.client_headers, "access_token": self.ready["access_tokens"][clinic]}

    def fetch(self, clinic: str = "mesa", **body: object) -> httpx.Response:
        given = body or {"start_date": MONDAY, "end_date": FRIDAY}
        return self.http.post("/v1/appointments/fetch", json=given, headers=self.headers(clinic))

    def started(self, clinic: str = "mesa", **body: object) -> str:
        answer = self.fetch(clinic, **body).json()
        return str(answer.get("job_execution_id") or answer["job_id"])

    def read(self, path: str, clinic: str | None = None, **query: object) -> httpx.Response:
        headers = self.headers(clinic) if clinic else self.client_headers
        return self.http.get(path, params={key: str(query[key]) for key in query}, headers=headers)

    def send(self, path: str, body: object = None, clinic: str | None = None) -> httpx.Response:
        headers = self.headers(clinic) if clinic else self.client_headers
        return self.http.post(path, json=body, headers=headers)

    def control(self, route: str, **query: str) -> Json:
        answer = self.http.get(f"/_sandbox{route}", params=query)
        assert answer.status_code == 200, answer.text
        parsed: Json = answer.json()
        return parsed

    def steer(self, path: str, body: object = None) -> httpx.Response:
        return self.http.post(f"/_sandbox{path}", json=body)

    def fault(self, fault: str, **options: object) -> Json:
        answer = self.steer("/faults", {"fault": fault, "count": 1, **options})
        assert answer.status_code == 201, answer.text
        parsed: Json = answer.json()
        return parsed

    def register(self, url: str) -> str:
        answer = self.send("/v1/webhook", {"webhook_url": url})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["webhook_secret_key"])

    def idle(self, seconds: float = DEADLINE_SECONDS) -> None:
        until(lambda: self.control("/health")["pending"] == 0, seconds)

    def rows(self, **query: object) -> list[Json]:
        answer = self.read("/v1/webhook-events", None, **query)
        assert answer.status_code == 200, answer.text
        found: list[Json] = answer.json()["webhook_events"]
        return found

    def result(self, clinic: str = "mesa", **body: object) -> Json:
        """Fetch, wait, and give the payload."""
        job_id = self.started(clinic, **body)
        return self.payload(job_id)

    def payload(self, job_id: str) -> Json:
        event_id = until(lambda: self.control(f"/jobs/{job_id}")["event_id"])
        self.idle()
        return self.control(f"/events/{event_id}/body")


def _has_text(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


@contextlib.contextmanager
def running(tmp_path: Path, *options: str) -> Iterator[tuple[Json, subprocess.Popen[bytes]]]:
    """Run the sandbox as a process; end it with SIGTERM."""
    ready_file = tmp_path / "ready.json"
    command = [sys.executable, "-m", "sandbox", "--ready-file", str(ready_file), *options]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stderr=log, stdout=log)
        try:
            until(lambda: _has_text(ready_file) or process.poll() is not None)
            assert process.poll() is None, (tmp_path / "log").read_text()
            yield json.loads(ready_file.read_text()), process
        finally:
            process.terminate()
            process.wait(DEADLINE_SECONDS)
