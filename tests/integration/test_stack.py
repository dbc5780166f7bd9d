"""The deployed stack itself: what the template promises, and that the local AWS keeps it."""

import json
import uuid
from typing import TYPE_CHECKING

import pytest
import requests
from botocore.exceptions import ClientError

from tests.integration.support import Relay, eventually
from tools.local.aws import Aws
from tools.local.eventlog import EventLog
from tools.local.stack import FUNCTIONS, Stack

if TYPE_CHECKING:
    from collections.abc import Callable


def as_function(stack: Stack, logical_id: str) -> Aws:
    """Give clients with exactly what a function may do."""
    name = stack.outputs[f"{logical_id}Name"]
    role = stack.aws.functions.get_function_configuration(FunctionName=name)["Role"]
    keys = stack.aws.sts.assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
    return Aws(
        stack.aws_endpoint,
        {
            "aws_access_key_id": keys["AccessKeyId"],
            "aws_secret_access_key": keys["SecretAccessKey"],
            "aws_session_token": keys["SessionToken"],
        },
    )


def test_every_output_has_a_value(stack: Stack) -> None:
    assert stack.outputs["TableName"] == stack.table
    assert all(stack.outputs.values())


def test_functions_run_on_our_layers_and_log_to_their_own_group(stack: Stack) -> None:
    groups = {
        group["logGroupName"]: (group.get("retentionInDays"), group.get("kmsKeyId"))
        for group in stack.aws.logs.describe_log_groups()["logGroups"]
    }
    key = stack.outputs["KeyArn"]
    for logical_id in FUNCTIONS:
        configuration = stack.aws.functions.get_function_configuration(
            FunctionName=stack.outputs[f"{logical_id}Name"]
        )

        assert configuration["Runtime"] == "python3.13"
        assert len(configuration["Layers"]) == 2
        assert configuration["KMSKeyArn"] == key
        assert groups[configuration["LoggingConfig"]["LogGroup"]] == (365, key)
    assert groups[f"/aws/apigateway/{stack.stack_name}/access"] == (365, key)


def test_rows_expire_when_the_table_says_so(stack: Stack) -> None:
    described = stack.aws.dynamodb.describe_time_to_live(TableName=stack.table)

    lifetime = described["TimeToLiveDescription"]
    assert (lifetime["AttributeName"], lifetime["TimeToLiveStatus"]) == ("expires_at", "ENABLED")


def test_table_is_encrypted_and_can_be_restored(stack: Stack) -> None:
    table = stack.aws.dynamodb.describe_table(TableName=stack.table)["Table"]
    backups = stack.aws.dynamodb.describe_continuous_backups(TableName=stack.table)

    assert table["SSEDescription"]["KMSMasterKeyArn"] == stack.outputs["KeyArn"]
    assert table["DeletionProtectionEnabled"]
    recovery = backups["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"]
    assert recovery["PointInTimeRecoveryStatus"] == "ENABLED"


def test_bucket_is_closed_versioned_encrypted_and_expires(stack: Stack) -> None:
    s3 = stack.aws.s3

    block = s3.get_public_access_block(Bucket=stack.bucket)["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True}
    assert s3.get_bucket_versioning(Bucket=stack.bucket)["Status"] == "Enabled"
    encryption = s3.get_bucket_encryption(Bucket=stack.bucket)
    rule = encryption["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert rule["BucketKeyEnabled"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {
        "SSEAlgorithm": "aws:kms",
        "KMSMasterKeyID": stack.outputs["KeyArn"],
    }
    assert s3.get_bucket_logging(Bucket=stack.bucket)["LoggingEnabled"]["TargetPrefix"]
    rules = s3.get_bucket_lifecycle_configuration(Bucket=stack.bucket)["Rules"]
    assert {each["Status"] for each in rules} == {"Enabled"}
    *expiries, uploads, markers = rules
    ends = {
        each["Filter"]["Prefix"]: (
            each["Expiration"]["Days"],
            each["NoncurrentVersionExpiration"]["NoncurrentDays"],
        )
        for each in expiries
    }
    assert ends == {
        "appointments/": (30, 1),
        "webhooks/": (30, 1),
        "changes/": (30, 1),
        "snapshots/": (365, 15),
    }
    assert uploads["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 1
    assert markers["Expiration"]["ExpiredObjectDeleteMarker"] is True


def test_result_is_encrypted_with_our_key_when_it_lands(stack: Stack, relay: Relay) -> None:
    job = relay.fetch({"start_date": "2026-03-02", "end_date": "2026-03-06"}).json()

    row = relay.ended_job(job["job_execution_id"])

    head = stack.aws.s3.head_object(Bucket=stack.bucket, Key=row["completion"]["result"]["key"])
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == (
        "aws:kms",
        stack.outputs["KeyArn"],
    )


def test_object_is_refused_when_it_would_be_encrypted_with_another_key(stack: Stack) -> None:
    receiver = as_function(stack, "ReceiveWebhook")
    another = stack.aws.client("kms").create_key()["KeyMetadata"]["Arn"]

    with pytest.raises(ClientError, match="AccessDenied"):
        receiver.s3.put_object(
            Bucket=stack.bucket,
            Key="appointments/x",
            Body=b"",
            ServerSideEncryption="aws:kms",
            SSEKMSKeyId=another,
        )


def test_key_rotates_and_encrypts_queues_secrets_tokens_and_alarms(
    stack: Stack, relay: Relay
) -> None:
    aws, key = stack.aws, stack.outputs["KeyArn"]
    relay.fetch({"start_date": "2026-03-02", "end_date": "2026-03-06"})

    queues = [
        aws.sqs.get_queue_attributes(QueueUrl=stack.outputs[name], AttributeNames=["All"])
        for name in ("EventLogUrl", "EventFailuresUrl", "ScheduleFailuresUrl")
    ]
    secrets = [
        aws.secretsmanager.describe_secret(SecretId=stack.outputs[name])
        for name in ("CobaltCredentialsArn", "WebhookSecretArn")
    ]
    tokens = aws.ssm.describe_parameters()["Parameters"]
    topic = aws.client("sns").get_topic_attributes(TopicArn=stack.outputs["AlarmTopic"])

    assert aws.client("kms").get_key_rotation_status(KeyId=key)["KeyRotationEnabled"]
    assert {queue["Attributes"]["KmsMasterKeyId"] for queue in queues} == {key}
    assert {secret["KmsKeyId"] for secret in secrets} == {key}
    path = f"/cobalt-relay/{stack.stack_name}/tokens/"
    assert {token["KeyId"] for token in tokens if token["Name"].startswith(path)} == {key}
    assert topic["Attributes"]["KmsMasterKeyId"] == key


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/appointments/fetch"), ("POST", "/nothing/here"), ("DELETE", "/webhooks/cobalt")],
)
def test_unknown_route_is_a_404_of_ours_when_the_gateway_answers(
    stack: Stack, method: str, path: str
) -> None:
    answer = requests.request(method, stack.api_url + path, timeout=10)

    assert answer.status_code == 404
    assert answer.json()["success"] is False
    assert "No such route" in answer.json()["message"]
    assert answer.headers["x-request-id"]


def test_caller_is_told_to_come_back_when_no_run_is_free(stack: Stack, relay: Relay) -> None:
    name = stack.outputs["FetchAppointmentsName"]
    stack.aws.functions.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    try:
        answer = relay.fetch({"start_date": "2025-06-02", "end_date": "2025-06-03"})
    finally:
        stack.aws.functions.delete_function_concurrency(FunctionName=name)

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json()["success"] is False
    assert answer.headers["x-request-id"]


def test_function_is_refused_when_it_reaches_beyond_its_role(stack: Stack, relay: Relay) -> None:
    receiver = as_function(stack, "ReceiveWebhook")
    fetcher = as_function(stack, "FetchAppointments")

    forbidden: list[Callable[[], object]] = [
        lambda: receiver.secretsmanager.get_secret_value(
            SecretId=stack.outputs["CobaltCredentialsArn"]
        ),
        lambda: receiver.s3.put_object(Bucket=stack.bucket, Key="elsewhere/x", Body=b""),
        lambda: receiver.s3.list_objects_v2(Bucket=stack.bucket),
        lambda: receiver.dynamodb.scan(TableName=stack.table),
        lambda: fetcher.s3.put_object(Bucket=stack.bucket, Key="appointments/x", Body=b""),
        lambda: fetcher.ssm.get_parameter(Name=f"/{stack.stack_name}/tokens/x"),
        lambda: fetcher.dynamodb.delete_item(
            TableName=stack.table, Key={"pk": {"S": "x"}, "sk": {"S": "x"}}
        ),
    ]
    for call in forbidden:
        with pytest.raises(ClientError) as refusal:
            call()
        assert refusal.value.response["Error"]["Code"] in (
            "AccessDenied",
            "AccessDeniedException",
        )
    assert "elsewhere/x" not in relay.object_keys()


def test_function_is_served_when_it_stays_within_its_role(stack: Stack) -> None:
    receiver = as_function(stack, "ReceiveWebhook")

    secret = receiver.secretsmanager.get_secret_value(SecretId=stack.outputs["WebhookSecretArn"])

    assert json.loads(secret["SecretString"])["webhook_secret_key"]


def test_event_reaches_the_event_log_when_the_relay_is_its_source(
    stack: Stack, events: EventLog
) -> None:
    job = f"job_{uuid.uuid4().hex}"
    detail = json.dumps({"job_execution_id": job})

    for source in ("somebody-else", "cobalt-relay"):
        entry = {"Source": source, "DetailType": "Test", "Detail": detail}
        sent = stack.aws.events.put_events(
            Entries=[{**entry, "EventBusName": stack.bus}]  # type: ignore[typeddict-item]
        )
        assert sent["FailedEntryCount"] == 0

    (event,) = eventually(lambda: events.of(job))
    assert event["source"] == "cobalt-relay"


def test_schedule_invokes_the_planner_with_its_window(stack: Stack) -> None:
    schedule = stack.aws.scheduler.get_schedule(Name=stack.outputs["ScheduleName"])

    assert stack.outputs["PlanFetchesName"] in schedule["Target"]["Arn"]
    assert json.loads(schedule["Target"]["Input"]) == {
        "connections": "all",
        "from_day": 0,
        "days": 14,
        "spread_minutes": 10,
        "schedule": f"{stack.stack_name}-fetch-all",
        "scheduled_at": "<aws.scheduler.scheduled-time>",
    }


def test_fetch_ends_in_s3_and_on_the_bus_when_cobalt_delivers(
    stack: Stack, relay: Relay, events: EventLog
) -> None:
    answer = relay.fetch({"start_date": "2026-03-02", "end_date": "2026-03-06"})

    assert answer.status_code == 202
    job = answer.json()["job_execution_id"]
    assert relay.ended_job(job)["state"] == "COMPLETED"
    (event,) = eventually(lambda: events.of(job))
    assert event["detail-type"] == "Appointments Fetched"
    delivered = relay.object(event["detail"]["result"]["key"])
    assert delivered == stack.sandbox.event_body(event["detail"]["cobalt_event_id"])
