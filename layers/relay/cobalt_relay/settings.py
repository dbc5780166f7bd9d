"""The environment of a function, read once. Nothing else reads it."""

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cobalt_relay.errors import EnvironmentIncomplete

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo


class Settings(BaseModel):
    """What `template.yaml` gives every function, by the names it has there.

    Secrets are not among it: the environment of a function is shown in consoles and API answers, so
    it holds the ARNs of secrets only.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    cobalt_base_url: str = Field(alias="COBALT_BASE_URL", pattern=r"^https?://[^/]+$")
    credentials_secret_arn: str = Field(alias="CREDENTIALS_SECRET_ARN", min_length=1)
    webhook_secret_arn: str = Field(alias="WEBHOOK_SECRET_ARN", min_length=1)
    table_name: str = Field(alias="TABLE_NAME", min_length=1)
    bucket_name: str = Field(alias="BUCKET_NAME", min_length=1)
    event_bus_name: str = Field(alias="EVENT_BUS_NAME", min_length=1)
    token_path: str = Field(alias="TOKEN_PATH", pattern=r"^/.+[^/]$")
    token_key_arn: str = Field(alias="TOKEN_KEY_ARN", min_length=1)
    job_deadline_minutes: int = Field(alias="JOB_DEADLINE_MINUTES", gt=0)
    single_flight_seconds: int = Field(alias="SINGLE_FLIGHT_SECONDS", ge=0)
    result_retention_days: int = Field(alias="RESULT_RETENTION_DAYS", gt=0)
    fetch_queue_url: str = Field(alias="FETCH_QUEUE_URL", pattern=r"^https?://.+$")
    fetches_per_connection: int = Field(alias="FETCHES_PER_CONNECTION", gt=0)

    @property
    def job_deadline(self) -> timedelta:
        """Time after its acceptance by which a job must have ended."""
        return timedelta(minutes=self.job_deadline_minutes)

    @property
    def single_flight(self) -> timedelta:
        """Age up to which an open job answers an equal request; 0 where none does."""
        return timedelta(seconds=self.single_flight_seconds)

    @property
    def retention(self) -> timedelta:
        """Time for which results, and the rows about them, are kept."""
        return timedelta(days=self.result_retention_days)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read the environment.

        `EnvironmentIncomplete` names every variable that is missing or unusable.
        """
        try:
            return cls.model_validate(os.environ if environment is None else environment)
        except ValidationError as error:
            names = sorted({str(detail["loc"][0]) for detail in error.errors(include_input=False)})
            raise EnvironmentIncomplete(names) from None


class RotationSettings(Settings):
    """What the function has besides that rotates the webhook secret.

    The others do not get the URL: API Gateway's, for one, which would have to name itself.
    """

    webhook_url: str = Field(alias="WEBHOOK_URL", pattern=r"^https?://[^/]+/.+$")


class ZonedSettings(Settings):
    """What those functions have besides that need to know what time it is in a clinic."""

    default_time_zone: str = Field(alias="DEFAULT_TIME_ZONE", min_length=1)

    @property
    def default_zone(self) -> "ZoneInfo":
        """The zone of the clinics of which Cobalt names none."""
        from zoneinfo import ZoneInfo  # noqa: PLC0415

        return ZoneInfo(self.default_time_zone)

    @field_validator("default_time_zone")
    @classmethod
    def _is_a_time_zone(cls, name: str) -> str:
        from cobalt_relay.clinic_time import zone_named  # noqa: PLC0415 - the others do without

        if zone_named(name) is None:
            raise ValueError
        return name
