"""The queue's adapter: what SQS is asked for, and what of its answers is a fault."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from cobalt_relay.adapters.queue import AT_ONCE, SENDERS, FetchQueue
from cobalt_relay.errors import QueueFault
from cobalt_relay.models import FetchWork, RangePlan, RangeRequest, Window, range_id_of

NOW = datetime(2025, 1, 2, 10, 0, tzinfo=UTC)
YEAR = Window.parse("2025-01-01", "2025-12-31")


class Sqs:
    """Takes messages but for those of which a test says so, by their pieces; counts its calls."""

    def __init__(self) -> None:
        self.taken: dict[int, dict[str, Any]] = {}
        self.refuses: dict[int, int] = {}
        self.fails = 0
        self.calls: list[int] = []
        self.hidden: list[dict[str, Any]] = []
        self._lock = Lock()

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> Any:  # noqa: N803
        with self._lock:
            self.calls.append(len(Entries))
            if self.fails:
                self.fails -= 1
                raise EndpointConnectionError(endpoint_url=QueueUrl)
            answer: dict[str, list[dict[str, Any]]] = {"Successful": [], "Failed": []}
            for entry in Entries:
                piece = FetchWork.model_validate_json(entry["MessageBody"]).piece
                is_refused = self.refuses.get(piece, 0) > 0
                if is_refused:
                    self.refuses[piece] -= 1
                else:
                    assert piece not in self.taken
                    self.taken[piece] = entry
                answer["Failed" if is_refused else "Successful"].append({"Id": entry["Id"]})
            return answer

    def change_message_visibility(self, **asked: Any) -> None:
        self.hidden.append(asked)
        if self.fails:
            raise ClientError({"Error": {"Code": "InvalidParameterValue"}}, "operation")


@pytest.fixture
def sqs() -> Sqs:
    return Sqs()


def queue(sqs: Sqs) -> FetchQueue:
    return FetchQueue(cast("Any", sqs), "https://sqs.example.com/fetches")


def works(number: int, wait: timedelta = timedelta(0)) -> Iterator[FetchWork]:
    plan = RangePlan(
        range_id=range_id_of("queue"),
        connection_id="conn_" + "0" * 32,
        trigger="schedule",
        request=RangeRequest(window=YEAR, search_by="provider", provider_ids=(7, "7", "Zoë")),
        accepted_at=NOW,
    )
    return (FetchWork(plan=plan, piece=piece, not_before=NOW + wait) for piece in range(number))


@pytest.mark.parametrize("number", [0, 1, 10, 11, 365])
def test_every_message_is_sent_once_when_there_are_so_many(sqs: Sqs, number: int) -> None:
    sent = queue(sqs).send(works(number), NOW)

    assert (sent, sorted(sqs.taken)) == (number, list(range(number)))
    assert sum(sqs.calls) == number
    assert len(sqs.calls) == -(-number // AT_ONCE)


def test_message_says_the_same_when_it_is_read_again(sqs: Sqs) -> None:
    [work] = works(1)

    queue(sqs).send([work], NOW)

    read = FetchWork.model_validate_json(sqs.taken[0]["MessageBody"])
    assert read == work
    assert read.plan.request.pieces == work.plan.request.pieces
    assert read.fetch.provider_ids == (7, "7", "Zoë")


@pytest.mark.parametrize(
    ("wait", "delay"),
    [
        (timedelta(seconds=-5), 0),
        (timedelta(0), 0),
        (timedelta(milliseconds=1), 1),
        (timedelta(seconds=59.1), 60),
        (timedelta(minutes=15), 900),
        (timedelta(hours=12), 900),
    ],
)
def test_message_waits_as_long_as_it_is_to_and_sqs_can(
    sqs: Sqs, wait: timedelta, delay: int
) -> None:
    queue(sqs).send(works(1, wait), NOW)

    assert sqs.taken[0]["DelaySeconds"] == delay


def test_only_those_are_sent_again_that_were_not_taken(sqs: Sqs) -> None:
    sqs.refuses = {3: 1, 7: 2}

    sent = queue(sqs).send(works(10), NOW)

    assert (sent, len(sqs.taken)) == (10, 10)
    assert sqs.calls == [10, 2, 1]


@pytest.mark.parametrize("fails", [1, 2])
def test_messages_are_sent_again_when_a_call_fails(sqs: Sqs, fails: int) -> None:
    sqs.fails = fails

    assert queue(sqs).send(works(5), NOW) == 5
    assert len(sqs.taken) == 5


def test_fault_when_one_is_never_taken_and_all_others_are(sqs: Sqs) -> None:
    sqs.refuses = {12: 99}

    with pytest.raises(QueueFault):
        queue(sqs).send(works(45), NOW)

    assert set(range(45)) - set(sqs.taken) == {12}


def test_few_works_are_in_memory_when_there_are_many(sqs: Sqs) -> None:
    ahead = 0

    def counted() -> Iterator[FetchWork]:
        nonlocal ahead
        for number, work in enumerate(works(365)):
            ahead = max(ahead, number - len(sqs.taken))
            yield work

    queue(sqs).send(counted(), NOW)

    assert len(sqs.taken) == 365
    assert ahead <= (2 * SENDERS + 1) * AT_ONCE


def test_put_off_message_tells_its_new_time(sqs: Sqs) -> None:
    [work] = works(1)

    queue(sqs).put_off(work, NOW + timedelta(hours=2), NOW)

    assert sqs.taken[0]["DelaySeconds"] == 900
    read = FetchWork.model_validate_json(sqs.taken[0]["MessageBody"])
    assert read == work.model_copy(update={"not_before": NOW + timedelta(hours=2)})


def test_fault_when_a_message_cannot_be_put_off(sqs: Sqs) -> None:
    [work] = works(1)
    sqs.fails = 99

    with pytest.raises(QueueFault):
        queue(sqs).put_off(work, NOW, NOW)


@pytest.mark.parametrize(("seconds", "timeout"), [(-1, 0), (31.9, 31), (86_400, 43_200)])
def test_given_back_message_is_hidden_within_the_bounds_of_sqs(
    sqs: Sqs, seconds: float, timeout: int
) -> None:
    queue(sqs).hide("receipt", seconds)

    [asked] = sqs.hidden
    assert (asked["ReceiptHandle"], asked["VisibilityTimeout"]) == ("receipt", timeout)


def test_nothing_is_raised_when_a_message_cannot_be_hidden(sqs: Sqs) -> None:
    sqs.fails = 1

    queue(sqs).hide("receipt", 30)

    assert len(sqs.hidden) == 1
