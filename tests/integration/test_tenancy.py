"""One clinic learns nothing of another one's, on the deployed stack: routes, ids, keys, both ways.

That every refusal costs the same AWS calls in the same order is in `tests/unit/test_read_jobs.py`.
"""

from typing import Any
from urllib.parse import quote

import pytest
import requests

from cobalt_relay.models import connection_id_of
from tests.integration.support import CALL_SECONDS, Relay
from tests.integration.test_webhook import a_result, signed
from tools.local.sandbox import Sandbox
from tools.local.stack import Stack

WEEK = {"start_date": "2025-03-03", "end_date": "2025-03-07"}
BOTH_WAYS = [("riverside", "lakeside"), ("lakeside", "riverside")]


def read(stack: Stack, headers: dict[str, str], job_id: str) -> requests.Response:
    """GET the job; the id goes as it is."""
    url = f"{stack.api_url}/appointments/fetch/{job_id}"
    return requests.get(url, headers=headers, timeout=CALL_SECONDS)


def start(relay: Relay, clinic: str, **more: Any) -> str:
    answer = relay.fetch(WEEK, clinic=clinic, **more)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["job_execution_id"]
    return job_id


def without_its_id(answer: requests.Response) -> tuple[int, bytes, dict[str, str]]:
    """All of an answer but what differs from one request to the next."""
    differ = {"x-request-id", "date"}
    headers = {n.lower(): v for n, v in answer.headers.items() if not n.lower().startswith("x-amz")}
    return (
        answer.status_code,
        answer.content,
        {name: value for name, value in headers.items() if name not in differ},
    )


@pytest.fixture(scope="module")
def nothing_there(stack: Stack) -> tuple[int, bytes, dict[str, str]]:
    """The answer of a job that there is not."""
    answer = read(stack, stack.headers("riverside"), "job_that_there_is_not")
    assert answer.status_code == 404
    assert answer.json()["message"].startswith("No such job. ")
    return without_its_id(answer)


@pytest.mark.parametrize(("owner", "other"), BOTH_WAYS)
def test_job_is_its_connections_alone(
    relay: Relay, stack: Stack, nothing_there: Any, owner: str, other: str
) -> None:
    job_id = start(relay, owner)
    open_job = read(stack, stack.headers(owner), job_id)
    row = relay.ended_job(job_id)

    ended = read(stack, stack.headers(owner), job_id)
    foreign = read(stack, stack.headers(other), job_id)

    assert (open_job.status_code, ended.status_code) == (200, 200)
    told = ended.json()
    assert (told["status"], told["window"], told["trigger"]) == ("COMPLETED", WEEK, "api")
    assert told["appointment_count"] == row["completion"]["appointment_count"]
    assert told["requested_at"] <= told["accepted_at"] <= told["completed_at"] < told["deadline"]
    assert without_its_id(foreign) == nothing_there


@pytest.mark.parametrize(("owner", "other"), BOTH_WAYS)
@pytest.mark.parametrize(
    "wrong",
    [
        {"client_id": "stranger"},
        {"client_secret": "wrong"},
        {"access_token": "stranger"},
        {"client_id": "stranger", "client_secret": "wrong", "access_token": "stranger"},
    ],
)
def test_stranger_is_answered_as_if_nothing_were_there(
    relay: Relay, stack: Stack, nothing_there: Any, owner: str, other: str, wrong: dict[str, str]
) -> None:
    job_id = start(relay, owner)

    answers = [
        read(stack, {**stack.headers(clinic), **wrong}, each)
        for clinic in (owner, other)
        for each in (job_id, "job_that_there_is_not")
    ]

    assert [without_its_id(answer) for answer in answers] == [nothing_there] * 4


@pytest.mark.parametrize("clinic", ["riverside", "lakeside"])
@pytest.mark.parametrize(
    "encoded_id",
    [
        "0",
        "j" * 300,
        "j" * 3000,
        quote("😀" * 300),
        "job_1%00",
        "job_1%0A",
        "%1B%5B0m",
        "%F0%9F%98%80",
        "%ff%fe",
        "REQUEST%23r1",
        "conn_0123456789abcdef0123456789abcdef",
        "%2A",
        "{job_execution_id}",
    ],
)
def test_impossible_id_is_answered_as_an_unknown_one(
    stack: Stack, nothing_there: Any, clinic: str, encoded_id: str
) -> None:
    answer = read(stack, stack.headers(clinic), encoded_id)

    assert without_its_id(answer) == nothing_there


@pytest.mark.parametrize("clinic", ["riverside", "lakeside"])
@pytest.mark.parametrize("path", ["job_1%2F..%2Fjob_2", "%2F", "..%2Fwebhooks%2Fcobalt"])
def test_encoded_slash_leads_nowhere(stack: Stack, clinic: str, path: str) -> None:
    """The emulator takes it for a slash and has no such route; AWS hands it to the function."""
    answer = read(stack, stack.headers(clinic), path)

    assert answer.status_code == 404
    assert answer.json()["message"].startswith("No such ")


def test_job_that_nobody_claimed_is_nobodys(relay: Relay, stack: Stack, nothing_there: Any) -> None:
    body = a_result("job_of_nobody")
    assert relay.webhook(body, signed(stack, body)).status_code == 200

    answers = [read(stack, stack.headers(each), "job_of_nobody") for each in BOTH_WAYS[0]]

    assert relay.job("job_of_nobody") is not None
    assert [without_its_id(answer) for answer in answers] == [nothing_there] * 2


def test_missing_headers_are_named_before_anything_is_read(relay: Relay, stack: Stack) -> None:
    job_id = start(relay, "riverside")

    for answer in (read(stack, {}, job_id), read(stack, {}, "job_that_there_is_not")):
        assert answer.status_code == 401
        assert answer.json() == {
            "success": False,
            "message": "Missing required headers: client_id, client_secret, access_token.",
        }


@pytest.mark.parametrize(("one", "other"), BOTH_WAYS)
def test_key_of_another_connection_is_not_met(
    relay: Relay, stack: Stack, one: str, other: str
) -> None:
    key = f"shared-{one}"

    answers = [relay.fetch(WEEK, clinic=each, key=key) for each in (one, other, one, other)]
    reused = relay.fetch({**WEEK, "end_date": "2025-03-05"}, clinic=one, key=key)
    elsewhere = relay.fetch(WEEK, clinic=other, key=f"only-{one}")

    jobs = [answer.json()["job_execution_id"] for answer in answers]
    assert jobs[:2] == jobs[2:]
    assert jobs[0] != jobs[1]
    owners = [(relay.job(job_id) or {})["connection_id"] for job_id in jobs[:2]]
    assert owners == [connection_id_of(stack.access_tokens[each]) for each in (one, other)]
    assert [answer.status_code for answer in (reused, elsewhere)] == [422, 202]


@pytest.mark.parametrize(("one", "other"), BOTH_WAYS)
def test_flight_of_another_connection_is_not_joined(
    relay: Relay, stack: Stack, sandbox: Sandbox, one: str, other: str
) -> None:
    sandbox.add_fault("silent", count=2)  # so that the jobs are open when the same is asked again
    body = {**WEEK, "end_date": "2025-03-05" if one == "riverside" else "2025-03-06"}

    answers = [relay.fetch(body, headers=stack.headers(each)) for each in (one, other, one, other)]

    jobs = [answer.json()["job_execution_id"] for answer in answers]
    joined = [answer.headers.get("x-relay-joined") for answer in answers]
    assert jobs[:2] == jobs[2:]
    assert jobs[0] != jobs[1]
    assert joined == [None, None, "true", "true"]
