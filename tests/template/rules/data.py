"""What the stack keeps: how long, under which key, and that it is not lost or lent by mistake."""

import re
from collections.abc import Iterator

from tests.template.document import Document, Json, dig, listed, rule, target, text

KEY = "Key"

ENCRYPTED = {
    "AWS::DynamoDB::Table": ("SSESpecification", "KMSMasterKeyId"),
    "AWS::Events::EventBus": ("KmsKeyIdentifier",),
    "AWS::Lambda::Function": ("KmsKeyArn",),
    "AWS::Logs::LogGroup": ("KmsKeyId",),
    "AWS::S3::Bucket": (
        "BucketEncryption",
        "ServerSideEncryptionConfiguration",
        0,
        "ServerSideEncryptionByDefault",
        "KMSMasterKeyID",
    ),
    "AWS::SNS::Topic": ("KmsMasterKeyId",),
    "AWS::SQS::Queue": ("KmsMasterKeyId",),
    "AWS::SecretsManager::Secret": ("KmsKeyId",),
}
"""Where each type that keeps something names its key."""

KEPT: dict[str, dict[str | None, tuple[str, int]]] = {
    "Results": {
        "appointments/": ("ResultRetentionDays", 1),
        "webhooks/": ("ResultRetentionDays", 1),
        "changes/": ("ResultRetentionDays", 1),
        "snapshots/": ("SnapshotRetentionDays", 15),
    },
    "AccessLogs": {None: ("LogRetentionDays", 1)},
}
"""What each bucket holds, the parameter that says for how long, and for how many days versions."""

KEEPS_NOTHING = frozenset(
    {
        "AWS::ApiGateway::Account",
        "AWS::ApiGateway::ApiKey",
        "AWS::ApiGateway::BasePathMapping",
        "AWS::ApiGateway::Deployment",
        "AWS::ApiGateway::DomainName",
        "AWS::ApiGateway::RestApi",
        "AWS::ApiGateway::Stage",
        "AWS::ApiGateway::UsagePlan",
        "AWS::ApiGateway::UsagePlanKey",
        "AWS::CloudWatch::Alarm",
        "AWS::CloudWatch::Dashboard",
        "AWS::Events::Rule",
        "AWS::IAM::ManagedPolicy",
        "AWS::IAM::Role",
        "AWS::KMS::Alias",
        "AWS::KMS::Key",
        "AWS::Lambda::Alias",
        "AWS::Lambda::EventInvokeConfig",
        "AWS::Lambda::EventSourceMapping",
        "AWS::Lambda::LayerVersion",
        "AWS::Lambda::Permission",
        "AWS::Lambda::Version",  # its snapshot is encrypted with the key of its function
        "AWS::S3::BucketPolicy",
        "AWS::SNS::TopicPolicy",
        "AWS::SQS::QueuePolicy",
        "AWS::Scheduler::Schedule",
        "AWS::SecretsManager::RotationSchedule",
        "AWS::WAFv2::LoggingConfiguration",
        "AWS::WAFv2::WebACL",
        "AWS::WAFv2::WebACLAssociation",
    }
)
"""Types that keep no more than what stands in the template itself."""

ACCESS_LOGS = "AccessLogs"
"""The bucket of access logs: S3 delivers its logs into none with a key of a customer."""

OUTLIVES = {"AWS::DynamoDB::Table", "AWS::S3::Bucket", "AWS::KMS::Key"}

SSE = "s3:x-amz-server-side-encryption"
KEY_ID = f"{SSE}-aws-kms-key-id"

SAFE_DEFAULTS = {
    "AlarmTopicArn": "",
    "CobaltBaseUrl": "https://api.usecobalt.com",
    "DeletionProtection": "true",
    "LogLevel": "INFO",
    "LogRetentionDays": 365,
    "ManageApiGatewayAccount": "true",
    "RequireTls": "true",
    "ScheduleState": "ENABLED",
}
"""The parameters that could weaken the stack, with the value that does not."""


# -------------------------------------------------------------------------------------------- at rest


@rule
def everything_is_encrypted_with_the_one_key(document: Document) -> Iterator[str]:
    """Disabling one key then makes a clinic's data unreadable, wherever it lies."""
    for name, resource in document.resources.items():
        kind, properties = resource["Type"], resource.get("Properties", {})
        if name == ACCESS_LOGS:
            (*encryption, _) = ENCRYPTED[kind]
            is_encrypted = dig(properties, *encryption) == {"SSEAlgorithm": "AES256"}
        elif kind == "AWS::DynamoDB::Table" and not dig(
            properties, "SSESpecification", "SSEEnabled"
        ):
            is_encrypted = False
        elif kind in ENCRYPTED:
            is_encrypted = target(dig(properties, *ENCRYPTED[kind])) == KEY
        else:
            is_encrypted = kind in KEEPS_NOTHING  # any other type nobody has looked at yet
        if not is_encrypted:
            yield name


@rule
def what_must_outlive_the_stack_is_retained(document: Document) -> Iterator[str]:
    """Results, rows and the key that reads them are the operator's to delete, not a typo's."""
    for name, resource in document.resources.items():
        policies = {resource.get("DeletionPolicy"), resource.get("UpdateReplacePolicy")}
        if resource["Type"] in OUTLIVES and policies != {"Retain"}:
            yield name


@rule
def logs_end_when_the_parameter_says(document: Document) -> Iterator[str]:
    """A group without a number of days keeps its lines for ever."""
    wanted = str(document.values["LogRetentionDays"])
    for name, group in document.of_type("AWS::Logs::LogGroup").items():
        if str(group.get("RetentionInDays")) != wanted:
            yield name


@rule
def objects_end_when_the_parameter_says(document: Document) -> Iterator[str]:
    """With the versions that are left of them, and with what of an upload was never finished."""
    for name, bucket in document.of_type("AWS::S3::Bucket").items():
        rules = dig(bucket, "LifecycleConfiguration", "Rules") or []
        found = {
            each.get("Prefix"): (
                str(each["ExpirationInDays"]),
                dig(each, "NoncurrentVersionExpiration", "NoncurrentDays"),
            )
            for each in rules
            if "ExpirationInDays" in each
        }
        wanted = {
            prefix: (str(document.values[parameter]), versions)
            for prefix, (parameter, versions) in KEPT[name].items()
        }
        ends = text([each for each in rules if "Prefix" not in each])
        if (
            found != wanted
            or any(each["Status"] != "Enabled" for each in rules)
            or "AbortIncompleteMultipartUpload" not in ends
            or "ExpiredObjectDeleteMarker" not in ends
        ):
            yield name


# ----------------------------------------------------------------------------------------------- table


@rule
def table_cannot_be_deleted_in_passing(document: Document) -> Iterator[str]:
    for name, table in document.of_type("AWS::DynamoDB::Table").items():
        if str(table.get("DeletionProtectionEnabled")).lower() != "true":
            yield name


@rule
def rows_end_by_the_attribute_that_the_code_writes(document: Document) -> Iterator[str]:
    """`expires_at`, of every adapter."""
    wanted = {"AttributeName": "expires_at", "Enabled": True}
    for name, table in document.of_type("AWS::DynamoDB::Table").items():
        if table.get("TimeToLiveSpecification") != wanted:
            yield name


@rule
def table_can_be_restored(document: Document) -> Iterator[str]:
    """To any second of 35 days."""
    wanted = {"PointInTimeRecoveryEnabled": True, "RecoveryPeriodInDays": 35}
    for name, table in document.of_type("AWS::DynamoDB::Table").items():
        if table.get("PointInTimeRecoverySpecification") != wanted:
            yield name


@rule
def indexes_hold_keys_alone(document: Document) -> Iterator[str]:
    """An index with more is a second copy of the rows, and each of its readers sees them."""
    for name, table in document.of_type("AWS::DynamoDB::Table").items():
        for index in table["GlobalSecondaryIndexes"]:
            if index["Projection"] != {"ProjectionType": "KEYS_ONLY"}:
                yield f"{name} {index['IndexName']}"


# --------------------------------------------------------------------------------------------- buckets


@rule
def bucket_is_closed_and_versioned(document: Document) -> Iterator[str]:
    flags = {"BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"}
    for name, bucket in document.of_type("AWS::S3::Bucket").items():
        block = bucket.get("PublicAccessBlockConfiguration", {})
        is_closed = {flag for flag, value in block.items() if value is True} == flags
        if not is_closed or dig(bucket, "VersioningConfiguration", "Status") != "Enabled":
            yield name


@rule
def bucket_knows_no_access_lists(document: Document) -> Iterator[str]:
    """With lists an object can belong, and be lent, to another account than the bucket."""
    for name, bucket in document.of_type("AWS::S3::Bucket").items():
        ownership = dig(bucket, "OwnershipControls", "Rules", 0, "ObjectOwnership")
        if ownership != "BucketOwnerEnforced" or "AccessControl" in bucket:
            yield name


@rule
def access_to_results_is_logged(document: Document) -> Iterator[str]:
    for name, bucket in document.of_type("AWS::S3::Bucket").items():
        destination = target(dig(bucket, "LoggingConfiguration", "DestinationBucketName"))
        if ACCESS_LOGS not in {name, destination}:
            yield name


@rule
def bucket_refuses_old_tls(document: Document) -> Iterator[str]:
    for name in document.of_type("AWS::S3::Bucket"):
        if not any(
            _denies_all(statement, name)
            and dig(statement, "Condition", "NumericLessThan", "s3:TlsVersion") == "1.2"
            for statement in _bucket_statements(document, name)
        ):
            yield name


@rule
def bucket_refuses_plain_http(document: Document) -> Iterator[str]:
    for name in document.of_type("AWS::S3::Bucket"):
        if not any(
            _denies_all(statement, name)
            and statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}
            for statement in _bucket_statements(document, name)
        ):
            yield name


@rule
def results_are_written_under_no_other_key(document: Document) -> Iterator[str]:
    """Who names a key or a way of encrypting must name ours; who names none gets it by default.

    S3 judges by the headers of a request, before the bucket's default: a condition that holds where
    there is none (StringNotEquals alone, or with IfExists) would refuse every result of ours.
    """
    for name in document.of_type("AWS::S3::Bucket").keys() - {ACCESS_LOGS}:
        conditions = [
            statement["Condition"]
            for statement in _bucket_statements(document, name)
            if statement["Effect"] == "Deny"
            and statement["Principal"] == "*"
            and statement["Action"] == "s3:PutObject"
            and statement["Resource"] == {"Fn::Sub": f"${{{name}.Arn}}/*"}
        ]
        refuse = (
            {"StringNotEquals": {KEY_ID: {"Fn::GetAtt": [KEY, "Arn"]}}, "Null": {KEY_ID: "false"}},
            {"StringNotEquals": {SSE: "aws:kms"}, "Null": {SSE: "false"}},
        )
        if not all(condition in conditions for condition in refuse) or len(conditions) != len(
            refuse
        ):
            yield name


@rule
def nothing_outside_is_let_into_a_bucket(document: Document) -> Iterator[str]:
    """Only S3 itself, from our own bucket, and only to log."""
    ours = {
        "StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}},
        "ArnLike": {"aws:SourceArn": {"Fn::GetAtt": ["Results", "Arn"]}},
    }
    for name in document.of_type("AWS::S3::Bucket"):
        for statement in _bucket_statements(document, name):
            if statement["Effect"] == "Allow" and (
                statement["Principal"] != {"Service": "logging.s3.amazonaws.com"}
                or statement["Action"] != "s3:PutObject"
                or statement.get("Condition") != ours
            ):
                yield name


def _bucket_statements(document: Document, bucket: str) -> list[dict[str, Json]]:
    return [
        statement
        for policy in document.of_type("AWS::S3::BucketPolicy").values()
        if target(policy["Bucket"]) == bucket
        for statement in policy["PolicyDocument"]["Statement"]
    ]


def _denies_all(statement: dict[str, Json], bucket: str) -> bool:
    arn = {"Fn::GetAtt": [bucket, "Arn"]}
    return (
        statement["Effect"] == "Deny"
        and statement["Principal"] == "*"
        and statement["Action"] == "s3:*"
        and listed(statement["Resource"]) == [arn, {"Fn::Join": ["", [arn, "/*"]]}]
    )


# --------------------------------------------------------------------------------------------- secrets


@rule
def secret_has_no_value_in_the_template(document: Document) -> Iterator[str]:
    """The operator puts it: a template is read by many, and kept by CloudFormation for ever."""
    for name, secret in document.of_type("AWS::SecretsManager::Secret").items():
        if {"SecretString", "GenerateSecretString"} & secret.keys():
            yield name


@rule
def rotation_waits_for_its_day(document: Document) -> Iterator[str]:
    """A deployment that rotated would change the secret of the client's other receivers unasked."""
    for name, rotation in document.of_type("AWS::SecretsManager::RotationSchedule").items():
        if rotation.get("RotateImmediatelyOnUpdate") is not False:
            yield name


@rule
def no_secret_is_resolved_into_the_stack(document: Document) -> Iterator[str]:
    """What a dynamic reference or an output names stands readable in the console."""
    for part, content in (("Outputs", document.outputs), ("Resources", document.resources)):
        for name, each in content.items():
            if "{{resolve:" in text(each):
                yield f"{part} {name}"


@rule
def output_tells_no_secret(document: Document) -> Iterator[str]:
    """An output names things; the key of the callers is shown to who asks API Gateway for it."""
    for name, output in document.outputs.items():
        value = text(output["Value"])
        if re.search(r"Secret(String|Value)|Value\"", value) or not output.get("Description"):
            yield name


# ------------------------------------------------------------------------------------------ parameters


@rule
def no_default_weakens_the_stack(document: Document) -> Iterator[str]:
    for name, value in SAFE_DEFAULTS.items():
        if document.parameters.get(name, {}).get("Default") != value:
            yield name


@rule
def parameter_is_described_bounded_and_defaulted(document: Document) -> Iterator[str]:
    """A stack can be made without a word, and no value is taken that was not thought of."""
    for name, parameter in document.parameters.items():
        is_bounded = {"AllowedValues", "AllowedPattern", "MinValue"} & parameter.keys()
        if not {"Description", "Default"} <= parameter.keys() or not is_bounded:
            yield name


@rule
def no_parameter_takes_a_secret(document: Document) -> Iterator[str]:
    """Not even with NoEcho: it would go on to a function's environment, which echoes."""
    for name, parameter in document.parameters.items():
        is_secret = re.search(r"(Secret|Token|Password|Credentials?|ApiKey)$", name)
        is_free = "AllowedValues" not in parameter and parameter["Type"] != "Number"
        if "NoEcho" in parameter or (is_secret and is_free):
            yield name
