"""What lies in the failure queues, in the forms that AWS documents, and what is made of it.

* Lambda Developer Guide, Capturing records of Lambda asynchronous invocations
* EventBridge Scheduler User Guide, Configuring a schedule's dead-letter queue
* EventBridge User Guide, Using dead-letter queues to process undelivered events
"""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cobalt_relay.models import FetchWork, RangePlan, RangeRequest, Window, iso
from cobalt_relay.services.plan_fetches import SCHEDULED_TIME
from tools.relay import redrive
from tools.relay.faults import NotWell
from tools.relay.redrive import (
    Deployment,
    Event,
    Message,
    Stays,
    failed_fetch,
    failed_run,
    in_a_new_round,
    lost_event,
)

OUTPUTS = {
    "ScheduleFailuresUrl": "https://sqs/1/ScheduleFailures-1",
    "EventFailuresUrl": "https://sqs/1/EventFailures-1",
    "EventLogUrl": "https://sqs/1/EventLog-1",
    "PlanFetchesName": "relay-PlanFetches-1",
    "ReconcileJobsName": "relay-ReconcileJobs-1",
    "ScheduleName": "relay-fetch-all",
    "ReconcileScheduleName": "relay-reconcile",
}
FUNCTION_ARN = "arn:aws:lambda:us-east-1:123456789012:function:relay-PlanFetches-1"
PLAN = {"connections": "all", "from_day": 0, "days": 7}
RECORD = {
    "version": "1.0",
    "timestamp": "2026-01-31T06:00:05.568Z",
    "requestContext": {
        "requestId": "e4b46cbf-b738-xmpl-8880-a18cdf61200e",
        "functionArn": f"{FUNCTION_ARN}:$LATEST",
        "condition": "RetriesExhausted",
        "approximateInvokeCount": 1,
    },
    "requestPayload": PLAN,
    "responseContext": {"statusCode": 200, "functionError": "Unhandled"},
    "responsePayload": {"errorMessage": "…", "errorType": "CredentialsNotConfigured"},
}
DEAD_LETTER = {
    "ERROR_CODE": "AccessDeniedException",
    "ERROR_MESSAGE": "User is not authorized to perform lambda:InvokeFunction",
    "EXECUTION_ID": "ad06616e51cdf74a",
    "IS_PAYLOAD_TRUNCATED": "false",
    "RETRY_ATTEMPTS": "0",
    "SCHEDULED_TIME": "2026-01-31T11:00:00Z",
    "SCHEDULE_ARN": "arn:aws:scheduler:us-east-1:123456789012:schedule/default/relay-fetch-all",
    "TARGET_ARN": "arn:aws:scheduler:::aws-sdk:lambda:invoke",
}
BY_ITS_TARGET = DEAD_LETTER | {"SCHEDULE_ARN": "arn:…/once", "TARGET_ARN": FUNCTION_ARN}
REQUEST = {"FunctionName": FUNCTION_ARN, "InvocationType": "Event", "Payload": json.dumps(PLAN)}
EVENT = {
    "version": "0",
    "id": "17554ea1-9b10-e0ad-26bc-7797acd41391",
    "source": "cobalt-relay",
    "detail-type": "Appointments Fetched",
    "detail": {"event_id": "6a0f1e4e-8c8e-5c0b-9f8e-6d7f0a4b2c11"},
}
RULE = {
    "RULE_ARN": "arn:aws:events:us-east-1:123456789012:rule/relay/relay-EventLogRule-1",
    "TARGET_ARN": "arn:aws:sqs:us-east-1:123456789012:EventLog-1",
    "ERROR_CODE": "NO_PERMISSIONS",
}


def message(body: object, attributes: dict[str, str] | None = None) -> Message:
    text = body if isinstance(body, str) else json.dumps(body)
    return Message("m-1", "receipt", datetime(2026, 1, 31, tzinfo=UTC), text, attributes or {})


def without(name: str, of: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in of.items() if key != name}


@pytest.mark.parametrize(
    ("body", "attributes", "error_code"),
    [
        (RECORD, {}, "CredentialsNotConfigured"),
        (without("responsePayload", RECORD), {}, "RetriesExhausted"),
        (PLAN, DEAD_LETTER, "AccessDeniedException"),
        (PLAN, BY_ITS_TARGET, "AccessDeniedException"),
        (REQUEST, DEAD_LETTER, "AccessDeniedException"),
        (REQUEST | {"Payload": PLAN}, without("ERROR_CODE", DEAD_LETTER), "unknown"),
    ],
)
def test_run_is_found_in_every_form_when_a_schedule_failed(
    body: object, attributes: dict[str, str], error_code: str
) -> None:
    run = failed_run(message(body, attributes), OUTPUTS)

    assert (run.function, json.loads(run.payload)) == ("relay-PlanFetches-1", PLAN)
    assert run.error_code == error_code


def test_runs_of_the_reconciler_are_one_when_their_made_up_inputs_differ() -> None:
    name = "relay-ReconcileJobs-1"
    schedule = {"SCHEDULE_ARN": "arn:aws:scheduler:us-east-1:1:schedule/default/relay-reconcile"}
    record = RECORD | {"requestPayload": {"id": "1"}}
    record["requestContext"] = {"functionArn": FUNCTION_ARN.replace("PlanFetches", "ReconcileJobs")}

    failed = failed_run(message(record), OUTPUTS)
    never_begun = failed_run(message({"id": "2"}, schedule), OUTPUTS)

    assert (failed.function, failed.payload) == (name, "{}")
    assert (never_begun.function, never_begun.payload) == (name, "{}")


@pytest.mark.parametrize(
    ("body", "attributes", "reason"),
    [
        ("all", {}, "not JSON"),
        ([PLAN], DEAD_LETTER, "no JSON object"),
        (PLAN, {}, "neither"),
        (PLAN, DEAD_LETTER | {"IS_PAYLOAD_TRUNCATED": "true"}, "cut its input off"),
        (PLAN, DEAD_LETTER | {"SCHEDULE_ARN": "arn:…/other"}, "names no function"),
        (REQUEST | {"Payload": "all"}, DEAD_LETTER, "Payload is not JSON"),
        (
            REQUEST | {"FunctionName": "other"},
            DEAD_LETTER,
            "no schedule of this stack invokes other",
        ),
        (RECORD | {"requestContext": "?"}, {}, "requestContext"),
        (RECORD | {"requestContext": {}}, {}, "names no function"),
        (RECORD | {"requestContext": {"functionArn": FUNCTION_ARN + "2"}}, {}, "no schedule"),
    ],
)
def test_message_stays_when_it_is_no_failed_run_of_this_stack(
    body: object, attributes: dict[str, str], reason: str
) -> None:
    with pytest.raises(Stays, match=reason):
        failed_run(message(body, attributes), OUTPUTS)


def test_event_goes_back_byte_for_byte_when_its_rule_could_not_deliver_it() -> None:
    text = json.dumps(EVENT, indent=1)

    event = lost_event(message(text, RULE), OUTPUTS)

    assert event == Event(
        rule="relay-EventLogRule-1",
        id="6a0f1e4e-8c8e-5c0b-9f8e-6d7f0a4b2c11",
        body=text,
        error_code="NO_PERMISSIONS",
    )


def test_run_is_made_for_its_own_time_when_the_scheduler_had_not_filled_it_in() -> None:
    plan = PLAN | {"at": "06:00", "scheduled_at": SCHEDULED_TIME}

    run = failed_run(message(plan, DEAD_LETTER), OUTPUTS)

    assert json.loads(run.payload) == plan | {"scheduled_at": DEAD_LETTER["SCHEDULED_TIME"]}


WORK = FetchWork(
    plan=RangePlan(
        range_id="range_" + "0" * 32,
        connection_id="conn_1",
        trigger="schedule",
        request=RangeRequest(window=Window.parse("2026-02-02", "2026-02-15")),
        accepted_at=datetime(2026, 1, 31, 6, tzinfo=UTC),
    ),
    piece=1,
    not_before=datetime(2026, 1, 31, 6, 5, tzinfo=UTC),
    round=2,
)


@pytest.mark.parametrize(
    ("now", "accepted_at"),
    [
        (datetime(2026, 2, 1, 5, tzinfo=UTC), WORK.plan.accepted_at),
        (datetime(2026, 2, 1, 6, tzinfo=UTC), datetime(2026, 2, 1, 6, tzinfo=UTC)),
    ],
)
def test_fetch_begins_a_new_round_when_it_is_put_back(now: datetime, accepted_at: datetime) -> None:
    found = failed_fetch(message(WORK.model_dump(mode="json"), {}))

    work = in_a_new_round(found.work, now)

    assert str(found) == f"range_{'0' * 32}  piece 1"
    assert (work.round, work.piece, work.not_before) == (3, 1, now)
    assert work.plan == WORK.plan.model_copy(update={"accepted_at": accepted_at})
    assert work.request_id(0) != WORK.request_id(0)


@pytest.mark.parametrize("change", [{"piece": 2}, {"plan": "?"}, {"more": 1}])
def test_message_stays_when_it_is_no_fetch(change: dict[str, Any]) -> None:
    with pytest.raises(Stays, match="no fetch"):
        failed_fetch(message(WORK.model_dump(mode="json") | change, {}))


@pytest.mark.parametrize(
    ("body", "attributes", "reason"),
    [
        (PLAN, RULE, "no event"),
        (EVENT, RULE | {"TARGET_ARN": "arn:aws:sqs:us-east-1:1:Other"}, "another target"),
    ],
)
def test_message_stays_when_it_is_no_event_for_the_event_log(
    body: object, attributes: dict[str, str], reason: str
) -> None:
    with pytest.raises(Stays, match=reason):
        lost_event(message(body, attributes), OUTPUTS)


def test_nothing_but_names_codes_and_ids_is_shown_when_a_message_says_more() -> None:
    said = RECORD | {"responsePayload": {"errorType": "No patient named Ann Lee"}}

    assert str(failed_run(message(said), OUTPUTS)) == "relay-PlanFetches-1  unknown"


@dataclass
class Queues:
    """SQS and Lambda at once, as far as a redrive needs them; every call may be made to fail."""

    messages: dict[str, list[dict[str, Any]]]
    hidden: set[str] = field(default_factory=set)
    invoked: list[tuple[str, Any]] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    before: dict[str, Callable[[], None]] = field(default_factory=dict)

    def __getattribute__(self, name: str) -> Any:
        object.__getattribute__(self, "before").get(name, lambda: None)()
        return object.__getattribute__(self, name)

    def get_queue_attributes(self, **_: Any) -> dict[str, Any]:
        return {"Attributes": {"ApproximateNumberOfMessagesNotVisible": str(len(self.hidden))}}

    def receive_message(self, **call: Any) -> dict[str, Any]:
        queue = self.messages.get(call["QueueUrl"], [])
        seen = [each for each in queue if each["MessageId"] not in self.hidden][:10]
        self.hidden |= {each["MessageId"] for each in seen}
        return {"Messages": seen} if seen else {}

    def change_message_visibility_batch(self, **call: Any) -> None:
        self.hidden -= {entry["ReceiptHandle"] for entry in call["Entries"]}

    def delete_message(self, **call: Any) -> None:
        queue = self.messages[call["QueueUrl"]]
        queue[:] = [each for each in queue if each["MessageId"] != call["ReceiptHandle"]]
        self.hidden.discard(call["ReceiptHandle"])

    def send_message(self, **call: Any) -> None:
        self.sent.append(call["MessageBody"])

    def invoke(self, **call: Any) -> None:
        assert call["InvocationType"] == "Event"
        self.invoked.append((call["FunctionName"], json.loads(call["Payload"])))


def runs(*plans: object) -> Queues:
    """A ScheduleFailures queue with the failed runs of these plans."""
    return Queues(
        {
            OUTPUTS["ScheduleFailuresUrl"]: [
                {
                    "MessageId": f"m-{number}",
                    "ReceiptHandle": f"m-{number}",
                    "Attributes": {"SentTimestamp": str(1769839205000 + number)},
                    "Body": json.dumps(RECORD | {"requestPayload": plan}),
                }
                for number, plan in enumerate(plans)
            ]
        }
    )


def put_back(queues: Any, *, dry_run: bool = False) -> int:
    return redrive.redrive(Deployment(OUTPUTS, sqs=queues, functions=queues), dry_run=dry_run)


def left(queues: Queues) -> list[str]:
    """The ids of what is in the queue, and visible."""
    queue = queues.messages[OUTPUTS["ScheduleFailuresUrl"]]
    return [each["MessageId"] for each in queue if each["MessageId"] not in queues.hidden]


def refuse() -> None:
    raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "Any")


def test_every_run_is_made_again_when_there_are_more_than_one_answer_holds() -> None:
    queues = runs(*({"from_day": day} for day in range(23)))

    assert put_back(queues) == 0

    assert [plan["from_day"] for _, plan in queues.invoked] == list(range(23))
    assert (left(queues), queues.hidden) == ([], set())


def test_run_is_made_once_when_it_failed_several_times(capsys: pytest.CaptureFixture[str]) -> None:
    queues = runs(PLAN, {"days": 2}, PLAN)

    assert put_back(queues) == 0

    assert [plan for _, plan in queues.invoked] == [PLAN, {"days": 2}]
    assert left(queues) == []
    assert "the same run as one above" in capsys.readouterr().out


@pytest.mark.parametrize(("at", "times"), [({}, 1), ({"at": None}, 1), ({"at": "06:00"}, 2)])
def test_run_is_another_one_when_its_time_says_which_clinics_are_meant(
    at: dict[str, str | None], times: int
) -> None:
    moments = (datetime(2026, 1, 31, hour, tzinfo=UTC) for hour in (11, 12))
    queues = runs(*(PLAN | at | {"scheduled_at": iso(moment)} for moment in moments))

    assert put_back(queues) == 0

    assert len(queues.invoked) == times
    assert left(queues) == []


def test_run_is_not_made_again_in_the_same_go_when_it_fails_at_once() -> None:
    queues = runs(PLAN)
    [again] = runs(PLAN).messages[OUTPUTS["ScheduleFailuresUrl"]]
    again |= {"MessageId": "again", "ReceiptHandle": "again"}
    url = OUTPUTS["ScheduleFailuresUrl"]
    queues.before["invoke"] = lambda: queues.messages[url].append(again)

    assert put_back(queues) == 0

    assert len(queues.invoked) == 1
    assert left(queues) == ["again"]


def test_nothing_changes_when_it_is_only_shown(capsys: pytest.CaptureFixture[str]) -> None:
    queues = runs(PLAN)

    assert put_back(queues, dry_run=True) == 0

    assert (queues.invoked, left(queues)) == ([], ["m-0"])
    shown = capsys.readouterr().out
    assert "relay-PlanFetches-1  CredentialsNotConfigured\n" in shown
    assert "from_day" not in shown


@pytest.mark.parametrize("call", ["invoke", "delete_message"])
def test_message_stays_and_is_told_when_its_way_back_fails(
    call: str, capsys: pytest.CaptureFixture[str]
) -> None:
    queues = runs(PLAN)
    queues.before[call] = refuse

    assert put_back(queues) == 1

    assert left(queues) == ["m-0"]
    assert "message m-0 stays" in capsys.readouterr().out


def test_others_go_back_when_one_is_not_understood() -> None:
    queues = runs(PLAN, PLAN)
    queues.messages[OUTPUTS["ScheduleFailuresUrl"]][0]["Body"] = "?"

    assert put_back(queues) == 1

    assert len(queues.invoked) == 1
    assert left(queues) == ["m-0"]


def test_run_is_made_and_removed_and_the_rest_left_when_interrupted() -> None:
    queues = runs({"days": 2}, {"days": 3})
    queues.before["invoke"] = lambda: os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        put_back(queues)

    assert [plan for _, plan in queues.invoked] == [{"days": 2}]
    assert left(queues) == ["m-1"]


def test_messages_are_visible_again_when_reading_is_interrupted() -> None:
    queues = runs(*([PLAN] * 12))

    def interrupt() -> None:
        if queues.hidden:
            raise KeyboardInterrupt

    queues.before["receive_message"] = interrupt

    with pytest.raises(KeyboardInterrupt):
        put_back(queues)

    assert len(left(queues)) == 12


def test_messages_that_another_reader_holds_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    queues = runs(PLAN)
    queues.hidden.add("m-0")

    assert put_back(queues) == 0

    assert queues.invoked == []
    assert "1 more cannot be seen now" in capsys.readouterr().out


def test_missing_output_is_named_when_the_stack_is_another_one() -> None:
    queues: Any = runs()

    with pytest.raises(NotWell, match="no output EventLogUrl, PlanFetchesName"):
        Deployment({"ScheduleFailuresUrl": "a", "EventFailuresUrl": "b"}, queues, queues)
