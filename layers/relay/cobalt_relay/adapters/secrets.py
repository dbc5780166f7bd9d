"""Secrets Manager, with a memory of minutes.

A secret that is not there, empty or of another form means "not configured"; a service that fails is
a `SecretsFault`. The two are never mixed up: only the operator can mend the first.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from cobalt_relay.adapters.aws import AWS_FAULTS, error_code
from cobalt_relay.errors import (
    CredentialsNotConfigured,
    RelayError,
    SecretsFault,
    StorageFault,
    WebhookSecretNotConfigured,
)
from cobalt_relay.models import ClientCredentials, LiveKeys, WebhookKey, utc_now

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
MARK_LIFE = timedelta(minutes=15)
"""How long a mark is believed: no rotation step runs for longer, and one that died left it."""

CURRENT, PENDING, PREVIOUS = "AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"
ROTATING = "RELAY_ROTATING"
"""A staging label of our own. Before Cobalt makes a new key, it is on a mark that says so; when the
key is there, it is on the key, which by it stays known even where somebody takes AWSPENDING away.
"""
LABELS = (CURRENT, PENDING, ROTATING, PREVIOUS)


class _WebhookSecret(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", hide_input_in_errors=True, defer_build=True
    )

    webhook_secret_key: str = Field(min_length=1, repr=False)
    relay_rotated_at: AwareDatetime | None = None
    """Written by a rotation: its version may have been staged, empty, long before."""


class _Mark(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", hide_input_in_errors=True, defer_build=True
    )

    rotating_since: AwareDatetime


class Version(NamedTuple):
    """A version of a secret; its value never changes."""

    id: str
    text: str
    created_at: datetime

    def __repr__(self) -> str:
        return f"Version({self.id})"


class Remembered[T]:
    """A value that is read again when it is old, and, not too often, when it did not fit."""

    def __init__(self, read: Callable[[], T], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._value: T | None = None
        self._read_at = 0.0
        self._refreshed_at = -REFRESH_SECONDS
        self._failed_as: type[RelayError] | None = None

    def get(self, *, refresh: bool) -> T:
        """Give the value; `refresh` it where the last one did not fit.

        A value that is merely old outlives a failing service. A refresh that failed fails for all
        misfits until the next one may be made: a value that may be replaced refuses nobody, and a
        service in trouble gets no more calls than one that is well.
        """
        now = self._clock()
        if self._value is None:
            self._value = self._read()
            self._read_at = now
        if refresh and now - self._refreshed_at >= REFRESH_SECONDS:
            self._refreshed_at = now
            self._value = self._refreshed()
            self._read_at = now
        elif refresh and self._failed_as:
            raise self._failed_as
        elif now - self._read_at > CACHE_SECONDS:
            with suppress(StorageFault):
                self._value = self._read()
            self._read_at = now
        return self._value

    def _refreshed(self) -> T:
        self._failed_as = None
        try:
            return self._read()
        except RelayError as error:
            self._failed_as = type(error)
            raise


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
        self._versions: dict[str, Version] = {}

    def credentials(self, *, refresh: bool = False) -> ClientCredentials:
        """Give the client credentials; `refresh` them where they did not fit."""
        return self._credentials.get(refresh=refresh)

    def webhook_keys(self, *, refresh: bool = False) -> LiveKeys:
        """Give every live webhook key; `refresh` them where none fitted.

        The current one, one that a rotation has just brought, and the previous one for 24 h. A
        pending key that was there before the current one counts as previous: an operator who puts
        a new key ends every other one, whatever label a rotation left. While `rotating`, Cobalt may
        sign with a key that is in none of our versions yet.
        """
        return self._webhook_keys.get(refresh=refresh)

    def _read_credentials(self) -> ClientCredentials:
        version = read_version(self._client, self._credentials_arn, stage=CURRENT)
        credentials = version and _parse(ClientCredentials, version.text)
        if not credentials:
            raise CredentialsNotConfigured
        return credentials

    def _read_webhook_keys(self) -> LiveKeys:
        found = self._look_again() if self._versions else self._look_first()
        self._versions = {each.id: each for versions in found.values() for each in versions}
        current = next(iter(found[CURRENT]), None)
        secret = current and _parse(_WebhookSecret, current.text)
        if not current or not secret:
            raise WebhookSecretNotConfigured
        keys = [_key("Current", secret)]
        marks = []
        for version in found.get(PENDING, []) + found.get(ROTATING, []):
            if version not in found[CURRENT] + found[PREVIOUS]:
                pending, mark = _parse(_WebhookSecret, version.text), _parse(_Mark, version.text)
                is_live = _since(version) >= _since(current) or self._is_recent(current)
                keys += [_key("Pending", pending)] if pending and is_live else []
                marks += [mark] if mark else []
        if self._is_recent(current):
            formers = [_parse(_WebhookSecret, version.text) for version in found[PREVIOUS]]
            keys += [_key("Previous", former) for former in formers if former]
        rotating = any(self._now() - mark.rotating_since < MARK_LIFE for mark in marks)
        return LiveKeys(tuple(dict.fromkeys(keys)), rotating)

    def _look_first(self) -> dict[str, list[Version]]:
        """Read, for a quick start, what is needed at once: as a rule the current version alone.

        A delivery that is signed with a pending key does not fit, and so makes us look again.
        """
        current = read_version(self._client, self._webhook_arn, stage=CURRENT)
        counts = current is not None and self._is_recent(current)
        former = read_version(self._client, self._webhook_arn, stage=PREVIOUS) if counts else None
        return {CURRENT: [current] if current else [], PREVIOUS: [former] if former else []}

    def _look_again(self) -> dict[str, list[Version]]:
        """Read the labels, all as they are at one moment, and the versions not seen before."""
        labels = version_labels(self._client, self._webhook_arn)
        found: dict[str, list[Version]] = {label: [] for label in LABELS}
        for version_id, theirs in labels.items():
            ours = theirs & found.keys()
            version = self._versions.get(version_id)
            if ours and not version:
                version = read_version(self._client, self._webhook_arn, version_id=version_id)
            for label in ours:
                found[label] += [version] if version else []
        return found

    def _is_recent(self, current: Version) -> bool:
        """Whether Cobalt may still sign with the version before."""
        return self._now() - _since(current) < PREVIOUS_SECRET_LIFE


def _since(version: Version) -> datetime:
    """When the version got its key.

    A rotation fills a version that was made, empty, long before; an operator who edits the text of
    one that a rotation has filled carries that time over. So the later one counts.
    """
    secret = _parse(_WebhookSecret, version.text)
    rotated_at = secret and secret.relay_rotated_at
    return max(version.created_at, rotated_at or version.created_at)


def _key(name: Literal["Current", "Pending", "Previous"], secret: _WebhookSecret) -> WebhookKey:
    return WebhookKey(name, secret.webhook_secret_key.encode())


def version_labels(client: "SecretsManagerClient", arn: str) -> dict[str, set[str]]:
    """Give the labels of each version, as they are at one moment. Raises `SecretsFault`."""
    try:
        answer = client.describe_secret(SecretId=arn)
    except AWS_FAULTS as error:
        raise SecretsFault from error
    return {key: set(labels) for key, labels in answer.get("VersionIdsToStages", {}).items()}


def read_version(
    client: "SecretsManagerClient", arn: str, *, stage: str = "", version_id: str = ""
) -> Version | None:
    """Read a version by its label or its id; None where there is none, or it has no value yet.

    Raises `SecretsFault`.
    """
    which = {"VersionId": version_id} if version_id else {"VersionStage": stage}
    try:
        answer = client.get_secret_value(SecretId=arn, **which)
    except AWS_FAULTS as error:
        if error_code(error) == "ResourceNotFoundException":
            return None
        raise SecretsFault from error
    text = answer.get("SecretString")
    return Version(answer["VersionId"], text, answer["CreatedDate"]) if text else None


def read_key(version: Version | None) -> str | None:
    """Give the webhook key that a version holds, None where it holds none."""
    secret = version and _parse(_WebhookSecret, version.text)
    return secret.webhook_secret_key if secret else None


def _parse[M: BaseModel](model: type[M], text: str) -> M | None:
    try:
        return model.model_validate(json.loads(text))
    except (ValueError, ValidationError):
        return None
