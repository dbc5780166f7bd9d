"""Fetches and webhooks per second through API Gateway, beside functions that do nothing else.

The rival is a bare function for each of the two routes (`bench/rivals/bare`): it makes the very
same calls with boto3 and urllib3, and checks nothing. It stands beside the relay on the same local
AWS, with the same layers, memory, policy and route, behind a domain of its own. Rounds of the two
take turns, each against workers that are warm; an answer that is no success ends the run. That both
make the same calls is counted, not believed.

The local AWS is one process, and most of what a request costs here. What it answers for each call
is the same for both, so the ratio says what the relay adds to what cannot be saved.
"""

import io
import json
import statistics
import subprocess
import sys
import uuid
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from bench.figures import Figure
from sandbox.signing import sign
from tools.local import snapshot
from tools.local.aws import ACCOUNT, REGION, forget_user_settings
from tools.local.errors import LocalError
from tools.local.paths import ROOT
from tools.local.stack import Stack

BARE = Path(__file__).parent / "rivals" / "bare"
AT_ONCE = (1, 8, 32)
REQUESTS = {1: 60, 8: 240, 32: 320}
"""Of one round: some seconds, so that what was idle is warm again; whatever else runs comes and
goes, so there are many."""
ROUNDS, QUICK_ROUNDS = 10, 2
"""Even: whoever comes first pays for what the round before has left to be done."""
COUNTED = 3
"""Requests of which the calls are counted."""
LEAST = 0.85
APPOINTMENTS = 42
CLINIC = "riverside"
FIRST_DAY = date(2025, 1, 6)
DOMAIN = "bare.test"
FETCH, WEBHOOK = "fetch", "webhook"
ROUTES = {FETCH: "/appointments/fetch", WEBHOOK: "/webhooks/cobalt"}
SIDES = ("relay", "bare")
FETCH_PATH = "/v1/appointments/fetch"
CALLS = {
    FETCH: Counter({"TransactWriteItems": 2, "upstream": 1}),
    WEBHOOK: Counter({"BatchGetItem": 1, "TransactWriteItems": 2, "PutObject": 1, "PutEvents": 1}),
}
"""What either route takes at least (design: three calls of the table for a webhook)."""
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}

type Json = dict[str, Any]
type Sent = tuple[str, dict[str, str], str]


@dataclass
class Bench:
    """Both sides on one stack, and what their rounds took."""

    stack: Stack
    rates: dict[tuple[str, str, int], list[float]] = field(default_factory=dict)
    """Per second, of each round, by route, side and callers at once."""
    _days: int = 0

    def __post_init__(self) -> None:
        self._jobs: dict[str, list[str]] = {side: [] for side in SIDES}
        self._hosts = {"relay": urlsplit(self.stack.aws_endpoint).netloc, "bare": DOMAIN}
        self._secret = str(self.stack.sandbox.webhook_secret()["current"])
        self._appointments = self._some_appointments()

    # ----------------------------------------------------------------------------------- the rounds

    def run(self, rounds: int) -> None:
        """Do all rounds."""
        for at_once in AT_ONCE:
            for side in SIDES:  # starts the workers: two rounds each
                for _ in range(2):
                    self._round(FETCH, side, at_once)
                    self._round(WEBHOOK, side, at_once)
            for number in range(rounds):
                for route in (FETCH, WEBHOOK):
                    for side in SIDES if number % 2 else SIDES[::-1]:
                        rate = self._round(route, side, at_once)
                        self.rates.setdefault((route, side, at_once), []).append(rate)

    def _round(self, route: str, side: str, at_once: int, count: int | None = None) -> float:
        """Send one round; give the requests per second. `LocalError` where one of them failed."""
        count = count or REQUESTS[at_once]
        make = {FETCH: self._fetch, WEBHOOK: self._webhook}[route]
        endpoint = urlsplit(self.stack.aws_endpoint)
        told = {
            "host": endpoint.hostname,
            "port": endpoint.port,
            "name": self._hosts[side],
            "at_once": at_once,
            "requests": [make(side) for _ in range(count)],
        }
        command = [sys.executable, "-m", "bench.generator"]
        ran = subprocess.run(  # noqa: S603 - a module of ours
            command, input=json.dumps(told), capture_output=True, text=True, cwd=ROOT, check=False
        )
        if ran.returncode:
            raise LocalError(f"The generator failed: {ran.stderr[-500:]}")
        said = json.loads(ran.stdout)
        failed = Counter(status for status, _, _ in said["answers"] if not 200 <= status < 300)
        if failed or len(said["answers"]) != count:
            raise LocalError(f"A round of {route} at {side}, {at_once} at once: {dict(failed)}.")
        bodies = [json.loads(text) for _, _, text in said["answers"]]
        if route == FETCH:
            self._jobs[side] += [body["job_execution_id"] for body in bodies]
        elif any("received" not in body["message"] for body in bodies):
            raise LocalError(f"A webhook to {side} was taken for another one's repetition.")
        return count / float(said["seconds"])

    def _fetch(self, _: str) -> Sent:
        """Make a fetch that no other is like, so that none joins another."""
        self._days += 1
        start = FIRST_DAY + timedelta(days=self._days)
        body = {"start_date": str(start), "end_date": str(start + timedelta(days=1))}
        headers = self.stack.headers(CLINIC) | {"Content-Type": "application/json"}
        return "/v1" + ROUTES[FETCH], headers, json.dumps(body)

    def _webhook(self, side: str) -> Sent:
        """Make the result of a job that was accepted, signed as Cobalt signs."""
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        event = {
            "id": f"evt_{uuid.uuid4().hex}",
            "job_id": self._jobs[side].pop(),
            "timestamp": now,
            "type": "appointment.live_fetch_completed",
            "action": "sync",
            "data": {
                "success": True,
                "appointment_count": APPOINTMENTS,
                "start_date": str(FIRST_DAY),
                "end_date": str(FIRST_DAY + timedelta(days=1)),
                "appointments": self._appointments,
            },
        }
        text = json.dumps(event, separators=(",", ":"))
        headers = {
            "Content-Type": "application/json",
            "webhook-id": str(event["id"]),
            "webhook-timestamp": now,
            "webhook-attempt": "1",
            "cobalt-verification": sign(text.encode(), self._secret),
        }
        return "/v1" + ROUTES[WEBHOOK], headers, text

    def _some_appointments(self) -> list[Json]:
        """Take appointments as the sandbox writes them."""
        found: list[Json] = []
        for week in range(4):
            start = FIRST_DAY + timedelta(weeks=week)
            answer = requests.get(
                f"{self.stack.sandbox_url}/v1/appointments",
                headers=self.stack.headers(CLINIC),
                params={"start_date": str(start), "end_date": str(start + timedelta(days=6))},
                timeout=10,
            )
            found += answer.json()["appointments"]
        if len(found) < APPOINTMENTS:
            raise LocalError(f"The sandbox has {len(found)} appointments, {APPOINTMENTS} needed.")
        return found[:APPOINTMENTS]

    # ------------------------------------------------------------------------------------ the calls

    def count(self) -> dict[str, dict[str, Json]]:
        """Count the calls of warm functions; `LocalError` where there are more than need be."""
        found: dict[str, dict[str, Json]] = {}
        for route in (FETCH, WEBHOOK):
            for side in SIDES:
                self._round(FETCH, side, 1, 2 * COUNTED)
                self._round(route, side, 1, COUNTED)  # nothing is made or looked up anew after that
                calls = self._calls_of(route, side)
                found.setdefault(route, {})[side] = dict(sorted(calls.items()))
                if calls != CALLS[route]:
                    raise LocalError(f"{side} makes other calls for a {route}: {dict(calls)}.")
        return found

    def _calls_of(self, route: str, side: str) -> Counter[str]:
        """Count the calls of one request: what functions did at AWS, and what Cobalt was asked."""
        asked = len(self.stack.sandbox.requests(FETCH_PATH))
        self._record(on=True)
        try:
            known = self._recorded().keys()
            self._round(route, side, 1, COUNTED)
            made = [call for name, call in self._recorded().items() if name not in known]
        finally:
            self._record(on=False)
        calls = Counter(made)
        calls["upstream"] = len(self.stack.sandbox.requests(FETCH_PATH)) - asked
        if any(number % COUNTED for number in calls.values()):
            raise LocalError(
                f"{side} does not make the same calls for each {route}: {dict(calls)}."
            )
        return Counter({name: number // COUNTED for name, number in calls.items() if number})

    def _recorded(self) -> dict[str, str]:
        """Give the newest calls that functions made, by the id of their record."""
        trail = self.stack.aws.client("cloudtrail")
        return {
            event["EventId"]: event["EventName"]
            for event in trail.lookup_events(MaxResults=50)["Events"]
            if event.get("AccessKeyId", "").startswith("ASIA")  # a role's session
        }

    def _record(self, *, on: bool) -> None:
        setting = {"cloudtrail._recording_enabled": "true" if on else "false"}
        requests.post(
            f"{self.stack.aws_endpoint}/_ministack/config", json=setting, timeout=10
        ).raise_for_status()

    def _configuration(self, route: str, side: str) -> Json:
        name = {
            (FETCH, "relay"): self.stack.outputs["FetchAppointmentsName"],
            (WEBHOOK, "relay"): self.stack.outputs["ReceiveWebhookName"],
        }.get((route, side), f"bare-{route}")
        found: Any = self.stack.aws.functions.get_function_configuration(FunctionName=name)
        return dict(found)

    # --------------------------------------------------------------------------- the bare functions

    def deploy_bare(self) -> None:
        """Put the bare functions beside the relay, each with what the relay's own one has."""
        ids = self._ids()
        for route, logical_id in ((FETCH, "FetchAppointments"), (WEBHOOK, "ReceiveWebhook")):
            self._deploy(route, f"{logical_id}Policy", ids)
        gateway = self.stack.aws.apigateway
        api = gateway.create_rest_api(name="bare")["id"]
        (root,) = (each["id"] for each in gateway.get_resources(restApiId=api)["items"])
        for route, path in ROUTES.items():
            parent = root
            for part in path.strip("/").split("/"):
                parent = gateway.create_resource(restApiId=api, parentId=parent, pathPart=part)[
                    "id"
                ]
            method: Any = {"restApiId": api, "resourceId": parent, "httpMethod": "POST"}
            gateway.put_method(**method, authorizationType="NONE")
            gateway.put_integration(
                **method,
                type="AWS_PROXY",
                integrationHttpMethod="POST",
                uri=f"arn:aws:apigateway:{REGION}:lambda:path/2015-03-31/functions/"
                f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:bare-{route}:live/invocations",
            )
        gateway.create_deployment(restApiId=api, stageName="v1")
        gateway.create_domain_name(domainName=DOMAIN)
        gateway.create_base_path_mapping(
            domainName=DOMAIN, restApiId=api, stage="v1", basePath="v1"
        )

    def _deploy(self, route: str, policy: str, ids: Json) -> None:
        functions, iam = self.stack.aws.functions, self.stack.aws.client("iam")
        own = self._configuration(route, "relay")
        name = f"bare-{route}"
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]
        iam.attach_role_policy(RoleName=name, PolicyArn=ids[policy])
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as content:
            content.write(BARE / f"{route}.py", f"{route}.py")
        functions.create_function(
            FunctionName=name,
            Runtime=own["Runtime"],
            Role=role["Arn"],
            Handler=f"{route}.lambda_handler",
            Code={"ZipFile": archive.getvalue()},
            Layers=[layer["Arn"] for layer in own["Layers"]],
            MemorySize=own["MemorySize"],
            Timeout=own["Timeout"],
            Architectures=own["Architectures"],
            Environment={"Variables": own["Environment"]["Variables"]},
        )
        functions.create_alias(FunctionName=name, Name="live", FunctionVersion="$LATEST")

    def _ids(self) -> Json:
        found = self.stack.aws.cloudformation.describe_stack_resources(
            StackName=self.stack.stack_name
        )
        return {
            each["LogicalResourceId"]: each["PhysicalResourceId"]
            for each in found["StackResources"]
        }


def quieten(stack: Stack) -> None:
    """Let nothing else be done by the stack: no rule, no schedule, no webhook of the sandbox's own.

    What a rule starts is not what a webhook waits for; the gateway takes as much as comes.
    """
    events, scheduler = stack.aws.events, stack.aws.scheduler
    for rule in events.list_rules(EventBusName=stack.bus)["Rules"]:
        events.disable_rule(Name=rule["Name"], EventBusName=stack.bus)
    found: Any = scheduler.get_schedule(Name=stack.outputs["ReconcileScheduleName"])
    kept = ("Name", "ScheduleExpression", "FlexibleTimeWindow", "Target")
    scheduler.update_schedule(**{name: found[name] for name in kept}, State="DISABLED")
    for name in ("rateLimit", "burstLimit"):
        path = f"/*/*/throttling/{name}"
        for api in stack.aws.apigateway.get_rest_apis()["items"]:
            stack.aws.apigateway.update_stage(
                restApiId=api["id"],
                stageName="v1",
                patchOperations=[{"op": "replace", "path": path, "value": "5000"}],
            )
    stack.sandbox.add_fault("silent")
    stack.sandbox.add_fault("lost")


def measure(quick: bool = False) -> list[Figure]:  # noqa: FBT001, FBT002 - every part has it
    """Measure on a stack of its own; `LocalError` where a request fails or makes other calls."""
    forget_user_settings()
    with snapshot.session() as stack:
        quieten(stack)
        bench = Bench(stack)
        bench.deploy_bare()
        calls = bench.count()
        bench.run(QUICK_ROUNDS if quick else ROUNDS)
    return [
        _figure(bench, route, at_once, calls[route])
        for route in (FETCH, WEBHOOK)
        for at_once in AT_ONCE
    ]


def _figure(bench: Bench, route: str, at_once: int, calls: dict[str, Json]) -> Figure:
    own, bare = (bench.rates[route, side, at_once] for side in SIDES)
    what = {FETCH: "accepted fetches", WEBHOOK: "webhooks"}[route]
    return Figure(
        name=f"{what} a second, {at_once} at once",
        unit="1/s",
        value=round(statistics.median(own), 1),
        rival="a bare function with the same calls",
        rival_value=round(statistics.median(bare), 1),
        goal=f"at least {LEAST} times",
        limit=LEAST,
        kind="ratio_at_least",
        details={
            "rounds": {"relay": [round(each, 1) for each in own],
                       "bare": [round(each, 1) for each in bare]},
            "ratio_of_each_pair": [round(a / b, 3) for a, b in zip(own, bare, strict=True)],
            "calls_of_a_request": calls,
            "requests_of_a_round": REQUESTS[at_once],
        },
    )  # fmt: skip
