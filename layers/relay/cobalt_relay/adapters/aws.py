"""How the relay talks to AWS: explicit timeouts and retries for every client."""

from typing import TYPE_CHECKING

import boto3
import botocore
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.handlers import add_expect_header

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_ssm import SSMClient

AWS_FAULTS = (BotoCoreError, ClientError)
"""What any call of a client may raise."""

Patience = Config

PATIENT = Config(
    connect_timeout=1,
    read_timeout=3,
    retries={"mode": "standard", "total_max_attempts": 2},
)
"""Seconds. For a caller who waits up to the 29 s of API Gateway; botocore's own are minutes."""
PARALLEL = PATIENT.merge(Config(max_pool_connections=16))
"""For a client whose calls several threads make at once."""
PROMPT = Config(
    connect_timeout=0.5,
    read_timeout=1.25,
    retries={"mode": "standard", "total_max_attempts": 2},
)
"""Seconds. For a webhook: a service that does not answer costs 2 x 1.25 and up to 1 in between, so
there is time to say 503 before Cobalt hangs up after 5 and the delivery is lost."""

UNHURRIED = Config(
    connect_timeout=1,
    read_timeout=20,
    retries={"mode": "standard", "total_max_attempts": 3},
)
"""Seconds. For nobody who waits, and results of tens of megabytes."""

SIGNING = PATIENT.merge(
    Config(
        signature_version="s3v4",
        s3={"addressing_style": "virtual", "us_east_1_regional_endpoint": "regional"},
    )
)
"""For URLs that are signed here and used elsewhere. Left alone, botocore names the global endpoint:
that redirects to a new bucket's region, where the signature, which is for a host, fits no more. An
endpoint that is an address, as the local one is, has the bucket in the path all the same."""


_NAMED = Config(user_agent=f"CobaltRelay Boto3/{boto3.__version__} Botocore/{botocore.__version__}")
"""Who calls, as CloudTrail shows it. Left alone, botocore composes it anew twice for each call, out
of a dozen parts: a tenth of the call's CPU."""
_UNCHECKED = Config(parameter_validation=False)
"""Without a walk through each value before DynamoDB does the same: a sixth of a write's CPU. All
that is sent has been serialised by `Table`, with its types. S3 keeps its walk: an empty key would
make a URL that means the bucket."""


def error_code(error: Exception) -> str:
    """Name what AWS answered; empty where it did not answer at all."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""


def dynamodb(config: Config = PATIENT) -> "DynamoDBClient":
    """Give a client for DynamoDB."""
    return boto3.client("dynamodb", config=_NAMED.merge(_UNCHECKED).merge(config))


def s3(config: Config = PATIENT) -> "S3Client":
    """Give a client for S3.

    It sends a body without asking first (`Expect: 100-continue`): asking costs another second where
    S3 does not answer.
    """
    client = boto3.client("s3", config=_NAMED.merge(config))
    client.meta.events.unregister("before-call.s3", add_expect_header)
    return client


def events(config: Config = PATIENT) -> "EventBridgeClient":
    """Give a client for EventBridge."""
    return boto3.client("events", config=_NAMED.merge(config))


def secretsmanager(config: Config = PATIENT) -> "SecretsManagerClient":
    """Give a client for Secrets Manager."""
    return boto3.client("secretsmanager", config=_NAMED.merge(config))


def sqs(config: Config = PARALLEL) -> "SQSClient":
    """Give a client for SQS, for several threads at once."""
    return boto3.client("sqs", config=_NAMED.merge(config))


def ssm(config: Config = PATIENT) -> "SSMClient":
    """Give a client for SSM Parameter Store."""
    return boto3.client("ssm", config=_NAMED.merge(config))
