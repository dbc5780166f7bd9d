"""Secrets Manager, with a memory of minutes.

A secret that is not there, empty or of another form means "not configured"; a service that fails is
a `SecretsFault`. The two are never mixed up: only the operator can mend the first.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cobalt_relay.adapters.aws import AWS_FAULTS, error_code
from cobalt_relay.errors import (
    CredentialsNotConfigured,
    SecretsFault,
    WebhookSecretNotConfigured,
)
from cobalt_relay.models import ClientCredentials, utc_now

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

CACHE_SECONDS = 300.0
REFRESH_SECONDS = 1.0
"""How often a secret is read again because something did not fit.

The first misfit reads it at once, for the operator may just have replaced it; a stream of forgeries
costs one look-up a second. Fewer would refuse genuine deliveries just after a rotation.
"""
PREVIOUS_SECRET_LIFE = timedelta(hours=24)
"""How long Cobalt signs with the previous secret after a rotation (docs: Webhooks, Rotation)."""


class _WebhookSecret(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    webhook_secret_key: str = Field(min_length=1)


class _Version(NamedTuple):
    text: str
    created_at: datetime


class Remembered[T]:
    """A value that is read again when it is old, and, not too often, when it did not fit."""

    def __init__(self, read: Callable[[], T], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._value: T | None = None
        self._read_at = 0.0
        self._refreshed_at = -REFRESH_SECONDS

    def get(self, *, refresh: bool) -> T:
        """Give the value; `refresh` it where the last one did not fit.

        A value that is merely old outlives a failing service; a failure itself is not remembered.
        """
        now = self._clock()
        if self._value is None:
            self._value = self._read()
            self._read_at = now
        elif refresh and now - self._refreshed_at >= REFRESH_SECONDS:
            self._value = self._read()
            self._read_at = self._refreshed_at = now
        elif now - self._read_at > CACHE_SECONDS:
            with suppress(SecretsFault):
                self._value = self._read()
            self._read_at = now
        return self._value


class Secrets:
    """The two secrets of the relay. Raises `NotConfigured` leaves and `SecretsFault`."""

    def __init__(
        self,
        client: "SecretsManagerClient",
        credentials_arn: str,
        webhook_arn: str,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._client = client
        self._credentials_arn = credentials_arn
        self._webhook_arn = webhook_arn
        self._now = now
        self._credentials = Remembered(self._read_credentials, clock)
        self._webhook_keys = Remembered(self._read_webhook_keys, clock)

    def credentials(self, *, refresh: bool = False) -> ClientCredentials:
        """Give the client credentials; `refresh` them where they did not fit."""
        return self._credentials.get(refresh=refresh)

    def webhook_keys(self, *, refresh: bool = False) -> tuple[bytes, ...]:
        """Give every live webhook key.

        The current one, and the previous one for 24 h after a rotation.
        """
        return self._webhook_keys.get(refresh=refresh)

    def _read_credentials(self) -> ClientCredentials:
        version = self._read(self._credentials_arn, "AWSCURRENT")
        credentials = version and _parse(ClientCredentials, version.text)
        if not credentials:
            raise CredentialsNotConfigured
        return credentials

    def _read_webhook_keys(self) -> tuple[bytes, ...]:
        current = self._read(self._webhook_arn, "AWSCURRENT")
        secret = current and _parse(_WebhookSecret, current.text)
        if not current or not secret:
            raise WebhookSecretNotConfigured
        keys = [secret.webhook_secret_key.encode()]
        if self._now() - current.created_at < PREVIOUS_SECRET_LIFE:
            previous = self._read(self._webhook_arn, "AWSPREVIOUS")
            former = previous and _parse(_WebhookSecret, previous.text)
            if former:
                keys.append(former.webhook_secret_key.encode())
        return tuple(keys)

    def _read(self, arn: str, stage: str) -> _Version | None:
        try:
            answer = self._client.get_secret_value(SecretId=arn, VersionStage=stage)
        except AWS_FAULTS as error:
            if error_code(error) == "ResourceNotFoundException":
                return None
            raise SecretsFault from error
        return _Version(answer.get("SecretString", ""), answer["CreatedDate"])


def _parse[M: BaseModel](model: type[M], text: str) -> M | None:
    try:
        return model.model_validate(json.loads(text))
    except (ValueError, ValidationError):
        return None
