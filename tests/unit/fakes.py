"""Stand-ins for what lies outside the use cases. `tests/contract` holds them against the real adapters."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema

from cobalt_relay.adapters.jobs import ANNOUNCING
from cobalt_relay.errors import BusFault, CredentialsNotConfigured, RelayError, UnknownConnection
from cobalt_relay.events import RelayEvent
from cobalt_relay.models import (
    Announced,
    ClientCredentials,
    Completion,
    EventRecord,
    FetchRequest,
    Job,
    JobState,
    Known,
    Landing,
    Request,
    RequestState,
    ResultLocation,
)

SCHEMAS = Path(__file__).parents[2] / "docs" / "events"


def validate_event(detail_type: str, detail: dict[str, Any]) -> None:
    """Hold a published event against its contract."""
    name = detail_type.lower().replace(" ", "-")
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    jsonschema.validate(detail, schema, format_checker=jsonschema.FormatChecker())


class Faults:
    """Raises what a test wants at the named call, once or always."""

    def __init__(self) -> None:
        self.at: dict[str, list[RelayError]] = {}

    def fail(self, call: str, *errors: RelayError) -> None:
        self.at[call] = list(errors)

    def meet(self, call: str) -> None:
        if self.at.get(call):
            raise self.at[call].pop(0)


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.moment = datetime(2025, 1, 2, 10, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.moment

    def sleep(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


class FakeJobs(Faults):
    """The rows, in dictionaries."""

    def __init__(self, deadline: timedelta = timedelta(minutes=120)) -> None:
        super().__init__()
        self.deadline = deadline
        self.requests: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, Job] = {}
        self.events: dict[str, EventRecord] = {}
        self.announced_from: dict[Announced, datetime] = {}

    def record_request(self, request: Request) -> None:
        self.meet("record_request")
        self.requests[request.request_id] = {"request": request, "state": RequestState.REQUESTED}

    def close_request(self, request_id: str, state: RequestState, error_code: str) -> None:
        self.meet("close_request")
        if self.requests[request_id]["state"] is RequestState.REQUESTED:
            self.requests[request_id] |= {"state": state, "error_code": error_code}

    def accept(self, request: Request, job_execution_id: str, accepted_at: datetime) -> None:
        self.meet("accept")
        known = self.jobs.get(job_execution_id)
        job = known or Job(job_execution_id=job_execution_id, state=JobState.ACCEPTED)
        if not job.connection_id:
            self.jobs[job_execution_id] = job.model_copy(
                update={
                    "connection_id": request.connection_id,
                    "request_id": request.request_id,
                    "trigger": request.trigger,
                    "search_by": request.search_by,
                    "window": request.window,
                    "accepted_at": accepted_at,
                    "deadline": accepted_at + self.deadline,
                }
            )
        self.requests[request.request_id] |= {
            "state": RequestState.ACCEPTED,
            "job_execution_id": job_execution_id,
        }

    def look_up(self, event_id: str, job_execution_id: str | None) -> Known:
        self.meet("look_up")
        return Known(self.events.get(event_id), self.jobs.get(job_execution_id or ""))

    def end(self, completion: Completion, now: datetime) -> Landing:
        self.meet("end")
        job = self.jobs.get(completion.job_execution_id)
        if completion.cobalt_event_id in self.events:
            return Landing.EVENT_KNOWN
        if not job or not job.is_open:
            return Landing.JOB_CHANGED
        return self._end(job, completion, now)

    def create_ended(self, completion: Completion, now: datetime) -> Landing:
        self.meet("create_ended")
        if completion.cobalt_event_id in self.events:
            return Landing.EVENT_KNOWN
        if completion.job_execution_id in self.jobs:
            return Landing.JOB_CHANGED
        job = Job(job_execution_id=completion.job_execution_id, state=completion.state)
        return self._end(job, completion, now)

    def _end(self, job: Job, completion: Completion, now: datetime) -> Landing:
        self.jobs[job.job_execution_id] = job.model_copy(
            update={"state": completion.state, "completion": completion}
        )
        self.events[completion.cobalt_event_id] = EventRecord(
            body_sha256=completion.body_sha256,
            received_at=completion.completed_at,
            job_execution_id=job.job_execution_id,
        )
        self.announced_from[Announced("JOB", job.job_execution_id)] = now
        return Landing.LANDED

    def record_event(self, event_id: str, record: EventRecord, now: datetime) -> Landing:
        self.meet("record_event")
        if event_id in self.events:
            return Landing.EVENT_KNOWN
        self.events[event_id] = record
        self.announced_from[Announced("EVENT", event_id)] = now
        return Landing.LANDED

    def take_announcement(self, announced: Announced, now: datetime) -> bool:
        self.meet("take_announcement")
        since = self.announced_from.get(announced)
        if since is None or since >= now - ANNOUNCING:
            return False
        self.announced_from[announced] = now
        return True

    def release_announcement(self, announced: Announced) -> None:
        self.meet("release_announcement")
        self.announced_from[announced] = datetime.min.replace(tzinfo=UTC)

    def close_announcement(self, announced: Announced, now: datetime) -> None:
        self.meet("close_announcement")
        if self.announced_from.pop(announced, None) is None:
            return
        if announced.kind == "JOB":
            self.jobs[announced.id] = self.jobs[announced.id].model_copy(
                update={"notified_at": now}
            )
        else:
            self.events[announced.id] = self.events[announced.id].model_copy(
                update={"notification": "sent"}
            )


class FakeResults(Faults):
    """A bucket that overwrites nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, bytes] = {}

    def create(self, place: str, body: bytes) -> ResultLocation | None:
        self.meet("create")
        return self._create(f"{place}.json", body)

    def put_beside(self, place: str, body: bytes) -> ResultLocation:
        key = f"{place}.{hashlib.sha256(body).hexdigest()[:16]}.json"
        return self._create(key, body) or ResultLocation(bucket="results", key=key)

    def _create(self, key: str, body: bytes) -> ResultLocation | None:
        if key in self.objects:
            return None
        self.objects[key] = body
        return ResultLocation(bucket="results", key=key, version_id="v1")


class FakeBus(Faults):
    """Keeps what is published, and takes nothing that breaks its contract."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, dict[str, Any]]] = []

    def publish(self, event: RelayEvent) -> None:
        self.meet("publish")
        detail = json.loads(event.model_dump_json())
        validate_event(event.detail_type, detail)
        self.events.append((event.detail_type, detail))

    def fail_once(self) -> None:
        self.fail("publish", BusFault())


class FakeSecrets:
    """The two secrets; `refreshed` is what a second look finds."""

    def __init__(self) -> None:
        self.current: ClientCredentials | None = ClientCredentials(
            client_id="client", client_secret="sesame"
        )
        self.refreshed = self.current
        self.keys: tuple[bytes, ...] = (b"webhook-key",)
        self.refreshed_keys: tuple[bytes, ...] = ()

    def credentials(self, *, refresh: bool = False) -> ClientCredentials:
        credentials = self.refreshed if refresh else self.current
        if credentials is None:
            raise CredentialsNotConfigured
        return credentials

    def webhook_keys(self, *, refresh: bool = False) -> tuple[bytes, ...]:
        return self.refreshed_keys or self.keys if refresh else self.keys


class FakeConnections(Faults):
    """Tokens by connection id."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: dict[str, str] = {}
        self.looked_up = 0

    def is_registered(self, connection_id: str) -> bool:
        self.meet("is_registered")
        self.looked_up += 1
        return connection_id in self.tokens

    def register(self, connection_id: str, access_token: str, now: datetime) -> None:
        self.meet("register")
        self.tokens.setdefault(connection_id, access_token)

    def ids(self) -> Iterator[str]:
        self.meet("ids")
        yield from self.tokens

    def token(self, connection_id: str) -> str:
        if connection_id not in self.tokens:
            raise UnknownConnection
        return self.tokens[connection_id]


class FakeCobalt:
    """Accepts everything under running job ids, or raises what a test wants for a token."""

    def __init__(self) -> None:
        self.calls: list[tuple[ClientCredentials, str, FetchRequest]] = []
        self.errors: dict[str, Exception] = {}

    def fetch_appointments(
        self, credentials: ClientCredentials, access_token: str, request: FetchRequest
    ) -> str:
        self.calls.append((credentials, access_token, request))
        if access_token in self.errors:
            raise self.errors[access_token]
        return f"job_{len(self.calls)}"
