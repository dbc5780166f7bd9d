"""`relay doctor`: the whole chain, from the stack to what Cobalt could not deliver.

Each check tells what it found and, where that is not well, what to do. What cannot be looked at
because an earlier link is broken is skipped, and a check that itself fails is a failed one.
"""

import hashlib
import hmac
import json
import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, NamedTuple

import typer
from botocore.exceptions import BotoCoreError, ClientError

from cobalt_relay.adapters.front_door import FrontDoor
from cobalt_relay.adapters.table import Key
from cobalt_relay.errors import (
    AccessTokenRefused,
    InvalidScheduleInput,
    PendingSecretUnproven,
    RelayError,
)
from cobalt_relay.models import (
    PROBE,
    ClientCredentials,
    Connection,
    WebhookRegistration,
    iso,
    utc_now,
)
from cobalt_relay.services.plan_fetches import SchedulePlan
from tools.relay import rows, schedules
from tools.relay.app import explained
from tools.relay.configure import credentials_in
from tools.relay.faults import ExitCode, NotFound, RelayCommandError
from tools.relay.output import Output
from tools.relay.session import Deployment, json_object, secret_text
from tools.relay.upstream import FailedDelivery, Upstream

MOST_SKEW = 60.0
"""Seconds by which a clock may be off."""
PROBE_PAUSES = (1.5, 3.0)
"""Seconds before a probe is sent again: a receiver that has just read its secret answers 503."""
TAKEN, REFUSED = 200, 401
HEALTHY = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE")
QUEUES = {
    "ScheduleFailuresUrl": "schedule runs that failed",
    "EventFailuresUrl": "events that were not delivered",
    "FetchFailuresUrl": "fetches that failed",
}
WARNED_FOR = timedelta(days=30)
"""How long Cobalt's warning of a password is told: nothing says when the password has changed."""
MOST_NAMED = 5

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"


class Finding(NamedTuple):
    """What a check found. `remedy` says what to do where that is not well."""

    check: str
    status: str
    found: str
    remedy: str = ""


type Check = Callable[[], Iterator[Finding]]


def examine(deployment: Deployment, output: Output, days: int) -> None:
    """Run every check; exit code 1 where one failed."""
    patient = Patient(deployment, days)
    findings: list[Finding] = []
    with output.working("Looking ...") as working:
        for name, check in patient.checks():
            working.say(f"{name} ...")
            findings += _findings(name, check)
    failed = sum(each.status == FAILED for each in findings)
    if output.as_json:
        output.document({"well": not failed, "checks": [each._asdict() for each in findings]})
    else:
        _tell(output, findings, failed)
    if failed:
        raise typer.Exit(ExitCode.FAILED)


def _findings(name: str, check: Check) -> list[Finding]:
    try:
        return list(check())
    except _UnknownError:
        return [Finding(name, SKIPPED, "an earlier check has to be well first")]
    except (RelayError, RelayCommandError) as error:
        told = explained(error)
        return [Finding(name, FAILED, told.code, told.message)]
    except ClientError as error:
        code = error.response["Error"]["Code"]
        remedy = f"You may need a permission for {error.operation_name}."
        return [Finding(name, FAILED, f"AWS answered {code}", remedy)]
    except BotoCoreError as error:
        return [Finding(name, FAILED, type(error).__name__, "See whether AWS can be reached.")]


def _tell(output: Output, findings: list[Finding], failed: int) -> None:
    marks = {OK: "✓", WARNING: "!", FAILED: "✗", SKIPPED: "-"}
    styles = {OK: "green", WARNING: "yellow", FAILED: "bold red", SKIPPED: "dim"}
    for each in findings:
        output.say(f"{marks[each.status]} {each.check}: {each.found}", style=styles[each.status])
        if each.remedy and each.status in {WARNING, FAILED}:
            output.say(f"    {each.remedy}")
    warnings = sum(each.status == WARNING for each in findings)
    output.say()
    output.say(
        f"{failed} failed, {warnings} to be looked at." if failed or warnings else "All is well.",
        style="bold red" if failed else "yellow" if warnings else "bold green",
    )


class _UnknownError(Exception):
    """What a check needs is what an earlier one found missing."""


@dataclass
class Patient:
    """A stack that is looked at. What one check finds out, the next ones know."""

    deployment: Deployment
    days: int

    def checks(self) -> list[tuple[str, Check]]:
        """Give the checks, in the order of the chain."""
        return [
            ("stack", self.stack),
            ("client credentials", self.client_credentials),
            ("Cobalt", self.cobalt),
            ("webhook URL", self.webhook_url),
            ("webhook secret", self.webhook_secret),
            ("signature", self.signature),
            ("clock", self.clock),
            ("schedules", self.schedules),
            ("reconciler", self.reconciler),
            ("failure queues", self.failure_queues),
            ("connections", self.connections),
            ("alarms", self.alarms),
            ("deliveries", self.deliveries),
        ]

    # ------------------------------------------------------------------------------------ the parts

    @cached_property
    def credentials(self) -> ClientCredentials:
        """The stored credentials, if they are well-formed."""
        arn = self.deployment.output("CobaltCredentialsArn")
        text = secret_text(self.deployment.client("secretsmanager"), arn)
        found = credentials_in(json_object(text))
        if found is None:
            raise _UnknownError
        return found

    @cached_property
    def _answer(self) -> WebhookRegistration | RelayError:
        try:
            return self.deployment.cobalt.webhook(self.credentials)
        except RelayError as error:
            return error

    @cached_property
    def registration(self) -> WebhookRegistration:
        """What Cobalt says of its webhooks, if it takes the credentials."""
        if isinstance(self._answer, RelayError):
            raise _UnknownError from self._answer
        return self._answer

    @cached_property
    def key(self) -> str:
        """The stored webhook secret, if it is well-formed."""
        arn = self.deployment.output("WebhookSecretArn")
        said = json_object(secret_text(self.deployment.client("secretsmanager"), arn))
        key = said.get("webhook_secret_key")
        if not isinstance(key, str) or not key:
            raise _UnknownError
        return key

    @cached_property
    def fleet(self) -> list[Connection]:
        """Every connection, replaced ones too."""
        return rows.connections(self.deployment)

    # ----------------------------------------------------------------------------------- the checks

    def stack(self) -> Iterator[Finding]:
        """Its status, and whether it is one of ours."""
        deployment = self.deployment
        status = deployment.status or self._local_status()
        if status in HEALTHY:
            yield Finding("stack", OK, f"{deployment.stack_name} in {deployment.region}: {status}")
        else:
            yield Finding(
                "stack", FAILED, f"its status is {status}", "Deploy it again: sam deploy."
            )
        for name in ("ApiUrl", "TableName", "PlanFetchesName", "EventBusName"):
            deployment.output(name)

    def _local_status(self) -> str:
        client = self.deployment.client("cloudformation")
        [stack] = client.describe_stacks(StackName=self.deployment.stack_name)["Stacks"]
        return str(stack["StackStatus"])

    def client_credentials(self) -> Iterator[Finding]:
        """Whether they are there and well-formed."""
        try:
            found = self.credentials
        except _UnknownError:
            yield Finding(
                "client credentials",
                FAILED,
                "there are none, or they are not well-formed",
                "Run `relay configure`.",
            )
            return
        yield Finding("client credentials", OK, f"there, for client {found.client_id}")

    def cobalt(self) -> Iterator[Finding]:
        """Whether Cobalt takes them."""
        if isinstance(self._answer, RelayError):
            yield Finding(
                "Cobalt",
                FAILED,
                f"does not answer as it should: {self._answer.code}",
                "Where it refuses the credentials, run `relay configure`; else try again later.",
            )
            return
        url = self.deployment.settings.cobalt_base_url
        yield Finding("Cobalt", OK, f"takes the credentials at {url}")

    def webhook_url(self) -> Iterator[Finding]:
        """Whether Cobalt delivers to us, and to whom else."""
        registered, ours = set(self.registration.ids), self.deployment.webhook_url
        if ours in registered:
            yield Finding("webhook URL", OK, f"Cobalt delivers to {ours}")
        else:
            yield Finding(
                "webhook URL",
                FAILED,
                f"Cobalt does not deliver to {ours}",
                "Run `relay configure`: it registers the URL.",
            )
        for other in sorted(registered - {ours}):
            yield Finding(
                "webhook URL",
                WARNING,
                f"Cobalt delivers to {other} too",
                "Where nobody knows that URL, take it back with DELETE /v1/webhook/{id}.",
            )

    def webhook_secret(self) -> Iterator[Finding]:
        """Whether the stored one is there, and is what Cobalt signs with."""
        remedy = "Run `relay configure`: it takes over what Cobalt signs with."
        try:
            key = self.key
        except _UnknownError:
            said = "there is none, or it is not well-formed"
            yield Finding("webhook secret", FAILED, said, remedy)
            return
        theirs = self.registration.secret
        if theirs is None:
            said = "Cobalt does not say which one it uses"
            yield Finding("webhook secret", WARNING, said, "The next check proves ours alone.")
        elif hmac.compare_digest(theirs.encode(), key.encode()):
            yield Finding("webhook secret", OK, "what Cobalt signs with")
        else:
            yield Finding("webhook secret", FAILED, "not what Cobalt signs with", remedy)

    def signature(self) -> Iterator[Finding]:
        """Whether our own URL takes what is signed, and refuses what is forged."""
        taken = self._probe(self.key.encode(), TAKEN)
        forged = self._probe(secrets.token_bytes(32), REFUSED)
        if taken == TAKEN and forged == REFUSED:
            yield Finding("signature", OK, "a signed delivery is taken, a forged one refused")
            return
        yield Finding(
            "signature",
            FAILED,
            f"a signed delivery is answered {taken}, a forged one {forged}",
            "See what receive_webhook logs, and whether the webhook URL is the stack's own.",
        )

    def _probe(self, key: bytes, wanted: int) -> int:
        document = {"id": f"relay-probe-{uuid.uuid4()}", "type": PROBE, "timestamp": iso(utc_now())}
        body = json.dumps(document).encode()
        signature = hmac.new(key, body, hashlib.sha256).hexdigest()
        door, status = FrontDoor(self.deployment.webhook_url), 0
        for pause in (*PROBE_PAUSES, None):
            try:
                status = door.deliver(body, signature)
            except PendingSecretUnproven:
                status = 0
            if status == wanted or pause is None:
                break
            time.sleep(pause)
        return status

    def clock(self) -> Iterator[Finding]:
        """Whether AWS's clock and Cobalt's agree with ours."""
        answer = self.deployment.client("sqs").get_queue_attributes(
            QueueUrl=self.deployment.output("EventLogUrl"), AttributeNames=["QueueArn"]
        )
        said = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        aws = parsedate_to_datetime(said).timestamp() if said else None
        yield _skew("AWS", aws)
        upstream = Upstream(self.deployment, self.credentials)
        try:
            upstream.ask_for_webhook()
        except RelayError:
            raise _UnknownError from None
        yield _skew("Cobalt", upstream.clock)

    def schedules(self) -> Iterator[Finding]:
        """Whether each is enabled, has an input that is one, and keeps what fails."""
        found = schedules.every(self.deployment)
        own = self.deployment.output("ScheduleName")
        if own not in {each["Name"] for each in found}:
            yield Finding("schedules", FAILED, f"{own} is not there", "Deploy the stack again.")
        known = {each.connection_id for each in self.fleet}
        for schedule in found:
            yield _schedule(schedule, known)

    def reconciler(self) -> Iterator[Finding]:
        """Whether it runs every minute."""
        name = self.deployment.output("ReconcileScheduleName")
        client = self.deployment.client("scheduler")
        try:
            schedule = client.get_schedule(GroupName="default", Name=name)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise
            raise NotFound(
                "no_reconciler", "Its schedule is gone. Deploy the stack again."
            ) from error
        if schedule["State"] == "ENABLED":
            yield Finding("reconciler", OK, f"{name} runs at {schedule['ScheduleExpression']}")
        else:
            yield Finding(
                "reconciler",
                FAILED,
                f"{name} is disabled: lost webhooks stay lost",
                "Enable it in EventBridge Scheduler, or deploy the stack again.",
            )

    def failure_queues(self) -> Iterator[Finding]:
        """Whether they are empty."""
        sqs = self.deployment.client("sqs")
        for output, holding in QUEUES.items():
            url = self.deployment.outputs.get(output)
            if not url:
                continue
            names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
            said = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
            waiting = sum(int(said[name]) for name in names)
            if waiting:
                remedy = "Mend the cause, then run `relay redrive`; it tells what has to stay."
                yield Finding("failure queues", FAILED, f"{waiting} {holding}", remedy)
            else:
                yield Finding("failure queues", OK, f"no {holding}")

    def connections(self) -> Iterator[Finding]:
        """Who cannot be fetched, or soon cannot."""
        found = [each for each in self.fleet if each.state != "replaced"]
        if not found:
            remedy = "Add one with `relay connections add`."
            yield Finding("connections", WARNING, "there is none", remedy)
            return
        active = sum(each.state == "active" for each in found)
        yield Finding("connections", OK, f"{active} of {len(found)} are active")
        suspended = [each for each in found if each.state == "login_required"]
        if suspended:
            yield Finding(
                "connections",
                FAILED,
                f"suspended: {_named(suspended)}",
                "The clinic links its account again, then `relay fetch LABEL` resumes it; a new"
                " token comes in with `relay connections replace LABEL`.",
            )
        refused = [each for each in found if _is_refused(each)]
        if refused:
            yield Finding(
                "connections",
                FAILED,
                f"Cobalt refuses the token: {_named(refused)}",
                "Give them their new one with `relay connections replace LABEL`.",
            )
        without = [each for each in found if each.time_zone is None]
        if without:
            yield Finding(
                "connections",
                WARNING,
                f"without time zone: {_named(without)}",
                "Set it with Cobalt (POST /v1/settings): until then DefaultTimezone counts.",
            )
        since = utc_now() - WARNED_FOR
        warned = [each for each in found if (each.password_warning_at or since) > since]
        if warned:
            yield Finding(
                "connections",
                WARNING,
                f"password about to change: {_named(warned)}",
                "Ask the clinic to link its account again before it does.",
            )

    def alarms(self) -> Iterator[Finding]:
        """Whether anybody hears them."""
        if self.deployment.is_local:
            yield Finding("alarms", SKIPPED, "the local AWS has no subscribers")
            return
        pages = self.deployment.client("sns").get_paginator("list_subscriptions_by_topic")
        confirmed = [
            each
            for page in pages.paginate(TopicArn=self.deployment.output("AlarmTopic"))
            for each in page["Subscriptions"]
            if each["SubscriptionArn"].startswith("arn:")
        ]
        if confirmed:
            yield Finding("alarms", OK, f"{len(confirmed)} subscribed to them")
        else:
            remedy = "Subscribe to the topic of output AlarmTopic, and confirm it."
            yield Finding("alarms", WARNING, "nobody is subscribed to them", remedy)

    def deliveries(self) -> Iterator[Finding]:
        """Compare what Cobalt could not deliver in the last days with what we hold."""
        since = (datetime.now(UTC) - timedelta(days=self.days)).date()
        self.registration  # noqa: B018 - without it nobody can be asked
        upstream = Upstream(self.deployment, self.credentials)
        failed = [
            each
            for each in upstream.failed_deliveries(since)
            if each.url in {None, self.deployment.webhook_url}
        ]
        held: list[FailedDelivery] = []
        missing: list[FailedDelivery] = []
        for each in failed:
            keys = [Key("EVENT", each.event_id)]
            if each.job_execution_id:
                keys.append(Key("JOB", each.job_execution_id))
            event, *job = self.deployment.table.get(*keys)
            ended = any(item and item.get("completion") for item in job)
            (held if event or ended else missing).append(each)
        if not failed:
            yield Finding("deliveries", OK, f"none failed in {self.days} days")
            return
        if held:
            said = f"{len(held)} failed in {self.days} days; the relay has their content"
            yield Finding("deliveries", OK, said)
        if missing:
            ids = ", ".join(each.event_id for each in missing[:MOST_NAMED])
            more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
            yield Finding(
                "deliveries",
                WARNING,
                f"{len(missing)} failed and are not here: {ids}{more}",
                "Those of live fetches come by themselves until their deadline; others are at"
                " Cobalt, in GET /v1/webhook-events.",
            )


def _skew(whose: str, theirs: float | None) -> Finding:
    if theirs is None:
        return Finding("clock", WARNING, f"{whose} does not tell the time")
    off = time.time() - theirs
    if abs(off) > MOST_SKEW:
        ahead = "ahead of" if off > 0 else "behind"
        remedy = "Set this machine's clock; where it is right, tell the other side."
        return Finding("clock", FAILED, f"ours is {abs(off):.0f} s {ahead} {whose}'s", remedy)
    return Finding("clock", OK, f"agrees with {whose}'s")


def _schedule(schedule: dict[str, Any], known: set[str]) -> Finding:
    name = schedule["Name"]
    try:
        plan = SchedulePlan.parse(schedules.plan_of(schedule))
    except InvalidScheduleInput as error:
        return Finding("schedules", FAILED, f"{name} has an input that is none", error.message)
    named = () if plan.connections == "all" else plan.connections
    gone = [each for each in named if each not in known]
    if gone:
        said = f"{name} names connections that are not there: {', '.join(gone[:MOST_NAMED])}"
        return Finding("schedules", FAILED, said, "Remove it, and add it again without them.")
    if not schedule["Target"].get("DeadLetterConfig", {}).get("Arn"):
        remedy = "Make it anew with `relay schedules add`."
        return Finding("schedules", FAILED, f"{name} has no failure queue", remedy)
    if schedule["State"] != "ENABLED":
        remedy = (
            "Where that is not meant, enable it: for the template's own, ScheduleState=ENABLED."
        )
        return Finding("schedules", WARNING, f"{name} is disabled", remedy)
    return Finding("schedules", OK, f"{name} is enabled")


def _is_refused(row: Connection) -> bool:
    """Whether Cobalt did not know its token when it was used last."""
    success = row.last_success_at or row.registered_at
    is_latest = row.last_failure_at is not None and row.last_failure_at > success
    return is_latest and row.last_failure_code == AccessTokenRefused.code


def _named(found: list[Connection]) -> str:
    names = [each.access_token_reference_id or each.connection_id[:17] for each in found]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
