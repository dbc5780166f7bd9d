"""Who may do what, beyond the matrix of `tests/template/access.py`."""

from collections.abc import Iterator

from cobalt_relay.events import SOURCE
from tests.template.access import granted, roles, written_down
from tests.template.document import Document, Json, dig, listed, rule, target, text

NOBODY_MAY = frozenset(
    {
        "dynamodb:DeleteItem",
        "dynamodb:Scan",
        "s3:DeleteObject",
        "s3:DeleteObjectVersion",
        "ssm:DescribeParameters",
        "ssm:GetParametersByPath",
        "secretsmanager:ListSecrets",
    }
)
"""Rows and results end by age alone, and nobody looks what there is, but for a connection's days."""

DAYS = "snapshots/connection=*"
"""What may be listed of the bucket."""

THE_GATEWAYS_OWN = (
    "arn:${AWS::Partition}:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs"
)

THROUGH = {
    "dynamodb:": {"dynamodb": {"kms:Decrypt"}},
    "secretsmanager:GetSecretValue": {"secretsmanager": {"kms:Decrypt"}},
    "secretsmanager:PutSecretValue": {"secretsmanager": {"kms:Decrypt", "kms:GenerateDataKey"}},
    "ssm:GetParameter": {"ssm": {"kms:Decrypt"}},
    "ssm:PutParameter": {"ssm": {"kms:Encrypt"}},
    "s3:GetObject": {"s3": {"kms:Decrypt"}},
    "s3:PutObject": {"s3": {"kms:Decrypt", "kms:GenerateDataKey"}},  # proves the bucket key, too
    "sqs:SendMessage": {"sqs": {"kms:Decrypt", "kms:GenerateDataKey"}},
}
"""What a caller must be allowed to do with the key, by the service through which it acts."""

TRUSTED = {
    "AWS::Lambda::Function": ("lambda.amazonaws.com", "Role"),
    "AWS::Scheduler::Schedule": ("scheduler.amazonaws.com", "Target", "RoleArn"),
    "AWS::ApiGateway::Account": ("apigateway.amazonaws.com", "CloudWatchRoleArn"),
}
"""Which service takes a role that a resource names, and where it names it."""

TO_THE_SERVICE = "${AWS::Region}.amazonaws.com"


def actions(statement: dict[str, Json]) -> list[str]:
    return [str(action) for action in listed(statement["Action"])]


# ----------------------------------------------------------------------------------------- identities


@rule
def role_may_do_what_the_matrix_says(document: Document) -> Iterator[str]:
    """No less, or it fails on the day it is needed; no more, or it is a way to what it guards."""
    wanted = written_down()
    found = {row: granted(document, role) for row, role in roles(document).items()}
    yield from (row for row in wanted.keys() | found.keys() if wanted.get(row) != found.get(row))


@rule
def nobody_may_look_around_or_delete(document: Document) -> Iterator[str]:
    """Whoever takes over a function finds nothing that it was not told the name of."""
    for name, statement in document.policies():
        if NOBODY_MAY & set(actions(statement)):
            yield name


@rule
def statement_names_itself_and_one_kind_of_thing(document: Document) -> Iterator[str]:
    """A Sid to speak of it by, actions of one service, and no wildcard but for X-Ray."""
    for name, policy in document.of_type("AWS::IAM::ManagedPolicy").items():
        statements = policy["PolicyDocument"]["Statement"]
        sids = [statement.get("Sid") for statement in statements]
        for statement in statements:
            services = {action.partition(":")[0] for action in actions(statement)}
            is_open = "*" in listed(statement.get("Resource")) and services != {"xray"}
            has_wildcard = any("*" in action for action in actions(statement))
            is_unnamed = not statement.get("Sid") or sids.count(statement["Sid"]) > 1
            is_strange = statement["Effect"] != "Allow" or {"NotAction", "NotResource"} & set(
                statement
            )
            if is_open or has_wildcard or is_unnamed or is_strange or len(services) != 1:
                yield f"{name} {statement.get('Sid')}"


@rule
def bucket_is_listed_for_the_days_of_a_connection_alone(document: Document) -> Iterator[str]:
    """A listing without that condition tells which connections there are, and all their jobs."""
    days = {"StringLike": {"s3:prefix": "snapshots/connection=*"}}
    for role in document.of_type("AWS::IAM::Role"):
        for statement in document.statements_of(role):
            if "s3:ListBucket" in actions(statement) and statement.get("Condition") != days:
                yield f"{role} {statement.get('Sid')}"


@rule
def role_has_one_policy_of_ours(document: Document) -> Iterator[str]:
    """Inline policies are read by few tools, and AWS's own ones grow without being asked."""
    policies = [
        target(policy)
        for role in document.of_type("AWS::IAM::Role").values()
        for policy in role.get("ManagedPolicyArns", [])
    ]
    for name, role in document.of_type("AWS::IAM::Role").items():
        attached = role.get("ManagedPolicyArns", [])
        is_own = [target(policy) for policy in attached] == [name.removesuffix("Role") + "Policy"]
        is_shared = any(policies.count(target(policy)) > 1 for policy in attached)
        is_the_gateways = attached == [{"Fn::Sub": THE_GATEWAYS_OWN}]
        if "Policies" in role or is_shared or not (is_own or is_the_gateways):
            yield name
    for name, policy in document.of_type("AWS::IAM::ManagedPolicy").items():
        if {"Roles", "Users", "Groups"} & policy.keys():
            yield name
    yield from document.of_type("AWS::IAM::Policy", "AWS::IAM::User", "AWS::IAM::Group")


@rule
def role_is_taken_by_its_service_alone(document: Document) -> Iterator[str]:
    """Scheduler's and only of this account: it would act for anybody who names the role."""
    users = {
        target(dig(properties, *path)): service
        for kind, (service, *path) in TRUSTED.items()
        for properties in document.of_type(kind).values()
    }
    for name, role in document.of_type("AWS::IAM::Role").items():
        (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
        service = users.get(name)
        needs_account = service == "scheduler.amazonaws.com"
        if statement["Principal"] != {"Service": service} or (
            needs_account and "aws:SourceAccount" not in text(statement.get("Condition"))
        ):
            yield name


@rule
def role_uses_the_key_for_what_it_does_and_nothing_else(document: Document) -> Iterator[str]:
    """Each use through a named service; one that is missing is an AccessDenied on AWS alone."""
    functions = {document.role_of(name) for name in document.of_type("AWS::Lambda::Function")}
    for role in document.of_type("AWS::IAM::Role"):
        wanted = {("lambda", "kms:Decrypt")} if role in functions else set()  # its environment
        found = set()
        for statement in document.statements_of(role):
            for action in actions(statement):
                for prefix, services in THROUGH.items():
                    if action.startswith(prefix):
                        wanted |= {(s, use) for s, uses in services.items() for use in uses}
                if action.startswith("kms:"):
                    found |= {(service, action) for service in _via(statement)}
        if found != wanted:
            yield role


def _via(statement: dict[str, Json]) -> Iterator[str]:
    """Give the services that a statement about the key names; `anything` where it names none."""
    condition = statement.get("Condition", {})
    services = listed(condition.get("StringEquals", {}).get("kms:ViaService", []))
    if (
        condition.keys() != {"StringEquals"}
        or not services
        or target(statement["Resource"]) != "Key"
    ):
        yield "anything"
    for service in services:
        yield str(service.get("Fn::Sub")).removesuffix("." + TO_THE_SERVICE)


@rule
def role_announces_in_our_name_only(document: Document) -> Iterator[str]:
    """Whoever listens to the bus trusts the source of what is on it."""
    for name, statement in document.policies():
        source = statement.get("Condition", {}).get("StringEquals", {}).get("events:source")
        if "events:PutEvents" in actions(statement) and source != SOURCE:
            yield name


# ------------------------------------------------------------------------------------------------ key

OWN_LOGS = "arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}:log-group:"
OF_THIS_ACCOUNT = {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
SERVICES_OF_THE_KEY: dict[str, tuple[Json, Json]] = {
    "AccountDelegatesToIam": (
        {"AWS": {"Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:root"}},
        {},
    ),
    "GrantsOnlyForAwsServices": (
        {"AWS": "*"},
        {
            "BoolIfExists": {
                "kms:GrantIsForAWSResource": "false",
                "aws:PrincipalIsAWSService": "false",
            }
        },
    ),
    "LogsOfThisStack": (
        {"Service": {"Fn::Sub": "logs.${AWS::Region}.${AWS::URLSuffix}"}},
        {
            "ArnLike": {
                "kms:EncryptionContext:aws:logs:arn": [
                    {"Fn::Sub": f"{OWN_LOGS}/aws/lambda/${{AWS::StackName}}/*"},
                    {"Fn::Sub": f"{OWN_LOGS}/aws/apigateway/${{AWS::StackName}}/*"},
                    {"Fn::Sub": f"{OWN_LOGS}aws-waf-logs-${{AWS::StackName}}"},
                ]
            }
        },
    ),
    "EventsOnTheBusAndInQueues": ({"Service": "events.amazonaws.com"}, OF_THIS_ACCOUNT),
    "AlarmsToTheTopic": ({"Service": "cloudwatch.amazonaws.com"}, OF_THIS_ACCOUNT),
}
"""Who may use the key by its own policy, and the condition of each statement."""


@rule
def key_serves_this_account_and_three_services_of_it(document: Document) -> Iterator[str]:
    """A service acts for every customer of AWS, so each is held to this account or this stack."""
    for name, key in document.of_type("AWS::KMS::Key").items():
        statements = {each["Sid"]: each for each in key["KeyPolicy"]["Statement"]}
        yield from (f"{name} {sid}" for sid in statements.keys() ^ SERVICES_OF_THE_KEY.keys())
        for sid, (principal, condition) in SERVICES_OF_THE_KEY.items():
            statement = statements.get(sid, {})
            is_deny = sid == "GrantsOnlyForAwsServices"
            if (
                statement.get("Principal") != principal
                or statement.get("Condition", {}) != condition
                or statement.get("Effect") != ("Deny" if is_deny else "Allow")
            ):
                yield f"{name} {sid}"


@rule
def key_lets_services_do_what_they_need(document: Document) -> Iterator[str]:
    """A bus, a queue, a topic, a log group with a key that its service may not use drops things.

    And a service that may do more with it than that is a way around everything else.
    """
    uses = {"kms:Decrypt", "kms:GenerateDataKey"}
    needs = {
        "AccountDelegatesToIam": {"kms:*"},
        "GrantsOnlyForAwsServices": {"kms:CreateGrant"},
        "LogsOfThisStack": uses
        | {"kms:Encrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:DescribeKey"}
        | {"kms:GenerateDataKeyWithoutPlaintext"},
        "EventsOnTheBusAndInQueues": uses | {"kms:DescribeKey"},
        "AlarmsToTheTopic": uses,
    }
    for name, key in document.of_type("AWS::KMS::Key").items():
        for statement in key["KeyPolicy"]["Statement"]:
            sid = statement["Sid"]
            if sid in needs and needs[sid] != set(actions(statement)):
                yield f"{name} {sid}"


@rule
def key_is_renewed_and_hard_to_lose(document: Document) -> Iterator[str]:
    """A deletion can be taken back for as long as AWS allows."""
    for name, key in document.of_type("AWS::KMS::Key").items():
        if (key.get("EnableKeyRotation"), key.get("PendingWindowInDays")) != (True, 30):
            yield name


@rule
def key_knows_every_log_group(document: Document) -> Iterator[str]:
    """CloudFormation fails to make a group whose name the key's policy does not cover."""
    (key,) = document.of_type("AWS::KMS::Key").values()
    logs = next(s for s in key["KeyPolicy"]["Statement"] if s["Sid"] == "LogsOfThisStack")
    arns = logs["Condition"]["ArnLike"]["kms:EncryptionContext:aws:logs:arn"]
    covered = [str(arn["Fn::Sub"]).rpartition(":log-group:")[2] for arn in arns]
    for name, group in document.of_type("AWS::Logs::LogGroup").items():
        written = str(group["LogGroupName"]["Fn::Sub"])
        if not any(
            written == known or (known.endswith("/*") and written.startswith(known[:-1]))
            for known in covered
        ):
            yield name
