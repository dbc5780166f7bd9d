"""GET /v1/appointments on the deployed stack, beside Cobalt's own cached read in the sandbox."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import requests

from cobalt_relay.models import utc_now
from tests.integration.support import CALL_SECONDS, Item, Relay
from tools.local.sandbox import Sandbox
from tools.local.stack import Stack

WEEK = {"start_date": "2025-02-03", "end_date": "2025-02-09"}
NDJSON = {"Accept": "application/x-ndjson"}


def cached(stack: Stack, query: dict[str, str], clinic: str = "riverside") -> requests.Response:
    """Cobalt's own route, as a client calls it today."""
    return requests.get(
        f"{stack.sandbox_url}/v1/appointments",
        params=query,
        headers=stack.headers(clinic),
        timeout=CALL_SECONDS,
    )


def items_of(answer: requests.Response) -> list[Item]:
    assert answer.status_code == 200, answer.text
    items: list[Item] = answer.json()["appointments"]
    return items


@pytest.fixture(scope="module")
def theirs(stack: Stack) -> list[Item]:
    """A week of riverside's as Cobalt has it, which the relay knows as well."""
    relay = Relay(stack)
    job = relay.fetch(WEEK).json()["job_execution_id"]
    relay.ended_job(job)  # it fills the cache
    items = items_of(cached(stack, {**WEEK, "include_note": "true"}))
    assert len(items) > 20
    relay.keep_days("riverside", WEEK, items)
    return items


def queries(item: Item) -> Iterator[dict[str, str]]:
    yield {}
    yield {"include_note": "true"}
    yield {"include_note": "false", "patient_mrn": item["patient_mrn"]}
    yield {"patient_name": item["patient_name"].upper()[1:6]}
    yield {"patient_phone": item["patient_phone"][-4:]}
    yield {"appointment_mode": "telemedicine"}
    yield {"appointment_mode": "office", "patient_name": "a"}
    yield {"patient_name": "Ünïcode & more"}
    yield {"patient_mrn": "nobody's"}
    yield {"start_date": "2025-02-05", "end_date": "2025-02-05"}


def test_client_of_cobalt_changes_the_host_name_and_nothing_else(
    relay: Relay, stack: Stack, theirs: list[Item]
) -> None:
    for query in queries(theirs[3]):
        asked = {**WEEK, **query}

        of_cobalt, of_relay = items_of(cached(stack, asked)), items_of(relay.appointments(asked))

        by_id = {item["id"]: item for item in of_relay}
        assert by_id.keys() == {item["id"] for item in of_cobalt}, query
        for item in of_cobalt:
            assert {name: by_id[item["id"]].get(name, ...) for name in item} == item, query


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"start_date": "2025-02-03"},
        {"start_date": "2025-02-03", "end_date": "tomorrow"},
        {"start_date": "2025-02-30", "end_date": "2025-03-01"},
        {"start_date": "2025-02-03", "end_date": "2025-02-02"},
    ],
)
def test_wrong_days_are_answered_in_cobalts_own_words(
    relay: Relay, stack: Stack, query: dict[str, str]
) -> None:
    of_cobalt, of_relay = cached(stack, query), relay.appointments(query)

    assert of_relay.status_code == of_cobalt.status_code == 400
    assert of_relay.json()["message"] == of_cobalt.json()["message"]


def test_pages_by_their_links_are_the_whole(relay: Relay, stack: Stack, theirs: list[Item]) -> None:
    whole = items_of(relay.appointments(WEEK))
    query: dict[str, Any] = {**WEEK, "limit": "7"}
    url, told, pages = f"{stack.api_url}/appointments", [], 0

    answer = relay.appointments(query)
    while True:
        told += items_of(answer)
        pages += 1
        if "next" not in answer.links:
            break
        answer = requests.get(
            requests.compat.urljoin(answer.url, answer.links["next"]["url"]),
            headers=stack.headers("riverside"),
            timeout=CALL_SECONDS,
        )
        assert answer.url.startswith(url)

    assert told == whole
    assert pages == -(-len(whole) // 7)


def test_lines_are_the_appointments(relay: Relay, theirs: list[Item]) -> None:
    answer = relay.appointments(WEEK, headers=NDJSON)

    assert answer.headers["Content-Type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines == items_of(relay.appointments(WEEK))
    assert answer.headers["x-relay-as-of"]


def test_304_until_a_day_is_another_one(relay: Relay, theirs: list[Item]) -> None:
    first = relay.appointments(WEEK)
    known = {"If-None-Match": first.headers["ETag"]}

    unchanged = relay.appointments(WEEK, headers=known)
    relay.keep_days("riverside", WEEK, theirs)
    changed = relay.appointments(WEEK, headers=known)

    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["ETag"] == first.headers["ETag"]
    assert changed.status_code == 200


def test_406_when_no_form_is_wanted(relay: Relay) -> None:
    answer = relay.appointments(WEEK, headers={"Accept": "text/html"})

    assert answer.status_code == 406
    assert answer.json()["success"] is False


def test_other_connection_sees_nothing(relay: Relay, theirs: list[Item]) -> None:
    answers = [
        relay.appointments(WEEK, clinic="lakeside"),
        relay.appointments(WEEK, headers={"access_token": "stranger"}),
    ]

    for answer in answers:
        assert items_of(answer) == []
        assert len(answer.json()["days_never_fetched"]) == 7


@pytest.mark.parametrize("wrong", [{"client_id": "stranger"}, {"client_secret": "wrong"}])
def test_stranger_is_refused(relay: Relay, wrong: dict[str, str]) -> None:
    answer = relay.appointments(WEEK, headers=wrong)

    assert answer.status_code == 401
    assert answer.json()["message"] == "Invalid client_id or client_secret."


def test_one_fetch_is_begun_when_many_readers_want_no_older_days(
    relay: Relay, sandbox: Sandbox
) -> None:
    sandbox.add_fault("lost")
    window = {"start_date": "2025-04-07", "end_date": "2025-04-11"}
    relay.keep_days("riverside", window, as_of=utc_now() - timedelta(hours=1))
    query = {**window, "max_age": "600"}

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: relay.appointments(query), range(4)))

    assert {answer.status_code for answer in answers} == {202}
    [job] = {answer.json()["jobs"][0]["job_execution_id"] for answer in answers}
    where = requests.compat.urljoin(answers[0].url, answers[0].headers["Location"])
    assert where.endswith(f"/v1/appointments/fetch/{job}")
    assert relay.read(job)["window"] == window
    allowed = relay.appointments({**query, "allow_stale": "true"})
    assert allowed.json()["jobs"][0]["job_execution_id"] == job
    assert [day["stale"] for day in allowed.json()["days"]] == [True] * 5


def test_broken_link_is_told_of_a_refresh_and_stops_no_read(relay: Relay, sandbox: Sandbox) -> None:
    window = {"start_date": "2025-05-05", "end_date": "2025-05-06"}
    relay.keep_days("harbor", window, as_of=utc_now() - timedelta(hours=1))
    sandbox.set_linked("harbor", linked=False)

    refused = relay.appointments({**window, "max_age": "60"}, clinic="harbor")
    stale = relay.appointments({**window, "max_age": "60", "allow_stale": "true"}, clinic="harbor")

    assert (refused.status_code, refused.json()["error"]) == (403, "login_required")
    assert (stale.status_code, stale.json()["jobs"]) == (200, [])
    assert stale.json()["fetch_error"]["code"] == "login_required"
    assert relay.appointments(window, clinic="harbor").status_code == 200
