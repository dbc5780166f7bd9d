"""Receive a webhook of Cobalt: verify it, read it, take it in.

Cobalt sends a webhook twice at most, and never again after a timeout. So whatever fails, the answer
is a prompt 503, which earns Cobalt's one retry; what both of them miss, the reconciler finds.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import NoReturn

from cobalt_relay.errors import BadSignature, DeliveryTooLarge, MalformedDelivery
from cobalt_relay.models import MAX_ID_LENGTH, CobaltEvent, utc_now
from cobalt_relay.observability import count, logger
from cobalt_relay.services.ports import WebhookKeys
from cobalt_relay.services.take_in import Delivery, TakeIn, Verdict

MAX_DELIVERY_BYTES = 6 * 1024 * 1024
"""What a synchronous Lambda invocation takes (Lambda quotas): no larger one gets here on AWS."""

_SIGNATURE = re.compile(r"[0-9a-f]{64}", re.ASCII)


class ReceiveWebhook:
    """The use case. One object serves all invocations of a function."""

    def __init__(
        self, take_in: TakeIn, secrets: WebhookKeys, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._take_in = take_in
        self._secrets = secrets
        self._now = now

    def receive(self, body: bytes, signature: str) -> Verdict:
        """Take in one delivery; `body` as it was on the wire, `signature` as the header had it.

        Raises `BadSignature`, `MalformedDelivery`, `DeliveryTooLarge` (nothing is stored),
        `NotConfigured` leaves, and `StorageFault` (a retry does the rest).
        """
        if len(body) > MAX_DELIVERY_BYTES:
            count("DeliveryTooLarge")
            raise DeliveryTooLarge
        self._verify(body, signature)
        event = _parse(body)
        digest = hashlib.sha256(body).hexdigest()
        return self._take_in.take_in(Delivery(event, body, digest, self._now(), "webhook"))

    def _verify(self, body: bytes, signature: str) -> None:
        """Hold the signature against every live key.

        A misfit reads the keys again (rate-limited) first.
        """
        if not _SIGNATURE.fullmatch(signature):
            _refuse("malformed")
        if not _fits(body, signature, self._secrets.webhook_keys()) and not _fits(
            body, signature, self._secrets.webhook_keys(refresh=True)
        ):
            _refuse("wrong")


def _parse(body: bytes) -> CobaltEvent:
    """Read the body as JavaScript would: a repeated key's last value counts, NaN is no JSON."""
    try:
        return CobaltEvent.read(
            json.loads(body.decode(), parse_constant=_no_constant, parse_int=_whole_number)
        )
    except (ValueError, RecursionError):
        count("DeliveryMalformed")
        logger.warning("delivery_malformed")
        raise MalformedDelivery from None


def _whole_number(digits: str) -> int | float:
    """Read an integer; one longer than any id as JavaScript would, for Python refuses it."""
    return int(digits) if len(digits) <= MAX_ID_LENGTH else float(digits)


def _no_constant(_name: str) -> NoReturn:
    raise ValueError


def _fits(body: bytes, signature: str, keys: tuple[bytes, ...]) -> bool:
    """Try every key, without an early end that would tell which one fitted."""
    fits = [hmac.compare_digest(hmac.digest(key, body, "sha256").hex(), signature) for key in keys]
    return any(fits)


def _refuse(reason: str) -> NoReturn:
    count("BadSignature")
    logger.warning("delivery_refused", extra={"reason": reason})
    raise BadSignature
