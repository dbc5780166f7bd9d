"""Least privilege, proven on the deployed stack: nothing too much, nothing too little.

IAM is enforced here as on AWS. Whatever a role may do is taken away from it, one piece at a time,
and something breaks; what AWS's own services need, which the local AWS does not check, stands in a
register with its reason. And each function is refused what is not its own.
"""

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError

from tests.integration.flows import FLOWS, Flows
from tests.integration.permissions import Permission, Permissions
from tests.integration.support import Relay
from tests.integration.test_stack import as_function
from tools.local.aws import ACCOUNT, Aws
from tools.local.eventlog import EventLog
from tools.local.stack import FUNCTIONS, Stack


class Need(NamedTuple):
    """A permission, and the flow of which some part is another one without it."""

    role: str
    action: str
    resource: str
    flow: str
    breaks: str
    cold: bool = False
    """Whether a running instance does without it for some time: it remembers what it read."""

    @property
    def permission(self) -> Permission:
        return Permission(self.role, self.action, self.resource)


FETCH, READ, WEBHOOK = "FetchAppointments", "ReadAppointments", "ReceiveWebhook"
PLAN, RUN = "PlanFetches", "RunFetches"
RECONCILE, DETECT, ROTATE = "ReconcileJobs", "DetectChanges", "RotateWebhookSecret"

# In the order of the flows: the run that shows that one is restored shows that the next is intact.
NEEDS = (
    Need(FETCH, "secretsmanager:GetSecretValue", "credentials", "first_fetch_of_a_connection", "answer"),
    Need(FETCH, "ssm:PutParameter", "tokens", "first_fetch_of_a_connection", "token_kept"),
    Need(FETCH, "dynamodb:PutItem", "table", "fetch_under_a_key_twice", "first"),
    Need(FETCH, "dynamodb:BatchGetItem", "table", "fetch_under_a_key_twice", "again"),
    Need(FETCH, "dynamodb:UpdateItem", "table", "fetch_that_cobalt_refuses", "request"),
    Need(FETCH, "ssm:DeleteParameter", "tokens", "fetch_that_cobalt_refuses", "token_kept"),
    Need(FETCH, "sqs:SendMessage", "fetches", "range_is_accepted", "answer"),
    Need(READ, "secretsmanager:GetSecretValue", "credentials", "job_is_read", "answer", cold=True),
    Need(READ, "dynamodb:BatchGetItem", "table", "job_is_read", "answer"),
    Need(READ, "s3:GetObjectVersion", "appointments/*", "result_is_read_by_its_link", "opened"),
    Need(READ, "s3:GetObject", "appointments/*", "result_without_a_version_is_read_by_its_link", "opened"),
    Need(READ, "s3:ListBucket", "bucket", "days_are_read", "answer"),
    Need(READ, "s3:GetObject", "snapshots/*", "days_are_read", "answer"),
    Need(READ, "dynamodb:Query", "index by_connection", "days_of_a_new_connection_are_fetched_for_a_reader", "answer"),
    Need(READ, "dynamodb:PutItem", "table", "days_of_a_new_connection_are_fetched_for_a_reader", "answer"),
    Need(READ, "ssm:PutParameter", "tokens", "days_of_a_new_connection_are_fetched_for_a_reader", "token_kept"),
    Need(READ, "dynamodb:UpdateItem", "table", "refresh_that_cobalt_refuses", "request"),
    Need(READ, "ssm:DeleteParameter", "tokens", "refresh_that_cobalt_refuses", "token_kept"),
    Need(READ, "sqs:SendMessage", "fetches", "many_days_are_fetched_for_a_reader", "answer"),
    Need(WEBHOOK, "secretsmanager:GetSecretValue", "webhook secret", "result_is_delivered", "answer", cold=True),
    Need(WEBHOOK, "dynamodb:BatchGetItem", "table", "result_is_delivered", "answer"),
    Need(WEBHOOK, "dynamodb:PutItem", "table", "result_is_delivered", "job"),
    Need(WEBHOOK, "dynamodb:UpdateItem", "table", "result_is_delivered", "job"),
    Need(WEBHOOK, "s3:PutObject", "appointments/*", "result_is_delivered", "kept"),
    Need(WEBHOOK, "events:PutEvents", "bus", "result_is_delivered", "notification"),
    Need(WEBHOOK, "s3:PutObject", "webhooks/*", "other_event_is_delivered", "kept"),
    Need(WEBHOOK, "secretsmanager:DescribeSecret", "webhook secret", "forged_event_is_delivered", "answer"),
    Need(WEBHOOK, "dynamodb:Query", "index by_reference", "broken_link_is_told", "suspended"),
    Need(PLAN, "secretsmanager:GetSecretValue", "credentials", "schedule_is_planned", "messages", cold=True),
    Need(PLAN, "dynamodb:BatchGetItem", "table", "schedule_is_planned", "messages"),
    Need(PLAN, "sqs:SendMessage", "fetches", "schedule_is_planned", "messages"),
    Need(PLAN, "dynamodb:Query", "index connections", "schedule_of_all_is_planned", "planned"),
    Need(PLAN, "events:PutEvents", "bus", "scheduled_fetch_of_an_unknown_connection", "announced"),
    Need(RUN, "secretsmanager:GetSecretValue", "credentials", "queued_fetch_is_made", "job", cold=True),
    Need(RUN, "ssm:GetParameter", "tokens", "queued_fetch_is_made", "job", cold=True),
    Need(RUN, "dynamodb:BatchGetItem", "table", "queued_fetch_is_made", "job"),
    Need(RUN, "dynamodb:PutItem", "table", "queued_fetch_is_made", "job"),
    Need(RUN, "dynamodb:UpdateItem", "table", "queued_fetch_is_made", "job"),
    Need(RUN, "events:PutEvents", "bus", "queued_fetch_of_an_unknown_connection", "announced"),
    Need(RUN, "sqs:SendMessage", "fetches", "queued_fetch_is_put_off", "failed"),
    Need(RUN, "sqs:ChangeMessageVisibility", "fetches", "queued_fetch_comes_again_later", "hidden"),
    Need(RECONCILE, "secretsmanager:GetSecretValue", "credentials", "lost_result_is_polled", "job", cold=True),
    Need(RECONCILE, "dynamodb:Query", "index due", "lost_result_is_polled", "job"),
    Need(RECONCILE, "dynamodb:BatchGetItem", "table", "lost_result_is_polled", "job"),
    Need(RECONCILE, "dynamodb:UpdateItem", "table", "lost_result_is_polled", "job"),
    Need(RECONCILE, "dynamodb:PutItem", "table", "lost_result_is_polled", "job"),
    Need(RECONCILE, "s3:PutObject", "appointments/*", "lost_result_is_polled", "kept"),
    Need(RECONCILE, "events:PutEvents", "bus", "lost_result_is_polled", "notification"),
    Need(RECONCILE, "dynamodb:Query", "index by_connection", "open_job_of_a_suspended_connection_is_ended", "job"),
    Need(RECONCILE, "dynamodb:Query", "index connections", "freshness_is_measured", "measured"),
    Need(RECONCILE, "sqs:SendMessage", "fetches", "range_is_queued_whole", "queued"),
    Need(RECONCILE, "ssm:GetParameter", "tokens", "unanswered_fetch_is_swept", "request", cold=True
    ), Need(RECONCILE, "s3:PutObject", "webhooks/*", "unanswered_fetch_is_swept", "archived"),
    Need(DETECT, "dynamodb:BatchGetItem", "table", "changes_are_told", "day"),
    Need(DETECT, "s3:GetObjectVersion", "appointments/*", "changes_are_told", "day"),
    Need(DETECT, "s3:ListBucket", "bucket", "changes_are_told", "day"),
    Need(DETECT, "s3:PutObject", "snapshots/*", "changes_are_told", "day"),
    Need(DETECT, "s3:GetObject", "snapshots/*", "changes_are_told", "changed"),
    Need(DETECT, "s3:PutObject", "changes/*", "changes_are_told", "told"),
    Need(DETECT, "events:PutEvents", "bus", "changes_are_told", "told"),
    Need(DETECT, "s3:GetObjectVersion", "snapshots/*", "changes_are_told", "again"),
    Need(DETECT, "s3:GetObject", "appointments/*", "changes_by_a_result_without_a_version", "detected"), Need(
        ROTATE, "secretsmanager:GetSecretValue", "credentials", "webhook_secret_is_rotated", "created", cold=True),
    Need(ROTATE, "secretsmanager:DescribeSecret", "webhook secret", "webhook_secret_is_rotated", "created"),
    Need(ROTATE, "secretsmanager:GetSecretValue", "webhook secret", "webhook_secret_is_rotated", "created"),
    Need(ROTATE, "secretsmanager:PutSecretValue", "webhook secret", "webhook_secret_is_rotated", "created"),
    Need(ROTATE, "secretsmanager:UpdateSecretVersionStage", "webhook secret", "webhook_secret_is_rotated", "current"),
)  # fmt: skip


class Registered(NamedTuple):
    """Permissions that a service of AWS uses, and no code of ours; the local AWS does not check them."""

    roles: tuple[str, ...]
    actions: tuple[str, ...]
    resource: str
    """`{role}` stands for the role's name."""
    via: str
    user: str
    reason: str
    """With the name of the page in AWS's documentation."""

    @property
    def permissions(self) -> list[Permission]:
        return [
            Permission(role, action, self.resource.format(role=role), self.via)
            for role in self.roles
            for action in self.actions
        ]


ASYNC = (PLAN, RECONCILE, ROTATE)
"""Whose failed runs go to the failures of schedules."""
DECRYPT, ENCRYPT, DATA_KEY = ("kms:Decrypt",), ("kms:Encrypt",), ("kms:GenerateDataKey",)

REGISTER = (
    Registered(FUNCTIONS, ("logs:CreateLogStream", "logs:PutLogEvents"), "logs of {role}", "", "Lambda",
               "writes what a function logs (Lambda: Sending Lambda function logs to CloudWatch Logs)"),
    Registered(FUNCTIONS, ("xray:PutTraceSegments", "xray:PutTelemetryRecords"), "*", "", "Lambda",
               "sends the traces of active tracing (Lambda: Visualize Lambda function invocations using AWS X-Ray)"),
    Registered(FUNCTIONS, DECRYPT, "key", "lambda", "Lambda",
               "decrypts the environment variables at a cold start (Lambda: Securing Lambda environment variables)"),
    Registered((FETCH, READ, WEBHOOK, PLAN, RUN, RECONCILE, ROTATE), DECRYPT, "key", "secretsmanager", "Secrets Manager",
               "decrypts a secret for its reader (Secrets Manager: Secret encryption and decryption)"),
    Registered((FETCH, READ, WEBHOOK, PLAN, RUN, RECONCILE, DETECT), DECRYPT, "key", "dynamodb", "DynamoDB",
               "decrypts the table's key for its user (DynamoDB: DynamoDB encryption at rest, usage notes)"),
    Registered((FETCH, READ), ENCRYPT, "key", "ssm", "Parameter Store",
               "encrypts a standard SecureString (Systems Manager: How Parameter Store uses AWS KMS)"),
    Registered((RUN, RECONCILE), DECRYPT, "key", "ssm", "Parameter Store",
               "decrypts a SecureString for its reader (Systems Manager: How Parameter Store uses AWS KMS)"),
    Registered((WEBHOOK, RECONCILE, DETECT), DATA_KEY, "key", "s3", "S3",
               "encrypts an object (S3: Using server-side encryption with AWS KMS keys)"),
    Registered((WEBHOOK, RECONCILE, DETECT), DECRYPT, "key", "s3", "S3",
               "proves its bucket key (S3: Reducing the cost of SSE-KMS with Amazon S3 Bucket Keys)"),
    Registered((READ,), DECRYPT, "key", "s3", "S3",
               "decrypts an object for its reader, be it whoever has a link (S3: Using server-side encryption with AWS KMS keys)"),
    Registered((ROTATE,), DATA_KEY, "key", "secretsmanager", "Secrets Manager",
               "encrypts a new version (Secrets Manager: Secret encryption and decryption)"),
    Registered(ASYNC, ("sqs:SendMessage",), "failures", "", "Lambda",
               "sends a failed run to its destination (Lambda: Capturing records of Lambda asynchronous invocations)"),
    Registered((DETECT,), ("sqs:SendMessage",), "failed events", "", "Lambda",
               "sends a failed run to its destination (Lambda: Capturing records of Lambda asynchronous invocations)"),
    Registered((RUN,), ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"), "fetches", "", "Lambda",
               "takes messages from its queue for a function (Lambda: Creating and configuring an Amazon SQS event source mapping)"),
    Registered((FETCH, READ, RUN, DETECT, *ASYNC), DECRYPT + DATA_KEY, "key", "sqs", "SQS",
               "encrypts what is sent to a queue (SQS: Key management)"),
    Registered(("Scheduler",), ("lambda:InvokeFunction",), PLAN, "", "EventBridge Scheduler",
               "invokes its target (EventBridge Scheduler: Setting up the execution role)"),
    Registered(("Scheduler",), ("lambda:InvokeFunction",), RECONCILE, "", "EventBridge Scheduler",
               "invokes its target (EventBridge Scheduler: Setting up the execution role)"),
    Registered(("Scheduler",), ("sqs:SendMessage",), "failures", "", "EventBridge Scheduler",
               "sends what it could not deliver (EventBridge Scheduler: Configuring a dead-letter queue)"),
    Registered(("Scheduler",), DECRYPT + DATA_KEY, "key", "sqs", "SQS",
               "encrypts what is sent to a queue (SQS: Key management)"),
)  # fmt: skip
AWS_MANAGED = {"ApiGatewayLog": "AmazonAPIGatewayPushToCloudWatchLogs"}
"""Roles that have a policy of AWS's own, which is all that its documentation allows for them."""


@dataclass
class Lab:
    """The stack, whose policies are changed and restored."""

    flows: Flows
    permissions: Permissions
    intact: set[str] = field(default_factory=set)
    """Flows that gave what they should when they were run last, with all permissions."""

    def check(self, flow: str) -> None:
        """Run a flow with all permissions."""
        self.intact.discard(flow)
        assert self.flows.run(flow) == FLOWS[flow][1]
        self.intact.add(flow)


@pytest.fixture(scope="module")
def lab(stack: Stack, events: EventLog) -> Iterator[Lab]:
    """Everything is as it was when the tests are through, or they fail."""
    permissions, functions = Permissions(stack), stack.aws.functions
    before = permissions.everything()
    names = [stack.outputs[f"{each}Name"] for each in FUNCTIONS]
    environments = {
        name: functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
        for name in names
    }
    flows = Flows(stack, Relay(stack), events)
    assert flows.relay.fetch(flows.window()).status_code == 202, "riverside has to be registered"
    yield Lab(flows, permissions)
    stack.aws.sqs.purge_queue(QueueUrl=stack.outputs["FetchQueueUrl"])
    for name, variables in environments.items():
        functions.update_function_configuration(
            FunctionName=name, Environment={"Variables": variables}
        )
    assert permissions.everything() == before


def test_every_permission_is_needed_or_registered(lab: Lab) -> None:
    roles = lab.permissions.roles

    granted = Counter(
        piece for role in roles.keys() - AWS_MANAGED for piece in lab.permissions.granted(role)
    )

    accounted = [need.permission for need in NEEDS]
    accounted += [piece for entry in REGISTER for piece in entry.permissions]
    assert granted == Counter(accounted)
    assert max(granted.values()) == 1
    assert {need.flow for need in NEEDS} <= FLOWS.keys()


def test_each_role_has_one_policy(lab: Lab, stack: Stack) -> None:
    roles, attached = lab.permissions.roles, lab.permissions.everything()

    assert roles.keys() == {*FUNCTIONS, "Scheduler", *AWS_MANAGED}
    assert {len(policies) for policies in attached.values()} == {1}
    for role, policy in AWS_MANAGED.items():
        assert next(iter(attached[role])).endswith(f":aws:policy/service-role/{policy}")
    for function in FUNCTIONS:
        configuration = stack.aws.functions.get_function_configuration(
            FunctionName=stack.outputs[f"{function}Name"]
        )
        assert configuration["Role"].endswith(f":role/{roles[function]}")


@pytest.mark.parametrize("need", NEEDS, ids=lambda need: " ".join(need.permission[:3]))
def test_something_breaks_without_it(lab: Lab, need: Need) -> None:
    if need.flow not in lab.intact:
        lab.check(need.flow)

    with lab.permissions.without(need.permission):
        if need.cold:
            lab.flows.restart(need.role)
        broken = lab.flows.run(need.flow)

    assert broken[need.breaks] != FLOWS[need.flow][1][need.breaks]


def test_nothing_breaks_here_without_what_is_registered(lab: Lab) -> None:
    """What the local AWS begins to check belongs into the table above, and out of the register.

    It is shown here too that every flow is whole again, for it runs all of them after the above.
    """
    registered = [piece for entry in REGISTER for piece in entry.permissions]

    with lab.permissions.without(*registered):
        for function in FUNCTIONS:
            lab.flows.restart(function)
        outcomes = {name: lab.flows.run(name) for name in FLOWS}

    assert outcomes == {name: outcome for name, (_, outcome) in FLOWS.items()}


# ------------------------------------------------------------------------------- nothing too much

TRIAL = f"trial-{uuid.uuid4()}"
ROW = {"pk": {"S": TRIAL}, "sk": {"S": TRIAL}}
DENIED = {"AccessDenied", "AccessDeniedException"}
NOBODY: tuple[str, ...] = ()
EVERYBODY_WITH_ROWS = (FETCH, READ, WEBHOOK, PLAN, RUN, RECONCILE, DETECT)
WRITERS = (FETCH, READ, WEBHOOK, RUN, RECONCILE)


class Call(NamedTuple):
    """What is tried with the rights of every function, and who may do it."""

    does: str
    may: tuple[str, ...]
    call: Callable[[Aws, Stack], object]


def event(stack: Stack, source: str, bus: str = "") -> Any:
    return {
        "EventBusName": bus or stack.bus,
        "Source": source,
        "DetailType": "Test",
        "Detail": "{}",
    }


def token(stack: Stack, name: str = TRIAL) -> str:
    return f"/cobalt-relay/{stack.stack_name}/tokens/{name}"


def query(aws: Aws, stack: Stack, attribute: str, **index: Any) -> object:
    return aws.dynamodb.query(
        TableName=stack.table,
        KeyConditionExpression=f"{attribute} = :value",
        ExpressionAttributeValues={":value": {"S": TRIAL}},
        **index,
    )


def put_under(aws: Aws, stack: Stack, key: str) -> object:
    return aws.s3.put_object(
        Bucket=stack.bucket,
        Key=f"appointments/{TRIAL}",
        ServerSideEncryption="aws:kms",
        SSEKMSKeyId=key,
    )


def version_of(stack: Stack, key: str) -> str:
    """The newest version of an object, as the operator sees it."""
    return stack.aws.s3.head_object(Bucket=stack.bucket, Key=key)["VersionId"]


def own_role(aws: Aws) -> str:
    """The ARN of the role whose session it is."""
    session = aws.sts.get_caller_identity()["Arn"]
    return session.replace(":sts:", ":iam:").replace(":assumed-role/", ":role/").rpartition("/")[0]


EVERYTHING = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
    }
)

CALLS = (
    # secrets
    Call("read the client credentials", (FETCH, READ, PLAN, RUN, RECONCILE, ROTATE), lambda aws, s: aws.secretsmanager.get_secret_value(SecretId=s.outputs["CobaltCredentialsArn"])),
    Call("see the versions of the client credentials", NOBODY, lambda aws, s: aws.secretsmanager.describe_secret(SecretId=s.outputs["CobaltCredentialsArn"])),
    Call("put client credentials", NOBODY, lambda aws, s: aws.secretsmanager.put_secret_value(SecretId=s.outputs["CobaltCredentialsArn"], SecretString="{}", VersionStages=["TRIAL"])),
    Call("read the webhook secret", (WEBHOOK, ROTATE), lambda aws, s: aws.secretsmanager.get_secret_value(SecretId=s.outputs["WebhookSecretArn"])),
    Call("see the versions of the webhook secret", (WEBHOOK, ROTATE), lambda aws, s: aws.secretsmanager.describe_secret(SecretId=s.outputs["WebhookSecretArn"])),
    Call("put a webhook secret", (ROTATE,), lambda aws, s: aws.secretsmanager.put_secret_value(SecretId=s.outputs["WebhookSecretArn"], SecretString="{}", VersionStages=["TRIAL"], ClientRequestToken=TRIAL)),
    Call("move a label of the webhook secret", (ROTATE,), lambda aws, s: aws.secretsmanager.update_secret_version_stage(SecretId=s.outputs["WebhookSecretArn"], VersionStage="TRIAL", RemoveFromVersionId=TRIAL)),
    Call("delete the webhook secret", NOBODY, lambda aws, s: aws.secretsmanager.delete_secret(SecretId=s.outputs["WebhookSecretArn"])),
    Call("list secrets", NOBODY, lambda aws, s: aws.secretsmanager.list_secrets()),
    # rows
    Call("read rows", EVERYBODY_WITH_ROWS, lambda aws, s: aws.dynamodb.batch_get_item(RequestItems={s.table: {"Keys": [ROW]}})),
    Call("put a row", WRITERS, lambda aws, s: aws.dynamodb.put_item(TableName=s.table, Item=ROW)),
    Call("put a row in a transaction", WRITERS, lambda aws, s: aws.dynamodb.transact_write_items(TransactItems=[{"Put": {"TableName": s.table, "Item": ROW}}])),
    Call("change a row", WRITERS, lambda aws, s: aws.dynamodb.update_item(TableName=s.table, Key=ROW, UpdateExpression="SET trial = :t", ExpressionAttributeValues={":t": {"BOOL": True}})),
    Call("delete a row", NOBODY, lambda aws, s: aws.dynamodb.delete_item(TableName=s.table, Key=ROW)),
    Call("delete a row in a transaction", NOBODY, lambda aws, s: aws.dynamodb.transact_write_items(TransactItems=[{"Delete": {"TableName": s.table, "Key": ROW}}])),
    Call("delete a row in a batch", NOBODY, lambda aws, s: aws.dynamodb.batch_write_item(RequestItems={s.table: [{"DeleteRequest": {"Key": ROW}}]})),
    Call("read one row alone", NOBODY, lambda aws, s: aws.dynamodb.get_item(TableName=s.table, Key=ROW)),
    Call("list the table", NOBODY, lambda aws, s: aws.dynamodb.scan(TableName=s.table)),
    Call("query the table", NOBODY, lambda aws, s: query(aws, s, "pk")),
    Call("list what is due", (RECONCILE,), lambda aws, s: query(aws, s, "due_shard", IndexName="due")),
    Call("list connections", (PLAN, RECONCILE), lambda aws, s: query(aws, s, "registry_shard", IndexName="connections")),
    Call("find a connection by its label", (WEBHOOK,), lambda aws, s: query(aws, s, "access_token_reference_id", IndexName="by_reference")),
    Call("list a connection's jobs", (READ, RECONCILE), lambda aws, s: query(aws, s, "connection_id", IndexName="by_connection")),
    Call("delete the table", NOBODY, lambda aws, s: aws.dynamodb.delete_table(TableName=s.table)),
    # results
    Call("write a result", (WEBHOOK, RECONCILE), lambda aws, s: aws.s3.put_object(Bucket=s.bucket, Key=f"appointments/{TRIAL}", Body=b"")),
    Call("write an event", (WEBHOOK, RECONCILE), lambda aws, s: aws.s3.put_object(Bucket=s.bucket, Key=f"webhooks/{TRIAL}", Body=b"")),
    Call("write elsewhere in the bucket", NOBODY, lambda aws, s: aws.s3.put_object(Bucket=s.bucket, Key=TRIAL, Body=b"")),
    Call("write beside the prefix", NOBODY, lambda aws, s: aws.s3.put_object(Bucket=s.bucket, Key=f"appointments-{TRIAL}", Body=b"")),
    Call("write a result under our key", (WEBHOOK, RECONCILE), lambda aws, s: put_under(aws, s, s.outputs["KeyArn"])),
    Call("write a result under another key", NOBODY, lambda aws, s: put_under(aws, s, f"{s.outputs['KeyArn']}0")),
    Call("write a day", (DETECT,), lambda aws, s: aws.s3.put_object(Bucket=s.bucket, Key=f"snapshots/{TRIAL}", Body=b"")),
    Call("write what changed", (DETECT,), lambda aws, s: aws.s3.put_object(Bucket=s.bucket, Key=f"changes/{TRIAL}", Body=b"")),
    Call("read what changed", NOBODY, lambda aws, s: aws.s3.get_object(Bucket=s.bucket, Key=f"changes/{TRIAL}")),
    Call("read a result", (READ, DETECT), lambda aws, s: aws.s3.get_object(Bucket=s.bucket, Key=f"appointments/{TRIAL}")),
    Call("read a version of a result", (READ, DETECT), lambda aws, s: aws.s3.get_object(Bucket=s.bucket, Key=f"appointments/{TRIAL}", VersionId=version_of(s, f"appointments/{TRIAL}"))),
    Call("read an event", NOBODY, lambda aws, s: aws.s3.get_object(Bucket=s.bucket, Key=f"webhooks/{TRIAL}")),
    Call("read a version of an event", NOBODY, lambda aws, s: aws.s3.get_object(Bucket=s.bucket, Key=f"webhooks/{TRIAL}", VersionId=version_of(s, f"webhooks/{TRIAL}"))),
    Call("read a day", (READ, DETECT), lambda aws, s: aws.s3.get_object(Bucket=s.bucket, Key=f"snapshots/{TRIAL}")),
    Call("read a version of a day", (DETECT,), lambda aws, s: aws.s3.get_object(Bucket=s.bucket, Key=f"snapshots/{TRIAL}", VersionId=version_of(s, f"snapshots/{TRIAL}"))),
    Call("list the days of a connection", (READ, DETECT), lambda aws, s: aws.s3.list_objects_v2(Bucket=s.bucket, Prefix="snapshots/connection=conn_0/")),
    Call("list connections by their days", NOBODY, lambda aws, s: aws.s3.list_objects_v2(Bucket=s.bucket, Prefix="snapshots/")),
    Call("list the bucket", NOBODY, lambda aws, s: aws.s3.list_objects_v2(Bucket=s.bucket)),
    Call("list results", NOBODY, lambda aws, s: aws.s3.list_objects_v2(Bucket=s.bucket, Prefix="appointments/")),
    Call("delete a result", NOBODY, lambda aws, s: aws.s3.delete_object(Bucket=s.bucket, Key=f"appointments/{TRIAL}")),
    Call("delete the bucket's policy", NOBODY, lambda aws, s: aws.s3.delete_bucket_policy(Bucket=s.bucket)),
    # tokens
    Call("keep a token", (FETCH, READ), lambda aws, s: aws.ssm.put_parameter(Name=token(s), Value=TRIAL, Type="SecureString", KeyId=s.outputs["KeyArn"], Overwrite=True)),
    Call("keep a parameter beside the tokens", NOBODY, lambda aws, s: aws.ssm.put_parameter(Name=f"/cobalt-relay/{s.stack_name}/{TRIAL}", Value=TRIAL, Type="String")),
    Call("keep a token of another stack", NOBODY, lambda aws, s: aws.ssm.put_parameter(Name=f"/cobalt-relay/another/tokens/{TRIAL}", Value=TRIAL, Type="String")),
    Call("read a token", (RUN, RECONCILE), lambda aws, s: aws.ssm.get_parameter(Name=token(s), WithDecryption=True)),
    Call("read a token of another stack", NOBODY, lambda aws, s: aws.ssm.get_parameter(Name=f"/cobalt-relay/another/tokens/{TRIAL}")),
    Call("read all tokens", NOBODY, lambda aws, s: aws.ssm.get_parameters_by_path(Path=token(s, "").rstrip("/"))),
    Call("list parameters", NOBODY, lambda aws, s: aws.ssm.describe_parameters()),
    Call("forget a token", (FETCH, READ), lambda aws, s: aws.ssm.delete_parameter(Name=token(s))),
    # events and queues
    Call("announce", (WEBHOOK, PLAN, RUN, RECONCILE, DETECT), lambda aws, s: aws.events.put_events(Entries=[event(s, "cobalt-relay")])),
    Call("announce under another name", NOBODY, lambda aws, s: aws.events.put_events(Entries=[event(s, "aws.health")])),
    Call("announce under another name among our own", NOBODY, lambda aws, s: aws.events.put_events(Entries=[event(s, "cobalt-relay"), event(s, "somebody-else")])),
    Call("announce on another bus", NOBODY, lambda aws, s: aws.events.put_events(Entries=[event(s, "cobalt-relay", "default")])),
    Call("delete a rule", NOBODY, lambda aws, s: aws.events.delete_rule(Name=TRIAL, EventBusName=s.bus)),
    Call("report a failed run", (PLAN, RECONCILE, ROTATE), lambda aws, s: aws.sqs.send_message(QueueUrl=s.outputs["ScheduleFailuresUrl"], MessageBody=TRIAL)),
    Call("report a failed event", (DETECT,), lambda aws, s: aws.sqs.send_message(QueueUrl=s.outputs["EventFailuresUrl"], MessageBody=TRIAL)),
    Call("read failed runs", NOBODY, lambda aws, s: aws.sqs.receive_message(QueueUrl=s.outputs["ScheduleFailuresUrl"])),
    Call("queue a fetch", (FETCH, READ, PLAN, RUN, RECONCILE), lambda aws, s: aws.sqs.send_message(QueueUrl=s.outputs["FetchQueueUrl"], MessageBody=TRIAL, DelaySeconds=900)),
    Call("take a fetch from the queue", (RUN,), lambda aws, s: aws.sqs.receive_message(QueueUrl=s.outputs["FetchQueueUrl"], VisibilityTimeout=0)),
    Call("empty the queue of fetches", NOBODY, lambda aws, s: aws.sqs.purge_queue(QueueUrl=s.outputs["FetchQueueUrl"])),
    Call("read failed fetches", NOBODY, lambda aws, s: aws.sqs.receive_message(QueueUrl=s.outputs["FetchFailuresUrl"], VisibilityTimeout=0)),
    Call("write a failed fetch", NOBODY, lambda aws, s: aws.sqs.send_message(QueueUrl=s.outputs["FetchFailuresUrl"], MessageBody=TRIAL)),
    Call("write into the event log", NOBODY, lambda aws, s: aws.sqs.send_message(QueueUrl=s.outputs["EventLogUrl"], MessageBody=TRIAL)),
    Call("read the event log", NOBODY, lambda aws, s: aws.sqs.receive_message(QueueUrl=s.outputs["EventLogUrl"], VisibilityTimeout=0)),
    # the key: through the services only
    Call("encrypt", NOBODY, lambda aws, s: aws.client("kms").encrypt(KeyId=s.outputs["KeyArn"], Plaintext=b"x")),
    Call("make a data key", NOBODY, lambda aws, s: aws.client("kms").generate_data_key(KeyId=s.outputs["KeyArn"], KeySpec="AES_256")),
    Call("decrypt", NOBODY, lambda aws, s: aws.client("kms").decrypt(KeyId=s.outputs["KeyArn"], CiphertextBlob=s.aws.client("kms").encrypt(KeyId=s.outputs["KeyArn"], Plaintext=b"x")["CiphertextBlob"])),
    Call("disable the key", NOBODY, lambda aws, s: aws.client("kms").disable_key(KeyId=s.outputs["KeyArn"])),
    # the stack itself
    Call("invoke a function", NOBODY, lambda aws, s: aws.functions.invoke(FunctionName=s.outputs["ReconcileJobsName"], Payload=b"{}")),
    Call("see a function's environment", NOBODY, lambda aws, s: aws.functions.get_function_configuration(FunctionName=s.outputs["ReconcileJobsName"])),
    Call("change a function", NOBODY, lambda aws, s: aws.functions.update_function_configuration(FunctionName=s.outputs["ReconcileJobsName"], Description=TRIAL)),
    Call("delete a schedule", NOBODY, lambda aws, s: aws.scheduler.delete_schedule(Name=TRIAL)),
    Call("read logs", NOBODY, lambda aws, s: aws.logs.filter_log_events(logGroupName=f"/aws/lambda/{s.stack_name}/fetch_appointments")),
    Call("give itself a policy", NOBODY, lambda aws, s: aws.client("iam").put_role_policy(RoleName=own_role(aws).rpartition("/")[2], PolicyName=TRIAL, PolicyDocument=EVERYTHING)),
    Call("change a policy", NOBODY, lambda aws, s: aws.client("iam").create_policy_version(PolicyArn=f"arn:aws:iam::{ACCOUNT}:policy/{TRIAL}", PolicyDocument=EVERYTHING)),
    Call("become another role", NOBODY, lambda aws, s: aws.sts.assume_role(RoleArn=own_role(aws), RoleSessionName="another")),
    Call("delete the stack", NOBODY, lambda aws, s: aws.cloudformation.delete_stack(StackName=TRIAL)),
)  # fmt: skip


@pytest.fixture
def _something_to_reach_for(stack: Stack) -> Iterator[None]:
    """A token and an object of each kind, and afterwards nothing of what was tried."""
    aws = stack.aws
    aws.ssm.put_parameter(Name=token(stack), Value=TRIAL, Type="SecureString", Overwrite=True)
    objects = [f"{kind}/{TRIAL}" for kind in ("appointments", "webhooks", "snapshots", "changes")]
    for key in objects:
        aws.s3.put_object(Bucket=stack.bucket, Key=key, Body=b"")
    yield
    aws.ssm.delete_parameters(Names=[token(stack)])
    aws.dynamodb.delete_item(TableName=stack.table, Key=ROW)
    for key in objects:
        aws.s3.delete_object(Bucket=stack.bucket, Key=key)
    aws.sqs.purge_queue(QueueUrl=stack.outputs["FetchQueueUrl"])
    for name in ("ScheduleFailuresUrl", "EventFailuresUrl"):
        queue = stack.outputs[name]
        failures = aws.sqs.receive_message(
            QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=0
        ).get("Messages", [])
        for message in [each for each in failures if each["Body"] == TRIAL]:
            aws.sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])


@pytest.mark.usefixtures("_something_to_reach_for")
@pytest.mark.parametrize("function", FUNCTIONS)
def test_function_may_do_this_and_nothing_else(stack: Stack, function: str) -> None:
    aws = as_function(stack, function)

    done = {each.does for each in CALLS if succeeds(each, aws, stack)}

    assert done == {each.does for each in CALLS if function in each.may}


def succeeds(call: Call, aws: Aws, stack: Stack) -> bool:
    """Try it: False where it is denied; any other failure is a mistake in the call."""
    try:
        call.call(aws, stack)
    except ClientError as error:
        if error.response["Error"]["Code"] not in DENIED:
            raise AssertionError(call.does) from error
        return False
    return True
