"""The shape of the code: what reading misses. That of the template is in tests/template."""

import ast
import json
import re
from pathlib import Path

import pytest

from cobalt_relay import api, bootstrap, errors, models
from cobalt_relay.errors import EnvironmentIncomplete, RelayError
from cobalt_relay.events import RelayEvent
from cobalt_relay.settings import ZonedSettings

ROOT = Path(__file__).parents[2]
RELAY = ROOT / "layers" / "relay" / "cobalt_relay"
HANDLERS = sorted((ROOT / "functions").glob("*/handler.py"))


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
    # no caller sees those
    pipeline_only = {
        *("schedule_error", "change_error", "registry_error", "rotation_error"),
        *("out_of_time", "unexpected_failure"),
    }
    kinds = [kind for kind in leaves(RelayError) if not pipeline_only & set(codes_of(kind))]

    without = [k for k in kinds if not (set(k.__mro__) - {RelayError}) & set(api.STATUS_OF)]

    assert without == []


def test_every_error_that_passes_says_when_to_try_again() -> None:
    # a 503 is such an error; that is what tells a caller who is shed from one who is refused
    def status_of(kind: type[RelayError]) -> int:
        return next(api.STATUS_OF[base] for base in kind.__mro__ if base in api.STATUS_OF)

    passing = [kind for kind in leaves(RelayError) if status_of(kind) == 503]

    assert passing
    assert [kind for kind in passing if not kind.retry_after] == []


def test_errors_stand_in_the_drawing() -> None:
    drawing = errors.__doc__ or ""

    names = {k.__name__ for k in vars(errors).values() if isinstance(k, type)}
    drawn = set(re.findall(r"(?:── |^    )(\w+)", drawing, re.MULTILINE))

    assert {n for n in names if issubclass(getattr(errors, n), RelayError)} == drawn


# ------------------------------------------------------------------------------------------ layering

ALLOWED = {
    "functions": {"api", "bootstrap", "observability", "models", "services"},
    "services": {
        "patterns",
        "services",
        "models",
        "places",
        "errors",
        "events",
        "observability",
        "tracing",
        "javascript",
        "json_limits",
        "clinic_time",
        "appointments",
        "snapshots",
        "reading",
        "formats",
        "fhir",
    },
    "appointments.py": {"patterns", "json_limits", "models"},
    "reading.py": {"patterns", "appointments", "errors", "models"},
    "formats.py": {"patterns", "appointments", "errors", "fhir", "reading"},
    "snapshots.py": {"appointments", "models"},
    "fhir.py": {"patterns", "appointments", "models"},
    "javascript.py": {"patterns", "json_limits"},
    "json_limits.py": set(),
    "places.py": {"patterns"},
    "clinic_time.py": set(),
    "models.py": {"patterns", "errors"},
    "events.py": {"models"},
    "settings.py": {"clinic_time", "errors", "patterns"},
    "patterns.py": set(),
    "errors.py": set(),
    "tracing.py": {"patterns"},
    "observability.py": {"errors", "tracing"},
    "api.py": {
        "patterns",
        "errors",
        "models",
        "json_limits",
        "observability",
        "reading",
        "tracing",
    },
    "adapters": {
        "patterns",
        "adapters",
        "clinic_time",
        "models",
        "errors",
        "events",
        "places",
        "snapshots",
        "tracing",
    },
    "restoring.py": set(),
    "bootstrap.py": {
        "adapters",
        "errors",
        "observability",
        "restoring",
        "services",
        "settings",
    },
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
        ("Connection", models.CONNECTION_MOVES, {"active"}),
        ("Range", models.RANGE_MOVES, {"ACCEPTED"}),
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


COMPLETE = {
    "COBALT_BASE_URL": "https://api.usecobalt.com",
    "CREDENTIALS_SECRET_ARN": "arn:c",
    "WEBHOOK_SECRET_ARN": "arn:w",
    "TABLE_NAME": "table",
    "BUCKET_NAME": "bucket",
    "EVENT_BUS_NAME": "bus",
    "TOKEN_PATH": "/relay/tokens",
    "TOKEN_KEY_ARN": "arn:k",
    "WEBHOOK_URL": "https://relay.example.com/v1/webhooks/cobalt",
    "JOB_DEADLINE_MINUTES": "120",
    "SINGLE_FLIGHT_SECONDS": "60",
    "RESULT_RETENTION_DAYS": "30",
    "FETCH_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/000000000000/fetches",
    "FETCHES_PER_CONNECTION": "1",
    "DEFAULT_TIME_ZONE": "America/New_York",
}


def test_settings_name_what_is_missing_or_wrong() -> None:
    environment = {
        **COMPLETE,
        "JOB_DEADLINE_MINUTES": "soon",
        "COBALT_BASE_URL": "x",
        "DEFAULT_TIME_ZONE": "Mars/Olympus",
    }
    del environment["TABLE_NAME"]

    with pytest.raises(EnvironmentIncomplete) as error:
        ZonedSettings.from_environment(environment)

    assert (
        "COBALT_BASE_URL, DEFAULT_TIME_ZONE, JOB_DEADLINE_MINUTES, TABLE_NAME"
        in error.value.message
    )
    assert "soon" not in error.value.message


def test_use_cases_are_built_once_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)
    caches = [f for f in vars(bootstrap).values() if hasattr(f, "cache_clear")]

    built = [
        bootstrap.fetch_appointments(),
        bootstrap.read_jobs(),
        bootstrap.read_appointments(),
        bootstrap.freshen(),
        bootstrap.receive_webhook(),
        bootstrap.plan_fetches(),
        bootstrap.run_fetches(),
        bootstrap.fetch_ranges(),
        bootstrap.reconcile_jobs(),
        bootstrap.detect_changes(),
        bootstrap.rotate_webhook_secret(),
    ]

    assert built[0] is bootstrap.fetch_appointments()
    assert bootstrap.settings().job_deadline.total_seconds() == 7200
    for cached in caches:
        cached.cache_clear()


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
