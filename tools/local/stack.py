"""A running stack: where it is, and how it is brought up, pointed at its sandbox, and stopped."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tools.local import deploy, emulator, processes, sandbox
from tools.local.aws import REGION, Aws
from tools.local.errors import LocalError
from tools.local.sandbox import Sandbox

BASE_PATH = "/v1"
WEBHOOK_PATH = "/webhooks/cobalt"
COBALT_VARIABLE = "COBALT_BASE_URL"
WEBHOOK_VARIABLE = "WEBHOOK_URL"
ROTATOR = "RotateWebhookSecret"
FUNCTIONS = (
    "FetchAppointments",
    "ReadAppointments",
    "ReceiveWebhook",
    "PlanFetches",
    "RunFetches",
    "ReconcileJobs",
    "DetectChanges",
    ROTATOR,
)
"""Logical ids; the output `<logical id>Name` has the name."""
LONG_AGO = "2025-01-01T00:00:00.000Z"
SERVERS = (sandbox.NAME, emulator.NAME)
"""In the order in which they are stopped: what calls before what is called."""


@dataclass(frozen=True)
class Stack:
    """What a program has to know of a running stack; `.local/stack.json` holds the same."""

    stack_name: str
    region: str
    aws_endpoint: str
    api_url: str
    """Ends in `/v1`: Cobalt's own URL but for the host."""
    webhook_url: str
    sandbox_url: str
    client_id: str
    client_secret: str
    access_tokens: Mapping[str, str]
    """One per clinic of the sandbox, by the clinic's name."""
    bucket: str
    table: str
    bus: str
    outputs: Mapping[str, str]
    """All outputs of the template."""

    @cached_property
    def aws(self) -> Aws:
        """Clients for the local AWS."""
        return Aws(self.aws_endpoint)

    @cached_property
    def sandbox(self) -> Sandbox:
        """The sandbox that stands in for Cobalt."""
        return Sandbox(self.sandbox_url, self.client_id, self.client_secret, self.access_tokens)

    def headers(self, clinic: str) -> dict[str, str]:
        """Give the three headers with which a clinic's appointments are fetched."""
        return {
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "access_token": self.access_tokens[clinic],
        }

    def reconcile(self) -> dict[str, Any]:
        """Run the reconciler once, as its schedule does every minute; give what it tells."""
        answer = self.aws.functions.invoke(
            FunctionName=self.outputs["ReconcileJobsName"], Payload=b"{}"
        )
        said = answer["Payload"].read().decode()
        if "FunctionError" in answer:
            raise LocalError(f"The reconciler failed: {said}")
        told: dict[str, Any] = json.loads(said)
        return told

    def let_time_pass(self, key: str, *, to_the_deadline: bool = False) -> None:
        """Make the next look at a row due, such as ``JOB#job_1``; or its deadline too."""
        self.aws.dynamodb.update_item(
            TableName=self.table,
            Key={"pk": {"S": key}, "sk": {"S": key.partition("#")[0]}},
            UpdateExpression="SET due_at = :past"
            + (", deadline = :past" if to_the_deadline else ""),
            ConditionExpression="attribute_exists(due_at)",
            ExpressionAttributeValues={":past": {"S": LONG_AGO}},
        )

    def write(self, path: Path) -> None:
        """Write the file in one step, readable by its owner alone: it holds credentials."""
        draft = path.with_suffix(".draft")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        draft.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Stack":
        """Read what `write` wrote."""
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{name: said[name] for name in cls.__dataclass_fields__})


def describe(endpoint: str, box: Sandbox, outputs: Mapping[str, str]) -> Stack:
    """Put together what is known of a deployed stack."""
    api_url = endpoint + BASE_PATH
    return Stack(
        stack_name=deploy.STACK_NAME,
        region=REGION,
        aws_endpoint=endpoint,
        api_url=api_url,
        webhook_url=api_url + WEBHOOK_PATH,
        sandbox_url=box.url,
        client_id=box.client_id,
        client_secret=box.client_secret,
        access_tokens=dict(box.access_tokens),
        bucket=outputs["BucketName"],
        table=outputs["TableName"],
        bus=outputs["EventBusName"],
        outputs=dict(outputs),
    )


def configure(stack: Stack) -> None:
    """Do what an operator does once: put the credentials, register the webhook, put its secret.

    The function that rotates it is told its real URL: the local AWS speaks plain http, and on a
    port, neither of which the template can know.
    """
    _set_variable(stack, ROTATOR, WEBHOOK_VARIABLE, stack.webhook_url)
    put = stack.aws.secretsmanager.put_secret_value
    credentials = {"client_id": stack.client_id, "client_secret": stack.client_secret}
    put(SecretId=stack.outputs["CobaltCredentialsArn"], SecretString=json.dumps(credentials))
    key = stack.sandbox.register_webhook(stack.webhook_url)
    stack.sandbox.forget_other_webhooks(stack.webhook_url)
    put(
        SecretId=stack.outputs["WebhookSecretArn"],
        SecretString=json.dumps({"webhook_secret_key": key}),
    )


def point_functions_at(stack: Stack, cobalt_url: str) -> None:
    """Give every function another address of Cobalt, without a deployment."""
    for logical_id in FUNCTIONS:
        _set_variable(stack, logical_id, COBALT_VARIABLE, cobalt_url)


def _set_variable(stack: Stack, logical_id: str, variable: str, value: str) -> None:
    functions = stack.aws.functions
    name = stack.outputs[f"{logical_id}Name"]
    variables = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    if variables.get(variable) != value:
        functions.update_function_configuration(
            FunctionName=name, Environment={"Variables": variables | {variable: value}}
        )


def stop(home: Path) -> bool:
    """Stop the servers of a home and remove it. Tell whether any of them ran."""
    with processes.undisturbed():
        ran = [processes.stop(home, name) for name in SERVERS]
        shutil.rmtree(home, ignore_errors=True)
    return any(ran)
