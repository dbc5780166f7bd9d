"""How adapters translate what AWS answers; `tests/contract` runs them against a real stack."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import boto3
import pytest
from botocore.stub import ANY, Stubber

from cobalt_relay.adapters import aws
from cobalt_relay.adapters.bus import Bus
from cobalt_relay.adapters.connections import MOST_TOKENS, Connections
from cobalt_relay.adapters.results import LINK_LIFE, ResultLinks, Results
from cobalt_relay.adapters.rotation import RotatedSecret
from cobalt_relay.adapters.secrets import CACHE_SECONDS, REFRESH_SECONDS, Secrets
from cobalt_relay.adapters.snapshots import Snapshots
from cobalt_relay.adapters.table import ConditionFailedError, Key, Put, Table
from cobalt_relay.errors import (
    BusFault,
    CredentialsNotConfigured,
    ResultsFault,
    SecretsFault,
    TableFault,
    TokensFault,
    UnknownConnection,
    WebhookSecretNotConfigured,
)
from cobalt_relay.events import CobaltEventReceived
from cobalt_relay.models import LiveKeys, ResultLocation, WebhookKey
from cobalt_relay.places import appointments_place, event_place, safe_part, snapshot_key
from tests.unit.fakes import FakeTable

NOW = datetime(2025, 1, 2, 10, tzinfo=UTC)


class Stubbed:
    """A client whose answers a test lines up; every one of them must be used."""

    def __init__(self, service: str) -> None:
        self.client: Any = boto3.client(service)  # type: ignore[call-overload]
        self.stubber = Stubber(self.client)
        self.stubber.activate()

    def answer(self, operation: str, response: dict[str, Any], expected: Any = None) -> None:
        self.stubber.add_response(operation, response, expected)

    def fail(self, operation: str, code: str, **response: Any) -> None:
        self.stubber.add_client_error(operation, code, modeled_fields=response)


@pytest.fixture
def stubbed(request: pytest.FixtureRequest) -> Iterator[Stubbed]:
    stubbed = Stubbed(request.param)
    yield stubbed
    stubbed.stubber.assert_no_pending_responses()


def for_service(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("stubbed", [name], indirect=True)


# ------------------------------------------------------------------------------------------- secrets


class Ticks:
    """A monotonic clock."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def secrets_on(stubbed: Stubbed, ticks: Ticks | None = None) -> Secrets:
    return Secrets(stubbed.client, "arn:c", "arn:w", clock=ticks or Ticks(), now=lambda: NOW)


def secret(value: Any, created_at: datetime = NOW - timedelta(days=30)) -> dict[str, Any]:
    text = value if isinstance(value, str) else json.dumps(value)
    return {"SecretString": text, "CreatedDate": created_at, "VersionId": "v" * 32}


PAIR = {"client_id": "client", "client_secret": "sesame"}


@for_service("secretsmanager")
def test_credentials_are_read_once_in_minutes(stubbed: Stubbed) -> None:
    ticks = Ticks()
    secrets = secrets_on(stubbed, ticks)
    stubbed.answer("get_secret_value", secret({**PAIR, "note": "ignored"}))

    first = secrets.credentials()
    ticks.seconds += CACHE_SECONDS - 1
    second = secrets.credentials()

    assert first is second
    assert (first.client_id, first.client_secret) == ("client", "sesame")


@for_service("secretsmanager")
def test_refresh_is_rate_limited_and_age_ends_the_memory(stubbed: Stubbed) -> None:
    ticks = Ticks()
    secrets = secrets_on(stubbed, ticks)
    for name in ("one", "two", "three", "four"):
        stubbed.answer("get_secret_value", secret({**PAIR, "client_id": name}))

    seen = [secrets.credentials().client_id]
    seen += [secrets.credentials(refresh=True).client_id for _ in range(1000)][-1:]
    ticks.seconds += 1
    seen += [secrets.credentials(refresh=True).client_id for _ in range(1000)][-1:]
    ticks.seconds += 299
    seen += [secrets.credentials().client_id]
    ticks.seconds += 2
    seen += [secrets.credentials().client_id]

    assert seen == ["one", "two", "three", "three", "four"]


@pytest.mark.parametrize(
    "value",
    [
        "text",
        "[]",
        '{"client_id": "c"}',
        '{"client_id": "", "client_secret": "x"}',
        '{"client_id": "c", "client_secret": "s€"}',
        '{"client_id": "c", "client_secret": "s\\n"}',
    ],
)
@for_service("secretsmanager")
def test_not_configured_when_the_secret_is_of_another_form(stubbed: Stubbed, value: str) -> None:
    stubbed.answer("get_secret_value", secret(value))

    with pytest.raises(CredentialsNotConfigured):
        secrets_on(stubbed).credentials()


@for_service("secretsmanager")
def test_configured_at_once_when_the_secret_is_put_after_a_503(stubbed: Stubbed) -> None:
    secrets = secrets_on(stubbed)
    stubbed.fail("get_secret_value", "ResourceNotFoundException")
    stubbed.answer("get_secret_value", secret(PAIR))

    with pytest.raises(CredentialsNotConfigured):
        secrets.credentials()

    assert secrets.credentials().client_id == "client"


@pytest.mark.parametrize(
    "code", ["ThrottlingException", "AccessDeniedException", "InternalServiceError"]
)
@for_service("secretsmanager")
def test_fault_never_not_configured_when_the_service_fails(stubbed: Stubbed, code: str) -> None:
    stubbed.fail("get_secret_value", code)

    with pytest.raises(SecretsFault):
        secrets_on(stubbed).webhook_keys()


@for_service("secretsmanager")
def test_old_value_outlives_a_failing_service_but_no_misfit(stubbed: Stubbed) -> None:
    ticks = Ticks()
    secrets = secrets_on(stubbed, ticks)
    stubbed.answer("get_secret_value", secret(PAIR))
    stubbed.fail("get_secret_value", "InternalServiceError")
    stubbed.fail("get_secret_value", "InternalServiceError")
    secrets.credentials()
    ticks.seconds += CACHE_SECONDS + 1

    kept = secrets.credentials()

    assert kept.client_id == "client"
    with pytest.raises(SecretsFault):
        secrets.credentials(refresh=True)


@for_service("secretsmanager")
def test_misfits_are_neither_refused_nor_looked_up_while_a_refresh_has_just_failed(
    stubbed: Stubbed,
) -> None:
    ticks = Ticks()
    secrets = secrets_on(stubbed, ticks)
    stubbed.answer("get_secret_value", secret(PAIR))
    stubbed.fail("get_secret_value", "InternalServiceError")
    stubbed.answer("get_secret_value", secret({**PAIR, "client_id": "new"}))
    secrets.credentials()

    for _ in range(100):  # the next answer is a success: one more look-up would take it
        with pytest.raises(SecretsFault):
            secrets.credentials(refresh=True)

    assert secrets.credentials().client_id == "client"
    ticks.seconds += REFRESH_SECONDS
    assert secrets.credentials(refresh=True).client_id == "new"
    assert secrets.credentials(refresh=True).client_id == "new"


@for_service("secretsmanager")
def test_one_key_lives_when_the_last_rotation_is_a_day_ago(stubbed: Stubbed) -> None:
    stubbed.answer(
        "get_secret_value",
        secret({"webhook_secret_key": "new", "success": True}, NOW - timedelta(hours=24)),
    )

    keys = secrets_on(stubbed).webhook_keys()

    assert keys == LiveKeys((WebhookKey("Current", b"new"),))


@for_service("secretsmanager")
def test_two_keys_live_when_the_last_rotation_is_younger(stubbed: Stubbed) -> None:
    young = NOW - timedelta(hours=23, minutes=59)
    stubbed.answer("get_secret_value", secret({"webhook_secret_key": "new"}, young))
    stubbed.answer(
        "get_secret_value",
        secret({"webhook_secret_key": "old"}),
        {"SecretId": "arn:w", "VersionStage": "AWSPREVIOUS"},
    )

    keys = secrets_on(stubbed).webhook_keys()

    assert keys == LiveKeys((WebhookKey("Current", b"new"), WebhookKey("Previous", b"old")))


@pytest.mark.parametrize("label", ["AWSPENDING", "RELAY_ROTATING"])
@for_service("secretsmanager")
def test_former_key_is_not_alive_by_a_label_that_was_left_on_it(
    stubbed: Stubbed, label: str
) -> None:
    day_ago = NOW - timedelta(hours=24)
    new = secret({"webhook_secret_key": "new"}, day_ago) | {"VersionId": "n" * 32}
    old = secret({"webhook_secret_key": "old"}) | {"VersionId": "o" * 32}
    stages = {"n" * 32: ["AWSCURRENT"], "o" * 32: ["AWSPREVIOUS", label]}
    stubbed.answer("get_secret_value", new)
    stubbed.answer("describe_secret", {"VersionIdsToStages": stages})
    stubbed.answer("get_secret_value", old)
    secrets = secrets_on(stubbed)
    secrets.webhook_keys()

    keys = secrets.webhook_keys(refresh=True)

    assert keys == LiveKeys((WebhookKey("Current", b"new"),))


@for_service("secretsmanager")
def test_one_key_lives_when_there_is_no_previous(stubbed: Stubbed) -> None:
    stubbed.answer("get_secret_value", secret({"webhook_secret_key": "new"}, NOW))
    stubbed.fail("get_secret_value", "ResourceNotFoundException")

    keys = secrets_on(stubbed).webhook_keys()

    assert keys == LiveKeys((WebhookKey("Current", b"new"),))


@pytest.mark.parametrize("value", ["{}", '{"webhook_secret_key": ""}'])
@for_service("secretsmanager")
def test_not_configured_when_the_key_is_empty(stubbed: Stubbed, value: str) -> None:
    stubbed.answer("get_secret_value", secret(value))

    with pytest.raises(WebhookSecretNotConfigured):
        secrets_on(stubbed).webhook_keys()


# ----------------------------------------------------------------------------------------------- bus

EVENT = CobaltEventReceived(
    job_execution_id=None,
    connection_id=None,
    access_token_reference_id="user_1",
    window=None,
    trace_id="0af7651916cd43dd8448eb211c80319c",
    cobalt_event_id="evt_1",
    event_type="appointment.created",
    received_at=NOW,
    result=ResultLocation(
        bucket="results", key="webhooks/type=t/date=2025-01-02/evt_1.json", version_id="v1"
    ),
)
REFUSED = {"FailedEntryCount": 1, "Entries": [{"ErrorCode": "InternalFailure"}]}
TAKEN = {"FailedEntryCount": 0, "Entries": [{"EventId": "1"}]}


@for_service("events")
def test_entry_is_sent_again_when_it_was_refused(stubbed: Stubbed) -> None:
    stubbed.answer("put_events", REFUSED, {"Entries": ANY})
    stubbed.answer("put_events", TAKEN, {"Entries": ANY})

    Bus(stubbed.client, "bus").publish(EVENT)


@for_service("events")
def test_fault_when_an_entry_stays_refused(stubbed: Stubbed) -> None:
    stubbed.answer("put_events", REFUSED, {"Entries": ANY})
    stubbed.answer("put_events", REFUSED, {"Entries": ANY})

    with pytest.raises(BusFault):
        Bus(stubbed.client, "bus").publish(EVENT)


@for_service("events")
def test_fault_when_the_call_fails(stubbed: Stubbed) -> None:
    stubbed.fail("put_events", "ThrottlingException")

    with pytest.raises(BusFault):
        Bus(stubbed.client, "bus").publish(EVENT)


# ------------------------------------------------------------------------------------------- results


@for_service("s3")
def test_bytes_go_beside_it_when_a_key_is_taken(stubbed: Stubbed) -> None:
    stubbed.fail("put_object", "PreconditionFailed")
    stubbed.answer("put_object", {"VersionId": "v9"})

    results = Results(stubbed.client, "results")

    taken, beside = results.create("place", b"{}"), results.put_beside("place", b"{}")

    assert taken is None
    assert (beside.key, beside.version_id) == ("place.44136fa355b3678a.json", "v9")


@for_service("s3")
def test_bytes_are_in_place_when_both_keys_are_taken(stubbed: Stubbed) -> None:
    stubbed.fail("put_object", "ConditionalRequestConflict")

    beside = Results(stubbed.client, "results").put_beside("place", b"{}")

    assert beside.key == "place.44136fa355b3678a.json"


@for_service("s3")
def test_fault_when_s3_fails(stubbed: Stubbed) -> None:
    stubbed.fail("put_object", "SlowDown")

    with pytest.raises(ResultsFault):
        Results(stubbed.client, "results").create("place", b"{}")


PLACE = "appointments/connection=conn_1/date=2025-01-02/job_1"
MOMENT = datetime(2025, 1, 2, 10, 0, 0, 999_000, tzinfo=UTC)


@pytest.fixture
def _new_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session keeps the region and the credentials that it saw first."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


def linked(version_id: str | None = "v+1/ä") -> SplitResult:
    location = ResultLocation(bucket="results", key=f"{PLACE}.json", version_id=version_id)
    link = ResultLinks(aws.s3(aws.SIGNING), now=lambda: MOMENT).link(location)
    assert link.expires_at == datetime(2025, 1, 2, 10, 5, tzinfo=UTC)
    assert link.url not in repr(link)
    return urlsplit(link.url)


@pytest.mark.usefixtures("_new_session")
@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us-east-1", "results.s3.us-east-1.amazonaws.com"),
        ("eu-central-1", "results.s3.eu-central-1.amazonaws.com"),
        ("us-gov-west-1", "results.s3.us-gov-west-1.amazonaws.com"),
    ],
)
def test_link_is_for_the_buckets_own_host_in_its_region(
    monkeypatch: pytest.MonkeyPatch, region: str, host: str
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)

    link = linked()

    assert (link.scheme, link.netloc) == ("https", host)
    assert unquote(link.path) == f"/{PLACE}.json"


@pytest.mark.usefixtures("_new_session")
@pytest.mark.parametrize("version_id", ["v+1/ä", None])
def test_link_is_signed_for_five_minutes_with_the_session_of_the_role(
    monkeypatch: pytest.MonkeyPatch, version_id: str | None
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session/+=")

    query = parse_qs(linked(version_id).query, strict_parsing=True)

    assert query.get("versionId") == ([version_id] if version_id else None)
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-Expires"] == ["300"] == [str(LINK_LIFE.seconds)]
    assert query["X-Amz-Security-Token"] == ["session/+="]
    assert query["X-Amz-SignedHeaders"] == ["host"]  # so that a plain GET will do
    assert query["response-cache-control"] == ["no-store"]
    assert len(query["X-Amz-Signature"][0]) == 64


@pytest.mark.usefixtures("_new_session")
def test_link_has_the_bucket_in_its_path_when_the_endpoint_is_an_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")

    link = linked()

    assert link.netloc == "127.0.0.1:4566"
    assert unquote(link.path) == f"/results/{PLACE}.json"


@pytest.mark.usefixtures("_new_session")
def test_fault_when_there_is_nothing_to_sign_a_link_with(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    with pytest.raises(ResultsFault) as error:
        linked()

    assert PLACE not in str(error.value)


@pytest.mark.parametrize("plain", ["job_1", "evt-1", "appointment.created", "A" * 128])
def test_id_stays_itself_when_it_is_plain(plain: str) -> None:
    assert safe_part(plain) == plain


@pytest.mark.parametrize(
    "wild",
    ["", ".", "..", "a/b", "../../etc", "a b", "é", "A" * 129, "a\nb", "a=b", "\ud800", "a\x00"],
)
def test_id_is_made_safe_and_stays_one_of_a_kind_when_it_is_not(wild: str) -> None:
    part = safe_part(wild)

    assert part != safe_part(wild + "x")
    assert set(part) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert len(part) <= 128


def test_places_are_those_of_the_design() -> None:
    day = date(2025, 1, 2)

    places = [
        appointments_place("conn_1", day, "job_1"),
        appointments_place(None, day, "job/1"),
        event_place("appointment.created", day, "evt_1"),
    ]

    assert places[0] == "appointments/connection=conn_1/date=2025-01-02/job_1"
    assert places[1].startswith("appointments/connection=unclaimed/date=2025-01-02/job_1-")
    assert places[2] == "webhooks/type=appointment.created/date=2025-01-02/evt_1"


# --------------------------------------------------------------------------------------------- table


@for_service("dynamodb")
def test_clash_is_tried_again_when_two_transactions_meet(stubbed: Stubbed) -> None:
    clash = {"CancellationReasons": [{"Code": "TransactionConflict"}, {"Code": "None"}]}
    stubbed.fail("transact_write_items", "TransactionCanceledException", **clash)
    stubbed.answer("transact_write_items", {}, None)

    Table(stubbed.client, "table").write(Put(Key("A", "1"), {}), Put(Key("A", "2"), {}))


@for_service("dynamodb")
def test_fault_when_transactions_clash_without_end(stubbed: Stubbed) -> None:
    clash = {"CancellationReasons": [{"Code": "TransactionConflict"}, {"Code": "None"}]}
    for _ in range(3):
        stubbed.fail("transact_write_items", "TransactionCanceledException", **clash)

    with pytest.raises(TableFault):
        Table(stubbed.client, "table").write(Put(Key("A", "1"), {}), Put(Key("A", "2"), {}))


@for_service("dynamodb")
def test_failed_parts_are_told_when_a_condition_does_not_hold(stubbed: Stubbed) -> None:
    reasons = {"CancellationReasons": [{"Code": "None"}, {"Code": "ConditionalCheckFailed"}]}
    stubbed.fail("transact_write_items", "TransactionCanceledException", **reasons)

    with pytest.raises(ConditionFailedError) as condition:
        Table(stubbed.client, "table").write(Put(Key("A", "1"), {}), Put(Key("A", "2"), {}))

    assert condition.value.failed == (False, True)


@for_service("dynamodb")
def test_table_fault_when_a_write_fails(stubbed: Stubbed) -> None:
    stubbed.fail("transact_write_items", "ProvisionedThroughputExceededException")
    table = Table(stubbed.client, "table")

    with pytest.raises(TableFault):
        table.write(Put(Key("A", "1"), {}))


@for_service("dynamodb")
def test_reads_are_consistent(stubbed: Stubbed) -> None:
    keys = [{"pk": {"S": "A#1"}, "sk": {"S": "A"}}]
    stubbed.answer(
        "batch_get_item",
        {"Responses": {"table": []}},
        {"RequestItems": {"table": {"Keys": keys, "ConsistentRead": True}}},
    )

    assert Table(stubbed.client, "table").get(Key("A", "1")) == [None]


class Service:
    """A service on loopback that takes everything; the first `lost` answers never come."""

    def __init__(self, lost: int = 0) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self._released = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                service.requests.append((dict(self.headers), body))
                if len(service.requests) <= lost:
                    service._released.wait(10)
                    return
                answer = b"{}" if self.command == "POST" else b""
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_PUT = do_POST  # noqa: N815 - the server's name

            def log_message(self, *_arguments: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()


def test_repetition_by_the_sdk_is_recognised_when_an_answer_got_lost() -> None:
    service = Service(lost=1)
    client = boto3.client("dynamodb", endpoint_url=service.url, config=aws.PROMPT)

    Table(client, "table").write(Put(Key("A", "1"), {}))

    service.close()
    tokens = [json.loads(body)["ClientRequestToken"] for _, body in service.requests]
    assert len(tokens) == 2
    assert tokens[0] == tokens[1]


@for_service("dynamodb")
def test_table_fault_when_a_read_fails_or_is_cut_short(stubbed: Stubbed) -> None:
    stubbed.fail("batch_get_item", "InternalServerError")
    stubbed.answer(
        "batch_get_item",
        {"Responses": {}, "UnprocessedKeys": {"table": {"Keys": [{"pk": {"S": "A#1"}}]}}},
    )

    for _ in range(2):
        with pytest.raises(TableFault):
            Table(stubbed.client, "table").get(Key("A", "1"))


@for_service("dynamodb")
def test_keys_that_were_left_out_are_read_again(stubbed: Stubbed) -> None:
    first, second = ({"pk": {"S": f"A#{name}"}, "sk": {"S": "A"}} for name in "12")
    stubbed.answer(
        "batch_get_item",
        {
            "Responses": {"table": [first]},
            "UnprocessedKeys": {"table": {"Keys": [second]}},
        },
    )
    stubbed.answer("batch_get_item", {"Responses": {"table": [second]}})

    items = Table(stubbed.client, "table").get(Key("A", "2"), Key("A", "1"))

    assert items == [{"pk": "A#2", "sk": "A"}, {"pk": "A#1", "sk": "A"}]


@for_service("dynamodb")
def test_fault_when_keys_are_left_out_again_and_again(stubbed: Stubbed) -> None:
    left_out = {"table": {"Keys": [{"pk": {"S": "A#1"}, "sk": {"S": "A"}}]}}
    for _ in range(3):
        stubbed.answer("batch_get_item", {"Responses": {}, "UnprocessedKeys": left_out})

    with pytest.raises(TableFault):
        Table(stubbed.client, "table").get(Key("A", "1"))


def test_table_fault_when_nobody_answers() -> None:
    client = boto3.client(
        "dynamodb",
        endpoint_url="http://127.0.0.1:1",
        config=aws.PROMPT,
    )

    with pytest.raises(TableFault):
        Table(client, "table").write(Put(Key("A", "1"), {}))


@for_service("dynamodb")
def test_all_pages_are_read_when_an_index_has_several(stubbed: Stubbed) -> None:
    item = {"connection_id": {"S": "conn_1"}}
    stubbed.answer("query", {"Items": [item], "LastEvaluatedKey": item})
    stubbed.answer("query", {"Items": [item]})

    items = list(Table(stubbed.client, "table").keys_of_index("connections", ("shard", "0")))

    assert items == [{"connection_id": "conn_1"}] * 2


@for_service("dynamodb")
def test_table_fault_when_an_index_cannot_be_read(stubbed: Stubbed) -> None:
    stubbed.fail("query", "InternalServerError")

    with pytest.raises(TableFault):
        list(Table(stubbed.client, "table").keys_of_index("connections", ("shard", "0")))


# -------------------------------------------------------------------------------------------- tokens


def connections_on(stubbed: Stubbed, ticks: Ticks | None = None) -> Connections:
    table = cast("Table", FakeTable())
    return Connections(
        table, lambda: stubbed.client, "/relay/tokens", "arn:k", clock=ticks or Ticks()
    )


@for_service("ssm")
def test_fault_when_the_token_cannot_be_kept(stubbed: Stubbed) -> None:
    stubbed.fail("put_parameter", "InternalServerError")

    with pytest.raises(TokensFault):
        connections_on(stubbed).keep_token("conn_1", "token")


@for_service("ssm")
def test_fault_when_a_token_cannot_be_forgotten_unless_there_is_none(stubbed: Stubbed) -> None:
    connections = connections_on(stubbed)
    stubbed.fail("delete_parameter", "ParameterNotFound")
    stubbed.fail("delete_parameter", "InternalServerError")

    connections.forget_token("conn_1")

    with pytest.raises(TokensFault):
        connections.forget_token("conn_1")


@pytest.mark.parametrize(
    ("code", "error"),
    [("ParameterNotFound", UnknownConnection), ("InternalServerError", TokensFault)],
)
@for_service("ssm")
def test_missing_token_and_failing_service_are_told_apart(
    stubbed: Stubbed, code: str, error: type[Exception]
) -> None:
    stubbed.fail("get_parameter", code)

    with pytest.raises(error):
        connections_on(stubbed).token("conn_1")


def kept(token: str) -> dict[str, Any]:
    return {"Parameter": {"Name": "p", "Value": token}}


@for_service("ssm")
def test_token_is_kept_under_our_own_key(stubbed: Stubbed) -> None:
    expected = {
        "Name": "/relay/tokens/conn_1",
        "Description": ANY,
        "Value": "token",
        "Type": "SecureString",
        "KeyId": "arn:k",
    }
    stubbed.answer("put_parameter", {"Version": 1}, expected)

    assert connections_on(stubbed).keep_token("conn_1", "token")


@for_service("ssm")
def test_token_is_read_once_in_minutes_and_anew_where_it_was_refused(stubbed: Stubbed) -> None:
    ticks = Ticks()
    connections = connections_on(stubbed, ticks)
    for token in ("one", "two", "three", "four"):
        stubbed.answer("get_parameter", kept(token))

    seen = [connections.token("conn_1") for _ in range(3)]
    seen += [connections.token("conn_1", refresh=True) for _ in range(1000)][-1:]
    ticks.seconds += REFRESH_SECONDS
    seen += [connections.token("conn_1", refresh=True)]
    ticks.seconds += CACHE_SECONDS + 1
    seen += [connections.token("conn_1")]

    assert seen == ["one", "one", "one", "two", "three", "four"]


@for_service("ssm")
def test_token_is_forgotten_when_it_is_told_to_be_or_is_gone(stubbed: Stubbed) -> None:
    connections = connections_on(stubbed)
    stubbed.answer("get_parameter", kept("token"))
    stubbed.answer("delete_parameter", {})
    stubbed.answer("get_parameter", kept("again"))
    stubbed.fail("get_parameter", "ParameterNotFound")
    stubbed.fail("get_parameter", "ParameterNotFound")
    connections.token("conn_1")

    connections.forget_token("conn_1")

    assert connections.token("conn_1") == "again"
    for refresh in (True, False):
        with pytest.raises(UnknownConnection):
            connections.token("conn_1", refresh=refresh)


@for_service("ssm")
def test_old_token_outlives_a_failing_service(stubbed: Stubbed) -> None:
    ticks = Ticks()
    connections = connections_on(stubbed, ticks)
    stubbed.answer("get_parameter", kept("token"))
    stubbed.fail("get_parameter", "InternalServerError")
    connections.token("conn_1")
    ticks.seconds += CACHE_SECONDS + 1

    assert connections.token("conn_1") == "token"


@for_service("ssm")
def test_tokens_in_memory_are_bounded_and_unseen(stubbed: Stubbed) -> None:
    connections = connections_on(stubbed)
    for number in range(MOST_TOKENS + 1):
        stubbed.answer("get_parameter", kept(f"canary-{number}"))
        connections.token(f"conn_{number}")
    stubbed.answer("get_parameter", kept("anew"))

    assert connections.token("conn_1") == "canary-1"
    assert connections.token("conn_0") == "anew"  # the one that was used the longest ago
    assert connections.token("conn_1") == "canary-1"
    assert "canary" not in repr(vars(connections))


# ------------------------------------------------------------------------------------------ rotation


def a_rotation(stubbed: Stubbed) -> RotatedSecret:
    return RotatedSecret(stubbed.client, "arn:w")


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("describe_secret", lambda secret: secret.state("t" * 32)),
        ("get_secret_value", lambda secret: secret.pending_key("t" * 32)),
        ("put_secret_value", lambda secret: secret.mark("t" * 32, NOW)),
    ],
)
@for_service("secretsmanager")
def test_secrets_fault_when_a_rotation_meets_a_failing_service(
    stubbed: Stubbed, operation: str, call: Callable[[RotatedSecret], object]
) -> None:
    stubbed.fail(operation, "InternalServiceError")

    with pytest.raises(SecretsFault):
        call(a_rotation(stubbed))


@for_service("secretsmanager")
def test_secrets_fault_when_a_label_cannot_be_moved(stubbed: Stubbed) -> None:
    stages = {"v" * 32: ["AWSCURRENT"], "t" * 32: ["AWSPENDING", "RELAY_ROTATING"]}
    stubbed.answer("describe_secret", {"VersionIdsToStages": stages})
    stubbed.fail("update_secret_version_stage", "InvalidRequestException")

    with pytest.raises(SecretsFault):
        a_rotation(stubbed).make_current("t" * 32)


@for_service("secretsmanager")
def test_label_stays_where_it_is_when_the_version_is_current_already(stubbed: Stubbed) -> None:
    stubbed.answer("describe_secret", {"VersionIdsToStages": {"t" * 32: ["AWSCURRENT"]}})

    a_rotation(stubbed).make_current("t" * 32)


@for_service("secretsmanager")
def test_misfit_finds_every_key_and_reads_none_twice(stubbed: Stubbed) -> None:
    ticks = Ticks()
    secrets = secrets_on(stubbed, ticks)
    stages = {"v" * 32: ["AWSCURRENT"], "t" * 32: ["AWSPENDING"], "o" * 32: ["AWSPREVIOUS", "X"]}
    stubbed.answer("get_secret_value", secret({"webhook_secret_key": "now"}))
    stubbed.answer("describe_secret", {"VersionIdsToStages": stages})
    for version, name in (("t", "next"), ("o", "former")):
        stubbed.answer(
            "get_secret_value",
            {**secret({"webhook_secret_key": name}), "VersionId": version * 32},
            {"SecretId": "arn:w", "VersionId": version * 32},
        )
    stubbed.answer("describe_secret", {"VersionIdsToStages": stages})

    first = secrets.webhook_keys()
    second = secrets.webhook_keys(refresh=True)
    ticks.seconds += REFRESH_SECONDS
    third = secrets.webhook_keys(refresh=True)

    assert [key.name for key in first.keys] == ["Current"]
    assert (
        second == third == LiveKeys((WebhookKey("Current", b"now"), WebhookKey("Pending", b"next")))
    )


@for_service("secretsmanager")
def test_first_look_goes_on_when_it_is_for_a_misfit(stubbed: Stubbed) -> None:
    stubbed.answer("get_secret_value", secret({"webhook_secret_key": "now"}))
    stages = {"v" * 32: ["AWSCURRENT"], "m" * 32: ["RELAY_ROTATING"]}
    stubbed.answer("describe_secret", {"VersionIdsToStages": stages})
    mark = secret({"rotating_since": "2025-01-02T09:59:00.000Z", "token": "t"})
    stubbed.answer("get_secret_value", {**mark, "VersionId": "m" * 32})

    assert secrets_on(stubbed).webhook_keys(refresh=True).rotating


# ----------------------------------------------------------------------------------------- snapshots


DAY = date(2025, 1, 2)
DAY_KEY = snapshot_key("clinic", DAY)


@for_service("s3")
def test_day_without_snapshot_is_none_when_the_reader_may_not_list_the_whole_bucket(
    stubbed: Stubbed,
) -> None:
    stubbed.fail("get_object", "AccessDenied")
    stubbed.answer("list_objects_v2", {}, {"Bucket": "results", "Prefix": DAY_KEY, "MaxKeys": 1})

    assert Snapshots(stubbed.client, "results").read("clinic", DAY) is None


@for_service("s3")
def test_fault_when_a_day_that_is_there_may_not_be_read(stubbed: Stubbed) -> None:
    stubbed.fail("get_object", "AccessDenied")
    stubbed.answer("list_objects_v2", {"Contents": [{"Key": DAY_KEY}]})

    with pytest.raises(ResultsFault):
        Snapshots(stubbed.client, "results").read("clinic", DAY)


@for_service("s3")
def test_fault_when_a_former_version_may_not_be_read(stubbed: Stubbed) -> None:
    stubbed.fail("get_object", "AccessDenied")

    with pytest.raises(ResultsFault):
        Snapshots(stubbed.client, "results").read("clinic", DAY, version_id="1")


@for_service("s3")
def test_fault_when_neither_a_day_nor_its_folder_may_be_read(stubbed: Stubbed) -> None:
    stubbed.fail("get_object", "AccessDenied")
    stubbed.fail("list_objects_v2", "AccessDenied")

    with pytest.raises(ResultsFault):
        Snapshots(stubbed.client, "results").read("clinic", DAY)


# ------------------------------------------------------------------------------------------- clients


MAKERS: list[Any] = [aws.dynamodb, aws.s3, aws.events, aws.secretsmanager]


@pytest.mark.parametrize("make", MAKERS)
def test_prompt_client_gives_up_before_cobalt_does(make: Any) -> None:
    config = make(aws.PROMPT).meta.config

    attempts = config.retries["total_max_attempts"]
    assert attempts * config.read_timeout + (attempts - 1) * 1.0 + 0.6 < 4.5
    assert attempts * config.connect_timeout + (attempts - 1) * 1.0 < 4.5


@pytest.mark.parametrize("make", [*MAKERS, aws.ssm])
def test_patient_client_leaves_time_for_the_answer(make: Any) -> None:
    config = make().meta.config

    assert config.retries["total_max_attempts"] * config.read_timeout < 7


def test_body_is_sent_without_asking_first_when_an_object_is_put(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = Service()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", service.url)

    Results(aws.s3(), "results").create("place", b"{}")

    service.close()
    [(headers, _)] = service.requests
    assert "Expect" not in headers
    assert headers["If-None-Match"] == "*"
