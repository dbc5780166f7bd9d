"""How the relay talks to AWS: explicit timeouts and retries for every client."""

from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_ssm import SSMClient

AWS_FAULTS = (BotoCoreError, ClientError)
"""What any call of a client may raise."""

CONFIG = Config(
    connect_timeout=1,
    read_timeout=2,
    retries={"mode": "standard", "total_max_attempts": 2},
)
"""Seconds. Two attempts at 2 s each leave a webhook that meets a dead service time to say 503
before Cobalt hangs up after 5 s; botocore's own defaults would wait for minutes."""


def error_code(error: Exception) -> str:
    """Name what AWS answered; empty where it did not answer at all."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""


def dynamodb() -> "DynamoDBClient":
    """Give a client for DynamoDB."""
    return boto3.client("dynamodb", config=CONFIG)


def s3() -> "S3Client":
    """Give a client for S3."""
    return boto3.client("s3", config=CONFIG)


def events() -> "EventBridgeClient":
    """Give a client for EventBridge."""
    return boto3.client("events", config=CONFIG)


def secretsmanager() -> "SecretsManagerClient":
    """Give a client for Secrets Manager."""
    return boto3.client("secretsmanager", config=CONFIG)


def ssm() -> "SSMClient":
    """Give a client for SSM Parameter Store."""
    return boto3.client("ssm", config=CONFIG)
