"""Receive a webhook of Cobalt: verify it, read it, take it in.

Cobalt sends a webhook twice at most, and never again after a timeout. So whatever fails, the answer
is a prompt 503, which earns Cobalt's one retry; what both of them miss, the reconciler finds.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from cobalt_relay import javascript
from cobalt_relay.errors import (
    BadSignature,
    DeliveryTooLarge,
    KeyNotYetKnown,
    MalformedDelivery,
    WebhookSecretNotConfigured,
)
from cobalt_relay.json_limits import MAX_EVENT_DEPTH, nests_within
from cobalt_relay.models import (
    MAX_ID_LENGTH,
    PROBE,
    CobaltEvent,
    LiveKeys,
    UnsignedHeaders,
    WebhookKey,
    utc_now,
)
from cobalt_relay.observability import count, logger
from cobalt_relay.patterns import pattern
from cobalt_relay.services.take_in import Delivery, TakeIn, Verdict

if TYPE_CHECKING:
    from cobalt_relay.services.ports import WebhookKeys

MAX_DELIVERY_BYTES = 6 * 1024 * 1024
"""What a synchronous Lambda invocation takes (Lambda quotas): no larger one gets here on AWS."""

_NO_HEADERS = UnsignedHeaders()
_SIGNATURE = pattern(r"[0-9a-f]{64}", re.ASCII)


class ReceiveWebhook:
    """The use case. One object serves all invocations of a function."""

    def __init__(
        self, take_in: TakeIn, secrets: "WebhookKeys", now: Callable[[], datetime] = utc_now
    ) -> None:
        self._take_in = take_in
        self._secrets = secrets
        self._now = now

    def receive(
        self, body: bytes, signature: str, unsigned: UnsignedHeaders = _NO_HEADERS
    ) -> Verdict:
        """Take in one delivery; `body` as it was on the wire, `signature` as the header had it.

        Raises leaves of `DeliveryError` (nothing is stored), of `NotConfigured`, and `StorageFault`
        (a retry does the rest).
        """
        if len(body) > MAX_DELIVERY_BYTES:
            count("DeliveryTooLarge")
            raise DeliveryTooLarge
        self._verify(body, signature)
        event = _parse(body)
        if event.type == PROBE:
            count("DeliveryVerified")
            return Verdict.VERIFIED
        digest = hashlib.sha256(body).hexdigest()
        delivery = Delivery(event, body, digest, self._now(), "webhook")
        if unsigned.contradict(event):
            count("HeaderContradiction")
            logger.warning("header_contradiction", extra=delivery.ids)
        verdict = self._take_in.take_in(delivery)
        count(f"Delivery{verdict.capitalize()}")
        return verdict

    def _verify(self, body: bytes, signature: str) -> None:
        """Hold the signature against every live key, over the bytes and over JavaScript's text.

        A misfit reads the keys again (rate-limited) first.
        """
        if not _SIGNATURE.fullmatch(signature):
            _refuse("malformed")
        given = bytes.fromhex(signature)
        texts = _Texts(body)
        live = self._keys()
        fit = _fit(texts, given, live.keys)
        if not fit:
            kept, live = live, self._keys(refresh=True)
            fit = _fit(texts, given, live.keys) if live.keys != kept.keys else None
        if not fit and live.rotating:
            count("KeyNotYetKnown")
            logger.warning("key_not_yet_known")
            raise KeyNotYetKnown
        if not fit:
            _refuse("wrong")
        form, key = fit
        count(f"SignatureForm{form}")
        count(f"SignatureKey{key}")

    def _keys(self, *, refresh: bool = False) -> LiveKeys:
        """Give the live keys; an empty one is none, for everybody can sign with it."""
        live = self._secrets.webhook_keys(refresh=refresh)
        usable = live._replace(keys=tuple(key for key in live.keys if key.secret))
        if not usable.keys:
            raise WebhookSecretNotConfigured
        return usable


class _Texts:
    """The texts that Cobalt may have signed, the likeliest first; the other is made on demand."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    @cached_property
    def _canonical(self) -> bytes | None:
        return javascript.canonical(self._body)

    def __iter__(self) -> Iterator[tuple[Literal["Raw", "Canonical"], bytes]]:
        yield "Raw", self._body
        if self._canonical is not None:
            yield "Canonical", self._canonical


def _fit(texts: _Texts, given: bytes, keys: tuple[WebhookKey, ...]) -> tuple[str, str] | None:
    """Find the form and the key that a signature fits; None where none does.

    Of a form every key is tried, without an early end that would tell which one fitted.
    """
    for form, text in texts:
        fitting = [
            key.name
            for key in keys
            if hmac.compare_digest(hmac.digest(key.secret, text, "sha256"), given)
        ]
        if fitting:
            return form, fitting[0]
    return None


def _parse(body: bytes) -> CobaltEvent:
    """Read the body as JavaScript would: a repeated key's last value counts, NaN is no JSON."""
    try:
        document = _read(body.decode())
        if not nests_within(document, MAX_EVENT_DEPTH):
            raise ValueError  # noqa: TRY301 - one answer for all that is no event
        return CobaltEvent.read(document)
    except (ValueError, RecursionError):
        count("DeliveryMalformed")
        logger.warning("delivery_malformed")
        raise MalformedDelivery from None


def _read(text: str) -> Any:  # noqa: ANN401 - whatever JSON gives
    """Read JSON; a number of more digits than Python takes as JavaScript would, at another try."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return json.loads(text, parse_constant=_no_constant, parse_int=_whole_number)


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_ID_LENGTH else float(digits)


def _no_constant(_name: str) -> NoReturn:
    raise ValueError


def _refuse(reason: str) -> NoReturn:
    count("BadSignature")
    logger.warning("delivery_refused", extra={"reason": reason})
    raise BadSignature
