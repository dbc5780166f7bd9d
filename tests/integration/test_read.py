"""GET /v1/appointments/fetch/{job_execution_id} on the deployed stack: the link to the result, the wait."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit, urlunsplit

import boto3
import pytest
import requests
from botocore.auth import AUTH_TYPE_MAPS

from cobalt_relay.adapters import aws
from cobalt_relay.adapters.results import LINK_LIFE, ResultLinks
from cobalt_relay.models import ResultLocation, utc_now
from tests.integration.support import CALL_SECONDS, Item, Relay, eventually
from tests.integration.test_stack import as_function
from tests.integration.test_webhook import a_result, signed
from tools.local.sandbox import Sandbox
from tools.local.stack import Stack

WEEK = {"start_date": "2025-02-03", "end_date": "2025-02-07"}
TEN_DAYS = {"start_date": "2025-02-03", "end_date": "2025-02-12"}
ALLOWANCE_SECONDS = 1.5
"""What may pass between a result and the answer to who waits: a second, and some for the machine."""


def start(relay: Relay) -> str:
    answer = relay.fetch(WEEK)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["job_execution_id"]
    return job_id


def read(
    stack: Stack, job_id: str, wait: object = None, *, clinic: str = "riverside"
) -> requests.Response:
    return requests.get(
        f"{stack.api_url}/appointments/fetch/{job_id}",
        params={} if wait is None else {"wait": str(wait)},
        headers=stack.headers(clinic),
        timeout=CALL_SECONDS,
    )


def opened(url: str) -> requests.Response:
    """Open a link with nothing else in hand."""
    return requests.get(url, timeout=CALL_SECONDS)


# ------------------------------------------------------------------------------ the link to the result


@pytest.fixture(scope="module")
def ended(stack: Stack) -> tuple[str, Item]:
    """A job whose result the sandbox delivered, and what its caller is told of it."""
    relay = Relay(stack)
    job_id = start(relay)
    relay.ended_job(job_id)
    return job_id, read(stack, job_id).json()


def test_link_opens_the_bytes_that_were_delivered(
    stack: Stack, sandbox: Sandbox, ended: tuple[str, Item]
) -> None:
    job_id, told = ended

    answer = opened(told["result_url"])

    assert answer.status_code == 200
    assert answer.content == sandbox.event_body(sandbox.job(job_id)["event_id"])
    assert answer.headers["content-type"] == "application/json"
    left = datetime.fromisoformat(told["result_url_expires_at"]) - utc_now()
    assert timedelta(0) < left <= LINK_LIFE


def test_link_opens_its_own_version_when_another_one_has_its_key(
    relay: Relay, stack: Stack, sandbox: Sandbox
) -> None:
    job_id = start(relay)
    location = relay.ended_job(job_id)["completion"]["result"]
    place = {"Bucket": location["bucket"], "Key": location["key"]}
    stack.aws.s3.put_object(**place, Body=b"another")

    answer = opened(read(stack, job_id).json()["result_url"])

    assert relay.object(location["key"]) == b"another"
    assert answer.content == sandbox.event_body(sandbox.job(job_id)["event_id"])


def test_link_is_no_link_to_anything_else(stack: Stack, ended: tuple[str, Item]) -> None:
    parts = urlsplit(ended[1]["result_url"])
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    signature = query["X-Amz-Signature"]
    other_signature = ("0" if signature[0] != "0" else "1") + signature[1:]
    later = {"X-Amz-Expires": "3600"}
    tampered = [
        {**query, "X-Amz-Signature": other_signature},
        {**query, **later},
        {**query, "versionId": "null"},
        {**query, "X-Amz-Security-Token": "another"},
        {name: value for name, value in query.items() if name != "X-Amz-Signature"},
        {},
    ]
    other_paths = [parts.path + "x", parts.path.replace(ended[0], "job_1"), f"/{stack.bucket}"]

    refused = [
        opened(urlunsplit(parts._replace(query=urlencode(each, quote_via=quote))))
        for each in tampered
    ]
    refused += [opened(urlunsplit(parts._replace(path=path))) for path in other_paths]
    refused.append(requests.delete(urlunsplit(parts), timeout=CALL_SECONDS))

    assert {answer.status_code for answer in refused} <= {400, 403}  # 400: no such session
    assert len(refused) == 10
    assert opened(urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))).ok


@pytest.mark.parametrize(("age", "status"), [(-20, 200), (20, 403)])
def test_link_opens_nothing_when_its_five_minutes_are_over(
    relay: Relay,
    stack: Stack,
    ended: tuple[str, Item],
    monkeypatch: pytest.MonkeyPatch,
    age: int,
    status: int,
) -> None:
    """Signed by the code of the relay, with the rights of its function, as at another time."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", stack.aws_endpoint)
    credentials = as_function(stack, "ReadAppointments").credentials
    client = boto3.Session(**credentials).client("s3", config=aws.SIGNING)  # type: ignore[arg-type]
    row: Any = relay.job(ended[0])
    signed_at = utc_now() - LINK_LIFE - timedelta(seconds=age)
    signer = AUTH_TYPE_MAPS["s3v4-query"].__module__  # another one where awscrt is installed
    monkeypatch.setattr(f"{signer}.get_current_datetime", lambda **_: signed_at)

    location = ResultLocation.model_validate(row["completion"]["result"])
    link = ResultLinks(client, now=lambda: signed_at).link(location)

    assert opened(link.url).status_code == status
    assert (link.expires_at > utc_now()) is (status == 200)


def test_other_connection_gets_no_link(stack: Stack, ended: tuple[str, Item]) -> None:
    nothing = read(stack, "job_that_there_is_not", clinic="lakeside")

    answer = read(stack, ended[0], 20, clinic="lakeside")

    assert (answer.status_code, answer.content) == (404, nothing.content)
    assert "X-Amz" not in answer.text


def test_link_is_in_no_log(stack: Stack, ended: tuple[str, Item]) -> None:
    """Nor is what makes it one; a refusal comes after it, so that what is searched is whole."""
    query = parse_qs(urlsplit(ended[1]["result_url"]).query)
    secrets = [query["X-Amz-Signature"][0], "X-Amz-Signature", "X-Amz-Security-Token"]
    group = f"/aws/lambda/{stack.stack_name}/read_appointments"

    def logged() -> str:
        pages = stack.aws.logs.get_paginator("filter_log_events").paginate(logGroupName=group)
        return "\n".join(event["message"] for page in pages for event in page["events"])

    assert read(stack, ended[0], 20).json()["result_url"]
    read(stack, ended[0], "for ever")
    text = eventually(lambda: (found := logged()) and "invalid_wait" in found and found)

    assert text
    assert [secret for secret in secrets if secret in text] == []


# ----------------------------------------------------------------------------------------- the wait


def test_wait_is_answered_within_a_second_of_the_webhook(
    relay: Relay, stack: Stack, sandbox: Sandbox
) -> None:
    """The webhook comes while the function is known to be looking."""
    sandbox.add_fault("lost")
    job_id = start(relay)
    body = a_result(job_id)
    assert read(stack, job_id).json()["status"] == "ACCEPTED"

    with ThreadPoolExecutor() as pool:
        began = time.monotonic()
        waiting = pool.submit(read, stack, job_id, 20)
        eventually(lambda: time.monotonic() - began > 3)
        still_waiting = not waiting.done()
        assert relay.webhook(body, signed(stack, body)).status_code == 200
        delivered = time.monotonic()
        answer = waiting.result()
        answered = time.monotonic()

    told = answer.json()
    assert still_waiting
    assert told["status"] == "COMPLETED"
    assert opened(told["result_url"]).content == body
    assert answered - delivered < ALLOWANCE_SECONDS
    assert "x-progress" not in answer.headers


def test_open_job_is_told_when_the_wait_is_over(
    relay: Relay, stack: Stack, sandbox: Sandbox
) -> None:
    sandbox.add_fault("lost")
    job_id = start(relay)

    began = time.monotonic()
    answer = read(stack, job_id, 2)
    took = time.monotonic() - began

    told = answer.json()
    assert (told["status"], told["result_url"]) == ("ACCEPTED", None)
    assert 2 <= took < 2 + ALLOWANCE_SECONDS
    assert answer.headers["x-progress"].startswith("accepted by Cobalt ")
    assert answer.headers["retry-after"]


def test_nobody_waits_for_what_is_not_theirs(relay: Relay, stack: Stack, sandbox: Sandbox) -> None:
    sandbox.add_fault("lost")
    job_id = start(relay)

    began = time.monotonic()
    answers = [read(stack, each, 20, clinic="lakeside") for each in (job_id, "job_0")]
    took = time.monotonic() - began

    assert [answer.status_code for answer in answers] == [404, 404]
    assert took < 2 * ALLOWANCE_SECONDS


@pytest.mark.parametrize("wait", ["", "21", "-1", "1e1", "٥", " 5", "1&wait=1"])
def test_400_when_the_wait_is_no_number_of_seconds(
    stack: Stack, ended: tuple[str, Item], wait: str
) -> None:
    url = f"{stack.api_url}/appointments/fetch/{ended[0]}?wait={quote(wait, safe='&=')}"

    answer = requests.get(url, headers=stack.headers("riverside"), timeout=CALL_SECONDS)

    assert answer.status_code == 400
    assert answer.json()["message"] == "wait must be one whole number of seconds, 0 to 20."


def test_range_tells_how_far_it_is(relay: Relay, stack: Stack, sandbox: Sandbox) -> None:
    sandbox.add_fault("lost")
    accepted = relay.fetch_range(TEN_DAYS).json()

    answer = read(stack, accepted["job_execution_id"], 1)

    assert answer.json()["status"] == "ACCEPTED"
    assert answer.headers["x-progress"] == f"0 of {accepted['pieces']} fetches have ended"
    relay.settle()
