"""Which stack is meant, and the ways to reach it."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, NoCredentialsError, NoRegionError, ProfileNotFound

from cobalt_relay.adapters.cobalt import Cobalt
from cobalt_relay.adapters.connections import Connections
from cobalt_relay.adapters.jobs import Jobs
from cobalt_relay.adapters.queue import FetchQueue
from cobalt_relay.adapters.ranges import Ranges
from cobalt_relay.adapters.secrets import Secrets
from cobalt_relay.adapters.snapshots import Snapshots
from cobalt_relay.adapters.table import Table
from cobalt_relay.errors import EnvironmentIncomplete
from cobalt_relay.models import ClientCredentials
from cobalt_relay.settings import Settings, ZonedSettings
from tools.relay.faults import NotFound, NotWell, Unreachable, WrongUsage

LOOPBACK = ("127.0.0.1", "localhost", "::1")
CONFIG = Config(
    connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3}
)
ONCE = Config(connect_timeout=5, read_timeout=320, retries={"total_max_attempts": 1})
"""For an invocation: one that was not answered may have begun, and is not sent twice in one go."""


@dataclass(frozen=True)
class Deployment:
    """A deployed stack. Everything is made on first use, for most commands need little of it."""

    stack_name: str
    region: str
    outputs: Mapping[str, str]
    api_url: str
    webhook_url: str
    is_local: bool
    make_client: Callable[[str, Config], Any]
    status: str = ""

    def client(self, service: str, config: Config = CONFIG) -> Any:  # noqa: ANN401 - one type per service
        """Give a client for an AWS service."""
        return self.make_client(service, config)

    def output(self, name: str) -> str:
        """Give an output of the stack; `NotWell` where it has none of that name."""
        value = self.outputs.get(name)
        if not value:
            raise NotWell(
                "output_missing",
                f"The stack has no output {name}. Name a stack of Cobalt Relay, and deploy it again"
                " if it is an old one.",
            )
        return value

    @cached_property
    def settings(self) -> Settings:
        """What the functions of the stack are told."""
        settings = self._settings(Settings, "FetchAppointmentsName")
        if self.is_local and urlsplit(settings.cobalt_base_url).hostname not in LOOPBACK:
            raise NotWell("not_local", "The local stack does not point at the sandbox.")
        return settings

    @cached_property
    def default_time_zone(self) -> str:
        """Where a clinic is taken to be, by schedules too, of which Cobalt does not tell it."""
        return self._settings(ZonedSettings, "PlanFetchesName").default_time_zone

    def _settings[T: Settings](self, kind: type[T], output: str) -> T:
        """Read the environment of the function that an output names."""
        configuration = self.client("lambda").get_function_configuration(
            FunctionName=self.output(output)
        )
        try:
            return kind.from_environment(configuration["Environment"]["Variables"])
        except EnvironmentIncomplete as error:
            raise NotWell(error.code, error.message) from error

    @cached_property
    def cobalt(self) -> Cobalt:
        """Give the upstream that the stack uses."""
        return Cobalt(self.settings.cobalt_base_url)

    @cached_property
    def table(self) -> Table:
        """Give the stack's table."""
        return Table(self.client("dynamodb"), self.output("TableName"))

    @cached_property
    def jobs(self) -> Jobs:
        """Give the rows of jobs and requests."""
        return Jobs(self.table, self.settings.retention, self.settings.job_deadline)

    @cached_property
    def ranges(self) -> Ranges:
        """Give the rows of ranges."""
        return Ranges(self.table, self.settings.retention)

    @cached_property
    def days(self) -> Snapshots:
        """Give the days of the connections."""
        return Snapshots(self.client("s3"), self.output("BucketName"))

    @cached_property
    def queue(self) -> FetchQueue:
        """Give the queue of the fetches that are to be made."""
        return FetchQueue(self.client("sqs"), self.output("FetchQueueUrl"))

    @cached_property
    def connections(self) -> Connections:
        """Give the connections and their tokens."""
        own = self.settings
        return Connections(
            self.table, lambda: self.client("ssm"), own.token_path, own.token_key_arn
        )

    @cached_property
    def secrets(self) -> Secrets:
        """Give the two secrets of the stack."""
        return Secrets(
            self.client("secretsmanager"),
            self.output("CobaltCredentialsArn"),
            self.output("WebhookSecretArn"),
        )

    def credentials(self) -> ClientCredentials:
        """Give the stored client credentials; `CredentialsNotConfigured` where there are none."""
        return self.secrets.credentials()


class _Where(TypedDict, total=False):
    region_name: str | None
    profile_name: str | None


@dataclass
class Session:
    """What the options before the command say."""

    stack: str | None = None
    region: str | None = None
    profile: str | None = None
    local: bool = False
    stack_file: Path | None = None

    @cached_property
    def deployment(self) -> Deployment:
        """Find the stack. Raises `WrongUsage`, `NotFound` and `Unreachable`."""
        return self._local() if self.local or self.stack_file else self._on_aws()

    def _local(self) -> Deployment:
        from tools.local import up  # noqa: PLC0415 - not needed on AWS
        from tools.local.aws import CREDENTIALS, REGION, Aws, forget_user_settings  # noqa: PLC0415
        from tools.local.errors import LocalError  # noqa: PLC0415
        from tools.local.stack import Stack  # noqa: PLC0415

        if self.stack or self.region or self.profile:
            raise WrongUsage(
                "local_or_aws", "--local means the stack of make up: leave --stack and such out."
            )
        forget_user_settings()
        try:
            running = Stack.read(self.stack_file) if self.stack_file else up.running()
            endpoint = Aws(running.aws_endpoint).endpoint
        except (LocalError, OSError) as error:
            message = str(error) if isinstance(error, LocalError) else "No such stack file."
            raise NotFound("no_local_stack", message) from error
        if any(
            urlsplit(url).hostname not in LOOPBACK for url in (running.api_url, running.webhook_url)
        ):
            raise NotFound("no_local_stack", "The stack file names what is not on this machine.")

        def client(service: str, config: Config) -> Any:  # noqa: ANN401 - one type per service
            make: Any = boto3.client
            return make(
                service,
                endpoint_url=endpoint,
                region_name=REGION,
                aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
                config=config.merge(Config(s3={"addressing_style": "path"})),
            )

        return Deployment(
            stack_name=running.stack_name,
            region=REGION,
            outputs=running.outputs,
            api_url=running.api_url,
            webhook_url=running.webhook_url,
            is_local=True,
            make_client=client,
        )

    def _on_aws(self) -> Deployment:
        name = self.stack or default_stack()
        where: _Where = {
            # AWS_REGION is the AWS CLI's first choice, and unknown to boto3.
            "region_name": self.region or os.environ.get("AWS_REGION"),
            "profile_name": self.profile,
        }
        try:
            session: Any = boto3.Session(**where)
            cloudformation = session.client("cloudformation", config=CONFIG)
            [stack] = cloudformation.describe_stacks(StackName=name)["Stacks"]
        except ProfileNotFound as error:
            raise NotFound("no_profile", "The AWS CLI knows no profile of that name.") from error
        except NoRegionError as error:
            raise WrongUsage(
                "no_region", "No AWS region. Add --region, or set AWS_REGION, to that of the stack."
            ) from error
        except NoCredentialsError as error:
            raise Unreachable(
                "no_credentials",
                "No AWS credentials. Sign in as for the AWS CLI, or add --profile.",
            ) from error
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationError":
                raise
            region = cloudformation.meta.region_name
            raise NotFound(
                "no_stack",
                f"There is no stack {name} in {region} of this account. Name another with --stack,"
                " or say with --region and --profile where it is.",
            ) from error
        outputs = {each["OutputKey"]: each["OutputValue"] for each in stack.get("Outputs", [])}
        return Deployment(
            stack_name=name,
            region=cloudformation.meta.region_name,
            outputs=outputs,
            api_url=outputs.get("ApiUrl", ""),
            webhook_url=outputs.get("WebhookUrl", ""),
            is_local=False,
            make_client=lambda service, config: session.client(service, config=config),
            status=stack["StackStatus"],
        )


def default_stack() -> str:
    """Give the name that `samconfig.toml` gives the stack."""
    import tomllib  # noqa: PLC0415 - where no stack is named alone

    path = Path(__file__).resolve().parents[2] / "samconfig.toml"
    said = tomllib.loads(path.read_text(encoding="utf-8"))
    return str(said["default"]["global"]["parameters"]["stack_name"])


def secret_text(client: Any, arn: str) -> str | None:  # noqa: ANN401 - a Secrets Manager client
    """Give a secret as it stands; None where nothing was put yet."""
    try:
        answer = client.get_secret_value(SecretId=arn)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            return None
        raise
    text: str | None = answer.get("SecretString")
    return text


def json_object(text: str | None) -> dict[str, Any]:
    """Read a JSON object leniently: what is none is an empty one."""
    try:
        said = json.loads(text or "")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
