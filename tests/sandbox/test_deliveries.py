"""The delivery schedule, with Cobalt's own seconds asserted and shorter ones exercised."""

import asyncio
from datetime import UTC, datetime

import pytest

from sandbox.deliveries import Courier, Outcome, Timing
from sandbox.events import EventLog, Head, compose
from sandbox.webhooks import WebhookBook
from tests.sandbox.support import Answer, Receiver

QUICK = Timing(first_timeout=2, retry_delay=0.02, retry_timeout=0.5)


def _deliver(receiver: Receiver, timing: Timing, *answers: Answer) -> Courier:
    receiver.scripts["/hook"] = list(answers)
    head = Head(
        id="evt_1",
        type="patient.created",
        clinic=None,
        reference=None,
        job_id=None,
        created_at=datetime.now(UTC),
    )
    event = compose(head, {})
    EventLog().record(event, [receiver.url()])

    async def run() -> Courier:
        courier = Courier(WebhookBook(1), timing)
        await courier.deliver(event, {})
        await courier.close()
        return courier

    return asyncio.run(run())


def test_cobalts_own_seconds_when_nothing_else_is_said() -> None:
    timing = Timing()

    assert (timing.first_timeout, timing.retry_delay, timing.retry_timeout) == (5.0, 1.0, 2.0)


@pytest.mark.parametrize(
    ("answers", "outcomes"),
    [
        ([Answer(200)], [Outcome.DELIVERED]),
        ([Answer(204)], [Outcome.DELIVERED]),
        ([Answer(delay=5)], [Outcome.TIMEOUT]),
        ([Answer(400)], [Outcome.REFUSED]),
        ([Answer(408)], [Outcome.REFUSED]),
        ([Answer(500), Answer(200)], [Outcome.REFUSED, Outcome.DELIVERED]),
        ([Answer(599), Answer(400)], [Outcome.REFUSED, Outcome.REFUSED]),
        ([Answer(429), Answer(429)], [Outcome.REFUSED, Outcome.REFUSED]),
        ([Answer(503), Answer(delay=5)], [Outcome.REFUSED, Outcome.TIMEOUT]),
        ([Answer(hang_up=True), Answer(200)], [Outcome.NETWORK_ERROR, Outcome.DELIVERED]),
        ([Answer(hang_up=True)] * 3, [Outcome.NETWORK_ERROR] * 2),
    ],
)
def test_retried_once_at_most_when_an_attempt_fails(
    receiver: Receiver, answers: list[Answer], outcomes: list[Outcome]
) -> None:
    courier = _deliver(receiver, QUICK, *answers)

    assert [attempt.outcome for attempt in courier.log] == outcomes
    assert [attempt.attempt for attempt in courier.log] == list(range(1, len(outcomes) + 1))
    assert len(receiver.received) == len(outcomes)


def test_second_attempt_has_less_time_when_the_first_failed(receiver: Receiver) -> None:
    courier = _deliver(receiver, QUICK, Answer(500), Answer(delay=2))

    assert courier.log[1].outcome is Outcome.TIMEOUT
    assert 0.5 <= courier.log[1].seconds < 2
