"""Events, queues and alarms: that nothing gets lost, and that somebody hears of it if it does."""

import re
from collections.abc import Iterator
from functools import cache

from cobalt_relay.events import SOURCE
from cobalt_relay.services.run_fetches import MOST_RECEIVES
from tests.template.document import Document, Json, dig, listed, rule, target
from tools.local.paths import ROOT

FOUR_DAYS = 345600  # what SQS keeps a message for unless told otherwise
TRIES = MOST_RECEIVES
"""Of a message whose function failed (Lambda: Using Lambda with Amazon SQS); fewer lose those that
a throttled function could not take."""


def queues(document: Document) -> dict[str, Json]:
    return document.of_type("AWS::SQS::Queue")


def places_of_failures(document: Document) -> dict[str, set[str]]:
    """Give each queue that failures go to, with who sends them."""
    found: dict[str, set[str]] = {}

    def note(queue: Json, sender: str) -> None:
        name = target(queue)
        if name:
            found.setdefault(name, set()).add(sender)

    for name, config in document.of_type("AWS::Lambda::EventInvokeConfig").items():
        note(dig(config, "DestinationConfig", "OnFailure", "Destination"), name)
    for name, schedule in document.of_type("AWS::Scheduler::Schedule").items():
        note(dig(schedule, "Target", "DeadLetterConfig", "Arn"), name)
    for name, bus in document.of_type("AWS::Events::EventBus").items():
        note(dig(bus, "DeadLetterConfig", "Arn"), name)
    for name, each in document.of_type("AWS::Events::Rule").items():
        for receiver in each["Targets"]:
            note(dig(receiver, "DeadLetterConfig", "Arn"), name)
    for name, queue in queues(document).items():
        note(dig(queue, "RedrivePolicy", "deadLetterTargetArn"), name)
    return found


def places_of_dead_letters(document: Document) -> set[str]:
    """Give the queues into which other queues put what failed at each try."""
    found = (dig(q, "RedrivePolicy", "deadLetterTargetArn") for q in queues(document).values())
    return {str(target(each)) for each in found if target(each)}


# ---------------------------------------------------------------------------------------------- events


@rule
def bus_keeps_what_it_could_not_deliver(document: Document) -> Iterator[str]:
    """Without its key a bus can deliver nothing; the events then wait in the queue."""
    for name, bus in document.of_type("AWS::Events::EventBus").items():
        if target(dig(bus, "DeadLetterConfig", "Arn")) is None:
            yield name


@rule
def rule_tries_again_and_keeps_what_fails(document: Document) -> Iterator[str]:
    for name, each in document.of_type("AWS::Events::Rule").items():
        for receiver in each["Targets"]:
            attempts = receiver.get("RetryPolicy", {}).get("MaximumRetryAttempts", 185)
            if attempts == 0 or target(dig(receiver, "DeadLetterConfig", "Arn")) is None:
                yield name


@rule
def rule_listens_to_what_is_sent(document: Document) -> Iterator[str]:
    """A rule for another source matches nothing, and says nothing."""
    for name, each in document.of_type("AWS::Events::Rule").items():
        if (
            each["EventPattern"].get("source") != [SOURCE]
            or target(each["EventBusName"]) != "EventBus"
        ):
            yield name


@rule
def events_may_be_sent_to_their_queues(document: Document) -> Iterator[str]:
    """EventBridge takes a target that it may not send to, and drops every event."""
    senders: dict[str, set[str]] = {}
    for name, each in document.of_type("AWS::Events::Rule").items():
        for receiver in each["Targets"]:
            for queue in (receiver["Arn"], dig(receiver, "DeadLetterConfig", "Arn")):
                senders.setdefault(str(target(queue)), set()).add(name)
    for name, bus in document.of_type("AWS::Events::EventBus").items():
        if queue := target(dig(bus, "DeadLetterConfig", "Arn")):
            senders.setdefault(queue, set()).add(name)
    for queue in senders.keys() & queues(document).keys():
        allowed = {
            target(source)
            for statement in _queue_statements(document, queue)
            if statement["Effect"] == "Allow"
            and statement["Principal"] == {"Service": "events.amazonaws.com"}
            and listed(statement["Action"]) == ["sqs:SendMessage"]
            for source in listed(dig(statement, "Condition", "ArnEquals", "aws:SourceArn"))
        }
        if not senders[queue] <= allowed:
            yield queue


@rule
def queue_is_sent_to_by_our_events_alone(document: Document) -> Iterator[str]:
    """A service acts for everybody, so each statement that lets one in names our own sender."""
    ours = document.of_type("AWS::Events::Rule", "AWS::Events::EventBus").keys()
    for queue in queues(document):
        for statement in _queue_statements(document, queue):
            sources = listed(dig(statement, "Condition", "ArnEquals", "aws:SourceArn"))
            if statement["Effect"] == "Allow" and not {target(s) for s in sources} <= ours:
                yield queue


@rule
def queue_refuses_plain_http(document: Document) -> Iterator[str]:
    for queue in queues(document):
        if not any(
            statement["Effect"] == "Deny"
            and statement["Principal"] == "*"
            and statement["Action"] == "sqs:*"
            and statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}
            for statement in _queue_statements(document, queue)
        ):
            yield queue


@rule
def policy_of_a_queue_names_that_queue_alone(document: Document) -> Iterator[str]:
    """SQS takes no statement about several queues, so that the stack would not come up on AWS."""
    for name, policy in document.of_type("AWS::SQS::QueuePolicy").items():
        [queue, *others] = [target(each) for each in policy["Queues"]]
        resources = [each["Resource"] for each in policy["PolicyDocument"]["Statement"]]
        if others or any(isinstance(r, list) or target(r) != queue for r in resources):
            yield name


def _queue_statements(document: Document, queue: str) -> list[dict[str, Json]]:
    """Give the statements that are about a queue, of the policies that are put on it."""
    return [
        statement
        for policy in document.of_type("AWS::SQS::QueuePolicy").values()
        if queue in {target(each) for each in policy["Queues"]}
        for statement in policy["PolicyDocument"]["Statement"]
        if queue in {target(each) for each in listed(statement["Resource"])}
    ]


# -------------------------------------------------------------------------------------------- failures


@rule
def failures_are_kept_longer_than_anything_else(document: Document) -> Iterator[str]:
    """A message keeps its age when it moves, so one of four days would be gone at once."""
    failures = places_of_failures(document).keys()
    kept = {
        name: q.get("MessageRetentionPeriod", FOUR_DAYS) for name, q in queues(document).items()
    }
    longest = max(kept[name] for name in kept.keys() - failures)
    yield from (name for name in failures if kept[name] <= longest)


@rule
def failures_queue_is_nobody_elses(document: Document) -> Iterator[str]:
    """No queue of this account may make it its own place for failures.

    But for one of ours: to name that alone, each of the two would have to be made before the other.
    """
    dead_letters = places_of_dead_letters(document)
    for name in places_of_failures(document):
        permission = dig(queues(document)[name], "RedriveAllowPolicy", "redrivePermission")
        if (permission == "denyAll") == (name in dead_letters):
            yield name


@rule
def queue_that_is_worked_off_keeps_what_fails(document: Document) -> Iterator[str]:
    """What fails at each try would come again until it is too old, and then be gone."""
    for mapping in document.of_type("AWS::Lambda::EventSourceMapping").values():
        name = str(target(mapping["EventSourceArn"]))
        if target(dig(queues(document)[name], "RedrivePolicy", "deadLetterTargetArn")) is None:
            yield name


@rule
def queue_gives_up_on_no_message_at_once(document: Document) -> Iterator[str]:
    """A fault of a minute, of Cobalt's or of AWS, is no reason to call an operator.

    The function counts: a fetch that is refused at its last receive has failed.
    """
    for name, queue in queues(document).items():
        if int(dig(queue, "RedrivePolicy", "maxReceiveCount") or TRIES) != TRIES:
            yield name


# ---------------------------------------------------------------------------------------------- alarms


@rule
def failures_raise_an_alarm(document: Document) -> Iterator[str]:
    """A queue that nobody looks into loses what is in it after two weeks."""
    watched = {
        target(dimension["Value"])
        for alarm in document.of_type("AWS::CloudWatch::Alarm").values()
        if (alarm["Namespace"], alarm["MetricName"])
        == ("AWS/SQS", "ApproximateNumberOfMessagesVisible")
        and (alarm["Threshold"], alarm["ComparisonOperator"], alarm["Statistic"])
        == (1, "GreaterThanOrEqualToThreshold", "Maximum")
        for dimension in alarm["Dimensions"]
        if dimension["Name"] == "QueueName"
    }
    yield from places_of_failures(document).keys() - watched


OURS = [{"Name": "service", "Value": {"Ref": "AWS::StackName"}}]
DEAD_RECONCILER = "OldOpenJobs"
"""Its metric is sent each minute, at zero too."""
WANTED_AT_NIGHT = {
    "BadSignatures": ("BadSignature", OURS, "Sum", 5, 1),
    "ExpiredFetches": ("FetchExpired", OURS, "Sum", 1, 1),
    DEAD_RECONCILER: ("OpenJobPatience", OURS, "Maximum", 50, 3),
    "UpstreamErrors": ("UpstreamError", OURS, "Average", 0.5, 3),
    "ServerErrors": (
        *("5XXError", [{"Name": "ApiName", "Value": {"Ref": "AWS::StackName"}}], "Sum", 5, 2),
    ),
    "ThrottledFetches": (
        *("Throttles", [{"Name": "FunctionName", "Value": {"Ref": "FetchAppointments"}}], "Sum"),
        *(10, 2),
    ),
    "ThrottledWebhooks": (
        *("Throttles", [{"Name": "FunctionName", "Value": {"Ref": "ReceiveWebhook"}}], "Sum", 1, 1),
    ),
}
"""By alarm: metric, dimensions, statistic, threshold, periods of five minutes. Besides these there is
one for each failure queue, and none for what can wait for the morning."""


@rule
def alarms_are_those_that_a_person_wants_at_night(document: Document) -> Iterator[str]:
    """A missing one leaves people asleep, a superfluous one teaches them to go on sleeping."""
    alarms = document.of_type("AWS::CloudWatch::Alarm")
    of_queues = {name for name, alarm in alarms.items() if alarm["Namespace"] == "AWS/SQS"}
    yield from (alarms.keys() - of_queues) ^ WANTED_AT_NIGHT.keys()
    for name, (metric, dimensions, statistic, threshold, periods) in WANTED_AT_NIGHT.items():
        wanted = {
            "MetricName": metric,
            "Dimensions": dimensions,
            "Statistic": statistic,
            "Period": 300,
            "EvaluationPeriods": periods,
            "Threshold": threshold,
            "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        }
        if name in alarms and not wanted.items() <= alarms[name].items():
            yield name


@rule
def alarm_is_heard(document: Document) -> Iterator[str]:
    """It goes to the topic, the stack's own or the one that was named."""
    topic = document.values["AlarmTopicArn"] or {"Ref": "Alarms"}
    for name, alarm in document.of_type("AWS::CloudWatch::Alarm").items():
        if alarm.get("AlarmActions") != [topic] or alarm.get("ActionsEnabled", True) is not True:
            yield name


@rule
def alarm_is_about_a_metric_that_the_code_counts(document: Document) -> Iterator[str]:
    """An alarm about a metric that nobody sends is green for ever."""
    for name, alarm in document.of_type("AWS::CloudWatch::Alarm").items():
        is_ours = alarm["Namespace"] == "CobaltRelay"
        dimensions = {each["Name"]: each["Value"] for each in alarm["Dimensions"]}
        if is_ours and (
            alarm["MetricName"] not in counted()
            or dimensions != {"service": {"Ref": "AWS::StackName"}}
        ):
            yield name


@rule
def alarm_is_green_where_there_is_nothing_to_count(document: Document) -> Iterator[str]:
    """Metrics of ours and of queues that are idle have no values at all, but for one."""
    for name, alarm in document.of_type("AWS::CloudWatch::Alarm").items():
        wanted = "breaching" if name == DEAD_RECONCILER else "notBreaching"
        if alarm.get("TreatMissingData") != wanted or not alarm.get("AlarmDescription"):
            yield name


@rule
def topic_is_told_by_alarms_over_tls_alone(document: Document) -> Iterator[str]:
    ours = {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
    for topic in document.of_type("AWS::SNS::Topic"):
        statements = [
            statement
            for policy in document.of_type("AWS::SNS::TopicPolicy").values()
            if topic in {target(each) for each in policy["Topics"]}
            for statement in policy["PolicyDocument"]["Statement"]
        ]
        plain = {"Bool": {"aws:SecureTransport": "false"}}
        allowed = [s for s in statements if s["Effect"] == "Allow"]
        if not any(
            s["Effect"] == "Deny" and s.get("Condition") == plain for s in statements
        ) or any(
            (s["Principal"], s["Action"])
            != ({"Service": "cloudwatch.amazonaws.com"}, "sns:Publish")
            or s.get("Condition") != ours
            for s in allowed
        ):
            yield topic


@cache
def counted() -> set[str]:
    """Give the names of the metrics that the code counts."""
    modules = (ROOT / "layers" / "relay" / "cobalt_relay").rglob("*.py")
    code = "\n".join(module.read_text(encoding="utf-8") for module in modules)
    return set(re.findall(r'\b(?:count|measure_seconds|measure_percent)\(\s*"(\w+)"', code))
