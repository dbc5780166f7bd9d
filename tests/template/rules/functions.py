"""The functions, their schedules, and what the two tell the world about patients."""

import json
import re
from collections.abc import Iterator

from cobalt_relay.errors import InvalidScheduleInput
from cobalt_relay.services.plan_fetches import SchedulePlan
from cobalt_relay.services.run_fetches import SECONDS_PER_FETCH
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
STACK = "a-stack"
"""What stands for the name of the stack."""


def functions(document: Document) -> dict[str, Json]:
    return document.of_type("AWS::Lambda::Function")


def environment(function: Json) -> dict[str, Json]:
    given: dict[str, Json] = function.get("Environment", {}).get("Variables", {})
    return given


def schedules(document: Document) -> dict[str, Json]:
    return document.of_type("AWS::Scheduler::Schedule")


def mappings(document: Document) -> dict[str, Json]:
    """Give what makes functions of queues."""
    return document.of_type("AWS::Lambda::EventSourceMapping")


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
    fetches = str(document.values["FetchConcurrency"])
    routes = {route.function for route in ROUTES.values()}
    for name, function in functions(document).items():
        own = {
            "ReconcileJobs": "3",  # begins each minute, ends after three at most
            "RunFetches": fetches,  # or its queue would count tries
            "DetectChanges": fetches,  # as many results come at once as are fetched
        }.get(name, "1")
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
    """Lambda drops an asynchronous event that it gave up on, unless it is told where to put it.

    A queue keeps its own, and puts them where it is told.
    """
    of_queues = {
        target(mapping["FunctionName"])
        for mapping in mappings(document).values()
        if target(mapping["EventSourceArn"]) in document.of_type("AWS::SQS::Queue")
    }
    kept = of_queues | {
        target(config["FunctionName"])
        for config in document.of_type("AWS::Lambda::EventInvokeConfig").values()
        if target(config.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination"))
    }
    yield from functions(document).keys() - {route.function for route in ROUTES.values()} - kept


@rule
def scheduled_run_is_repeated_where_that_mends_something(document: Document) -> Iterator[str]:
    """A plan made again queues what the first run did not come to, and nothing is fetched twice.

    The reconciler runs again within a minute by itself.
    """
    wanted = {"PlanFetches": 2, "ReconcileJobs": 0}
    retries = {
        target(config["FunctionName"]): config.get("MaximumRetryAttempts", 2)
        for config in document.of_type("AWS::Lambda::EventInvokeConfig").values()
    }
    for schedule in schedules(document).values():
        function = target(schedule["Target"]["Arn"])
        if retries.get(function, 2) != wanted.get(str(function)):
            yield str(function)


# --------------------------------------------------------------------------------------------- queues


@rule
def queue_tries_each_message_alone(document: Document) -> Iterator[str]:
    """Without partial answers one message that fails brings back its whole batch, to its end."""
    for name, mapping in mappings(document).items():
        if mapping.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
            yield name


@rule
def queue_is_worked_off_at_the_pace_of_the_parameter(document: Document) -> Iterator[str]:
    """Without a limit Lambda begins as many batches as it can, and Cobalt gets them all at once."""
    wanted = str(document.values["FetchConcurrency"])
    for name, mapping in mappings(document).items():
        if str(mapping.get("ScalingConfig", {}).get("MaximumConcurrency")) != wanted:
            yield name


@rule
def message_stays_hidden_while_its_function_runs(document: Document) -> Iterator[str]:
    """For six times as long as a run, as Lambda's documentation asks for: else it comes twice."""
    for name, mapping in mappings(document).items():
        queue = document.resources[str(target(mapping["EventSourceArn"]))]["Properties"]
        function = functions(document)[str(target(mapping["FunctionName"]))]
        if queue.get("VisibilityTimeout", 30) < 6 * function.get("Timeout", 3):
            yield name


@rule
def batch_is_no_larger_than_a_run_can_work_off(document: Document) -> Iterator[str]:
    """A message for which there is no time is put off, and that again and again."""
    for name, mapping in mappings(document).items():
        timeout = functions(document)[str(target(mapping["FunctionName"]))].get("Timeout", 3)
        if mapping.get("BatchSize", 10) * SECONDS_PER_FETCH > timeout:
            yield name


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


@rule
def schedule_fetches_when_and_what_the_parameters_say(document: Document) -> Iterator[str]:
    """At one time for all, or each quarter of an hour, of which each clinic has its own.

    A plan that names its schedule and the time for which it was made is the same when made again.
    """
    values = document.values
    clinic_time = str(values["ScheduleClinicTime"]) or None
    zone = "UTC" if clinic_time else values["ScheduleTimezone"]
    expression = "cron(0/15 * * * ? *)" if clinic_time else values["ScheduleExpression"]
    wanted = {
        "connections": "all",
        "from_day": int(values["ScheduleFromDay"]),
        "days": int(values["ScheduleDays"]),
        "spread_minutes": int(values["ScheduleSpreadMinutes"]),
        **({"at": clinic_time} if clinic_time else {}),
        "schedule": f"{STACK}-fetch-all",
        "scheduled_at": "<aws.scheduler.scheduled-time>",
    }
    for name, schedule in schedules(document).items():
        if target(schedule["Target"]["Arn"]) != "PlanFetches":
            continue
        when = (schedule.get("ScheduleExpression"), schedule.get("ScheduleExpressionTimezone"))
        given = plan_of(schedule, values)
        if when != (expression, zone) or given != wanted:
            yield name


def plan_of(schedule: Json, values: Json) -> Json:
    """Give the input of a schedule as its function gets it; None where that is no plan."""
    written = schedule["Target"]["Input"]
    try:
        plan = json.loads(
            _filled(written["Fn::Sub"] if isinstance(written, dict) else written, values)
        )
        SchedulePlan.parse(plan)
    except (ValueError, InvalidScheduleInput):
        return None
    return plan


def _filled(written: str, values: Json) -> str:
    known = {**values, "AWS::StackName": STACK}
    return re.sub(r"\$\{([\w:]+)\}", lambda match: str(known[match[1]]), written)
