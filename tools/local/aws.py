"""Clients for the local AWS, and the promise that no other AWS is ever spoken to."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from tools.local.errors import LocalError

if TYPE_CHECKING:
    from mypy_boto3_apigateway import APIGatewayClient
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_scheduler import EventBridgeSchedulerClient
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_ssm import SSMClient
    from mypy_boto3_sts import STSClient

REGION = "us-east-1"
ACCOUNT = "000000000000"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
"""MiniStack's root user."""

CONFIG = Config(
    connect_timeout=2,
    read_timeout=30,
    retries={"mode": "standard", "total_max_attempts": 2},
    s3={"addressing_style": "path"},
)


def environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give an environment without the user's AWS settings: no profile, no key, no endpoint."""
    kept = os.environ if base is None else base
    return {name: value for name, value in kept.items() if not name.startswith("AWS_")} | {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": REGION,
    }


def forget_user_settings() -> None:
    """Make this process and its children unable to reach an account of the user's."""
    clean = environment()
    os.environ.clear()
    os.environ.update(clean)


@dataclass(frozen=True)
class Aws:
    """Clients for one endpoint, as MiniStack's root user or with a role's session.

    `LocalError` for an endpoint that is not on this machine.
    """

    endpoint: str
    credentials: Mapping[str, str] = field(default_factory=dict)
    """`aws_access_key_id`, `aws_secret_access_key`, `aws_session_token`; empty for root."""

    def __post_init__(self) -> None:
        if urlsplit(self.endpoint).hostname not in ("127.0.0.1", "localhost", "::1"):
            raise LocalError(f"{self.endpoint} is not a local address. Only the local AWS is used.")

    def client(self, service: str) -> Any:  # noqa: ANN401 - one type per service; see below
        """Give a client for any service."""
        keys = {
            "aws_access_key_id": CREDENTIALS["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        }
        options: dict[str, Any] = keys | dict(self.credentials)
        make: Any = boto3.client
        return make(
            service, endpoint_url=self.endpoint, region_name=REGION, config=CONFIG, **options
        )

    @cached_property
    def apigateway(self) -> "APIGatewayClient":
        """Give a client for API Gateway."""
        client: APIGatewayClient = self.client("apigateway")
        return client

    @cached_property
    def cloudformation(self) -> "CloudFormationClient":
        """Give a client for CloudFormation."""
        client: CloudFormationClient = self.client("cloudformation")
        return client

    @cached_property
    def dynamodb(self) -> "DynamoDBClient":
        """Give a client for DynamoDB."""
        client: DynamoDBClient = self.client("dynamodb")
        return client

    @cached_property
    def events(self) -> "EventBridgeClient":
        """Give a client for EventBridge."""
        client: EventBridgeClient = self.client("events")
        return client

    @cached_property
    def functions(self) -> "LambdaClient":
        """Give a client for Lambda."""
        client: LambdaClient = self.client("lambda")
        return client

    @cached_property
    def logs(self) -> "CloudWatchLogsClient":
        """Give a client for CloudWatch Logs."""
        client: CloudWatchLogsClient = self.client("logs")
        return client

    @cached_property
    def s3(self) -> "S3Client":
        """Give a client for S3."""
        client: S3Client = self.client("s3")
        return client

    @cached_property
    def scheduler(self) -> "EventBridgeSchedulerClient":
        """Give a client for EventBridge Scheduler."""
        client: EventBridgeSchedulerClient = self.client("scheduler")
        return client

    @cached_property
    def secretsmanager(self) -> "SecretsManagerClient":
        """Give a client for Secrets Manager."""
        client: SecretsManagerClient = self.client("secretsmanager")
        return client

    @cached_property
    def sqs(self) -> "SQSClient":
        """Give a client for SQS."""
        client: SQSClient = self.client("sqs")
        return client

    @cached_property
    def ssm(self) -> "SSMClient":
        """Give a client for SSM."""
        client: SSMClient = self.client("ssm")
        return client

    @cached_property
    def sts(self) -> "STSClient":
        """Give a client for STS."""
        client: STSClient = self.client("sts")
        return client
