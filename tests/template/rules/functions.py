"""The functions, their schedules, and what the two tell the world about patients."""

import re
from collections.abc import Iterator

from tests.template.document import Document, Json, rule, target, text
from tests.template.rules.api import ROUTES

QUIET = (
    "POWERTOOLS_LOGGER_LOG_EVENT",
    "POWERTOOLS_TRACER_CAPTURE_RESPONSE",
    "POWERTOOLS_TRACER_CAPTURE_ERROR",
)
SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|CREDENTIAL|KEY", re.IGNORECASE)
WHERE_NOT_WHAT = ("_ARN", "_PATH", "_NAME", "_URL")
"""How the names of variables end that tell where a secret is."""

LEVELS = {"INFO", "WARN", "ERROR"}
A_SECOND_UNDER_THE_GATEWAY = 28
HOUR = 3600


def functions(document: Document) -> dict[str, Json]:
    return document.of_type("AWS::Lambda::Function")


def environment(function: Json) -> dict[str, Json]:
    given: dict[str, Json] = function.get("Environment", {}).get("Variables", {})
    return given


def schedules(document: Document) -> dict[str, Json]:
    return document.of_type("AWS::Scheduler::Schedule")


# ------------------------------------------------------------------------------------------ functions


@rule
def function_of_a_route_ends_before_the_gateway_gives_up(document: Document) -> Iterator[str]:
    """After 29 s the caller has a 504, and would never learn what the function still did."""
    for function in {route.function for route in ROUTES.values()}:
        if functions(document)[function].get("Timeout", 3) > A_SECOND_UNDER_THE_GATEWAY:
            yield function


@rule
def function_has_its_share_where_runs_are_reserved(document: Document) -> Iterator[str]:
    """Otherwise callers can take every run of the account, and webhooks find none."""
    reserved = str(document.values["ReservedConcurrency"])
    routes = {route.function for route in ROUTES.values()}
    for name, function in functions(document).items():
        own = {"ReconcileJobs": "3"}.get(name, "1")  # begins each minute, ends after three at most
        wanted = None if reserved == "0" else reserved if name in routes else own
        share = function.get("ReservedConcurrentExecutions")
        if (share if share is None else str(share)) != wanted:
            yield name


@rule
def function_has_a_role_of_its_own(document: Document) -> Iterator[str]:
    """A shared role may do what each of its functions may."""
    roles = [document.role_of(name) for name in functions(document)]
    yield from (name for name in functions(document) if roles.count(document.role_of(name)) > 1)


@rule
def function_logs_into_a_group_of_its_own(document: Document) -> Iterator[str]:
    """Lambda makes a group of its own where it is not told one: without key, and for ever."""
    groups = [
        target(f.get("LoggingConfig", {}).get("LogGroup")) for f in functions(document).values()
    ]
    for name, function in functions(document).items():
        config = function.get("LoggingConfig", {})
        group = target(config.get("LogGroup"))
        if config.get("LogFormat") != "JSON" or group is None or groups.count(group) > 1:
            yield name


@rule
def function_may_write_no_log_but_its_own(document: Document) -> Iterator[str]:
    """Nor make groups: one without a key is made by whoever is asked to log there."""
    for name, function in functions(document).items():
        group = target(function.get("LoggingConfig", {}).get("LogGroup"))
        for statement in document.statements_of(document.role_of(name)):
            if "logs:" in text(statement["Action"]) and (
                target(statement["Resource"]) != group
                or set(statement["Action"]) != {"logs:CreateLogStream", "logs:PutLogEvents"}
            ):
                yield name


@rule
def function_never_logs_at_debug(document: Document) -> Iterator[str]:
    """At DEBUG the libraries log requests and answers whole."""
    if not set(document.parameters["LogLevel"]["AllowedValues"]) <= LEVELS:
        yield "LogLevel"
    for name, function in functions(document).items():
        level = function.get("LoggingConfig", {}).get("ApplicationLogLevel")
        if level != "INFO" or environment(function).get("POWERTOOLS_LOG_LEVEL") not in LEVELS:
            yield name  # a metric is a line of level INFO, so above that there were no alarms either


@rule
def function_keeps_its_events_to_itself(document: Document) -> Iterator[str]:
    """Powertools would log an event and trace an answer, with credentials and patients in them."""
    for name, function in functions(document).items():
        given = environment(function)
        if any(given.get(flag) != "false" for flag in QUIET) or "POWERTOOLS_DEV" in given:
            yield name


@rule
def function_is_told_the_key_and_the_days_of_the_stack(document: Document) -> Iterator[str]:
    """Tokens lie under the stack's own key, and rows as long as the results that they name."""
    days = str(document.values["ResultRetentionDays"])
    for name, function in functions(document).items():
        given = environment(function)
        key = given.get("TOKEN_KEY_ARN")
        if (key, str(given.get("RESULT_RETENTION_DAYS"))) != ({"Fn::GetAtt": ["Key", "Arn"]}, days):
            yield name


@rule
def environment_holds_no_secret(document: Document) -> Iterator[str]:
    """Whoever may look at a function sees its variables; so they tell where secrets are, not what."""
    for name, function in functions(document).items():
        for variable in environment(function):
            if SECRET_NAME.search(variable) and not variable.endswith(WHERE_NOT_WHAT):
                yield f"{name} {variable}"


@rule
def tokens_and_results_travel_by_https(document: Document) -> Iterator[str]:
    """Plain http is for the sandbox on a loopback address, and the parameter's pattern says so."""
    pattern = document.parameters["CobaltBaseUrl"].get("AllowedPattern", "")
    if re.search(pattern, "http://api.usecobalt.com"):
        yield "CobaltBaseUrl"
    for name, function in functions(document).items():
        if "http://" in text(environment(function)):
            yield name


@rule
def failed_run_is_kept_where_nobody_waits_for_it(document: Document) -> Iterator[str]:
    """Lambda drops an asynchronous event that it gave up on, unless it is told where to put it."""
    kept = {
        target(config["FunctionName"])
        for config in document.of_type("AWS::Lambda::EventInvokeConfig").values()
        if target(config.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination"))
    }
    yield from functions(document).keys() - {route.function for route in ROUTES.values()} - kept


@rule
def scheduled_run_is_not_repeated_by_lambda(document: Document) -> Iterator[str]:
    """A second run would ask the clinics' robots twice; failures are for people to put back."""
    retries = {
        target(config["FunctionName"]): config.get("MaximumRetryAttempts", 2)
        for config in document.of_type("AWS::Lambda::EventInvokeConfig").values()
    }
    for schedule in schedules(document).values():
        function = target(schedule["Target"]["Arn"])
        if retries.get(function, 2) != 0:
            yield str(function)


# ------------------------------------------------------------------------------------------ schedules


@rule
def schedule_runs(document: Document) -> Iterator[str]:
    """A stack that was not told otherwise fetches, and looks after what it fetched."""
    for name, schedule in schedules(document).items():
        if schedule.get("State", "ENABLED") != "ENABLED":
            yield name


@rule
def schedule_keeps_what_it_could_not_start(document: Document) -> Iterator[str]:
    """Otherwise a run that found no function leaves no trace at all."""
    for name, schedule in schedules(document).items():
        if target(schedule["Target"].get("DeadLetterConfig", {}).get("Arn")) is None:
            yield name


@rule
def schedule_gives_up_within_the_hour(document: Document) -> Iterator[str]:
    """Scheduler's default is 185 attempts in a day: yesterday's fetch would still run today."""
    for name, schedule in schedules(document).items():
        age = schedule["Target"].get("RetryPolicy", {}).get("MaximumEventAgeInSeconds", 86400)
        if age > HOUR:
            yield name


@rule
def schedule_is_named_after_the_stack(document: Document) -> Iterator[str]:
    """SAM's own name is the same in every stack: the second one of an account would fail."""
    for name, schedule in schedules(document).items():
        if "${AWS::StackName}" not in text(schedule.get("Name")):
            yield name
