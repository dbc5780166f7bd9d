"""The shape of the code and of the template: what reading misses."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cobalt_relay import api, bootstrap, errors, models
from cobalt_relay.errors import EnvironmentIncomplete, RelayError
from cobalt_relay.events import RelayEvent
from cobalt_relay.settings import Settings

ROOT = Path(__file__).parents[2]
RELAY = ROOT / "layers" / "relay" / "cobalt_relay"
HANDLERS = sorted((ROOT / "functions").glob("*/handler.py"))


class Tags(yaml.SafeLoader):
    """Reads CloudFormation's short forms as their long ones."""


def _long_form(loader: Tags, suffix: str, node: yaml.Node) -> dict[str, Any]:
    name = suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}"
    match node:
        case yaml.ScalarNode():
            value: Any = loader.construct_scalar(node)
        case yaml.SequenceNode():
            value = loader.construct_sequence(node, deep=True)
        case _:
            value = loader.construct_mapping(node, deep=True)  # type: ignore[arg-type]
    return {name: value}


Tags.add_multi_constructor("!", _long_form)
TEMPLATE: dict[str, Any] = yaml.load((ROOT / "template.yaml").read_text(), Loader=Tags)  # noqa: S506
RESOURCES: dict[str, Any] = TEMPLATE["Resources"]


def of_type(kind: str) -> dict[str, Any]:
    return {name: r["Properties"] for name, r in RESOURCES.items() if r["Type"] == kind}


FUNCTIONS = of_type("AWS::Serverless::Function")


def leaves[T](kind: type[T]) -> list[type[T]]:
    children: list[type[T]] = kind.__subclasses__()
    return [kind] if not children else [leaf for child in children for leaf in leaves(child)]


def codes_of(kind: type) -> list[str]:
    return [ancestor.__dict__.get("code", "") for ancestor in kind.__mro__]


# -------------------------------------------------------------------------------------------- errors


def test_every_error_has_a_code_of_its_own() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, RelayError)]

    codes = [kind.__dict__.get("code") for kind in kinds]

    assert None not in codes
    assert len(set(codes)) == len(codes)


def test_every_error_has_a_status() -> None:
    pipeline_only = {"schedule_error", "out_of_time"}  # no caller sees those
    kinds = [kind for kind in leaves(RelayError) if not pipeline_only & set(codes_of(kind))]

    without = [k for k in kinds if not (set(k.__mro__) - {RelayError}) & set(api.STATUS_OF)]

    assert without == []


def test_errors_stand_in_the_drawing() -> None:
    drawing = errors.__doc__ or ""

    names = {k.__name__ for k in vars(errors).values() if isinstance(k, type)}
    drawn = set(re.findall(r"(?:── |^    )(\w+)", drawing, re.MULTILINE))

    assert {n for n in names if issubclass(getattr(errors, n), RelayError)} == drawn


# ------------------------------------------------------------------------------------------ layering

ALLOWED = {
    "functions": {"api", "bootstrap", "observability", "models", "services"},
    "services": {"services", "models", "places", "errors", "events", "observability"},
    "places.py": set(),
    "models.py": {"errors"},
    "events.py": {"models"},
    "settings.py": {"errors"},
    "errors.py": set(),
    "observability.py": set(),
    "api.py": {"errors", "observability"},
    "adapters": {"adapters", "models", "errors", "events"},
    "bootstrap.py": {"adapters", "services", "settings"},
}


def relay_imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cobalt_relay"):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize(
    "path", [*RELAY.rglob("*.py"), *HANDLERS], ids=lambda p: p.parent.name + "/" + p.name
)
def test_dependencies_point_one_way(path: Path) -> None:
    if path.name == "__init__.py":
        return
    part = "functions" if path in HANDLERS else path.relative_to(RELAY).parts[0]

    assert relay_imports(path) <= ALLOWED[part]


@pytest.mark.parametrize("path", HANDLERS, ids=lambda p: p.parent.name)
def test_handler_is_thin(path: Path) -> None:
    tree = ast.parse(path.read_text())

    kinds = {type(node) for node in ast.walk(tree)}

    assert len(path.read_text().splitlines()) <= 60
    assert not kinds & {ast.Try, ast.If, ast.IfExp, ast.While}
    assert [p.name for p in path.parent.glob("*.py")] == ["handler.py"]


# -------------------------------------------------------------------------------------------- states


@pytest.mark.parametrize(
    ("title", "moves", "births"),
    [
        ("Request", models.REQUEST_MOVES, {"REQUESTED"}),
        ("Job", models.JOB_MOVES, {"ACCEPTED", "COMPLETED", "FAILED"}),
    ],
)
def test_drawing_of_the_states_is_the_code(
    title: str, moves: dict[str, tuple[str, ...]], births: set[str]
) -> None:
    text = (ROOT / "docs" / "states.md").read_text()
    section = text.partition(f"## {title}\n")[2].partition("\n## ")[0]

    drawn = set(re.findall(r"^    (\S+) --> (\w+|\[\*\])", section, re.MULTILINE))

    following = {(origin, state) for origin, states in moves.items() for state in states}
    ends = {(state, "[*]") for state in moves if not moves[state] or state == "EXPIRED"}
    assert drawn == following | ends | {("[*]", state) for state in births}


# ------------------------------------------------------------------------------------------ settings


def variables() -> set[str]:
    given: dict[str, Any] = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]
    return {name for name in given if not name.startswith("POWERTOOLS_")}


def test_settings_are_the_environment_of_the_template() -> None:
    aliases = {field.alias for field in Settings.model_fields.values()}

    assert aliases == variables()


COMPLETE = {
    "COBALT_BASE_URL": "https://api.usecobalt.com",
    "CREDENTIALS_SECRET_ARN": "arn:c",
    "WEBHOOK_SECRET_ARN": "arn:w",
    "TABLE_NAME": "table",
    "BUCKET_NAME": "bucket",
    "EVENT_BUS_NAME": "bus",
    "TOKEN_PATH": "/relay/tokens",
    "JOB_DEADLINE_MINUTES": "120",
    "SINGLE_FLIGHT_SECONDS": "60",
    "RESULT_RETENTION_DAYS": "30",
}


def test_settings_name_what_is_missing_or_wrong() -> None:
    environment = {**COMPLETE, "JOB_DEADLINE_MINUTES": "soon", "COBALT_BASE_URL": "x"}
    del environment["TABLE_NAME"]

    with pytest.raises(EnvironmentIncomplete) as error:
        Settings.from_environment(environment)

    assert "COBALT_BASE_URL, JOB_DEADLINE_MINUTES, TABLE_NAME" in error.value.message
    assert "soon" not in error.value.message


def test_use_cases_are_built_once_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)
    caches = [f for f in vars(bootstrap).values() if hasattr(f, "cache_clear")]

    built = [
        bootstrap.fetch_appointments(),
        bootstrap.receive_webhook(),
        bootstrap.plan_fetches(),
        bootstrap.reconcile_jobs(),
    ]

    assert built[0] is bootstrap.fetch_appointments()
    assert bootstrap.settings().job_deadline.total_seconds() == 7200
    for cached in caches:
        cached.cache_clear()


# ------------------------------------------------------------------------------------------ template


def test_every_parameter_is_described_bounded_and_defaulted() -> None:
    for name, parameter in TEMPLATE["Parameters"].items():
        assert {"Description", "Default"} <= set(parameter), name
        assert {"AllowedValues", "AllowedPattern", "MinValue"} & set(parameter), name


def test_every_output_is_described() -> None:
    assert all(output.get("Description") for output in TEMPLATE["Outputs"].values())


def test_every_function_folder_is_deployed_and_every_function_has_one() -> None:
    folders = {f"functions/{path.parent.name}" for path in HANDLERS}

    assert {f["CodeUri"] for f in FUNCTIONS.values()} == folders


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_logs_into_a_group_of_its_own_that_forgets(name: str) -> None:
    group = FUNCTIONS[name]["LoggingConfig"]["LogGroup"]["Ref"]

    assert of_type("AWS::Logs::LogGroup")[group]["RetentionInDays"] == {"Ref": "LogRetentionDays"}
    assert sum(f["LoggingConfig"]["LogGroup"]["Ref"] == group for f in FUNCTIONS.values()) == 1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_has_a_place_for_failures_where_it_is_asynchronous(name: str) -> None:
    kinds = {event["Type"] for event in FUNCTIONS[name]["Events"].values()}

    if kinds == {"Api"}:
        assert FUNCTIONS[name]["Timeout"] < 29
    else:
        invoke = FUNCTIONS[name]["EventInvokeConfig"]
        assert invoke["DestinationConfig"]["OnFailure"]["Destination"]
        assert invoke["MaximumRetryAttempts"] == 0


def test_no_policy_allows_everything() -> None:
    text = json.dumps([function.get("Policies") for function in FUNCTIONS.values()])

    assert not re.search(r'"(Action|Resource)": (\[)?"\*"', text)
    assert not re.search(r'"\w+:\*"', text)


def test_bucket_is_closed() -> None:
    bucket = RESOURCES["Results"]["Properties"]
    [statement] = RESOURCES["ResultsPolicy"]["Properties"]["PolicyDocument"]["Statement"]

    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert (statement["Effect"], statement["Action"]) == ("Deny", "s3:*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert TEMPLATE["Parameters"]["RequireTls"]["Default"] == "true"


def test_no_secret_has_a_value_in_the_template() -> None:
    for secret in of_type("AWS::SecretsManager::Secret").values():
        assert not {"SecretString", "GenerateSecretString"} & set(secret)


def test_state_survives_the_stack() -> None:
    for name in ("Table", "Results"):
        assert RESOURCES[name]["DeletionPolicy"] == "Retain"
        assert RESOURCES[name]["UpdateReplacePolicy"] == "Retain"


def test_indexes_hold_keys_alone() -> None:
    for index in RESOURCES["Table"]["Properties"]["GlobalSecondaryIndexes"]:
        assert index["Projection"] == {"ProjectionType": "KEYS_ONLY"}


# -------------------------------------------------------------------------------------------- events

EVENTS: list[type[RelayEvent]] = leaves(RelayEvent)  # type: ignore[type-abstract]


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_every_event_has_a_closed_schema_of_just_its_fields(kind: type[RelayEvent]) -> None:
    name = kind.detail_type.lower().replace(" ", "-")
    schema = json.loads((ROOT / "docs" / "events" / f"{name}.schema.json").read_text())

    fields = {*kind.model_fields, *kind.model_computed_fields}

    assert schema["title"] == kind.detail_type
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(schema["required"]) == fields


def test_every_schema_has_an_event() -> None:
    titles = {json.loads(p.read_text())["title"] for p in (ROOT / "docs" / "events").glob("*.json")}

    assert titles == {kind.detail_type for kind in EVENTS}
