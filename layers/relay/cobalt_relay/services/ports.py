"""What the use cases need of the world. Adapters fit these; so do the fakes of the tests."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from cobalt_relay.errors import RelayError
from cobalt_relay.events import RelayEvent
from cobalt_relay.models import (
    Announced,
    ClientCredentials,
    ClinicSettings,
    Completion,
    Connection,
    Due,
    EventRecord,
    FetchRange,
    FetchRequest,
    FetchWork,
    Hold,
    Holder,
    Job,
    Known,
    Landing,
    ListedEvent,
    LiveKeys,
    PieceNote,
    PieceOrder,
    PieceOutcome,
    RangeRequest,
    Reporter,
    Request,
    RequestRecord,
    RequestState,
    ResultLink,
    ResultLocation,
    RotationState,
    Started,
    Trigger,
    WebhookRegistration,
    Window,
)

if TYPE_CHECKING:  # most use cases do without
    from cobalt_relay.snapshots import Snapshot, StoredDay, StoredSnapshot


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
    def settings_of(self, credentials: ClientCredentials, access_token: str) -> ClinicSettings: ...


class AskSettings(Protocol):
    """The upstream, as far as it tells of a token."""

    def settings_of(self, credentials: ClientCredentials, access_token: str) -> ClinicSettings: ...


class RequestStore(Protocol):
    """Where requests and jobs are kept."""

    def record_request(self, request: Request, *holds: Hold) -> Hold | None: ...
    def holder(self, hold: Hold) -> Holder | None: ...
    def accept(
        self, request: Request, job_execution_id: str, accepted_at: datetime, *holds: Hold
    ) -> bool: ...
    def close_request(
        self,
        request: Request,
        state: RequestState,
        error: RelayError,
        now: datetime,
        *,
        comes_again: bool = False,
    ) -> None: ...


class RowReader(Protocol):
    """Where requests and jobs are read, several at once."""

    def rows(
        self, request_ids: Iterable[str] = (), job_ids: Iterable[str] = ()
    ) -> tuple[dict[str, RequestRecord], dict[str, Job]]: ...


class JobReader(RowReader, Protocol):
    """Where a job is read for its caller."""

    def job(self, job_execution_id: str, now: datetime) -> Job | None: ...
    def requested_at(self, request_id: str) -> datetime | None: ...


class ConnectionRegistry(Protocol):
    """Where connections register themselves."""

    def is_registered(self, connection_id: str) -> bool: ...
    def keep_token(self, connection_id: str, access_token: str) -> bool: ...
    def forget_token(self, connection_id: str) -> None: ...
    def register(self, connection_id: str, now: datetime, emr_name: str | None = None) -> None: ...
    def note_failure(
        self, connection_id: str, error_code: str, now: datetime, emr_name: str | None = None
    ) -> None: ...


class ConnectionStanding(Protocol):
    """Where it is kept whether a connection may be fetched."""

    def get(self, connection_id: str) -> Connection | None: ...
    def with_label(self, access_token_reference_id: str) -> list[str]: ...
    def suspend(
        self, connection: Connection, reporter: Reporter, said_at: datetime, now: datetime
    ) -> bool: ...
    def resume(
        self, connection: Connection, job_execution_id: str, said_at: datetime, now: datetime
    ) -> bool: ...
    def note_failure(self, connection_id: str, error_code: str, now: datetime) -> None: ...
    def note_password_warning(self, connection_id: str, now: datetime) -> None: ...


class CredentialStore(Protocol):
    """Where the client credentials come from."""

    def credentials(self, *, refresh: bool = False) -> ClientCredentials: ...


class DeliveryStore(Protocol):
    """Where jobs and received events are kept."""

    def look_up(self, event_id: str, job_execution_id: str | None) -> Known: ...
    def end(
        self, job: Job, completion: Completion, now: datetime, *, alone: bool = False
    ) -> tuple[Landing, Job]: ...
    def create_ended(self, completion: Completion, now: datetime) -> tuple[Landing, Job]: ...
    def record_event(self, event_id: str, record: EventRecord, now: datetime) -> Landing: ...


class AnnouncementStore(Protocol):
    """Where it is kept what has to be announced."""

    def take_announcement(self, announced: Announced, now: datetime) -> bool: ...
    def release_announcement(self, announced: Announced) -> None: ...
    def close_announcement(
        self, announced: Announced, now: datetime, next_look: datetime | None = None
    ) -> None: ...


class DueStore(Protocol):
    """Where the reconciler finds what is left to do."""

    def due(self, now: datetime, most: int) -> list[Due]: ...
    def open_requests(self, up_to: datetime) -> list[RequestRecord]: ...
    def look_up(self, event_id: str, job_execution_id: str | None) -> Known: ...
    def put_off(self, due: Due, until: datetime | None, looks: int) -> bool: ...
    def accept(
        self, request: Request, job_execution_id: str, accepted_at: datetime, *holds: Hold
    ) -> bool: ...
    def of_connection(self, connection_id: str) -> Iterator[Job]: ...
    def fail_job(self, job: Job, error_code: str, now: datetime) -> Job | None: ...
    def contest(self, request: RequestRecord) -> None: ...
    def expire_request(self, request: RequestRecord, now: datetime) -> RequestRecord | None: ...
    def expire_job(self, job: Job, now: datetime) -> Job | None: ...


class Measures(Protocol):
    """What is measured at the end of each minute's run. Raises `StorageFault`."""

    def run(self, minute: datetime, has_time: Callable[[], bool]) -> None: ...


class OpenJobs(Protocol):
    """Where it is told which jobs wait for their result."""

    def open_jobs(self, now: datetime, most: int) -> tuple[int, list[Job]]: ...


class Register(Protocol):
    """The register of the connections."""

    def all(self) -> Iterator[Connection]: ...


class ResultStore(Protocol):
    """Where the bytes go."""

    def create(self, place: str, body: bytes) -> ResultLocation | None: ...
    def put_beside(self, place: str, body: bytes) -> ResultLocation: ...


class ResultReader(Protocol):
    """Where results are read, and what they changed is kept."""

    def read(self, location: ResultLocation) -> bytes | None: ...
    def put_beside(self, place: str, body: bytes) -> ResultLocation: ...


class ResultLinker(Protocol):
    """Where a result gets a URL for those who have no credentials of AWS."""

    def link(self, result: ResultLocation) -> ResultLink: ...


class SnapshotReader(Protocol):
    """Where the days of a connection are read."""

    def stored(self, connection_id: str, window: Window) -> "Iterator[StoredDay]": ...
    def read(
        self, connection_id: str, day: date, version_id: str | None = None
    ) -> "StoredSnapshot | None": ...


class SnapshotStore(SnapshotReader, Protocol):
    """Where the days of a connection are kept."""

    def write(self, snapshot: "Snapshot", replaced: "StoredSnapshot | None") -> bool: ...


class ConnectionReader(Protocol):
    """Where a connection is read."""

    def get(self, connection_id: str) -> Connection | None: ...


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
        self,
        access_token: str,
        fetch: FetchRequest,
        *,
        request_id: str,
        trigger: Trigger,
        piece: PieceOrder | None = None,
    ) -> Started: ...


class RangeStore(Protocol):
    """Where ranges are kept."""

    def get(self, range_id: str, now: datetime | None = None) -> FetchRange | None: ...
    def create(
        self, found: FetchRange, fingerprint: str = "", hold: Hold | None = None
    ) -> bool: ...
    def held_by(self, hold: Hold) -> tuple[str, str] | None: ...
    def note_queued(self, range_id: str, look: datetime) -> None: ...
    def note_piece(self, range_id: str, piece: int, note: PieceNote) -> None: ...
    def end(
        self, found: FetchRange, outcomes: Sequence[PieceOutcome], now: datetime
    ) -> FetchRange | None: ...
    def paused_until(self) -> datetime | None: ...
    def pause(self, until: datetime) -> None: ...


class WorkQueue(Protocol):
    """Where the fetches wait that are to be made."""

    def send(self, works: Iterable[FetchWork], now: datetime) -> int: ...
    def put_off(self, work: FetchWork, until: datetime, now: datetime) -> None: ...
    def hide(self, receipt: str, seconds: float) -> None: ...


class TokenKeeper(Protocol):
    """Where tokens are kept."""

    def is_registered(self, connection_id: str) -> bool: ...
    def keep_token(self, connection_id: str, access_token: str) -> bool: ...


class Fleet(Protocol):
    """The registered connections and their tokens."""

    def ids(self) -> Iterator[str]: ...
    def get(self, connection_id: str) -> Connection | None: ...
    def several(self, connection_ids: Iterable[str]) -> list[Connection]: ...
    def token(self, connection_id: str, *, refresh: bool = False) -> str: ...


class KnownConnections(Protocol):
    """The tokens of connections, and what is kept about those that Cobalt has accepted."""

    def token(self, connection_id: str, *, refresh: bool = False) -> str: ...
    def register(self, connection_id: str, now: datetime, emr_name: str | None = None) -> None: ...
    def note_settings(
        self, connection_id: str, settings: ClinicSettings, now: datetime, life: timedelta
    ) -> None: ...


class ConnectionOffice(Protocol):
    """The connections and their tokens, as far as an operator changes them."""

    def get(self, connection_id: str) -> Connection | None: ...
    def put(self, connection: Connection, due: datetime) -> bool: ...
    def note_settings(
        self, connection_id: str, settings: ClinicSettings, now: datetime, life: timedelta
    ) -> None: ...
    def hand_over(self, connection_id: str, heir: str) -> bool: ...
    def keep_token(self, connection_id: str, access_token: str) -> bool: ...
    def token(self, connection_id: str, *, refresh: bool = False) -> str: ...
    def forget_token(self, connection_id: str) -> None: ...
    def remove(self, connection_id: str) -> None: ...


class HistoryStore(Protocol):
    """Where it is kept of which connection a request, a job or a range is."""

    def of_connection(self, connection_id: str) -> Iterator[Job]: ...
    def open_requests(self, up_to: datetime) -> list[RequestRecord]: ...
    def give(self, row: Job | RequestRecord | FetchRange, connection_id: str) -> bool: ...


class RangeHistory(Protocol):
    """Where the ranges of a connection are listed."""

    def of_connection(self, connection_id: str) -> Iterator[FetchRange]: ...


class StartRange(Protocol):
    """The use case of a range."""

    def start(
        self,
        access_token: str,
        request: RangeRequest,
        *,
        request_id: str,
        idempotency_key: str | None = None,
    ) -> FetchRange: ...


class RecentWork(Protocol):
    """Where it is read what was begun for a connection lately."""

    def recent(
        self, connection_id: str, jobs_since: datetime, ranges_since: datetime
    ) -> "Iterator[Job | FetchRange]": ...
