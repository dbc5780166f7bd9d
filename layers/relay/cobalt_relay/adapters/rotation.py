"""The versions of the webhook secret, as a rotation moves them.

AWSCURRENT       what Cobalt signs with, for all that is proven
AWSPENDING       what it signs with from now on; its version is named by the rotation's token
RELAY_ROTATING   a mark that Cobalt is about to make a new key, then the new key itself
AWSPREVIOUS      what it signed with before
"""

import json
from datetime import datetime
from typing import TYPE_CHECKING

from cobalt_relay.adapters.aws import AWS_FAULTS
from cobalt_relay.adapters.secrets import (
    CURRENT,
    PENDING,
    ROTATING,
    read_key,
    read_version,
    version_labels,
)
from cobalt_relay.errors import SecretsFault, WebhookSecretNotConfigured
from cobalt_relay.models import RotationState, iso

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient


class RotatedSecret:
    """The webhook secret while it is rotated. Raises `SecretsFault`; every call may be repeated."""

    def __init__(self, client: "SecretsManagerClient", arn: str) -> None:
        self._client = client
        self.arn = arn

    def state(self, token: str) -> RotationState:
        """Tell how far the rotation under a token is."""
        theirs = version_labels(self._client, self.arn).get(token, set())
        if CURRENT in theirs:
            return RotationState.FINISHED
        return RotationState.STAGED if PENDING in theirs else RotationState.UNKNOWN

    def current_key(self) -> str:
        """Give the key in use; `WebhookSecretNotConfigured` where there is none."""
        key = read_key(read_version(self._client, self.arn, stage=CURRENT))
        if not key:
            raise WebhookSecretNotConfigured
        return key

    def pending_key(self, token: str) -> str | None:
        """Give the key under a token; None where it has not got one yet."""
        return read_key(read_version(self._client, self.arn, version_id=token))

    def mark(self, token: str, now: datetime) -> None:
        """Tell every receiver that Cobalt is about to make a key that they cannot have yet."""
        self._put({"rotating_since": iso(now), "token": token}, ROTATING)

    def put_pending(self, token: str, key: str, now: datetime) -> None:
        """Put Cobalt's new key under the token."""
        value = {"webhook_secret_key": key, "relay_rotated_at": iso(now)}
        self._put(value, PENDING, token)

    def settle(self, token: str) -> None:
        """Put our own label from the mark on the key under the token: every receiver finds it."""
        self._move(ROTATING, token)

    def make_current(self, token: str) -> None:
        """Make the key under the token the current one; the one before becomes AWSPREVIOUS."""
        self._move(CURRENT, token)

    def unmark(self) -> None:
        """Take our own label off; harmless where it is on nothing."""
        self._move(ROTATING, None)

    def _move(self, label: str, target: str | None) -> None:
        """Move a label from where it is to a version, or to none."""
        labels = version_labels(self._client, self.arn)
        holder = next((key for key, theirs in labels.items() if label in theirs), None)
        if holder == target:
            return
        versions = {"RemoveFromVersionId": holder, "MoveToVersionId": target}
        given = {name: version for name, version in versions.items() if version}
        try:
            self._client.update_secret_version_stage(SecretId=self.arn, VersionStage=label, **given)
        except AWS_FAULTS as error:
            raise SecretsFault from error

    def _put(self, value: dict[str, str], label: str, token: str | None = None) -> None:
        which = {"ClientRequestToken": token} if token else {}
        try:
            self._client.put_secret_value(
                SecretId=self.arn, SecretString=json.dumps(value), VersionStages=[label], **which
            )
        except AWS_FAULTS as error:
            raise SecretsFault from error
