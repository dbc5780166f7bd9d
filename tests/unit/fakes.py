"""Stand-ins for what lies outside the use cases. `tests/contract` holds them against the real adapters."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, cast

import jsonschema
from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import ClientError
from pydantic import BaseModel

from cobalt_relay.adapters.connections import Registry
from cobalt_relay.adapters.jobs import Jobs
from cobalt_relay.adapters.layout import range_of
from cobalt_relay.adapters.ranges import Ranges
from cobalt_relay.adapters.table import (
    ConditionFailedError,
    Delete,
    Item,
    Key,
    Put,
    Table,
    Update,
    Write,
)
from cobalt_relay.errors import (
    AccessTokenRefused,
    BusFault,
    CredentialsNotConfigured,
    RelayError,
    UnknownConnection,
)
from cobalt_relay.events import RelayEvent
from cobalt_relay.models import (
    CONNECTION_MOVES,
    JOB_MOVES,
    RANGE_MOVES,
    REQUEST_MOVES,
    ClientCredentials,
    ClinicSettings,
    Connection,
    EventRecord,
    FetchRange,
    FetchRequest,
    FetchWork,
    Job,
    ListedEvent,
    LiveKeys,
    RequestRecord,
    ResultLink,
    ResultLocation,
    WebhookKey,
    WebhookRegistration,
    Window,
    connection_id_of,
)
from cobalt_relay.snapshots import Snapshot, StoredDay, StoredSnapshot

SCHEMAS = Path(__file__).parents[2] / "docs" / "events"


def validate_event(detail_type: str, detail: dict[str, Any]) -> None:
    """Hold a published event against its contract."""
    contract(detail_type).validate(detail)


@cache
def contract(detail_type: str) -> jsonschema.Draft202012Validator:
    """The contract of a type of event."""
    name = detail_type.lower().replace(" ", "-")
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    checker = jsonschema.FormatChecker()
    return jsonschema.Draft202012Validator(schema, format_checker=checker)


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


SORT_KEYS = {
    "due": "due_at",
    "connections": "connection_id",
    "by_connection": "accepted_at",
    "by_reference": "registered_at",
}
"""The indexes of the template, by the attribute that sorts them: a row without it is not in it."""


class FakeTable:
    """Items in a dictionary. Understands the expressions that the adapters write, and no others."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], Item] = {}
        self._lock = Lock()

    def get(self, *keys: Key) -> list[Item | None]:
        found = [self.items.get(_place(key)) for key in keys]
        return [_stored(item) if item else None for item in found]

    def write(self, *writes: Write) -> None:
        with self._lock:
            failed = [not self._holds(each) for each in writes]
            if any(failed):
                raise ConditionFailedError(failed)
            for each in writes:
                if isinstance(each, Delete):
                    self.items.pop(_place(each.key), None)
                    continue
                item = _stored(self._written(each))
                _expect_a_move(self.items.get(_place(each.key)), item)
                self.items[_place(each.key)] = item

    def keys_of_index(
        self,
        index: str,
        partition: tuple[str, str],
        up_to: tuple[str, str] | None = None,
        *,
        backwards: bool = False,
    ) -> Iterator[Item]:
        name, value = partition
        sort_key = SORT_KEYS[index]
        found = [i for i in self.items.values() if i.get(name) == value and sort_key in i]
        for item in sorted(found, key=lambda item: str(item[sort_key]), reverse=backwards):
            if up_to is None or item[sort_key] <= up_to[1]:
                yield {"pk": item["pk"], "sk": item["sk"], name: value, sort_key: item[sort_key]}

    def _holds(self, write: Write) -> bool:
        if isinstance(write, Delete):
            return True
        item = self.items.get(_place(write.key), {})
        return any(
            all(_is_true(term, item, write.values) for term in either.split(" AND "))
            for either in write.condition.split(" OR ")
        )

    def _written(self, write: Put | Update) -> Item:
        if isinstance(write, Put):
            return {**write.key.attributes(), **write.item}
        sets, _, removes = write.expression.removeprefix("SET ").partition(" REMOVE ")
        item = {**write.key.attributes(), **self.items.get(_place(write.key), {})}
        for each in sets.split(", "):
            name, value = each.split(" = ")
            item[name.removeprefix("#")] = write.values[value]
        return {name: value for name, value in item.items() if name not in removes.split(", ")}


def _expect_a_move(before: Item | None, after: Item) -> None:
    """Refuse any change of a state that is not drawn."""
    tables: dict[str, Mapping[Any, Any]] = {
        "JOB": JOB_MOVES,
        "REQUEST": REQUEST_MOVES,
        "CONNECTION": CONNECTION_MOVES,
        "RANGE": RANGE_MOVES,
    }
    moves = tables.get(after["sk"], {})
    if before and before.get("state") in moves and before["state"] != after["state"]:
        assert after["state"] in moves[before["state"]]


def _place(key: Key) -> tuple[str, str]:
    pk, sk = key.attributes().values()
    return pk, sk


def _stored(item: Item) -> Item:
    """What DynamoDB gives back of an item; it takes no floats, for one."""
    serialize, deserialize = TypeSerializer().serialize, TypeDeserializer().deserialize
    kept = {name: value for name, value in item.items() if value is not None}
    return {name: deserialize(serialize(value)) for name, value in kept.items()}


def _is_true(term: str, item: Item, values: Mapping[str, Any]) -> bool:
    name = re.sub(r"^\w+\(|\)$", "", term.split(maxsplit=1)[0]).removeprefix("#")
    match term.split(maxsplit=2):
        case [function]:
            return (name in item) is function.startswith("attribute_exists")
        case [_, "=", value]:
            return name in item and bool(item[name] == values[value])
        case [_, "<", value]:
            return name in item and bool(item[name] < values[value])
        case [_, "IN", among]:
            return item.get(name) in [values[value] for value in among.strip("()").split(", ")]
    raise AssertionError(f"not understood: {term}")


class FakeJobs(Faults, Jobs):
    """The real rows on a fake table."""

    def __init__(
        self,
        deadline: timedelta = timedelta(minutes=120),
        retention: timedelta = timedelta(days=30),
    ) -> None:
        Faults.__init__(self)
        self.table = FakeTable()
        Jobs.__init__(self, cast("Table", self.table), retention, deadline)

    def __getattribute__(self, name: str) -> Any:
        if name in _CALLS:
            self.meet(name)
        return super().__getattribute__(name)

    @property
    def jobs(self) -> dict[str, Job]:
        return {key: Job.model_validate(_only(Job, item)) for key, item in self.rows_of("JOB")}

    @property
    def requests(self) -> dict[str, RequestRecord]:
        rows = self.rows_of("REQUEST")
        return {key: RequestRecord.model_validate(_only(RequestRecord, item)) for key, item in rows}

    @property
    def events(self) -> dict[str, EventRecord]:
        return {key: EventRecord.model_validate(item) for key, item in self.rows_of("EVENT")}

    def rows_of(self, kind: str) -> Iterator[tuple[str, Item]]:
        for (pk, sk), item in self.table.items.items():
            if sk == kind:
                yield pk.removeprefix(f"{kind}#"), item


_CALLS = frozenset(name for name in vars(Jobs) if not name.startswith("_"))


def _only(model: type[BaseModel], item: Item) -> Item:
    return {name: item[name] for name in model.model_fields if name in item}


class FakeResults(Faults):
    """A bucket that overwrites nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, bytes] = {}

    def create(self, place: str, body: bytes) -> ResultLocation | None:
        self.meet("create")
        return self._create(f"{place}.json", body)

    def read(self, location: ResultLocation) -> bytes | None:
        self.meet("read")
        return self.objects.get(location.key)

    def put_beside(self, place: str, body: bytes) -> ResultLocation:
        self.meet("put_beside")
        key = f"{place}.{hashlib.sha256(body).hexdigest()[:16]}.json"
        return self._create(key, body) or ResultLocation(bucket="results", key=key)

    def _create(self, key: str, body: bytes) -> ResultLocation | None:
        if key in self.objects:
            return None
        self.objects[key] = body
        return ResultLocation(bucket="results", key=key, version_id="v1")


class FakeSnapshots(Faults):
    """A bucket of days that keeps every version; each read and write may be met by a rival first."""

    def __init__(self) -> None:
        super().__init__()
        self.versions: dict[tuple[str, date], list[bytes]] = {}
        self.rivals: list[Callable[[], None]] = []
        """What happens, one after the other, right before a write."""
        self.gone: set[tuple[str, date, str]] = set()
        """Versions that are not kept any more."""

    def stored(self, connection_id: str, window: Window) -> Iterator[StoredDay]:
        self.meet("stored")
        for connection, day in sorted(self.versions):
            if connection == connection_id and window.start_date <= day <= window.end_date:
                yield StoredDay(day, f'"{len(self.versions[connection, day])}"')

    def read(
        self, connection_id: str, day: date, version_id: str | None = None
    ) -> StoredSnapshot | None:
        self.meet("read")
        versions = self.versions.get((connection_id, day), [])
        number = int(version_id) if version_id else len(versions)
        is_gone = (connection_id, day, str(number)) in self.gone
        if is_gone or not 1 <= number <= len(versions):
            return None
        return StoredSnapshot(versions[number - 1], f'"{number}"', str(number))

    def write(self, snapshot: Snapshot, replaced: StoredSnapshot | None) -> bool:
        self.meet("write")
        if self.rivals:
            self.rivals.pop(0)()
        versions = self.versions.setdefault((snapshot.connection_id, snapshot.day), [])
        if len(versions) != int(replaced.version_id or 0 if replaced else 0):
            return False
        versions.append(snapshot.lines())
        return True


class FakeResultLinks(Faults):
    """Links that open nothing."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__()
        self._now = now

    def link(self, result: ResultLocation) -> ResultLink:
        self.meet("link")
        version = f"?versionId={result.version_id}" if result.version_id else ""
        return ResultLink(
            url=f"https://{result.bucket}.example/{result.key}{version}",
            expires_at=self._now() + timedelta(minutes=5),
        )


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


def live_keys(**secrets: bytes) -> LiveKeys:
    """The keys of these names."""
    keys = tuple(WebhookKey(cast("Any", name), secret) for name, secret in secrets.items())
    return LiveKeys(keys)


class FakeSecrets:
    """The two secrets; `refreshed` is what a second look finds."""

    def __init__(self) -> None:
        self.current: ClientCredentials | None = ClientCredentials(
            client_id="client", client_secret="sesame"
        )
        self.refreshed: ClientCredentials | None = self.current
        self.keys = live_keys(Current=b"webhook-key")
        self.refreshed_keys: LiveKeys | None = None

    def credentials(self, *, refresh: bool = False) -> ClientCredentials:
        credentials = self.refreshed if refresh else self.current
        if credentials is None:
            raise CredentialsNotConfigured
        return credentials

    def webhook_keys(self, *, refresh: bool = False) -> LiveKeys:
        return self.refreshed_keys or self.keys if refresh else self.keys


# ruff: noqa: N803 - the names are those of boto3


class FakeSecretsManager:
    """The versions of one secret and their labels, with the rules of AWS: a label is on one version.

    `meet` is called before and after each call.
    """

    def __init__(self, now: FakeClock, meet: Callable[[str], None] = lambda _: None) -> None:
        self._now = now
        self._meet = meet
        self.values: dict[str, tuple[str | None, datetime]] = {}
        self.labels: dict[str, str] = {}
        self.calls: Counter[str] = Counter()

    def stage(self, token: str) -> None:
        """Stage an empty version for rotation, as RotateSecret does."""
        self.values.setdefault(token, (None, self._now()))
        self.labels["AWSPENDING"] = token

    def put(self, text: str) -> None:
        """Put a value as an operator does."""
        version = f"version-{len(self.values)}"
        self.values[version] = (text, self._now())
        self._move_current(version)

    def text(self, label: str) -> str | None:
        return self.values[self.labels[label]][0]

    def describe_secret(self, *, SecretId: str) -> dict[str, Any]:
        return self._call("describe_secret", self._stages)

    def get_secret_value(
        self, *, SecretId: str, VersionId: str = "", VersionStage: str = "AWSCURRENT"
    ) -> dict[str, Any]:
        def get() -> dict[str, Any]:
            version = VersionId or self.labels.get(VersionStage, "")
            text, created_at = self.values.get(version, (None, None))
            if text is None:
                raise _client_error("ResourceNotFoundException")
            return {"VersionId": version, "SecretString": text, "CreatedDate": created_at}

        return self._call("get_secret_value", get)

    def put_secret_value(
        self,
        *,
        SecretId: str,
        SecretString: str,
        VersionStages: list[str],
        ClientRequestToken: str = "",
    ) -> dict[str, Any]:
        def put() -> dict[str, Any]:
            version = ClientRequestToken or f"version-{len(self.values)}"
            if self.values.get(version, (None,))[0] not in {None, SecretString}:
                raise _client_error("ResourceExistsException")
            self.values[version] = (SecretString, self._now())
            self.labels |= dict.fromkeys(VersionStages, version)
            return {}

        return self._call("put_secret_value", put)

    def update_secret_version_stage(
        self,
        *,
        SecretId: str,
        VersionStage: str,
        MoveToVersionId: str = "",
        RemoveFromVersionId: str = "",
    ) -> dict[str, Any]:
        def move() -> dict[str, Any]:
            if self.labels.get(VersionStage, "") != RemoveFromVersionId:
                raise _client_error("InvalidParameterException")
            if not MoveToVersionId:
                del self.labels[VersionStage]
            elif VersionStage == "AWSCURRENT":
                self._move_current(MoveToVersionId)
            else:
                self.labels[VersionStage] = MoveToVersionId
            return {}

        return self._call("update_secret_version_stage", move)

    def _call(self, name: str, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        self._meet(name)
        self.calls[name] += 1
        answer = act()
        self._meet(name)
        return answer

    def _stages(self) -> dict[str, Any]:
        versions = sorted(set(self.labels.values()))
        stages = {v: [label for label, on in self.labels.items() if on == v] for v in versions}
        return {"VersionIdsToStages": stages}

    def _move_current(self, version: str) -> None:
        if "AWSCURRENT" in self.labels:
            self.labels["AWSPREVIOUS"] = self.labels["AWSCURRENT"]
        self.labels["AWSCURRENT"] = version
        if self.labels.get("AWSPENDING") == version:
            del self.labels["AWSPENDING"]


def _client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "as a test wants it"}}, "operation")


class FakeWebhooks(Faults):
    """Cobalt's management of webhooks; a rotated key signs at once.

    `loses` the answer to the next rotation where a test wants it.
    """

    def __init__(self, url: str, meet: Callable[[str], None] = lambda _: None) -> None:
        super().__init__()
        self.keys = ["whsec_0"]
        self.ids: dict[str, str | None] = {
            "https://elsewhere.example.com/hook": "wh_0",
            url: "wh_1",
        }
        self.rotated: list[str | None] = []
        self.loses: RelayError | None = None
        self._observe = meet

    def webhook(self, credentials: ClientCredentials) -> WebhookRegistration:
        self._observe("webhook")
        self.meet("webhook")
        answer = WebhookRegistration(secret=self.keys[-1], ids=self.ids)
        self._observe("webhook")
        return answer

    def rotate_webhook_secret(
        self, credentials: ClientCredentials, registration_id: str | None
    ) -> str:
        self._observe("rotate")
        self.meet("rotate")
        self.rotated.append(registration_id)
        self.keys.append(f"whsec_{len(self.keys)}")
        self._observe("rotate")
        if self.loses:
            raise self.loses
        return self.keys[-1]


class FakeConnections(Faults, Registry):
    """The real rows on a fake table, and tokens by connection id."""

    def __init__(self, table: FakeTable | None = None) -> None:
        Faults.__init__(self)
        self.table = table or FakeTable()
        Registry.__init__(self, cast("Table", self.table))
        self.tokens: dict[str, str] = {}
        self.looked_up = 0
        self.read_anew: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name in _REGISTRY_CALLS:
            self.meet(name)
        return super().__getattribute__(name)

    @property
    def registered(self) -> dict[str, datetime]:
        """When each connection registered itself."""
        rows = [item for (_, sk), item in self.table.items.items() if sk == "CONNECTION"]
        return {
            item["connection_id"]: datetime.fromisoformat(item["registered_at"]) for item in rows
        }

    def add(
        self, access_token: str, now: datetime = datetime(2025, 1, 1, tzinfo=UTC), **fields: Any
    ) -> str:
        """A connection whose settings nobody is to ask for, with other fields as a test wants."""
        connection_id = connection_id_of(access_token)
        self.tokens[connection_id] = access_token
        known: dict[str, Any] = {
            "connection_id": connection_id,
            "state": "active",
            "registered_at": now,
        }
        connection = Connection.model_validate(known | fields)
        self.put(connection, now)
        self.settle(access_token)
        return connection_id

    def settle(self, access_token: str) -> None:
        """Let nobody ask for the settings of a connection."""
        place = (f"CONNECTION#{connection_id_of(access_token)}", "CONNECTION")
        item = self.table.items.get(place, {})
        for name in ("due_shard", "due_at"):
            item.pop(name, None)

    def is_registered(self, connection_id: str) -> bool:
        self.looked_up += 1
        return connection_id in self.registered

    def keep_token(self, connection_id: str, access_token: str) -> bool:
        self.meet("keep_token")
        is_new = connection_id not in self.tokens
        self.tokens.setdefault(connection_id, access_token)
        return is_new

    def forget_token(self, connection_id: str) -> None:
        self.meet("forget_token")
        self.tokens.pop(connection_id, None)

    def remove(self, connection_id: str) -> None:
        """The token and the row."""
        self.forget_token(connection_id)
        self.table.write(Delete(Key("CONNECTION", connection_id)))

    def token(self, connection_id: str, *, refresh: bool = False) -> str:
        self.meet("token")
        self.read_anew += [connection_id] if refresh else []
        if connection_id not in self.tokens:
            raise UnknownConnection
        return self.tokens[connection_id]


_REGISTRY_CALLS = frozenset(name for name in vars(Registry) if not name.startswith("_"))


class FakeRanges(Faults, Ranges):
    """The real rows on a fake table."""

    def __init__(self, table: FakeTable, retention: timedelta = timedelta(days=30)) -> None:
        Faults.__init__(self)
        self.table = table
        Ranges.__init__(self, cast("Table", table), retention)

    def __getattribute__(self, name: str) -> Any:
        if name in _RANGE_CALLS:
            self.meet(name)
        return super().__getattribute__(name)

    @property
    def ranges(self) -> dict[str, FetchRange]:
        """Every range by its id."""
        rows = [item for (_, sk), item in self.table.items.items() if sk == "RANGE"]
        found = [range_of(item) for item in rows]
        return {each.plan.range_id: each for each in found}


_RANGE_CALLS = frozenset(name for name in vars(Ranges) if not name.startswith("_"))


class FakeQueue(Faults):
    """Keeps what is sent, as the JSON that it is on the wire."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[FetchWork] = []
        self.hidden: list[tuple[str, float]] = []

    def send(self, works: Iterable[FetchWork], now: datetime) -> int:
        self.meet("send")
        before = len(self.sent)
        self.sent += [FetchWork.model_validate_json(each.model_dump_json()) for each in works]
        return len(self.sent) - before

    def put_off(self, work: FetchWork, until: datetime, now: datetime) -> None:
        self.meet("put_off")
        self.sent.append(work.model_copy(update={"not_before": until}))

    def hide(self, receipt: str, seconds: float) -> None:
        self.hidden.append((receipt, seconds))


class FakeCobalt(Faults):
    """Accepts everything under running job ids, or raises what a test wants for a token.

    What it has recorded, the newest first, is in `listed`; `references` has the labels of tokens,
    `zones` their time zones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[ClientCredentials, str, FetchRequest]] = []
        self.errors: dict[str, Exception] = {}
        self.listed: list[ListedEvent] = []
        self.asked: list[str] = []
        self.references: dict[str, str] = {}
        self.zones: dict[str, str] = {}
        self.outdated_secrets: set[str] = set()

    def _check(self, credentials: ClientCredentials) -> None:
        if credentials.client_secret in self.outdated_secrets:
            raise AccessTokenRefused

    def fetch_appointments(
        self, credentials: ClientCredentials, access_token: str, request: FetchRequest
    ) -> str:
        self._check(credentials)
        self.calls.append((credentials, access_token, request))
        if access_token in self.errors:
            raise self.errors[access_token]
        return f"job_{len(self.calls)}"

    def events_of_job(
        self, credentials: ClientCredentials, job_execution_id: str
    ) -> Iterator[ListedEvent]:
        self._check(credentials)
        self.asked.append(job_execution_id)
        self.meet("events_of_job")
        self.meet(job_execution_id)
        yield from (e for e in self.listed if e.event.job_execution_id == job_execution_id)

    def live_fetches_since(
        self, credentials: ClientCredentials, since: datetime
    ) -> Iterator[ListedEvent]:
        self._check(credentials)
        self.asked.append("live_fetches_since")
        self.meet("live_fetches_since")
        yield from (e for e in self.listed if e.created_at is None or e.created_at >= since)

    def settings_of(self, credentials: ClientCredentials, access_token: str) -> ClinicSettings:
        self._check(credentials)
        self.meet("settings_of")
        return ClinicSettings(
            access_token_reference_id=self.references.get(access_token),
            time_zone=self.zones.get(access_token),
        )
