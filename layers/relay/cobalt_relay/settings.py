"""The environment of a function, read once. Nothing else reads it."""

import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

from cobalt_relay.errors import EnvironmentIncomplete
from cobalt_relay.patterns import pattern

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

type Read = Callable[[str], Any]
"""Reads a variable; `ValueError` where it is unusable."""


def _text(expression: str = r"(?s).+") -> Read:
    wanted = pattern(expression)

    def read(value: str) -> str:
        if not wanted.fullmatch(value):
            raise ValueError
        return value

    return read


def _number(least: int) -> Read:
    def read(value: str) -> int:
        number = int(value)
        if number < least:
            raise ValueError
        return number

    return read


def _zone(name: str) -> str:
    from cobalt_relay.clinic_time import zone_named  # noqa: PLC0415 - most functions do without

    if zone_named(name) is None:
        raise ValueError
    return name


class Settings:
    """What `template.yaml` gives every function, by the names it has there; immutable.

    Secrets are not among it: the environment of a function is shown in consoles and API answers, so
    it holds the ARNs of secrets only. No model of pydantic: each cold start reads it, and to build
    one takes longer than all of the reading.
    """

    VARIABLES: ClassVar[Mapping[str, Read]] = {
        "COBALT_BASE_URL": _text(r"https?://[^/]+"),
        "CREDENTIALS_SECRET_ARN": _text(),
        "WEBHOOK_SECRET_ARN": _text(),
        "TABLE_NAME": _text(),
        "BUCKET_NAME": _text(),
        "EVENT_BUS_NAME": _text(),
        "TOKEN_PATH": _text(r"/.+[^/]"),
        "TOKEN_KEY_ARN": _text(),
        "JOB_DEADLINE_MINUTES": _number(1),
        "SINGLE_FLIGHT_SECONDS": _number(0),
        "RESULT_RETENTION_DAYS": _number(1),
        "FETCH_QUEUE_URL": _text(r"https?://.+"),
        "FETCHES_PER_CONNECTION": _number(1),
    }
    """How each is read; the attribute has the same name in small letters."""

    cobalt_base_url: str
    credentials_secret_arn: str
    webhook_secret_arn: str
    table_name: str
    bucket_name: str
    event_bus_name: str
    token_path: str
    token_key_arn: str
    job_deadline_minutes: int
    single_flight_seconds: int
    result_retention_days: int
    fetch_queue_url: str
    fetches_per_connection: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read the environment.

        `EnvironmentIncomplete` names every variable that is missing or unusable.
        """
        given = os.environ if environment is None else environment
        settings, unusable = cls(), []
        for variable, read in cls.VARIABLES.items():
            try:
                object.__setattr__(settings, variable.lower(), read(given[variable]))
            except (KeyError, ValueError):
                unusable.append(variable)
        if unusable:
            raise EnvironmentIncomplete(sorted(unusable))
        return settings

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(name)

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


class RotationSettings(Settings):
    """What the function has besides that rotates the webhook secret.

    The others do not get the URL: API Gateway's, for one, which would have to name itself.
    """

    VARIABLES: ClassVar[Mapping[str, Read]] = {
        **Settings.VARIABLES,
        "WEBHOOK_URL": _text(r"https?://[^/]+/.+"),
    }

    webhook_url: str


class ZonedSettings(Settings):
    """What those functions have besides that need to know what time it is in a clinic."""

    VARIABLES: ClassVar[Mapping[str, Read]] = {**Settings.VARIABLES, "DEFAULT_TIME_ZONE": _zone}

    default_time_zone: str

    @property
    def default_zone(self) -> "ZoneInfo":
        """The zone of the clinics of which Cobalt names none."""
        from zoneinfo import ZoneInfo  # noqa: PLC0415

        return ZoneInfo(self.default_time_zone)
