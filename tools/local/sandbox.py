"""The sandbox as a server of ours, and its control interface (`sandbox/README.md`)."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tools.local import processes
from tools.local.errors import LocalError

NAME = "sandbox"
START_SECONDS = 20.0
CALL_SECONDS = 10.0

type Json = dict[str, Any]


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox. Methods raise `LocalError` for an answer that is not a success."""

    url: str
    client_id: str
    client_secret: str = field(repr=False)
    access_tokens: Mapping[str, str] = field(repr=False)
    """One per clinic, by the clinic's name."""

    # -------------------------------------------------------------------------------------- faults

    def add_fault(self, fault: str, **options: object) -> str:
        """Set a fault, such as ``add_fault("lost", count=1, clinic="riverside")``; give its id."""
        return str(self._control("POST", "/faults", {"fault": fault, **options})["id"])

    def clear_faults(self) -> None:
        """Take every fault back."""
        self._control("DELETE", "/faults")

    # ---------------------------------------------------------------------------------------- logs

    def requests(self, path: str | None = None) -> list[Json]:
        """List the calls that the sandbox received, oldest first."""
        found: list[Json] = self._control("GET", "/requests", path=path)["requests"]
        return found

    def deliveries(self, job_id: str | None = None) -> list[Json]:
        """List the attempts to deliver webhooks, in the order in which they ended."""
        found: list[Json] = self._control("GET", "/deliveries", job_id=job_id)["deliveries"]
        return found

    def jobs(self) -> list[Json]:
        """List the jobs, oldest first."""
        found: list[Json] = self._control("GET", "/jobs")["jobs"]
        return found

    def job(self, job_id: str) -> Json:
        """Show one job."""
        return self._control("GET", f"/jobs/{job_id}")

    def clinics(self) -> list[Json]:
        """List the clinics: `name`, `emr_name`, `access_token`, `timezone`, `linked` ..."""
        found: list[Json] = self._control("GET", "/clinics")["clinics"]
        return found

    def event_body(self, event_id: str) -> bytes:
        """Give the exact bytes of an event, as they are signed."""
        answer = requests.get(f"{self.url}/_sandbox/events/{event_id}/body", timeout=CALL_SECONDS)
        answer.raise_for_status()
        return answer.content

    # ------------------------------------------------------------------------------------- actions

    def emit(self, event_type: str, clinic: str, data: Json, **options: object) -> str:
        """Send an event of any type; options are ``job_id`` and ``id``. Give the event's id."""
        body = {"type": event_type, "clinic": clinic, "data": data, **options}
        return str(self._control("POST", "/events", body)["event_id"])

    def redeliver(self, event_id: str) -> None:
        """Deliver an event once more."""
        self._control("POST", f"/redeliver/{event_id}")

    def set_linked(self, clinic: str, *, linked: bool) -> None:
        """Break or repair a clinic's link."""
        self._control("PATCH", f"/clinics/{clinic}", {"linked": linked})

    def set_wording(self, clinic: str, wording: Mapping[str, str]) -> None:
        """Make every appointment of a clinic say so in these fields; none takes it back."""
        self._control("PATCH", f"/clinics/{clinic}", {"wording": dict(wording)})

    def webhook_secret(self) -> Json:
        """Show the secrets under which webhooks are signed: `current` and `previous`."""
        return self._control("GET", "/webhook-secret")

    # -------------------------------------------------------------------------- Cobalt's own routes

    def register_webhook(self, url: str) -> str:
        """Register a webhook URL as a client of Cobalt does; give the webhook secret.

        One that is registered already stays as it is.
        """
        return str(self._cobalt("POST", "/v1/webhook", {"webhook_url": url})["webhook_secret_key"])

    def forget_other_webhooks(self, url: str) -> None:
        """Take back every URL but this one: an earlier port may be a stranger's by now."""
        for known in self._cobalt("GET", "/v1/webhook")["webhook_urls"]:
            if known["url"] != url:
                self._cobalt("DELETE", f"/v1/webhook/{known['id']}")

    def rotate_webhook_secret(self) -> None:
        """Rotate the webhook secret; the previous one is accepted for 24 hours more."""
        self._cobalt("POST", "/v1/webhook/rotate-secret")

    def _cobalt(self, method: str, path: str, body: Json | None = None) -> Json:
        headers = {"client_id": self.client_id, "client_secret": self.client_secret}
        return self._call(method, path, body, headers)

    def _control(
        self, method: str, path: str, /, body: Json | None = None, **query: object
    ) -> Json:
        return self._call(method, f"/_sandbox{path}", body, {}, **query)

    def _call(
        self,
        method: str,
        path: str,
        body: Json | None,
        headers: Mapping[str, str],
        /,
        **query: object,
    ) -> Json:
        answer = requests.request(
            method,
            self.url + path,
            json=body,
            headers=dict(headers),
            params={name: str(value) for name, value in query.items() if value is not None},
            timeout=CALL_SECONDS,
        )
        if not answer.ok:
            raise LocalError(
                f"The sandbox answered {answer.status_code} to {method} {path}: {answer.text}"
            )
        content: Json = answer.json() if answer.content else {}
        return content


def start(
    home: Path, port: int | None, *, fetch_seconds: str, leashed: bool, seed: int = 1
) -> Sandbox:
    """Start the sandbox on the port where that is free, else on another."""
    ready = _ready_file(home)
    ready.unlink(missing_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "sandbox"),
        *("--port", str(processes.free_port(port))),
        *("--seed", str(seed)),
        *("--fetch-seconds", fetch_seconds),
        *("--ready-file", str(ready)),
    ]
    environment = {"PATH": os.defpath, "HOME": str(home), "PYTHONUTF8": "1"}
    processes.start(NAME, command, home, environment, leashed=leashed)
    processes.await_ready(home, NAME, ready.exists, START_SECONDS)
    return connect(home)


def connect(home: Path) -> Sandbox:
    """Speak to the sandbox that runs in a home."""
    said = json.loads(_ready_file(home).read_text(encoding="utf-8"))
    return Sandbox(
        url=said["url"],
        client_id=said["client_id"],
        client_secret=said["client_secret"],
        access_tokens=said["access_tokens"],
    )


def _ready_file(home: Path) -> Path:
    return home / "sandbox.json"
