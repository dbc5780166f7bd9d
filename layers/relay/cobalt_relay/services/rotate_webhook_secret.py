"""Rotate the webhook secret: the four steps of Secrets Manager, each of which may be repeated.

Cobalt makes the key, not we, and signs with it at once. So there is a moment in which it uses a key
that the relay has not got; then the receiver answers a misfit with 503, for Cobalt repeats after
that and never after a 401:

1. A mark on the secret tells the receivers that the moment comes. All of them know it after 2 s,
   for a receiver that meets a misfit looks again after 1 s at most.
2. Cobalt makes the key. Should its answer get lost, or we die, it tells the key when it is asked.
3. The key is kept, from then on every receiver finds it, and the mark goes.

A key of Cobalt's that is not our current one was made by a rotation which died over it, so it is
taken, and none is made. Then the relay's own front door must prove that it takes the new key. Not
before that it becomes the current one; the one before is accepted for another 24 hours.
"""

import hashlib
import hmac
import json
import secrets
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cobalt_relay.errors import (
    InvalidRotationEvent,
    NotTheWebhookSecret,
    PendingSecretMissing,
    PendingSecretOutdated,
    PendingSecretUnproven,
    RelayError,
    RotationHeldUp,
    UnknownRotation,
    UpstreamFault,
    UpstreamRefusal,
    WebhookNotRegistered,
)
from cobalt_relay.models import PROBE, RotationState, WebhookRegistration, iso, utc_now
from cobalt_relay.observability import count, logger
from cobalt_relay.services.anew import anew_where_refused

if TYPE_CHECKING:
    from cobalt_relay.services.ports import CredentialStore, Door, ManageWebhook, RotatedVersions

KNOWN_SECONDS = 2.0
"""After that every receiver that needs it knows of the mark."""
PROBE_PAUSES = (1.5, 3.0)
"""Seconds before a probe is sent again that was not answered as it should be.

A receiver that has just looked answers 503 until it may look again.
"""

TAKEN, REFUSED = 200, 401


class RotationStep(BaseModel):
    """What Secrets Manager asks for (its documentation: Lambda rotation functions)."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", hide_input_in_errors=True, strict=True, defer_build=True
    )

    step: Literal["createSecret", "setSecret", "testSecret", "finishSecret"] = Field(alias="Step")
    secret_id: str = Field(alias="SecretId", min_length=1)
    token: str = Field(alias="ClientRequestToken", min_length=1)

    @classmethod
    def parse(cls, event: object) -> Self:
        """Read the event, or raise `InvalidRotationEvent`."""
        try:
            return cls.model_validate(event)
        except ValidationError:
            raise InvalidRotationEvent from None


class RotateWebhookSecret:
    """The use case. One object serves all invocations of a function."""

    def __init__(
        self,
        cobalt: "ManageWebhook",
        secret: "RotatedVersions",
        credentials: "CredentialStore",
        door: "Door",
        webhook_url: str,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._cobalt = cobalt
        self._secret = secret
        self._credentials = credentials
        self._door = door
        self._webhook_url = webhook_url
        self._now = now
        self._sleep = sleep

    def run(self, asked: RotationStep) -> None:
        """Take one step.

        Raises `RotationError`, `NotConfigured` leaves and `SecretsFault`; Secrets Manager, or the
        operator, then lets the steps run again.
        """
        ids = {"step": asked.step, "version_id": asked.token}
        try:
            outcome = self._take(asked)
        except RelayError as error:
            count("RotationFailed")
            cause = error.__cause__ if isinstance(error.__cause__, RelayError) else error
            logger.error("rotation_failed", extra={**ids, "error_code": cause.reason})
            raise
        logger.info("rotation_step", extra={**ids, "outcome": outcome})

    def _take(self, asked: RotationStep) -> str:
        if asked.secret_id != self._secret.arn:
            raise NotTheWebhookSecret
        state = self._secret.state(asked.token)
        if state is RotationState.UNKNOWN:
            raise UnknownRotation
        if state is RotationState.FINISHED:
            self._secret.unmark()  # the one thing that may be left to do
            return "finished_before"
        steps = {
            "createSecret": self._create,
            "setSecret": self._set,
            "testSecret": self._test,
            "finishSecret": self._finish,
        }
        try:
            return steps[asked.step](asked.token)
        except (UpstreamRefusal, UpstreamFault) as error:
            raise RotationHeldUp from error

    # ------------------------------------------------------------------------------- the four steps

    def _create(self, token: str) -> str:
        """Have Cobalt make a key, and keep it under the token."""
        outcome = "created_before" if self._secret.pending_key(token) else self._obtain(token)
        self._secret.settle(token)
        return outcome

    def _obtain(self, token: str) -> str:
        current = self._secret.current_key()
        key = self._registration().secret
        is_new = key == current
        if is_new:
            self._secret.mark(token, self._now())
            self._sleep(KNOWN_SECONDS)
            key = self._make_key(current)
        assert key is not None  # noqa: S101 - `_registration` and `_make_key` see to it
        self._secret.put_pending(token, key, self._now())
        return "created" if is_new else "taken_over"

    def _set(self, token: str) -> str:
        """Nothing to set, for Cobalt has made the key itself; see that it is this one."""
        self._require_use(self._pending_key(token))
        return "set_by_cobalt"

    def _test(self, token: str) -> str:
        """Prove that Cobalt uses the key, and that the relay takes it, and not just anything."""
        key = self._secret.pending_key(token)
        if key is None:
            return "nothing_to_test"  # Secrets Manager tries a new schedule out like this
        self._require_use(key)
        if self._probe(key.encode(), TAKEN) != TAKEN:
            raise PendingSecretUnproven
        if self._probe(secrets.token_bytes(32), REFUSED) != REFUSED:
            raise PendingSecretUnproven
        return "proven"

    def _finish(self, token: str) -> str:
        """Make the key the current one."""
        self._pending_key(token)
        self._secret.make_current(token)
        self._secret.unmark()
        count("SecretRotated")
        return "finished"

    # ------------------------------------------------------------------------------- what they need

    def _pending_key(self, token: str) -> str:
        key = self._secret.pending_key(token)
        if key is None:
            raise PendingSecretMissing
        return key

    def _require_use(self, key: str) -> None:
        """Raise `PendingSecretOutdated` unless it is what Cobalt signs with."""
        if self._registration().secret != key:
            raise PendingSecretOutdated

    def _registration(self) -> WebhookRegistration:
        """Ask Cobalt; `WebhookNotRegistered` where it does not deliver to us."""
        registration = anew_where_refused(self._credentials.credentials, self._cobalt.webhook)
        if registration.secret is None or self._webhook_url not in registration.ids:
            raise WebhookNotRegistered
        return registration

    def _make_key(self, current: str) -> str:
        """Have Cobalt make a key, unless somebody has done so by now.

        Where it is unknown whether it did, Cobalt is asked for the key that it uses.
        """
        registration = self._registration()
        if registration.secret and registration.secret != current:
            return registration.secret
        registration_id = registration.ids[self._webhook_url]
        try:
            return anew_where_refused(
                self._credentials.credentials,
                lambda each: self._cobalt.rotate_webhook_secret(each, registration_id),
            )
        except UpstreamFault as fault:
            key = self._registration().secret if fault.may_have_started else current
            if key is None or key == current:
                raise
            return key

    def _probe(self, key: bytes, wanted: int) -> int:
        """Deliver a document of ours to our own URL; give the status of the last answer."""
        document = {
            "id": f"relay-probe-{uuid.uuid4()}",
            "type": PROBE,
            "timestamp": iso(self._now()),
        }
        body = json.dumps(document).encode()
        signature = hmac.new(key, body, hashlib.sha256).hexdigest()
        status = self._door.deliver(body, signature)
        for pause in PROBE_PAUSES:
            if status == wanted:
                break
            self._sleep(pause)
            status = self._door.deliver(body, signature)
        return status
