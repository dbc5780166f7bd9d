"""What the use cases need of the world. Adapters fit these; so do the fakes of the tests."""

from collections.abc import Iterator
from datetime import datetime
from typing import Protocol

from cobalt_relay.events import RelayEvent
from cobalt_relay.models import (
    Announced,
    ClientCredentials,
    Completion,
    EventRecord,
    FetchRequest,
    Known,
    Landing,
    Request,
    RequestState,
    ResultLocation,
    Trigger,
)


class FetchCobalt(Protocol):
    """The upstream, as far as this use case goes."""

    def fetch_appointments(
        self, credentials: ClientCredentials, access_token: str, request: FetchRequest
    ) -> str: ...


class RequestStore(Protocol):
    """Where requests and jobs are kept."""

    def record_request(self, request: Request) -> None: ...
    def accept(self, request: Request, job_execution_id: str, accepted_at: datetime) -> None: ...
    def close_request(self, request_id: str, state: RequestState, error_code: str) -> None: ...


class ConnectionRegistry(Protocol):
    """Where connections register themselves."""

    def is_registered(self, connection_id: str) -> bool: ...
    def register(self, connection_id: str, access_token: str, now: datetime) -> None: ...


class CredentialStore(Protocol):
    """Where the client credentials come from."""

    def credentials(self, *, refresh: bool = False) -> ClientCredentials: ...


class DeliveryStore(Protocol):
    """Where jobs and received events are kept."""

    def look_up(self, event_id: str, job_execution_id: str | None) -> Known: ...
    def end(self, completion: Completion, now: datetime) -> Landing: ...
    def create_ended(self, completion: Completion, now: datetime) -> Landing: ...
    def record_event(self, event_id: str, record: EventRecord, now: datetime) -> Landing: ...
    def take_announcement(self, announced: Announced, now: datetime) -> bool: ...
    def release_announcement(self, announced: Announced) -> None: ...
    def close_announcement(self, announced: Announced, now: datetime) -> None: ...


class ResultStore(Protocol):
    """Where the bytes go."""

    def create(self, place: str, body: bytes) -> ResultLocation | None: ...
    def put_beside(self, place: str, body: bytes) -> ResultLocation: ...


class EventBus(Protocol):
    """Where events go."""

    def publish(self, event: RelayEvent) -> None: ...


class WebhookKeys(Protocol):
    """Where the keys come from that Cobalt may sign with."""

    def webhook_keys(self, *, refresh: bool = False) -> tuple[bytes, ...]: ...


class StartFetch(Protocol):
    """The use case of a single fetch."""

    def require_credentials(self) -> None: ...
    def start(
        self, access_token: str, fetch: FetchRequest, *, request_id: str, trigger: Trigger
    ) -> str: ...


class ConnectionTokens(Protocol):
    """The registered connections and their tokens."""

    def ids(self) -> Iterator[str]: ...
    def token(self, connection_id: str) -> str: ...
