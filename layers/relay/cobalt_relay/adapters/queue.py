"""The queue of the fetches that are to be made: one message for each piece of a range."""

from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import datetime
from itertools import batched
from math import ceil
from typing import TYPE_CHECKING

from cobalt_relay.adapters.aws import AWS_FAULTS
from cobalt_relay.errors import QueueFault
from cobalt_relay.models import FetchWork

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

AT_ONCE = 10
"""Messages of one SendMessageBatch (SQS quotas)."""
MOST_DELAY_SECONDS = 900
"""Of a message (SQS quotas); one that is to wait for longer is put off again when it comes."""
SENDERS = 8
"""Calls that are under way at once: SQS takes as many as there are, and each is mostly waiting."""
_TRIES = 3
_MOST_VISIBILITY_SECONDS = 43_200


class FetchQueue:
    """Sends the fetches that are to be made. Raises `QueueFault`."""

    def __init__(self, client: "SQSClient", url: str) -> None:
        self._client = client
        self._url = url

    def send(self, works: Iterable[FetchWork], now: datetime) -> int:
        """Send messages that come when their time has come, as far as SQS can wait for it.

        Of the works only those are in memory that are on their way: a few hundred. Tells how many
        there were. Where some could not be sent, that is raised once the others are.
        """
        sent = 0
        faults = 0
        under_way: set[Future[int]] = set()
        with ThreadPoolExecutor(SENDERS) as senders:
            for some in batched(works, AT_ONCE, strict=False):
                under_way.add(senders.submit(self._send_some, some, now))
                if len(under_way) >= 2 * SENDERS:
                    done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    faults += sum(each.result() for each in done)
                sent += len(some)
            faults += sum(each.result() for each in under_way)
        if faults:
            raise QueueFault
        return sent

    def put_off(self, work: FetchWork, until: datetime, now: datetime) -> None:
        """Send a message once more, to come later; the one that came is to be deleted."""
        if self._send_some((work.model_copy(update={"not_before": until}),), now):
            raise QueueFault

    def hide(self, receipt: str, seconds: float) -> None:
        """Let a message that is given back come again after so long, instead of its queue's time.

        Should that fail, it comes again after its queue's time.
        """
        timeout = min(max(int(seconds), 0), _MOST_VISIBILITY_SECONDS)
        with suppress(*AWS_FAULTS):
            self._client.change_message_visibility(
                QueueUrl=self._url, ReceiptHandle=receipt, VisibilityTimeout=timeout
            )

    def _send_some(self, works: Sequence[FetchWork], now: datetime) -> int:
        """Send up to ten messages; give the number of those that SQS did not take."""
        entries = {
            str(number): {
                "Id": str(number),
                "MessageBody": work.model_dump_json(),
                "DelaySeconds": _delay(work, now),
            }
            for number, work in enumerate(works)
        }
        for _ in range(_TRIES):
            try:
                answer = self._client.send_message_batch(
                    QueueUrl=self._url,
                    Entries=list(entries.values()),  # type: ignore[arg-type]
                )
            except AWS_FAULTS:
                continue
            for taken in answer.get("Successful", []):
                entries.pop(taken["Id"], None)
            if not entries:
                return 0
        return len(entries)


def _delay(work: FetchWork, now: datetime) -> int:
    """Give the seconds until its time has come, rounded up.

    SQS takes whole ones only. A message that came a moment too early would be put off for none,
    again and again until that moment has passed.
    """
    seconds = ceil((work.not_before - now).total_seconds())
    return min(max(seconds, 0), MOST_DELAY_SECONDS)
