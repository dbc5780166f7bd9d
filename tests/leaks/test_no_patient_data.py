"""No patient data where it does not belong, on the deployed stack.

One run takes canary patients down every path; then every place is searched for every canary, every
access token and every secret. What may stand somewhere, and is therefore no leak:

* Bodies under `appointments/`, `webhooks/` and `snapshots/` in the bucket, values of SSM parameters
  and secrets.
* What the reader of a clinic's days is told of that clinic's patients.
* Ids of jobs and events, and the type of an event: opaque ids of Cobalt, kept by design. One is a
  word of visible ASCII of at most 256 characters; with a blank, a line break, a control character or
  another script in it, it is none and does not come in. `access_token_reference_id` is the label
  that the relay's operator gave a connection, kept as any one printable line.
* A connection id: the documented digest of an access token.
* An error code of Cobalt, where it is words of ASCII letters in one case and underscores.
* The ids of providers that a range is for, in its row and its messages: it is fetched later, and
  they are ids of Cobalt's. A patient's that a caller puts in their place is kept like them.
* Cobalt's own `message` of a refusal, in the answer to the very caller that it refused.
* The input of a scheduled run that failed, in the failure queue: AWS puts it there, as the operator
  wrote it.
"""

import base64
import json
import math
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NoReturn
from urllib.parse import quote

import pytest
import requests

from cobalt_relay.models import connection_id_of
from tests.integration.support import eventually
from tests.leaks import canaries, places
from tests.leaks.paths import Run
from tests.leaks.search import Canary, Finding, Search, Text
from tools.local.eventlog import EventLog
from tools.local.stack import Stack

REPORTED = {
    *("fetch_accepted", "fetch_not_accepted", "fetch_repeated", "request_refused"),
    *("request_attached", "event_id_conflict", "end_awaited"),
    *("job_ended", "job_unclaimed", "delivery_repeated"),
    *("delivery_malformed", "delivery_refused", "cobalt_event_archived"),
    *("fetch_expired", "look_failed", "reconciled"),
    *("schedule_planned", "work_failed", "work_put_off", "piece_given_up", "range_accepted"),
    *("range_ended", "connection_suspended", "connection_resumed", "changes_detected"),
    *("appointments_read", "appointments_not_modified", "refresh_failed"),
}
"""Messages without which a run has not gone down its paths."""

PLACES = (
    *(f"log /aws/lambda/cobalt-relay/{name}" for name in ("fetch_appointments", "plan_fetches")),
    *(f"log /aws/lambda/cobalt-relay/{name}" for name in ("run_fetches", "read_appointments")),
    *(f"log /aws/lambda/cobalt-relay/{name}" for name in ("receive_webhook", "reconcile_jobs")),
    "log /aws/lambda/cobalt-relay/detect_changes",
    *("log groups", "row REQUEST", "row JOB", "row EVENT", "row CONNECTION", "row IDEMPOTENCY"),
    *("row RANGE", "row CHANGE", "row ROBOT", "index by_reference"),
    *("index due", "index by_connection", "index connections", "bus", "rules", "queue"),
    *("queue cobalt-relay-FetchQueue", "queue cobalt-relay-FetchFailures"),
    *("S3 key", "S3 metadata", "S3 tags", "SSM", "Secrets Manager"),
    *("Lambda configuration", "stack", "schedules", "URL upstream", "log of the sandbox"),
    *("answer", "outcome"),
)
"""Where something lies after a run: a place that is empty was not searched."""


@pytest.fixture(scope="module")
def run(stack: Stack) -> Iterator[Run]:
    """The run, once for all tests of this file; the failure queues are empty before and after."""
    run = Run(stack)
    run.empty_the_failure_queues()
    run.everything()
    yield run
    run.empty_the_failure_queues()


@pytest.fixture(scope="module")
def search(run: Run) -> Search:
    """The search for every patient, token and secret of the run."""
    stack = run.stack
    secrets = [*run.secrets, stack.client_secret]
    known = [Canary(f"secret {number}", secret) for number, secret in enumerate(secrets)]
    tokens = [Canary(f"token of {name}", token) for name, token in stack.access_tokens.items()]
    return Search(
        [*canaries.PATIENTS, *known, *tokens],
        documented=map(connection_id_of, [*stack.access_tokens.values(), *run.secrets]),
    )


def test_patients_were_where_they_belong(run: Run, search: Search) -> None:
    s3, bucket = run.stack.aws.s3, run.stack.bucket
    began = datetime.fromtimestamp(run.began_ms / 1000, UTC).replace(microsecond=0)

    keys = [
        entry["Key"]
        for prefix in ("appointments/", "webhooks/", "snapshots/", "changes/")
        for entry in list(places.objects(run.stack, prefix, since=began))[:5]
    ]
    bodies = [
        Text("body", s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()) for key in keys
    ]

    assert {found.canary for found in search(bodies)} == {each.name for each in canaries.PATIENTS}
    upstream = search(places.bodies_upstream(run.stack))
    assert {found.canary for found in upstream} >= {"MRN", "telephone"}


def test_run_went_down_every_path(run: Run) -> None:
    messages = {json.loads(line).get("message") for line in places.lines(run.stack, run.began_ms)}

    assert messages >= REPORTED


def test_nothing_leaked_anywhere(run: Run, search: Search, events: EventLog) -> None:
    texts = [*places.all_of(run.stack, events), *run.answers]

    leaks = search(texts)

    assert leaks == []
    filled = {text.place for text in texts}
    assert [each for each in PLACES if not any(place.startswith(each) for place in filled)] == []


def test_no_token_and_no_secret_is_in_a_body_upstream(run: Run, search: Search) -> None:
    found = {leak.canary for leak in search(places.bodies_upstream(run.stack))}

    assert found <= {each.name for each in canaries.PATIENTS}


def test_input_of_failed_runs_is_kept_as_the_operator_wrote_it(run: Run) -> None:
    kept = places.messages(run.stack, run.stack.outputs["ScheduleFailuresUrl"])

    inputs = [json.loads(message["Body"]).get("requestPayload") for message in kept]
    assert all(plan in inputs for plan in run.schedule_inputs)


def test_every_line_is_strict_json_in_one_line(run: Run) -> None:
    lines = list(places.lines(run.stack, run.began_ms))

    assert lines
    for line in lines:
        assert line.isprintable()
        assert line.isascii()
        assert isinstance(json.loads(line, parse_constant=_refuse), dict)


def test_metrics_have_the_names_and_dimensions_of_a_closed_list(run: Run) -> None:
    documents = [
        json.loads(line) for line in places.lines(run.stack, run.began_ms) if '"_aws"' in line
    ]

    assert documents
    for document in documents:
        [directive] = document["_aws"]["CloudWatchMetrics"]
        names = {metric["Name"] for metric in directive["Metrics"]}
        assert directive["Dimensions"] == [["service"]]
        assert document["service"] == "cobalt-relay"
        assert all(name.isascii() and name.isalnum() for name in names)
        assert set(document) == {"_aws", "service", *names}
        values = [value for name in names for value in document[name]]
        assert all(math.isfinite(value) for value in values)


def _refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON")


# ------------------------------------------------------------------------------- planted on purpose


def _in_a_log(stack: Stack) -> None:
    group, stream = f"/aws/lambda/{stack.stack_name}/receive_webhook", uuid.uuid4().hex
    stack.aws.logs.create_log_stream(logGroupName=group, logStreamName=stream)
    line = json.dumps({"message": "job_ended", "note": canaries.NAME})
    stack.aws.logs.put_log_events(
        logGroupName=group,
        logStreamName=stream,
        logEvents=[{"timestamp": int(time.time() * 1000), "message": line}],
    )


def _in_a_row(stack: Stack) -> None:
    item: Any = {"pk": {"S": "LEAK#1"}, "sk": {"S": "LEAK"}, "seen": {"S": canaries.NAME}}
    stack.aws.dynamodb.put_item(TableName=stack.table, Item=item)


def _in_an_index(stack: Stack) -> None:
    item: Any = {"pk": {"S": "LEAK#2"}, "sk": {"S": "LEAK"}, "connection_id": {"S": "x"}}
    stack.aws.dynamodb.put_item(
        TableName=stack.table, Item=item | {"registry_shard": {"S": canaries.NAME}}
    )


def _on_the_bus(stack: Stack) -> None:
    entry: Any = {"Source": "cobalt-relay", "DetailType": "Leak", "EventBusName": stack.bus}
    detail = {"job_execution_id": canaries.NAME}
    stack.aws.events.put_events(Entries=[entry | {"Detail": json.dumps(detail)}])


def _in_a_queue(stack: Stack) -> None:
    stack.aws.sqs.send_message(
        QueueUrl=stack.outputs["EventFailuresUrl"], MessageBody=json.dumps({"x": canaries.NAME})
    )


def _in_a_key(stack: Stack) -> None:
    stack.aws.s3.put_object(Bucket=stack.bucket, Key=f"leaks/{quote(canaries.NAME)}", Body=b"")


def _in_metadata(stack: Stack) -> None:
    seen = base64.b64encode(canaries.NAME.encode()).decode()
    stack.aws.s3.put_object(Bucket=stack.bucket, Key="leaks/1", Body=b"", Metadata={"x": seen})


def _in_a_tag(stack: Stack) -> None:
    stack.aws.s3.put_object(
        Bucket=stack.bucket, Key="leaks/2", Body=b"", Tagging=f"mrn={canaries.MRN}"
    )


def _in_a_parameter(stack: Stack) -> None:
    stack.aws.ssm.put_parameter(Name="/leak", Value="x", Type="String", Description=canaries.NAME)


def _in_an_address_upstream(stack: Stack) -> None:
    asked = {"job_id": canaries.NAME}
    requests.get(f"{stack.sandbox_url}/v1/webhook-events", params=asked, timeout=5)


@pytest.mark.parametrize(
    ("plant", "place"),
    [
        (_in_a_log, "log /aws"),
        (_in_a_row, "row LEAK"),
        (_in_an_index, "index connections"),
        (_on_the_bus, "bus"),
        (_in_a_queue, "queue"),
        (_in_a_key, "S3 key"),
        (_in_metadata, "S3 metadata"),
        (_in_a_tag, "S3 tags"),
        (_in_a_parameter, "SSM"),
        (_in_an_address_upstream, "URL upstream"),
    ],
)
def test_leak_is_found_when_it_is_planted(
    stack: Stack, events: EventLog, plant: Callable[[Stack], None], place: str
) -> None:
    search = Search(canaries.PATIENTS)

    plant(stack)

    def found() -> list[Finding]:
        leaks = search(places.all_of(stack, events))
        return [leak for leak in leaks if leak.place.startswith(place)]

    assert eventually(found)
