"""What each role of the deployed stack may do, piece by piece, and the stack without a piece of it."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from tools.local.aws import ACCOUNT, REGION
from tools.local.stack import FUNCTIONS, Stack

VIA = "kms:ViaService"
INLINE = "the-policy-but-for-a-piece"

type Statement = dict[str, Any]


class Permission(NamedTuple):
    """One action on one resource, through one service where the policy names some."""

    role: str
    """The role's logical id, without `Role`."""
    action: str
    resource: str
    """By the short name of `Permissions.names`, or the ARN where it has none."""
    via: str = ""


@dataclass(frozen=True)
class Permissions:
    """The roles of a deployed stack, as IAM has them: nothing is read from the template."""

    stack: Stack

    @cached_property
    def _iam(self) -> Any:
        return self.stack.aws.client("iam")

    @cached_property
    def roles(self) -> dict[str, str]:
        """Every role of the stack: its name by its logical id without `Role`."""
        resources = self.stack.aws.cloudformation.describe_stack_resources(
            StackName=self.stack.stack_name
        )["StackResources"]
        return {
            each["LogicalResourceId"].removesuffix("Role"): each["PhysicalResourceId"]
            for each in resources
            if each["ResourceType"] == "AWS::IAM::Role"
        }

    @cached_property
    def names(self) -> dict[str, str]:
        """Short names of what policies speak of, by its ARN."""
        outputs, prefix = self.stack.outputs, f"{REGION}:{ACCOUNT}"
        table = f"arn:aws:dynamodb:{prefix}:table/{self.stack.table}"
        bucket = f"arn:aws:s3:::{self.stack.bucket}"
        tokens = f"/cobalt-relay/{self.stack.stack_name}/tokens/*"
        failures = outputs["ScheduleFailuresUrl"].rpartition("/")[2]
        failed_events = outputs["EventFailuresUrl"].rpartition("/")[2]
        fetches = outputs["FetchQueueUrl"].rpartition("/")[2]
        names = {
            "*": "*",
            outputs["KeyArn"]: "key",
            outputs["CobaltCredentialsArn"]: "credentials",
            outputs["WebhookSecretArn"]: "webhook secret",
            table: "table",
            f"{table}/index/due": "index due",
            f"{table}/index/connections": "index connections",
            f"{table}/index/by_connection": "index by_connection",
            f"{table}/index/by_reference": "index by_reference",
            bucket: "bucket",
            f"{bucket}/appointments/*": "appointments/*",
            f"{bucket}/snapshots/*": "snapshots/*",
            f"{bucket}/webhooks/*": "webhooks/*",
            f"{bucket}/changes/*": "changes/*",
            f"arn:aws:ssm:{prefix}:parameter{tokens}": "tokens",
            f"arn:aws:events:{prefix}:event-bus/{self.stack.bus}": "bus",
            f"arn:aws:sqs:{prefix}:{failures}": "failures",
            f"arn:aws:sqs:{prefix}:{failed_events}": "failed events",
            f"arn:aws:sqs:{prefix}:{fetches}": "fetches",
        }
        for function in FUNCTIONS:
            configuration = self.stack.aws.functions.get_function_configuration(
                FunctionName=outputs[f"{function}Name"]
            )
            group = configuration["LoggingConfig"]["LogGroup"]
            names[configuration["FunctionArn"]] = function
            names[f"arn:aws:logs:{prefix}:log-group:{group}:*"] = f"logs of {function}"
        return names

    def attached(self, role: str) -> dict[str, Statement]:
        """Give the documents of the managed policies of a role, by ARN; it has no others."""
        name = self.roles[role]
        assert self._iam.list_role_policies(RoleName=name)["PolicyNames"] == []
        answer = self._iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
        documents = {}
        for arn in [each["PolicyArn"] for each in answer]:
            version = self._iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
            found = self._iam.get_policy_version(PolicyArn=arn, VersionId=version)
            documents[arn] = found["PolicyVersion"]["Document"]
        return documents

    def everything(self) -> dict[str, dict[str, Statement]]:
        """Give all roles with all that is attached to them, to be compared."""
        return {role: self.attached(role) for role in self.roles}

    def granted(self, role: str) -> list[Permission]:
        """Give every piece of what a role may do."""
        return [
            piece
            for document in self.attached(role).values()
            for statement in document["Statement"]
            for piece, _ in self._pieces(role, statement)
        ]

    @contextmanager
    def without(self, *taken: Permission) -> Iterator[None]:
        """Take pieces away from their roles, and nothing else; give them back in any case.

        The policies themselves stay as they are: the role loses them for a while, and has instead
        an inline one that says the same but for the pieces.
        """
        affected = {each.role for each in taken}
        originals = {role: self.attached(role) for role in affected}
        try:
            for role in affected:
                self._replace(role, originals[role], taken)
            yield
        finally:
            for role in affected:
                self._restore(role, originals[role])

    def _replace(
        self, role: str, originals: dict[str, Statement], taken: Collection[Permission]
    ) -> None:
        statements = [
            small
            for document in originals.values()
            for statement in document["Statement"]
            for piece, small in self._pieces(role, statement)
            if piece not in taken
        ]
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        name = self.roles[role]
        if statements:
            self._iam.put_role_policy(RoleName=name, PolicyName=INLINE, PolicyDocument=document)
        for arn in originals:
            self._iam.detach_role_policy(RoleName=name, PolicyArn=arn)

    def _restore(self, role: str, originals: dict[str, Statement]) -> None:
        name = self.roles[role]
        for arn in originals:
            self._iam.attach_role_policy(RoleName=name, PolicyArn=arn)
        try:
            self._iam.delete_role_policy(RoleName=name, PolicyName=INLINE)
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchEntity":
                raise

    def _pieces(self, role: str, statement: Statement) -> Iterator[tuple[Permission, Statement]]:
        """Cut a statement into pieces, each with a statement that says it alone."""
        assert statement["Effect"] == "Allow"
        assert not {"NotAction", "NotResource"} & statement.keys()
        condition = statement.get("Condition", {})
        services = _list(condition.get("StringEquals", {}).get(VIA, ""))
        for action in _list(statement["Action"]):
            for resource in _list(statement["Resource"]):
                for service in services:
                    small = {"Effect": "Allow", "Action": action, "Resource": resource}
                    if service:
                        equal = condition["StringEquals"] | {VIA: service}
                        small["Condition"] = condition | {"StringEquals": equal}
                    elif condition:
                        small["Condition"] = condition
                    name = self.names.get(resource, resource)
                    via = service.partition(".")[0]
                    yield Permission(role, action, name, via), small


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
