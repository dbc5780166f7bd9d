"""`relay schedules`: EventBridge Scheduler schedules that invoke plan_fetches.

Those made here are named `<stack>-<name>`, and have the target, the role, the retries and the
failure queue of the template's own.
"""

import json
import re
from typing import Any, NamedTuple

import typer
from botocore.exceptions import ClientError

from cobalt_relay.services.plan_fetches import QUARTER, SCHEDULED_TIME, SchedulePlan
from tools.relay import rows
from tools.relay.faults import ExitCode, NotFound, NotWell, Unreachable, WrongUsage
from tools.relay.output import Output, confirm
from tools.relay.session import ONCE, Deployment

QUARTERS = "cron(0/15 * * * ? *)"
"""When a schedule looks whose clock shows the wanted time: every time zone is off by quarters."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_RATE = re.compile(r"[1-9][0-9]{0,4} (minute|hour|day)s?", re.ASCII)
_CRON = re.compile(r"\S+( \S+){5}", re.ASCII)


class When(NamedTuple):
    """When a schedule runs, as the options say."""

    cron: str | None = None
    rate: str | None = None
    timezone: str | None = None
    at: str | None = None
    disabled: bool = False


class What(NamedTuple):
    """What it fetches, as the options say."""

    from_day: int = 0
    days: int = 14
    connections: tuple[str, ...] = ()
    spread_minutes: int | None = None


def every(deployment: Deployment) -> list[dict[str, Any]]:
    """Give the schedules of this stack that invoke plan_fetches, by name."""
    client, plan = deployment.client("scheduler"), deployment.output("PlanFetchesName")
    found: list[dict[str, Any]] = []
    pages = client.get_paginator("list_schedules").paginate(
        GroupName="default", NamePrefix=f"{deployment.stack_name}-"
    )
    for page in pages:
        found += [
            client.get_schedule(GroupName="default", Name=listed["Name"])
            for listed in page["Schedules"]
            if _function_of(listed["Target"]["Arn"]) == plan
        ]
    return sorted(found, key=lambda each: str(each["Name"]))


def naming(deployment: Deployment, connection_id: str) -> list[str]:
    """Give the names of the schedules that name a connection."""
    return [
        schedule["Name"]
        for schedule in every(deployment)
        if connection_id in (plan_of(schedule).get("connections") or ())
    ]


def plan_of(schedule: dict[str, Any]) -> dict[str, Any]:
    """Give the input of a schedule; empty where it is none."""
    try:
        said = json.loads(schedule["Target"].get("Input") or "{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def show_all(deployment: Deployment, output: Output) -> None:
    """List them."""
    found = [_summary(deployment, each) for each in every(deployment)]
    if output.as_json:
        output.document({"schedules": found})
        return
    prefix = f"{deployment.stack_name}-" if output.is_narrow else ""
    output.table(
        ("schedule", "state", "when", "days", "connections", "from"),
        [
            (
                each["name"].removeprefix(prefix),
                each["state"],
                _when(each),
                _days(each["input"]),
                _connections(each["input"]),
                "template" if each["of_the_template"] else "here",
            )
            for each in found
        ],
    )


def add(deployment: Deployment, output: Output, name: str, when: When, what: What) -> None:
    """Make one."""
    full = _full_name(deployment, name)
    if full in _own(deployment):
        raise WrongUsage("name_taken", f"{full} is a schedule of the template's own.")
    expression, plan = _expression(when), _plan(deployment, full, when, what)
    own = _get(deployment, deployment.output("ScheduleName"))
    kept = ("Arn", "RoleArn", "RetryPolicy", "DeadLetterConfig")
    target = {key: own["Target"][key] for key in kept if key in own["Target"]}
    if (spread := plan_of(own).get("spread_minutes")) is not None:
        plan.setdefault("spread_minutes", spread)
    try:
        deployment.client("scheduler").create_schedule(
            GroupName="default",
            Name=full,
            Description="Made by relay schedules add",
            **expression,
            State="DISABLED" if when.disabled else "ENABLED",
            FlexibleTimeWindow={"Mode": "OFF"},
            Target={**target, "Input": json.dumps(plan)},
        )
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "ConflictException":
            raise WrongUsage("name_taken", f"There is a schedule {full} already.") from error
        if code == "ValidationException":
            raise WrongUsage(
                "invalid_expression", "EventBridge Scheduler does not take that time."
            ) from error
        raise
    made = _summary(deployment, _get(deployment, full))
    if output.as_json:
        output.document(made)
    else:
        output.say(f"The schedule {full} is made: {_when(made)}.", style="green")


def run_now(deployment: Deployment, output: Output, name: str) -> None:
    """Invoke plan_fetches with the input of a schedule, now, for whatever hour it is meant.

    Exit code 1 where a connection that it names could not be planned.
    """
    schedule = _find(deployment, name)
    plan = plan_of(schedule)
    plan.pop("at", None)
    with output.working("plan_fetches is running ..."):
        answer = deployment.client("lambda", ONCE).invoke(
            FunctionName=deployment.output("PlanFetchesName"), Payload=json.dumps(plan).encode()
        )
        said = json.loads(answer["Payload"].read() or b"null")
    if "FunctionError" in answer:
        kind = said.get("errorType") if isinstance(said, dict) else None
        raise NotWell(
            "run_failed", f"plan_fetches failed: {kind or 'unknown'}. `relay doctor` may say why."
        )
    told = said if isinstance(said, dict) else {}
    failed = told.get("failed") or {}
    if output.as_json:
        output.document({"schedule": schedule["Name"], "input": plan, "result": said})
    else:
        output.say(f"{schedule['Name']} ran.", style="yellow" if failed else "green")
        output.facts([(key.replace("_", " "), _count(value)) for key, value in told.items()])
        for connection_id, code in failed.items():
            output.say(f"{connection_id}: {code}", style="red")
    if failed:
        raise typer.Exit(ExitCode.FAILED)


def remove(deployment: Deployment, output: Output, name: str, *, sure: bool) -> None:
    """Remove one that was made here."""
    schedule = _find(deployment, name)
    if schedule["Name"] in _own(deployment):
        raise WrongUsage(
            "of_the_template",
            f"{schedule['Name']} belongs to the template: deploy with ScheduleState=DISABLED.",
        )
    if not sure and not confirm(output, f"Remove the schedule {schedule['Name']}?"):
        raise NotWell("not_confirmed", "Not confirmed: nothing was removed.")
    deployment.client("scheduler").delete_schedule(GroupName="default", Name=schedule["Name"])
    if output.as_json:
        output.document({"removed": schedule["Name"]})
    else:
        output.say(f"The schedule {schedule['Name']} is removed.", style="green")


# ------------------------------------------------------------------------------------ what is meant


def _expression(when: When) -> dict[str, str]:
    given = [each for each in (when.cron, when.rate, when.at) if each]
    if len(given) != 1:
        raise WrongUsage("when", "Say when: one of --cron, --rate and --at.")
    if when.timezone and not when.cron:
        raise WrongUsage("when", "--timezone goes with --cron.")
    zone = {"ScheduleExpressionTimezone": when.timezone or "UTC"}
    if when.at:
        if not re.fullmatch(QUARTER, when.at):
            raise WrongUsage("when", "--at is a quarter of an hour, such as 06:00 or 17:45.")
        return {"ScheduleExpression": QUARTERS, **zone}
    if when.rate:
        if not _RATE.fullmatch(when.rate):
            raise WrongUsage("when", "--rate is a number and minutes, hours or days: '6 hours'.")
        return {"ScheduleExpression": f"rate({when.rate})", **zone}
    if not _CRON.fullmatch(when.cron or ""):
        raise WrongUsage("when", "--cron has six fields: minute hour day month weekday year.")
    if when.timezone and not _is_zone(when.timezone):
        raise WrongUsage("when", "There is no such time zone: name one as America/New_York.")
    return {"ScheduleExpression": f"cron({when.cron})", **zone}


def _is_zone(name: str) -> bool:
    from zoneinfo import available_timezones  # noqa: PLC0415 - reads many files

    return name in available_timezones()


def _plan(deployment: Deployment, full: str, when: When, what: What) -> dict[str, Any]:
    plan: dict[str, Any] = {"from_day": what.from_day, "days": what.days}
    if what.connections:
        found = rows.find_in_use(deployment, *what.connections)
        plan["connections"] = [each.connection_id for each in found]
    if what.spread_minutes is not None:
        plan["spread_minutes"] = what.spread_minutes
    plan |= {"schedule": full, "scheduled_at": SCHEDULED_TIME}
    if when.at:
        plan["at"] = when.at
    SchedulePlan.parse(plan)  # what plan_fetches would refuse is refused here
    return plan


# ------------------------------------------------------------------------------------ what is there


def _own(deployment: Deployment) -> tuple[str, ...]:
    return tuple(
        name
        for key in ("ScheduleName", "ReconcileScheduleName")
        if (name := deployment.outputs.get(key))
    )


def _full_name(deployment: Deployment, name: str) -> str:
    prefix = f"{deployment.stack_name}-"
    full = name if name.startswith(prefix) else prefix + name
    if not _NAME.fullmatch(full):
        raise WrongUsage(
            "name", f"With {prefix} a name has at most 64 letters, digits, dots, _ and -."
        )
    return full


def _find(deployment: Deployment, name: str) -> dict[str, Any]:
    schedule = _get(deployment, _full_name(deployment, name))
    if _function_of(schedule["Target"]["Arn"]) != deployment.output("PlanFetchesName"):
        raise WrongUsage("not_a_fetch", f"{schedule['Name']} fetches nothing.")
    return schedule


def _get(deployment: Deployment, full: str) -> dict[str, Any]:
    try:
        found = deployment.client("scheduler").get_schedule(GroupName="default", Name=full)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            raise NotFound(
                "unknown_schedule", f"There is no schedule {full}: see `relay schedules list`."
            ) from error
        raise Unreachable(
            "aws_refused", f"AWS refused GetSchedule: {error.response['Error']['Code']}."
        ) from error
    return dict(found)


def _function_of(arn: str) -> str:
    return arn.rpartition(":function:")[2].partition(":")[0]


def _summary(deployment: Deployment, schedule: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": schedule["Name"],
        "state": schedule["State"],
        "expression": schedule["ScheduleExpression"],
        "timezone": schedule.get("ScheduleExpressionTimezone") or "UTC",
        "input": plan_of(schedule),
        "of_the_template": schedule["Name"] in _own(deployment),
    }


def _when(summary: dict[str, Any]) -> str:
    at = summary["input"].get("at")
    if at:
        return f"{at} clinic time"
    expression = str(summary["expression"])
    if not expression.startswith("cron("):
        return expression
    return f"{expression[len('cron(') : -1]} {summary['timezone']}"


def _days(plan: dict[str, Any]) -> str:
    first = plan.get("from_day", 0)
    return f"{plan.get('days', 14)} from {f'{first:+d}' if first else 'today'}"


def _connections(plan: dict[str, Any]) -> str:
    named = plan.get("connections", "all")
    return named if isinstance(named, str) else str(len(named))


def _count(value: object) -> object:
    if isinstance(value, dict) and {"start_date", "end_date"} <= value.keys():
        return f"{value['start_date']} to {value['end_date']}"
    return len(value) if isinstance(value, dict | list) else value
