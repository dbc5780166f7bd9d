"""What the use cases need of the world. Adapters fit these; so do the fakes of the tests."""

from collections.abc import Iterator
from datetime import datetime
from typing import Protocol

from cobalt_relay.errors import RelayError
from cobalt_relay.events import RelayEvent
from cobalt_relay.models import (
    Announced,
    ClientCredentials,
    Completion,
    Due,
    EventRecord,
    FetchRequest,
    Hold,
    Holder,
    Job,
    Known,
    Landing,
    ListedEvent,
    LiveKeys,
    Request,
    RequestRecord,
    RequestState,
    ResultLocation,
    RotationState,
    Started,
    Trigger,
    WebhookRegistration,
)


class FetchCobalt(Protocol):
    """The upstream, as far as a fetch goes."""

    def fetch_appointments(
        self, credentials: ClientCredentials, access_token: str, request: FetchRequest
    ) -> str: ...


class AskCobalt(Protocol):
    """The upstream, as far as recovery goes."""

    def events_of_job(
        self, credentials: ClientCredentials, job_execution_id: str
    ) -> Iterator[ListedEvent]: ...
    def live_fetches_since(
        self, credentials: ClientCredentials, since: datetime
    ) -> Iterator[ListedEvent]: ...
    def reference_of(self, credentials: ClientCredentials, access_token: str) -> str | None: ...


class RequestStore(Protocol):
    """Where requests and jobs are kept."""

    def record_request(self, request: Request, hold: Hold | None = None) -> bool: ...
    def holder(self, hold: Hold) -> Holder | None: ...
    def accept(
        self,
        request: Request,
        job_execution_id: str,
        accepted_at: datetime,
        flight: Hold | None = None,
    ) -> bool: ...
    def close_request(
        self, request: Request, state: RequestState, error: RelayError, now: datetime
    ) -> None: ...


class JobReader(Protocol):
    """Where a job is read for its caller."""

    def job(self, job_execution_id: str, now: datetime) -> Job | None: ...
    def requested_at(self, request_id: str) -> datetime | None: ...


class ConnectionRegistry(Protocol):
    """Where connections register themselves."""

    def is_registered(self, connection_id: str) -> bool: ...
    def keep_token(self, connection_id: str, access_token: str) -> bool: ...
    def forget_token(self, connection_id: str) -> None: ...
    def register(self, connection_id: str, now: datetime) -> None: ...


class CredentialStore(Protocol):
    """Where the client credentials come from."""

    def credentials(self, *, refresh: bool = False) -> ClientCredentials: ...


class DeliveryStore(Protocol):
    """Where jobs and received events are kept."""

    def look_up(self, event_id: str, job_execution_id: str | None) -> Known: ...
    def end(self, job: Job, completion: Completion, now: datetime) -> tuple[Landing, Job]: ...
    def create_ended(self, completion: Completion, now: datetime) -> tuple[Landing, Job]: ...
    def record_event(self, event_id: str, record: EventRecord, now: datetime) -> Landing: ...
    def take_announcement(self, announced: Announced, now: datetime) -> bool: ...
    def release_announcement(self, announced: Announced) -> None: ...
    def close_announcement(
        self, announced: Announced, now: datetime, next_look: datetime | None = None
    ) -> None: ...


class DueStore(Protocol):
    """Where the reconciler finds what is left to do."""

    def due(self, now: datetime, most: int) -> list[Due]: ...
    def open_requests(self) -> list[RequestRecord]: ...
    def look_up(self, event_id: str, job_execution_id: str | None) -> Known: ...
    def put_off(self, due: Due, until: datetime | None, looks: int) -> bool: ...
    def accept(self, request: Request, job_execution_id: str, accepted_at: datetime) -> bool: ...
    def contest(self, request: RequestRecord) -> None: ...
    def expire_request(self, request: RequestRecord, now: datetime) -> RequestRecord | None: ...
    def expire_job(self, job: Job, now: datetime) -> Job | None: ...


class ResultStore(Protocol):
    """Where the bytes go."""

    def create(self, place: str, body: bytes) -> ResultLocation | None: ...
    def put_beside(self, place: str, body: bytes) -> ResultLocation: ...


class EventBus(Protocol):
    """Where events go."""

    def publish(self, event: RelayEvent) -> None: ...


class WebhookKeys(Protocol):
    """Where the keys come from that Cobalt may sign with."""

    def webhook_keys(self, *, refresh: bool = False) -> LiveKeys: ...


class ManageWebhook(Protocol):
    """The upstream, as far as its webhooks go."""

    def webhook(self, credentials: ClientCredentials) -> WebhookRegistration: ...
    def rotate_webhook_secret(
        self, credentials: ClientCredentials, registration_id: str | None
    ) -> str: ...


class RotatedVersions(Protocol):
    """The versions of the webhook secret."""

    arn: str

    def state(self, token: str) -> RotationState: ...
    def current_key(self) -> str: ...
    def pending_key(self, token: str) -> str | None: ...
    def mark(self, token: str, now: datetime) -> None: ...
    def put_pending(self, token: str, key: str, now: datetime) -> None: ...
    def settle(self, token: str) -> None: ...
    def make_current(self, token: str) -> None: ...
    def unmark(self) -> None: ...


class Door(Protocol):
    """Where the relay's own webhook is reached from outside."""

    def deliver(self, body: bytes, signature: str) -> int: ...


class StartFetch(Protocol):
    """The use case of a single fetch."""

    def require_credentials(self) -> None: ...
    def start(
        self, access_token: str, fetch: FetchRequest, *, request_id: str, trigger: Trigger
    ) -> Started: ...


class ConnectionTokens(Protocol):
    """The registered connections and their tokens."""

    def ids(self) -> Iterator[str]: ...
    def token(self, connection_id: str, *, refresh: bool = False) -> str: ...


class KnownConnections(Protocol):
    """The tokens of connections, and the register of those that Cobalt has accepted."""

    def token(self, connection_id: str, *, refresh: bool = False) -> str: ...
    def register(self, connection_id: str, now: datetime) -> None: ...
