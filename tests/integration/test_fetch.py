"""POST /v1/appointments/fetch on the deployed stack, with the sandbox behind it."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from cobalt_relay.models import connection_id_of
from tests.integration.support import Relay, eventually
from tools.local.sandbox import Sandbox
from tools.local.stack import Stack

WEEK = {"start_date": "2025-01-06", "end_date": "2025-01-10"}


def refusal(answer: requests.Response) -> dict[str, Any]:
    """The body of an error, whose form is checked with it."""
    body: dict[str, Any] = answer.json()
    assert body["success"] is False
    assert answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    assert "Traceback" not in answer.text
    return body


def test_documented_request_is_accepted_and_on_record(relay: Relay, stack: Stack) -> None:
    answer = relay.fetch(WEEK)

    body = answer.json()
    assert answer.status_code == 202
    assert list(body) == ["success", "message", "job_execution_id"]
    assert body["message"] == (
        "Live fetch request accepted. Results will be sent via webhook when ready."
    )
    job = relay.job(body["job_execution_id"])
    request = relay.item(f"REQUEST#{answer.headers['x-request-id']}")
    assert job is not None
    assert job["connection_id"] == connection_id_of(stack.access_tokens["riverside"])
    assert (job["window"], job["trigger"]) == (WEEK, "api")
    assert request is not None
    assert (request["state"], request["job_execution_id"]) == ("ACCEPTED", job["job_execution_id"])


def test_token_is_kept_encrypted_when_the_first_fetch_is_accepted(
    relay: Relay, stack: Stack
) -> None:
    token = stack.access_tokens["lakeside"]
    relay.fetch(WEEK, clinic="lakeside")
    name = f"/cobalt-relay/{stack.stack_name}/tokens/{connection_id_of(token)}"

    kept = stack.aws.ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]

    assert (kept["Type"], kept["Value"]) == ("SecureString", token)
    row = relay.item(f"CONNECTION#{connection_id_of(token)}")
    assert row is not None
    assert row["state"] == "active"
    assert token not in json.dumps(row, default=str)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "Missing required parameters: start_date, end_date."),
        ({**WEEK, "start_date": "2025-02-30"}, "Invalid date format. Use ISO format (YYYY-MM-DD)."),
        ({**WEEK, "end_date": "2025-01-06"}, "end_date must be after start_date."),
        ({**WEEK, "end_date": "2025-01-14"}, "Date range cannot exceed 7 days."),
    ],
)
def test_documented_error_is_answered_and_cobalt_not_bothered(
    relay: Relay, sandbox: Sandbox, body: dict[str, Any], message: str
) -> None:
    before = len(sandbox.requests("/v1/appointments/fetch"))

    answer = relay.fetch(body)

    assert answer.status_code == 400
    assert refusal(answer) == {"success": False, "message": message}
    assert len(sandbox.requests("/v1/appointments/fetch")) == before


def test_unsupported_emr_is_named(relay: Relay) -> None:
    answer = relay.fetch(WEEK, clinic="summit")

    assert answer.status_code == 400
    assert refusal(answer)["message"] == (
        "Live fetch for appointments is not supported for athenahealth. "
        "Currently supported: eClinicalWorks."
    )


def test_broken_link_is_a_403_that_says_so(relay: Relay) -> None:
    answer = relay.fetch(WEEK, clinic="old-mill")

    assert answer.status_code == 403
    assert refusal(answer) == {
        "success": False,
        "error": "login_required",
        "message": "Account link expired. Please go through the integration setup again.",
    }


def test_missing_headers_are_named(relay: Relay) -> None:
    answer = relay.fetch(WEEK, headers={"CLIENT_ID": "x"})

    assert answer.status_code == 401
    assert refusal(answer)["message"] == "Missing required headers: client_secret, access_token."


def test_wrong_secret_is_a_401(relay: Relay, stack: Stack) -> None:
    answer = relay.fetch(WEEK, headers={**stack.headers("riverside"), "client_secret": "wrong"})

    assert answer.status_code == 401
    assert refusal(answer)["message"] == "Invalid client_id or client_secret."


def test_unknown_token_is_cobalts_401(relay: Relay, stack: Stack) -> None:
    answer = relay.fetch(WEEK, headers={**stack.headers("riverside"), "access_token": "stranger"})

    assert answer.status_code == 401
    refusal(answer)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'{"start_date": NaN}', 400),
        (b'{"start_date": 1, "start_date": 2}', 400),
        (b'{"x": "' + b"y" * 1_000_000 + b'"}', 413),
    ],
)
def test_body_that_is_no_fetch_request_is_refused(relay: Relay, data: bytes, status: int) -> None:
    answer = relay.fetch(data=data)

    assert answer.status_code == status
    refusal(answer)


@pytest.mark.parametrize(
    ("fault", "options", "status", "state"),
    [
        ("rate_limited", {}, 429, "FAILED"),
        ("rate_limited", {"retry_after": 30}, 429, "FAILED"),
        ("unavailable", {"retry_after": 30}, 502, "FAILED"),
        ("unavailable", {}, 502, "UNKNOWN"),
        ("server_error", {}, 502, "UNKNOWN"),
        ("html", {}, 502, "UNKNOWN"),
        ("no_job_id", {}, 502, "UNKNOWN"),
        ("hang_up", {}, 504, "UNKNOWN"),
        ("wrong_credentials", {}, 401, "FAILED"),
    ],
)
def test_fault_of_cobalt_is_mapped_recorded_and_not_repeated(
    relay: Relay,
    sandbox: Sandbox,
    fault: str,
    options: dict[str, Any],
    status: int,
    state: str,
) -> None:
    before = len(sandbox.requests("/v1/appointments/fetch"))
    sandbox.add_fault(fault, count=1, **options)

    answer = relay.fetch(WEEK)

    assert answer.status_code == status
    assert "<" not in refusal(answer)["message"]
    assert answer.headers.get("retry-after") == ("30" if options else None)
    row = relay.item(f"REQUEST#{answer.headers['x-request-id']}")
    assert row is not None
    assert row["state"] == state
    assert len(sandbox.requests("/v1/appointments/fetch")) == before + 1


@pytest.mark.parametrize("fault", ["rate_limited", "unavailable"])
def test_refusal_for_a_second_is_waited_out(relay: Relay, sandbox: Sandbox, fault: str) -> None:
    before = len(sandbox.requests("/v1/appointments/fetch"))
    sandbox.add_fault(fault, count=1, retry_after=1)

    answer = relay.fetch(WEEK)

    assert answer.status_code == 202
    assert len(sandbox.requests("/v1/appointments/fetch")) == before + 2
    row = relay.item(f"REQUEST#{answer.headers['x-request-id']}") or {}
    assert row["state"] == "ACCEPTED"


def test_ten_callers_with_one_key_start_one_job(relay: Relay, sandbox: Sandbox) -> None:
    before = len(sandbox.requests("/v1/appointments/fetch"))
    sandbox.add_fault("slow", count=1, seconds=1)
    key = str(uuid.uuid4())

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: relay.fetch(WEEK, key=key), range(10)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert len(sandbox.requests("/v1/appointments/fetch")) == before + 1
    assert relay.fetch({**WEEK, "end_date": "2025-01-09"}, key=key).status_code == 422


def test_ten_equal_requests_at_once_join_one_job(
    relay: Relay, stack: Stack, sandbox: Sandbox
) -> None:
    before = len(sandbox.requests("/v1/appointments/fetch"))
    sandbox.add_fault("slow", count=1, seconds=1)
    window = {"start_date": "2021-02-01", "end_date": "2021-02-03"}
    headers = stack.headers("lakeside")

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: relay.fetch(window, headers=headers), range(10)))

    joined = [answer.headers.get("x-relay-joined") for answer in answers]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert sorted(joined, key=str) == [None] + ["true"] * 9
    assert len(sandbox.requests("/v1/appointments/fetch")) == before + 1


@pytest.mark.parametrize(
    "fault", ["accepted_as_200", "numeric_job_id", "newest_edition", "oldest_edition"]
)
def test_odd_acceptance_is_an_acceptance(relay: Relay, sandbox: Sandbox, fault: str) -> None:
    sandbox.add_fault(fault, count=1)

    answer = relay.fetch(WEEK)

    assert answer.status_code == 202
    assert relay.ended_job(answer.json()["job_execution_id"])["state"] == "COMPLETED"


@pytest.mark.parametrize(
    "body",
    [
        {"search_by": "mrn", "mrn": "no-such-patient"},
        {"search_by": "provider", "provider_ids": ["1"], **WEEK, "end_date": "2025-01-08"},
    ],
)
def test_later_edition_is_handed_on_as_it_is(
    relay: Relay, sandbox: Sandbox, body: dict[str, Any]
) -> None:
    answer = relay.fetch(body)

    assert answer.status_code == 202
    assert sandbox.requests("/v1/appointments/fetch")[-1]["body"] == body


def test_mrn_is_in_no_row(relay: Relay, stack: Stack) -> None:
    answer = relay.fetch({"search_by": "mrn", "mrn": "MRN-canary-1"})

    job_id = answer.json()["job_execution_id"]
    relay.ended_job(job_id)
    rows = stack.aws.dynamodb.scan(TableName=stack.table)["Items"]
    assert "canary-1" not in json.dumps(rows)


def test_503_tells_the_operator_what_to_do_when_nothing_is_configured(
    relay: Relay, stack: Stack
) -> None:
    secrets, functions = stack.aws.secretsmanager, stack.aws.functions
    name = stack.outputs["FetchAppointmentsName"]
    described = functions.get_function_configuration(FunctionName=name)
    environment = described["Environment"]["Variables"]
    current = secrets.get_secret_value(SecretId=stack.outputs["CobaltCredentialsArn"])

    def restart() -> None:
        """Start the function afresh, as a change of its environment does: the pair is remembered."""
        functions.update_function_configuration(
            FunctionName=name,
            Environment={"Variables": {**environment, "RESTARTED": uuid.uuid4().hex}},
        )

    secrets.put_secret_value(SecretId=current["ARN"], SecretString="{}")
    restart()
    try:
        answer = eventually(lambda: _answered(relay, 503))[0]
    finally:
        secrets.put_secret_value(SecretId=current["ARN"], SecretString=current["SecretString"])
        restart()

    assert "put client_id and client_secret into the secret" in refusal(answer)["message"]
    assert eventually(lambda: _answered(relay, 202))


def _answered(relay: Relay, status: int) -> list[requests.Response]:
    """The answer to a fetch where it has this status, in a list: a refusal alone counts as false."""
    answer = relay.fetch(WEEK)
    return [answer] if answer.status_code == status else []
