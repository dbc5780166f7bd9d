"""`make redrive`: shows what lies in a stack's two failure queues, and puts it back.

    python -m tools.redrive [--stack NAME] [--dry-run]

* ScheduleFailures: the run is invoked again with its own input, asynchronously, so that one that
  fails again comes back here. Runs with the same input are made once: their days count from today,
  so each of them would do the same. reconcile_jobs has no input: one run does the work of all.
* EventFailures: the event goes into the EventLog queue, where its rule would have put it.

A queue is read to its end before anything is put back, so that a run which fails again at once is
not made again. What was read is hidden from other readers for a while; a message is deleted when
its way back succeeded, and visible again at once when it did not. Nothing of what a message says is
printed but times, names, codes and ids. The exit status is 1 where anything had to stay.
"""

import argparse
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from tools.local import processes, up
from tools.local.aws import forget_user_settings
from tools.local.errors import LocalError

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

INTERRUPTED = 130
CLOSED_PIPE = 141

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
    """An event that did not reach the EventLog queue: its way back is to be put there."""

    rule: str
    id: str
    body: str
    error_code: str

    def __str__(self) -> str:
        return f"rule {self.rule}  event {self.id}  {self.error_code}"


@dataclass(frozen=True)
class Deployment:
    """A deployed stack: what the template says about it, and clients to speak to it."""

    outputs: Mapping[str, str]
    sqs: "SQSClient"
    functions: "LambdaClient"

    def __post_init__(self) -> None:
        missing = [name for name in OUTPUTS if not self.outputs.get(name)]
        if missing:
            raise LocalError(
                f"The stack has no output {', '.join(missing)}. Name a stack of Cobalt Relay, and"
                " deploy it again if it is an old one."
            )


def redrive(deployment: Deployment, *, dry_run: bool) -> int:
    """Show both queues and put back what is in them; give the exit status."""
    stays = [
        _put_back(
            deployment,
            "Schedule runs that failed",
            "ScheduleFailuresUrl",
            lambda message: failed_run(message, deployment.outputs),
            _Invoke(deployment).again,
            dry_run=dry_run,
        ),
        _put_back(
            deployment,
            "Events that did not reach the EventLog queue",
            "EventFailuresUrl",
            lambda message: lost_event(message, deployment.outputs),
            lambda event: _send(deployment, event),
            dry_run=dry_run,
        ),
    ]
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
        context, answer = body["requestContext"], body.get("responsePayload")
        if not isinstance(context, dict):
            raise Stays("its requestContext is no JSON object")
        error_type = answer.get("errorType") if isinstance(answer, dict) else None
        function = _scheduled_function(context.get("functionArn"), outputs)
        code = _printable(error_type or context.get("condition"))
        return _run(function, body["requestPayload"], code, outputs)
    if "SCHEDULE_ARN" not in attributes:
        raise Stays("it is neither the record of a failed run nor a schedule's dead letter")
    if attributes.get("IS_PAYLOAD_TRUNCATED", "").lower() == "true":
        raise Stays("EventBridge Scheduler cut its input off")
    code = _printable(attributes.get("ERROR_CODE"))
    if "FunctionName" in body and "Payload" in body:
        function = _scheduled_function(body["FunctionName"], outputs)
        return _run(function, _input_of(body["Payload"]), code, outputs)
    schedule = attributes["SCHEDULE_ARN"].rpartition("/")[2]
    known = {outputs.get(name): outputs.get(function) for name, function in SCHEDULED.items()}
    function = _scheduled_function(known.get(schedule) or attributes.get("TARGET_ARN"), outputs)
    return _run(function, body, code, outputs)


def lost_event(message: Message, outputs: Mapping[str, str]) -> Event:
    """Read a message of the EventFailures queue: the event, what happened in the attributes."""
    body = message.json()
    if not {"source", "detail-type", "detail"} <= body.keys():
        raise Stays("its body is no event of EventBridge")
    target = message.attributes.get("TARGET_ARN", "")
    if target and target.rpartition(":")[2] != outputs["EventLogUrl"].rpartition("/")[2]:
        raise Stays("it was meant for another target than the EventLog queue")
    detail = body["detail"]
    event_id = detail.get("event_id") if isinstance(detail, dict) else None
    return Event(
        rule=_printable(message.attributes.get("RULE_ARN", "").rpartition("/")[2]),
        id=_printable(event_id or body.get("id")),
        body=message.body,
        error_code=_printable(message.attributes.get("ERROR_CODE")),
    )


class _Invoke:
    """Invokes functions again, each once per input."""

    def __init__(self, deployment: Deployment) -> None:
        self._functions = deployment.functions
        self._invoked: set[tuple[str, str]] = set()

    def again(self, run: Run) -> str:
        if (run.function, run.payload) in self._invoked:
            return "the same run as one above: made once"
        self._functions.invoke(
            FunctionName=run.function, InvocationType="Event", Payload=run.payload.encode()
        )
        self._invoked.add((run.function, run.payload))
        return "invoked again"


def _send(deployment: Deployment, event: Event) -> str:
    deployment.sqs.send_message(QueueUrl=deployment.outputs["EventLogUrl"], MessageBody=event.body)
    return "put into the EventLog queue"


def _put_back[T](
    deployment: Deployment,
    title: str,
    queue: str,
    read: Callable[[Message], T],
    act: Callable[[T], str],
    *,
    dry_run: bool,
) -> int:
    """Show a queue and put its messages back; give the number of those that had to stay."""
    sqs, url = deployment.sqs, deployment.outputs[queue]
    hidden = _hidden(sqs, url)
    stays = 0
    with _taken(sqs, url) as messages:
        taken = sorted(messages.values(), key=lambda each: each.sent_at)
        print(f"{title}: {len(taken) or 'none'}", flush=True)
        for message in taken:
            told = [f"  {message.sent_at.astimezone():%Y-%m-%d %H:%M:%S}"]
            with _finished_first():
                try:
                    failure = read(message)
                    told.append(str(failure))
                    if not dry_run:
                        told.append(_move(sqs, url, message, act, failure))
                        del messages[message.id]
                except Stays as fault:
                    stays += 1
                    told.append(f"message {message.id} stays: {fault}")
                print("  ".join(told), flush=True)
    if len(taken) >= AT_MOST:
        print("  One run takes no more. Run this again for those that are left.")
    if hidden:
        print(f"  {hidden} more cannot be seen now: another reader holds them, for half an hour"
              " at most if it was another redrive.")  # fmt: skip
    if stays:
        print(f"  {stays} had to stay in the queue of output {queue}: see the README,"
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


def _scheduled_function(said: Json, outputs: Mapping[str, str]) -> str:
    match = FUNCTION.fullmatch(said) if isinstance(said, str) else None
    if match is None:
        raise Stays("it names no function")
    if match["name"] not in {outputs.get(name) for name in SCHEDULED.values()}:
        raise Stays(f"no schedule of this stack invokes {_printable(match['name'])}")
    return match["name"]


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


def local() -> Deployment:
    """Give the stack of `make up`; `LocalError` where there is none."""
    forget_user_settings()
    running = up.running()
    return Deployment(running.outputs, running.aws.sqs, running.aws.functions)


def on_aws(name: str) -> Deployment:
    """Give a stack on AWS, with the credentials, profile and region that the AWS CLI would use."""
    # AWS_REGION is the AWS CLI's first choice, and unknown to boto3.
    session: Any = boto3.Session(region_name=os.environ.get("AWS_REGION"))
    config = Config(connect_timeout=5, read_timeout=15, retries={"mode": "standard"})
    # An invocation that was not answered may have begun: it is not sent twice in one go.
    once = Config(connect_timeout=5, read_timeout=15, retries={"total_max_attempts": 1})
    try:
        cloudformation = session.client("cloudformation", config=config)
        [stack] = cloudformation.describe_stacks(StackName=name)["Stacks"]
    except NoRegionError:
        raise LocalError("No AWS region. Set AWS_REGION to the one of the stack.") from None
    except NoCredentialsError:
        raise LocalError(
            "No AWS credentials. Sign in as for the AWS CLI, or set AWS_PROFILE."
        ) from None
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationError":
            raise
        raise LocalError(
            f"There is no stack {name} in {cloudformation.meta.region_name} of this account. Name"
            " another, or set AWS_REGION and AWS_PROFILE to where it is."
        ) from None
    outputs = {each["OutputKey"]: each["OutputValue"] for each in stack.get("Outputs", [])}
    return Deployment(
        outputs, session.client("sqs", config=config), session.client("lambda", config=once)
    )


def main(arguments: list[str]) -> int:
    """Redrive the stack that the arguments name; give the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.redrive",
        description="Show what lies in a stack's failure queues, and put it back.",
    )
    parser.add_argument("--stack", help="a stack on AWS; without it, the local one of make up")
    parser.add_argument("--dry-run", action="store_true", help="only show")
    chosen = parser.parse_args(arguments)
    processes.end_on_signals()
    try:
        deployment = on_aws(chosen.stack) if chosen.stack else local()
        return redrive(deployment, dry_run=chosen.dry_run)
    except LocalError as error:
        print(error, file=sys.stderr)
        return 1
    except (BotoCoreError, ClientError) as error:
        print(f"AWS cannot be used: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except KeyboardInterrupt:
        print(
            "\nInterrupted. What was not put back yet is in its queue as before.", file=sys.stderr
        )
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
