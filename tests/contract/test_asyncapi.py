"""`docs/asyncapi.yaml` against the code: events, webhook headers, payloads, answers, examples.

The official JSON Schema of AsyncAPI is held against it by `make audit` (spectral), for it comes with
no Python package; here is what that cannot know.
"""

import base64
import hmac
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest
import yaml
from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEvent
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from cobalt_relay import api
from cobalt_relay.events import SOURCE, RelayEvent
from cobalt_relay.models import CobaltEvent, UnsignedHeaders
from tests.contract.test_documented_examples import example
from tests.contract.test_openapi import SPEC as OPENAPI
from tests.contract.test_openapi import WEBHOOK
from tests.contract.test_sample_events import GENUINE, sample
from tests.template.document import document
from tests.unit.test_shape import EVENTS
from tools.sign_sample import SAMPLE_KEY

FILE = Path(__file__).parents[2] / "docs" / "asyncapi.yaml"
SPEC: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
INCOMING: dict[str, Any] = SPEC["channels"]["cobaltWebhook"]["messages"]
OUTGOING: dict[str, Any] = SPEC["channels"]["bus"]["messages"]
MESSAGES = [
    *(("cobaltWebhook", name) for name in INCOMING),
    *(("bus", name) for name in OUTGOING),
]
KINDS: dict[str, type[RelayEvent]] = {kind.detail_type: kind for kind in EVENTS}


def retrieve(uri: str) -> Resource[Any]:
    """Read a file that a `$ref` names; YAML reads JSON too."""
    text = Path(unquote(urlparse(uri).path)).read_text(encoding="utf-8")
    return DRAFT202012.create_resource(yaml.safe_load(text))


REGISTRY: Registry[Any] = Registry(retrieve=retrieve)  # type: ignore[call-arg]


def check(place: str, document: object) -> None:
    """Hold a document against the schema at a place of the file."""
    schema = {"$ref": f"{FILE.as_uri()}#/{place}"}
    Draft202012Validator(
        schema, registry=REGISTRY, format_checker=Draft202012Validator.FORMAT_CHECKER
    ).validate(document)


def examples(channel: str, name: str) -> list[dict[str, Any]]:
    given: list[dict[str, Any]] = SPEC["channels"][channel]["messages"][name]["examples"]
    return given


def references(node: object, base: str) -> Iterator[tuple[str, str]]:
    """Every `$ref` below a node, with the file that it stands in."""
    match node:
        case {"$ref": str(reference)}:
            yield base, reference
        case dict():
            for child in node.values():
                yield from references(child, base)
        case list():
            for child in node:
                yield from references(child, base)


# ----------------------------------------------------------------------------------------- the file


def test_every_reference_leads_somewhere() -> None:
    found = set(references(SPEC, FILE.as_uri()))

    for base, reference in found:
        REGISTRY.resolver(base).lookup(reference)

    files = {urldefrag(urljoin(base, reference)).url for base, reference in found}
    schemas = {path.as_uri() for path in FILE.parent.glob("events/*.schema.json")}
    assert files == {FILE.as_uri(), (FILE.parent / "openapi.yaml").as_uri(), *schemas}


def test_every_message_belongs_to_an_operation_of_its_channel() -> None:
    carried = [
        (reference["$ref"], operation["channel"]["$ref"], operation["action"])
        for operation in SPEC["operations"].values()
        for reference in operation["messages"]
    ]

    action = {"cobaltWebhook": "receive", "bus": "send"}
    wanted = [
        (f"#/channels/{channel}/messages/{name}", f"#/channels/{channel}", action[channel])
        for channel, name in MESSAGES
    ]
    assert sorted(carried) == sorted(wanted)


@pytest.mark.parametrize(("channel", "name"), MESSAGES)
def test_examples_are_of_their_form(channel: str, name: str) -> None:
    given = examples(channel, name)

    assert given
    for each in given:
        check(f"channels/{channel}/messages/{name}/headers", each["headers"])
        check(f"channels/{channel}/messages/{name}/payload", each["payload"])


# ----------------------------------------------------------------------------------------- the bus


def test_every_event_has_one_message_and_every_message_an_event() -> None:
    told = [(m["name"], m["title"], m["payload"]["$ref"]) for m in OUTGOING.values()]

    events = [
        (name, name, f"events/{name.lower().replace(' ', '-')}.schema.json") for name in KINDS
    ]
    assert sorted(told) == sorted(events)


def test_every_event_is_sent_by_an_operation_of_its_name() -> None:
    sent = {
        name: operation["title"]
        for name, operation in SPEC["operations"].items()
        if operation["action"] == "send"
    }

    assert sent == {name: message["name"] for name, message in OUTGOING.items()}


@pytest.mark.parametrize("name", OUTGOING)
def test_example_is_what_the_relay_would_publish(name: str) -> None:
    kind = KINDS[OUTGOING[name]["name"]]
    for each in examples("bus", name):
        fields = {key: value for key, value in each["payload"].items() if key != "event_id"}

        event = kind.model_validate_json(json.dumps(fields))

        assert event.model_dump(mode="json") == each["payload"]  # its event_id is derived
        assert each["headers"]["source"] == SOURCE
        assert each["headers"]["detail-type"] == kind.detail_type


def test_source_is_the_one_that_the_relay_publishes_under() -> None:
    envelope = SPEC["components"]["schemas"]["Envelope"]["properties"]
    everything = document("defaults").of_type("AWS::Events::Rule")["EventLogRule"]["EventPattern"]

    assert [envelope["source"]["const"]] == [SOURCE] == everything["source"]


def test_default_bus_is_that_of_the_default_stack() -> None:
    bus = SPEC["channels"]["bus"]
    [deployed] = document("defaults").of_type("AWS::Events::EventBus").values()

    assert bus["address"] == "{event_bus_name}"
    assert deployed["Name"] == {"Ref": "AWS::StackName"}
    assert "name of the stack" in bus["parameters"]["event_bus_name"]["description"]
    assert "EventBusName" in document("defaults").outputs


# --------------------------------------------------------------------------------------- the webhook


def test_address_and_method_are_those_of_the_deployed_route() -> None:
    gateway = document("defaults").of_type("AWS::ApiGateway::RestApi")["Api"]
    channel = SPEC["channels"]["cobaltWebhook"]
    method = SPEC["operations"]["receiveWebhook"]["bindings"]["http"]["method"]
    [stage] = document("defaults").of_type("AWS::ApiGateway::Stage").values()

    assert list(gateway["Body"]["paths"][channel["address"]]) == [method.lower()]
    assert (channel["address"], method.lower()) == WEBHOOK
    assert SPEC["servers"]["api"]["pathname"] == f"/{stage['StageName']}"


def test_headers_are_those_that_are_read() -> None:
    """The attempt is Cobalt's alone: nothing hangs on it."""
    schema = SPEC["components"]["schemas"]["DeliveryHeaders"]
    [security] = SPEC["operations"]["receiveWebhook"]["security"]
    scheme = SPEC["components"]["securitySchemes"][security["$ref"].rpartition("/")[2]]
    event = APIGatewayProxyEvent(
        {"multiValueHeaders": {name.upper(): [name] for name in schema["properties"]}}
    )

    unsigned = api.unsigned_headers(event)

    assert [api.signature(event)] == schema["required"] == [scheme["name"]]
    read = {api.signature(event), *unsigned.ids, *unsigned.timestamps}
    assert read == set(schema["properties"]) - {"webhook-attempt"}
    assert unsigned._fields == ("ids", "timestamps")  # another one would have to be told of


@pytest.mark.parametrize("name", INCOMING)
def test_example_delivery_is_signed_as_described(name: str) -> None:
    properties = SPEC["components"]["schemas"]["DeliveryHeaders"]["properties"]
    assert f"under the key `{SAMPLE_KEY}`" in properties["cobalt-verification"]["description"]
    for each in examples("cobaltWebhook", name):
        body = json.dumps(each["payload"], separators=(",", ":"), ensure_ascii=False).encode()

        event = CobaltEvent.read(each["payload"])
        unsigned = UnsignedHeaders(
            (each["headers"]["webhook-id"],), (each["headers"]["webhook-timestamp"],)
        )

        signature = hmac.digest(SAMPLE_KEY.encode(), body, "sha256").hex()
        assert each["headers"]["cobalt-verification"] == signature
        assert not unsigned.contradict(event)


def test_answers_are_those_of_the_route() -> None:
    path, method = WEBHOOK
    text = SPEC["operations"]["receiveWebhook"]["description"]

    told = dict(re.findall(r"^\| (\d{3}) \|.*\| (no|once) \|$", text, re.MULTILINE))

    assert set(told) == set(OPENAPI["paths"][path][method]["responses"])
    # Cobalt repeats after a 5xx and a 429, and after nothing else that is answered
    assert {status for status, again in told.items() if again == "once"} == {
        status for status in told if status >= "500" or status == "429"
    }


def forms_of(body: object) -> list[str]:
    """The messages of the webhook whose form a body has."""
    found = []
    for name in INCOMING:
        try:
            check(f"channels/cobaltWebhook/messages/{name}/payload", body)
        except ValidationError:
            continue
        found.append(name)
    return found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("webhook-live-fetch-newest-edition", "liveFetchCompleted"),
        ("webhook-live-fetch-oldest-edition", "liveFetchCompletedOldest"),
        ("webhook-login-required", "accountEvent"),
    ],
)
def test_documented_webhook_is_an_example_of_its_message(name: str, message: str) -> None:
    documented = example(name)

    assert forms_of(documented) == [message]
    assert documented in [each["payload"] for each in examples("cobaltWebhook", message)]


@pytest.mark.parametrize("name", GENUINE)
def test_sample_webhook_has_the_form_of_just_one_message(name: str) -> None:
    event = sample(name)
    text = event["body"]
    body = json.loads(base64.b64decode(text) if event["isBase64Encoded"] else text)

    forms = forms_of(body)

    assert len(forms) == 1
    assert forms[0].startswith("liveFetchCompleted") == name.startswith("webhook-live-fetch")
    assert (forms == ["accountEvent"]) == (name == "webhook-login-required")


def test_what_is_no_event_has_no_form() -> None:
    assert forms_of({"type": "appointment.created"}) == []
    assert forms_of({"id": "evt_1", "type": "appointment.live_fetch_completed"}) == []
