"""What our template promises beyond the public rule sets, and that each promise can be broken."""

import re

import pytest

from cobalt_relay.settings import RotationSettings, Settings, ZonedSettings
from tests.template import access
from tests.template.document import RULES, VARIANTS, Document, broken, document, source
from tests.template.faults import LISTED, NO_COUNTERPART, OWN, Fault
from tests.template.rules import api, data, delivery, functions, identities
from tests.unit.test_metrics import described
from tools.audit.transform import transformed
from tools.dashboard import dashboard
from tools.local.paths import ROOT

MODULES = (api, data, delivery, functions, identities)  # importing them makes their rules known
LISTED_FAULTS = 45


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", RULES)
def test_template_keeps_rule(name: str, variant: str) -> None:
    subjects = list(RULES[name](document(variant)))

    assert subjects == []


@pytest.mark.parametrize("fault", [*LISTED, *OWN], ids=lambda fault: fault.name)
def test_fault_is_reported_by_its_rules_alone(fault: Fault) -> None:
    intact = broken(document(fault.variant))

    reported = broken(with_fault(fault)) - intact

    assert {name for name, _ in reported} == fault.rules


def with_fault(fault: Fault) -> Document:
    """Give a variant with the fault in it; a change that finds nothing to change is an error."""
    if fault.is_for_sam:
        template = source()
        written = Document({}, template["Parameters"], template["Resources"], {}).copy()
    else:
        written = document(fault.variant).copy()
    for change in fault.changes:
        change(written)
    if not fault.is_for_sam:
        return written
    spoilt = transformed(VARIANTS[fault.variant], {**template, "Resources": written.resources})
    values = document(fault.variant).values
    return Document(values, written.parameters, spoilt["Resources"], spoilt["Outputs"])


def test_every_listed_fault_is_put_in_or_explained() -> None:
    names = [*(fault.name for fault in LISTED), *NO_COUNTERPART]

    assert len(set(names)) == len(names) == LISTED_FAULTS


def test_every_rule_is_shown_to_fail() -> None:
    shown = {name for fault in (*LISTED, *OWN) for name in fault.rules}

    assert shown == RULES.keys()


def test_variants_have_every_resource_of_the_template() -> None:
    present = {name for variant in VARIANTS for name in document(variant).resources}
    expanded = {"Api", "DependenciesLayer", "RelayLayer"}  # SAM puts a digest behind their names

    assert source()["Resources"].keys() - expanded <= present


def test_matrix_has_a_row_for_every_function() -> None:
    functions_of_template = document("defaults").of_type("AWS::Lambda::Function")

    assert access.written_down().keys() == {*functions_of_template, "schedules"}


def test_every_function_folder_is_deployed_and_every_function_has_one() -> None:
    folders = {f"functions/{path.parent.name}" for path in ROOT.glob("functions/*/handler.py")}
    deployed = document("defaults").of_type("AWS::Lambda::Function").values()

    assert {function["Code"]["S3Key"] for function in deployed} == folders


@pytest.mark.parametrize("name", document("defaults").of_type("AWS::Lambda::Function"))
def test_settings_are_the_environment_of_the_function(name: str) -> None:
    given = functions.environment(document("defaults").resources[name]["Properties"])

    special: dict[str, type[Settings]] = {
        "PlanFetches": ZonedSettings,
        "DetectChanges": ZonedSettings,
        "RotateWebhookSecret": RotationSettings,
    }
    settings = special.get(name, Settings)
    read = set(settings.VARIABLES)

    libraries = ("POWERTOOLS_", "PYDANTIC_")
    assert read == {variable for variable in given if not variable.startswith(libraries)}


# ----------------------------------------------------------------------------------- alarms, dashboard

OPERATING = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
GRID = 24
AWS_METRICS = {
    "AWS/SQS": {"ApproximateNumberOfMessagesVisible"},
    "AWS/Lambda": {"Errors", "Throttles", "Duration"},
    "AWS/ApiGateway": {"4XXError", "5XXError", "Latency"},
}


def test_runbook_has_a_line_for_every_alarm_and_none_besides() -> None:
    lines = [
        line for line in OPERATING.splitlines() if re.match(r"\| `[A-Z]\w+`.*\|.*\|.*\|", line)
    ]
    named = [name for line in lines for name in re.findall(r"`([A-Z]\w+)`", line.split("|")[1])]

    assert sorted(named) == sorted(document("defaults").of_type("AWS::CloudWatch::Alarm"))


def test_dashboard_shows_what_is_measured() -> None:
    widgets = dashboard.widgets()
    shown = [metric for widget in widgets for metric in dashboard.metrics_of(widget)]
    functions_of_template = document("defaults").of_type("AWS::Lambda::Function").keys()

    assert {each.name for each in shown if each.namespace == "CobaltRelay"} <= set(described())
    for each in shown:
        if each.namespace == "CobaltRelay":
            assert each.dimensions == {"service": dashboard.STACK}
        else:
            assert each.name in AWS_METRICS[each.namespace]
        if each.namespace == "AWS/Lambda":
            assert each.dimensions["FunctionName"] in functions_of_template
    watched = {each.dimensions["FunctionName"] for each in shown if each.name == "Errors"}
    assert watched == functions_of_template


def test_widgets_of_the_dashboard_stand_side_by_side() -> None:
    cells = [
        (x, y)
        for each in dashboard.widgets()
        for x in range(each["x"], each["x"] + each["width"])
        for y in range(each["y"], each["y"] + each["height"])
    ]

    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < GRID
    assert len(cells) == GRID * (max(y for _, y in cells) + 1)  # without a gap


def test_first_of_all_the_dashboard_says_whether_data_is_fresh() -> None:
    text, *first = [each for each in dashboard.widgets() if each["y"] < 3]

    assert text["properties"]["markdown"].startswith("# Is every clinic's data fresh?\n")
    names = {metric.name for each in first for metric in dashboard.metrics_of(each)}
    assert names == {
        *("ConnectionsStale", "ConnectionsFresh", "ConnectionsSuspended", "StalestConnectionAge"),
    }


PUBLISHED = [
    name
    for name, resource in source()["Resources"].items()
    if "AutoPublishAlias" in resource["Properties"]
]
NOT_OF_A_VERSION = {"Events", "ProvisionedConcurrencyConfig", "ReservedConcurrentExecutions"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_version_is_published_anew_when_a_parameter_of_the_function_changes(name: str) -> None:
    own = source()["Resources"][name]["Properties"]
    told = {**source()["Globals"]["Function"], **own}
    description = str(told.pop("VersionDescription"))
    parameters = source()["Parameters"].keys()

    named = parameters & set(re.findall(r"\$\{(\w+)\}", description))

    properties = {key: value for key, value in told.items() if key not in NOT_OF_A_VERSION}
    assert named == parameters_of(properties)
    longest = sum(source()["Parameters"][each].get("MaxLength", 8) + 1 for each in named)
    assert longest <= 256  # what Lambda takes for a description


def test_functions_behind_the_api_are_those_that_publish_versions() -> None:
    assert set(PUBLISHED) == {route.function for route in api.ROUTES.values()}


def parameters_of(value: object) -> set[str]:
    """Name the parameters on which a part of the template depends, by its conditions too."""
    parameters, conditions = set[str](source()["Parameters"]), source()["Conditions"]
    match value:
        case {"Ref": str(name)}:
            return {name} & parameters
        case {"Fn::Sub": str(text)}:
            return parameters & set(re.findall(r"\$\{(\w+)\}", text))
        case {"Fn::If": [str(condition), *branches]}:
            return parameters_of(conditions[condition]) | parameters_of(branches)
        case dict():
            return {name for each in value.values() for name in parameters_of(each)}
        case list():
            return {name for each in value for name in parameters_of(each)}
    return set()


# -------------------------------------------------------------------------------------- the security page

SECURITY = (ROOT / "SECURITY.md").read_text()


def test_security_page_quotes_the_matrix() -> None:
    assert access.MATRIX in SECURITY


def test_security_page_names_tests_and_parameters_that_there_are() -> None:
    here = {path.name for path in (ROOT / "tests").rglob("*.py")}
    named = set(re.findall(r"`(?:tests/[a-z/]+/)?(test_\w+\.py)`", SECURITY))
    folders = set(re.findall(r"`(tests/[a-z]+)`", SECURITY))
    parameters = set(re.findall(r"`((?:Enable|Require|Reserved|Webhook)[A-Z]\w+)`", SECURITY))

    assert len(named) > 10
    assert named <= here
    assert all((ROOT / folder).is_dir() for folder in folders)
    assert parameters - {"WebhookSecretArn"} <= set(source()["Parameters"])
