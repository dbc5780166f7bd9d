"""Delivery of events, with Cobalt's own timeouts and its single retry (docs: Webhooks).

The first attempt may take 5 s. One retry follows 1 s later and may take 2 s, but only after a 5xx,
a 429 or a network error: never after a timeout, never after another 4xx.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import httpx

from sandbox.clock import iso_millis, iso_seconds
from sandbox.dice import digest
from sandbox.events import Event, Receipt
from sandbox.faults import Fault
from sandbox.ring import Ring
from sandbox.signing import sign
from sandbox.webhooks import WebhookBook

logger = logging.getLogger(__name__)

MOST_DELIVERIES = 20_000
REORDERED_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of the delivery schedule; the defaults are Cobalt's."""

    first_timeout: float = 5.0
    retry_delay: float = 1.0
    retry_timeout: float = 2.0


class Outcome(StrEnum):
    """How an attempt ended."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    NETWORK_ERROR = "network_error"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at one URL, as the log of deliveries shows it."""

    event_id: str
    event_type: str
    job_id: str | None
    url: str
    attempt: int
    started_at: datetime
    seconds: float
    outcome: Outcome
    response_status: int | None
    body_sha256: str
    bytes: int

    @property
    def earns_retry(self) -> bool:
        """Whether Cobalt tries again after this."""
        status = self.response_status or 0
        return self.outcome is Outcome.NETWORK_ERROR or status == 429 or status >= 500

    def public(self) -> dict[str, object]:
        """Show the attempt on the control interface."""
        return {
            "event_id": self.event_id,
            "event_type": self.event_type,
            "job_id": self.job_id,
            "url": self.url,
            "attempt": self.attempt,
            "started_at": iso_millis(self.started_at),
            "seconds": round(self.seconds, 3),
            "outcome": self.outcome.value,
            "response_status": self.response_status,
            "body_sha256": self.body_sha256,
            "bytes": self.bytes,
        }


class Courier:
    """Brings events to every registered URL; bent by the faults drawn for the event."""

    def __init__(self, webhooks: WebhookBook, timing: Timing | None = None) -> None:
        self._webhooks = webhooks
        self._timing = timing or Timing()
        self._held: list[asyncio.Event] = []
        self._client: httpx.AsyncClient | None = None
        self.log: Ring[Attempt] = Ring(MOST_DELIVERIES)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def reset(self) -> None:
        """Forget every delivery."""
        self.log.clear()
        self._held.clear()

    async def deliver(self, event: Event, faults: Mapping[str, Fault]) -> None:
        """Bring an event to every URL it was recorded for, all at the same time."""
        if "lost" in faults:
            return
        held = faults.get("reordered")
        if held is not None:
            await self._wait_for_another(held.seconds(REORDERED_SECONDS))
        headers = self._headers(event, faults)
        copies = 2 if "duplicated" in faults else 1
        if copies == 2 and faults["duplicated"].spec.together:
            await asyncio.gather(*(self._to_every_url(event, headers) for _ in range(copies)))
        else:
            for _ in range(copies):
                await self._to_every_url(event, headers)
        if held is None:
            for waiting in self._held:
                waiting.set()

    async def _wait_for_another(self, most_seconds: float) -> None:
        waiting = asyncio.Event()
        self._held.append(waiting)
        try:
            async with asyncio.timeout(most_seconds):
                await waiting.wait()
        except TimeoutError:
            pass
        finally:
            if waiting in self._held:
                self._held.remove(waiting)

    async def _to_every_url(self, event: Event, headers: Mapping[str, str]) -> None:
        receipts = [receipt for receipt in event.receipts if receipt.url is not None]
        await asyncio.gather(*(self._to_url(event, receipt, headers) for receipt in receipts))

    async def _to_url(self, event: Event, receipt: Receipt, headers: Mapping[str, str]) -> None:
        timing = self._timing
        first = await self._attempt(event, receipt, headers, 1, timing.first_timeout)
        if first.earns_retry:
            await asyncio.sleep(timing.retry_delay)
            await self._attempt(event, receipt, headers, 2, timing.retry_timeout)

    async def _attempt(
        self, event: Event, receipt: Receipt, headers: Mapping[str, str], number: int, most: float
    ) -> Attempt:
        url = receipt.url or ""
        started_at, started = datetime.now(UTC), time.monotonic()
        status: int | None = None
        try:
            async with asyncio.timeout(most):
                status = await self._post(
                    url, event.body, {**headers, "webhook-attempt": f"{number}"}
                )
            outcome = Outcome.DELIVERED if 200 <= status < 300 else Outcome.REFUSED
        except TimeoutError:
            outcome = Outcome.TIMEOUT
        except (httpx.HTTPError, httpx.InvalidURL, OSError):
            outcome = Outcome.NETWORK_ERROR
        seconds = time.monotonic() - started
        attempt = Attempt(
            event_id=event.key,
            event_type=event.head.type,
            job_id=event.job_key,
            url=url,
            attempt=number,
            started_at=started_at,
            seconds=seconds,
            outcome=outcome,
            response_status=status,
            body_sha256=hashlib.sha256(event.body).hexdigest(),
            bytes=len(event.body),
        )
        self.log.append(attempt)
        receipt.attempts += 1
        receipt.last_attempt_at = started_at
        receipt.response_status = status
        receipt.delivered = receipt.delivered or outcome is Outcome.DELIVERED
        logger.info(
            "webhook_attempt",
            extra={
                "event_type": attempt.event_type,
                "event_id": attempt.event_id,
                "job_id": attempt.job_id,
                "attempt": number,
                "outcome": outcome.value,
                "status": status,
                "ms": round(seconds * 1000),
                "bytes": attempt.bytes,
            },
        )
        return attempt

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Send one request and give the status; the body of the answer is of no interest.

        Proxies of the environment are ignored and no connection is reused, so that an attempt's
        outcome is the receiver's doing alone.
        """
        if self._client is None:
            self._client = httpx.AsyncClient(
                timeout=None,  # noqa: S113 - the attempt as a whole has its deadline
                trust_env=False,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            )
        async with self._client.stream("POST", url, content=body, headers=headers) as response:
            return response.status_code

    def _headers(self, event: Event, faults: Mapping[str, Fault]) -> dict[str, str]:
        headers = {
            "content-type": "application/json",
            "user-agent": "cobalt-sandbox",
            "webhook-id": event.key,
            "webhook-timestamp": iso_seconds(event.head.created_at),
        }
        secret = self._webhooks.secret
        if "previous_secret" in faults:
            secret = self._webhooks.previous_secret or secret
        if "wrong_signature" in faults:
            secret = digest("nobody's secret", secret)
        signature = sign(event.body, secret)
        if "missing_signature" not in faults:
            upper = "uppercase_signature" in faults
            headers["cobalt-verification"] = signature.upper() if upper else signature
        return headers
