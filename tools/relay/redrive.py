"""`relay redrive`: shows what lies in a stack's failure queues, and puts it back.

* ScheduleFailures: the run is invoked again with its own input, asynchronously, so that one that
  fails again comes back here. Runs with the same input are made once: their days count from today,
  so each of them would do the same, for whatever time it was planned. Only where a run fetches
  those clinics whose clocks show a wanted time (`at`), its own time says which these are, and it is
  another run. reconcile_jobs has no input: one run does the work of all.
* EventFailures: the event goes where its rule would have put it, into the EventLog queue or to the
  function that tells what a fetch changed; there, too, if that function failed at it.
* FetchFailures: the fetch goes into the queue of fetches again, in a new round: its attempts are
  counted anew, and so is its time where that is over.

A queue is read to its end before anything is put back, so that a run which fails again at once is
not made again. What was read is hidden from other readers for a while; a message is deleted when
its way back succeeded, and visible again at once when it did not. Nothing of what a message says is
printed but times, names, codes and ids.
"""

import json
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from cobalt_relay.models import FetchWork, utc_now
from cobalt_relay.services.plan_fetches import SCHEDULED_TIME
from tools.local import processes
from tools.relay.faults import NotWell

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

OUTPUTS = ("ScheduleFailuresUrl", "EventFailuresUrl", "EventLogUrl", "PlanFetchesName")
SCHEDULED = {"ScheduleName": "PlanFetchesName", "ReconcileScheduleName": "ReconcileJobsName"}
"""Outputs that name a schedule, and the function that it invokes: no other is invoked from here."""

AT_ONCE = 10
AT_MOST = 2000
"""Messages of a queue that one run takes: all of them are put back well within `HIDDEN_SECONDS`."""
HIDDEN_SECONDS = 1800
LOOK_SECONDS = 1
"""An empty answer to a look that waits is true; one that does not wait asks some servers only."""

FUNCTION = re.compile(r"(?:[\w:-]+:function:)?(?P<name>[A-Za-z0-9_-]+)(?::[\w$-]+)?")
"""The name in a function's ARN, which may have a qualifier, or in its name alone."""
PRINTABLE = re.compile(r"[\w.:/$-]{1,120}", re.ASCII)

type Json = Any


class Stays(Exception):
    """A message of a failure queue has to stay there; the text says why."""


@dataclass(frozen=True)
class Message:
    """A message of a failure queue, hidden from others while we hold it."""

    id: str
    receipt: str
    sent_at: datetime
    body: str
    attributes: Mapping[str, str]

    @classmethod
    def of(cls, received: "MessageTypeDef") -> "Message":
        """Read what SQS gives."""
        attributes = received.get("MessageAttributes", {})
        return cls(
            id=received["MessageId"],
            receipt=received["ReceiptHandle"],
            sent_at=datetime.fromtimestamp(
                int(received["Attributes"]["SentTimestamp"]) / 1000, UTC
            ),
            body=received["Body"],
            attributes={
                name: attribute["StringValue"]
                for name, attribute in attributes.items()
                if "StringValue" in attribute
            },
        )

    def json(self) -> Json:
        """Give the body; `Stays` where it is no JSON object."""
        try:
            body = json.loads(self.body)
        except ValueError:
            raise Stays("its body is not JSON") from None
        if not isinstance(body, dict):
            raise Stays("its body is no JSON object")
        return body


@dataclass(frozen=True)
class Run:
    """A failed run of a function: its way back is another one."""

    function: str
    payload: str
    error_code: str

    def __str__(self) -> str:
        return f"{self.function}  {self.error_code}"


@dataclass(frozen=True)
class Event:
    """An event that did not reach the EventLog queue: its way back is to be put there.

    One that the function for changes did not get, or failed at, is a `Run` of that.
    """

    rule: str
    id: str
    body: str
    error_code: str

    def __str__(self) -> str:
        return f"rule {self.rule}  event {self.id}  {self.error_code}"


@dataclass(frozen=True)
class Fetch:
    """A fetch that failed as often as its queue allows: its way back is that queue."""

    range_id: str
    work: FetchWork

    def __str__(self) -> str:
        return f"{_printable(self.range_id)}  piece {self.work.piece}"


def _print(text: str) -> None:
    print(text, flush=True)


@dataclass
class Telling:
    """How it is told what is found and done: to people at once, to programs at the end."""

    say: Callable[[str], None] = _print
    found: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Deployment:
    """A deployed stack: what the template says about it, and clients to speak to it."""

    outputs: Mapping[str, str]
    sqs: "SQSClient"
    functions: "LambdaClient"

    def __post_init__(self) -> None:
        missing = [name for name in OUTPUTS if not self.outputs.get(name)]
        if missing:
            raise NotWell(
                "output_missing",
                f"The stack has no output {', '.join(missing)}. Name a stack of Cobalt Relay, and"
                " deploy it again if it is an old one.",
            )


def redrive(deployment: Deployment, *, dry_run: bool, telling: Telling | None = None) -> int:
    """Show the queues and put back what is in them; give 1 where anything had to stay, else 0."""
    back = _Queues(deployment, telling or Telling(), dry_run=dry_run)
    invoke = _Invoke(deployment)
    stays = [
        back.put(
            "Schedule runs that failed",
            "ScheduleFailuresUrl",
            lambda message: failed_run(message, deployment.outputs),
            invoke.again,
        ),
        back.put(
            "Events that did not get through",
            "EventFailuresUrl",
            lambda message: lost_event(message, deployment.outputs),
            lambda lost: invoke.again(lost) if isinstance(lost, Run) else _send(deployment, lost),
        ),
    ]
    if deployment.outputs.get("FetchFailuresUrl") and deployment.outputs.get("FetchQueueUrl"):
        stays.append(
            back.put(
                "Fetches that failed",
                "FetchFailuresUrl",
                failed_fetch,
                lambda fetch: _queue(deployment, fetch),
            )
        )
    return 1 if any(stays) else 0


def failed_run(message: Message, outputs: Mapping[str, str]) -> Run:
    """Read a message of the ScheduleFailures queue. Two senders put messages there.

    Lambda, for a run that failed: the record of an asynchronous invocation, with the input in
    `requestPayload`. EventBridge Scheduler, for a run that never began: the input, or the request
    to Lambda with the input in it, and what happened in the attributes.
    """
    body = message.json()
    attributes = message.attributes
    if "requestContext" in body and "requestPayload" in body:
        function, code = _recorded(body)
        return _run(_scheduled(function, outputs), body["requestPayload"], code, outputs)
    if "SCHEDULE_ARN" not in attributes:
        raise Stays("it is neither the record of a failed run nor a schedule's dead letter")
    if attributes.get("IS_PAYLOAD_TRUNCATED", "").lower() == "true":
        raise Stays("EventBridge Scheduler cut its input off")
    code = _printable(attributes.get("ERROR_CODE"))
    if "FunctionName" in body and "Payload" in body:
        function = _scheduled(_function_name(body["FunctionName"]), outputs)
        payload = _for_its_time(_input_of(body["Payload"]), attributes)
        return _run(function, payload, code, outputs)
    schedule = attributes["SCHEDULE_ARN"].rpartition("/")[2]
    known = {outputs.get(name): outputs.get(function) for name, function in SCHEDULED.items()}
    said = known.get(schedule) or attributes.get("TARGET_ARN")
    function = _scheduled(_function_name(said), outputs)
    return _run(function, _for_its_time(body, attributes), code, outputs)


def _for_its_time(payload: Json, attributes: Mapping[str, str]) -> Json:
    """Put the time for which a run was planned where the scheduler would have put it."""
    is_open = isinstance(payload, dict) and payload.get("scheduled_at") == SCHEDULED_TIME
    planned_for = attributes.get("SCHEDULED_TIME")
    return payload | {"scheduled_at": planned_for} if is_open and planned_for else payload


def lost_event(message: Message, outputs: Mapping[str, str]) -> Event | Run:
    """Read a message of the EventFailures queue. Two senders put messages there.

    EventBridge, for an event that did not reach its target: the event, what happened in the
    attributes. Lambda, for one that its function failed at: the record of the invocation.
    """
    body = message.json()
    detector = outputs.get("DetectChangesName", "")
    if "requestContext" in body and "requestPayload" in body:
        function, code = _recorded(body)
        if function != detector:
            raise Stays(f"no event of this stack starts {_printable(function)}")
        return Run(function, json.dumps(body["requestPayload"], sort_keys=True), code)
    if not {"source", "detail-type", "detail"} <= body.keys():
        raise Stays("its body is no event of EventBridge")
    target = message.attributes.get("TARGET_ARN", "").rpartition(":")[2]
    if detector and target == detector:
        code = _printable(message.attributes.get("ERROR_CODE"))
        return Run(detector, json.dumps(body, sort_keys=True), code)
    if target and target != outputs["EventLogUrl"].rpartition("/")[2]:
        raise Stays("it was meant for another target than the EventLog queue")
    detail = body["detail"]
    event_id = detail.get("event_id") if isinstance(detail, dict) else None
    return Event(
        rule=_printable(message.attributes.get("RULE_ARN", "").rpartition("/")[2]),
        id=_printable(event_id or body.get("id")),
        body=message.body,
        error_code=_printable(message.attributes.get("ERROR_CODE")),
    )


def failed_fetch(message: Message) -> Fetch:
    """Read a message of the FetchFailures queue: one of the queue of fetches, as it was there."""
    try:
        work = FetchWork.model_validate(message.json(), strict=False)
        work.fetch  # noqa: B018 - its number may be that of no piece
    except (ValidationError, IndexError):
        raise Stays("its body is no fetch of a range") from None
    return Fetch(work.plan.range_id, work)


def in_a_new_round(work: FetchWork, now: datetime) -> FetchWork:
    """Let a fetch be made now, with all its attempts, and within the time of a new one."""
    plan = work.plan
    if now >= plan.deadline:
        plan = plan.model_copy(update={"accepted_at": now})
    return work.model_copy(update={"plan": plan, "round": work.round + 1, "not_before": now})


class _Invoke:
    """Invokes functions again, each once per input."""

    def __init__(self, deployment: Deployment) -> None:
        self._functions = deployment.functions
        self._invoked: set[tuple[str, str]] = set()

    def again(self, run: Run) -> str:
        same = (run.function, _without_its_time(run.payload))
        if same in self._invoked:
            return "the same run as one above: made once"
        self._functions.invoke(
            FunctionName=run.function, InvocationType="Event", Payload=run.payload.encode()
        )
        self._invoked.add(same)
        return "invoked again"


def _without_its_time(payload: str) -> str:
    """Give what makes a run another one: the time for which it was planned does so with `at`."""
    said = json.loads(payload)
    if isinstance(said, dict) and not said.get("at"):
        said.pop("scheduled_at", None)
    return json.dumps(said, sort_keys=True)


def _send(deployment: Deployment, event: Event) -> str:
    deployment.sqs.send_message(QueueUrl=deployment.outputs["EventLogUrl"], MessageBody=event.body)
    return "put into the EventLog queue"


def _queue(deployment: Deployment, fetch: Fetch) -> str:
    queue = deployment.outputs["FetchQueueUrl"]
    body = in_a_new_round(fetch.work, utc_now()).model_dump_json()
    deployment.sqs.send_message(QueueUrl=queue, MessageBody=body)
    return "put into the queue of fetches"


@dataclass(frozen=True)
class _Queues:
    """The failure queues, put back one after the other."""

    deployment: Deployment
    telling: Telling
    dry_run: bool

    def put[T](
        self, title: str, queue: str, read: Callable[[Message], T], act: Callable[[T], str]
    ) -> int:
        """Show a queue and put its messages back; give the number of those that had to stay."""
        sqs, url = self.deployment.sqs, self.deployment.outputs[queue]
        say = self.telling.say
        hidden = _hidden(sqs, url)
        stays = 0
        with _taken(sqs, url) as messages:
            taken = sorted(messages.values(), key=lambda each: each.sent_at)
            say(f"{title}: {len(taken) or 'none'}")
            for message in taken:
                told = [f"  {message.sent_at.astimezone():%Y-%m-%d %H:%M:%S}"]
                entry: dict[str, Any] = {
                    "queue": queue,
                    "message": message.id,
                    "sent_at": message.sent_at.isoformat(),
                }
                with _finished_first():
                    try:
                        failure = read(message)
                        told.append(str(failure))
                        entry["failure"] = str(failure)
                        if not self.dry_run:
                            entry["outcome"] = _move(sqs, url, message, act, failure)
                            told.append(entry["outcome"])
                            del messages[message.id]
                    except Stays as fault:
                        stays += 1
                        entry["stays"] = str(fault)
                        told.append(f"message {message.id} stays: {fault}")
                    self.telling.found.append(entry)
                    say("  ".join(told))
        if len(taken) >= AT_MOST:
            say("  One run takes no more. Run this again for those that are left.")
        if hidden:
            say(f"  {hidden} more cannot be seen now: another reader holds them, for half an hour"
                " at most if it was another redrive.")  # fmt: skip
        if stays:
            say(f"  {stays} had to stay in the queue of output {queue}: see the README,"
                ' "When something failed".')  # fmt: skip
        return stays


def _move[T](
    sqs: "SQSClient", url: str, message: Message, act: Callable[[T], str], failure: T
) -> str:
    """Put one message back, then delete it. `Stays` where either failed."""
    try:
        outcome = act(failure)
    except (BotoCoreError, ClientError) as error:
        raise Stays(str(error)) from error
    try:
        sqs.delete_message(QueueUrl=url, ReceiptHandle=message.receipt)
    except (BotoCoreError, ClientError) as error:
        raise Stays(f"{outcome}, but it could not be deleted ({error}): do it by hand") from error
    return outcome


@contextmanager
def _finished_first() -> Iterator[None]:
    """Let a signal wait until what belongs together is done: receive and note, put and delete."""
    waiting: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda it, _: waiting.append(it)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    if waiting:
        signal.raise_signal(waiting[0])


@contextmanager
def _taken(sqs: "SQSClient", url: str) -> Iterator[dict[str, Message]]:
    """Take what is in a queue, by id; what is still in the result at the end is given back."""
    messages: dict[str, Message] = {}
    try:
        while len(messages) < AT_MOST:
            with _finished_first():
                received = sqs.receive_message(
                    QueueUrl=url,
                    MaxNumberOfMessages=AT_ONCE,
                    VisibilityTimeout=HIDDEN_SECONDS,
                    WaitTimeSeconds=LOOK_SECONDS,
                    MessageSystemAttributeNames=["SentTimestamp"],
                    MessageAttributeNames=["All"],
                ).get("Messages", [])
                messages.update({each["MessageId"]: Message.of(each) for each in received})
            if not received:
                break
        yield messages
    finally:
        with processes.undisturbed():
            _give_back(sqs, url, [message.receipt for message in messages.values()])


def _give_back(sqs: "SQSClient", url: str, receipts: list[str]) -> None:
    for start in range(0, len(receipts), AT_ONCE):
        with suppress(BotoCoreError, ClientError):  # they are visible again later by themselves
            sqs.change_message_visibility_batch(
                QueueUrl=url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": 0}
                    for number, receipt in enumerate(receipts[start : start + AT_ONCE])
                ],
            )


def _hidden(sqs: "SQSClient", url: str) -> int:
    name: Literal["ApproximateNumberOfMessagesNotVisible"] = "ApproximateNumberOfMessagesNotVisible"
    answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name])
    return int(answer["Attributes"][name])


def _recorded(body: Json) -> tuple[str, str]:
    """Read in Lambda's record of an invocation which function failed, and the type of its error."""
    context, answer = body["requestContext"], body.get("responsePayload")
    if not isinstance(context, dict):
        raise Stays("its requestContext is no JSON object")
    error_type = answer.get("errorType") if isinstance(answer, dict) else None
    function = _function_name(context.get("functionArn"))
    return function, _printable(error_type or context.get("condition"))


def _function_name(said: Json) -> str:
    match = FUNCTION.fullmatch(said) if isinstance(said, str) else None
    if match is None:
        raise Stays("it names no function")
    return match["name"]


def _scheduled(function: str, outputs: Mapping[str, str]) -> str:
    if function not in {outputs.get(name) for name in SCHEDULED.values()}:
        raise Stays(f"no schedule of this stack invokes {_printable(function)}")
    return function


def _input_of(payload: Json) -> Json:
    """Give the input in a request to Lambda, where it may be JSON in a string."""
    try:
        return json.loads(payload) if isinstance(payload, str) else payload
    except ValueError:
        raise Stays("its Payload is not JSON") from None


def _run(function: str, payload: Json, error_code: str, outputs: Mapping[str, str]) -> Run:
    if function == outputs.get("ReconcileJobsName"):
        payload = {}  # where a schedule has no input, AWS makes one up, with a time and an id
    return Run(function, json.dumps(payload, sort_keys=True), error_code)


def _printable(said: Json) -> str:
    """Keep codes and ids, and nothing that could be more."""
    return said if isinstance(said, str) and PRINTABLE.fullmatch(said) else "unknown"
