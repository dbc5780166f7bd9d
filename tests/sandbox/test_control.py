"""The control interface and the process itself."""

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from tests.sandbox.conftest import Started
from tests.sandbox.support import (
    FRIDAY,
    MONDAY,
    ROOT,
    Answer,
    Cobalt,
    Receiver,
    running,
    until,
)


def test_same_clinics_and_diaries_when_the_seed_is_the_same(start: Started, cobalt: Cobalt) -> None:
    twin, other = start("--edition", "newest"), start("--edition", "oldest", "--seed", "2")

    mine, twins, others = (each.result("harbor")["data"] for each in (cobalt, twin, other))

    assert mine == twins
    names = [[item["patient_name"] for item in each["appointments"]] for each in (mine, others)]
    assert names[0] != names[1]
    assert cobalt.control("/clinics") == twin.control("/clinics") != other.control("/clinics")
    assert cobalt.ready["client_secret"] == twin.ready["client_secret"]
    assert cobalt.ready["client_secret"] != other.ready["client_secret"]


def test_ids_differ_when_two_runs_share_a_seed(start: Started, cobalt: Cobalt) -> None:
    twin = start("--edition", "newest")

    assert cobalt.fetch().json()["job_execution_id"] != twin.fetch().json()["job_id"]


def test_clinics_are_listed_when_asked_for(cobalt: Cobalt) -> None:
    listed = cobalt.control("/clinics")["clinics"]

    by_name = {clinic["name"]: clinic for clinic in listed}
    assert {"riverside", "lakeside", "harbor", "summit", "old-mill"} <= set(by_name)
    assert by_name["summit"]["emr_name"] == "athenahealth"
    assert by_name["old-mill"]["linked"] is False
    assert by_name["riverside"] == {
        "name": "riverside",
        "emr_name": "eClinicalWorks",
        "access_token": cobalt.ready["access_tokens"]["riverside"],
        "access_token_reference_id": "user_riverside",
        "timezone": "America/New_York",
        "linked": True,
    }


def test_403_until_repaired_when_a_link_is_broken(cobalt: Cobalt) -> None:
    broken = cobalt.http.patch("/_sandbox/clinics/mesa", json={"linked": False})
    refused = cobalt.fetch("mesa")
    cobalt.http.patch("/_sandbox/clinics/mesa", json={"linked": True})

    assert broken.json()["linked"] is False
    assert refused.status_code == 403
    assert cobalt.fetch("mesa").status_code == 202
    assert cobalt.http.patch("/_sandbox/clinics/none", json={"linked": True}).status_code == 404
    assert cobalt.http.patch("/_sandbox/clinics/mesa", json={"linked": 1}).status_code == 400


def test_every_appointment_says_what_it_is_told_to(cobalt: Cobalt) -> None:
    wording = {
        "patient_name": "Zoë\n“Canary”\u2028\ud800",
        "patient_mrn": "MRN 1",
        "note": "\x1b[31m",
    }

    told = cobalt.http.patch("/_sandbox/clinics/mesa", content=json.dumps({"wording": wording}))

    assert told.status_code == 200
    found = cobalt.result("mesa")["data"]["appointments"]
    assert found
    assert all(wording.items() <= item.items() for item in found)
    cobalt.fault("oldest_edition")
    old = cobalt.result("mesa")["data"]["appointments"]
    assert {(item["patient_name"], item["mrn"]) for item in old} == {
        (wording["patient_name"], "MRN 1")
    }
    assert cobalt.result("mesa", search_by="mrn", mrn="MRN 1")["data"]["appointments"]
    cobalt.fault("failed")
    [reason] = cobalt.result("mesa")["data"]["reasons"]
    assert wording["patient_name"] in reason["description"]
    cobalt.http.patch("/_sandbox/clinics/mesa", json={"wording": {}})
    assert "Canary" not in str(cobalt.result("mesa"))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"wording": "x"},
        {"wording": {"note": 1}},
        {"wording": {"id": "appt_1"}},
        {"name": "x"},
    ],
)
def test_400_and_nothing_is_changed_when_a_clinic_cannot_be_so(
    cobalt: Cobalt, body: dict[str, object]
) -> None:
    before = cobalt.result("mesa")["data"]

    answer = cobalt.http.patch(
        "/_sandbox/clinics/mesa", json={"linked": False, **body} if body else {}
    )

    assert answer.status_code == 400
    assert cobalt.result("mesa")["data"] == before


def test_calls_are_logged_when_they_come(cobalt: Cobalt) -> None:
    cobalt.fetch("lakeside")
    cobalt.read("/v1/link/token/exchange", public_token="secret")
    cobalt.http.get("/elsewhere")

    calls = cobalt.control("/requests")["requests"]

    assert [(call["method"], call["path"], call["status"]) for call in calls] == [
        ("POST", "/v1/appointments/fetch", 202),
        ("GET", "/v1/link/token/exchange", 400),
        ("GET", "/elsewhere", 404),
    ]
    assert calls[0]["body"] == {"start_date": MONDAY, "end_date": FRIDAY}
    assert calls[0]["clinic"] == "lakeside"
    assert "secret" not in json.dumps(calls)
    assert cobalt.control("/requests", path="/elsewhere")["requests"] == calls[2:]


def test_jobs_and_deliveries_are_shown_when_asked_for(cobalt: Cobalt, receiver: Receiver) -> None:
    cobalt.register(receiver.url())
    job_id = cobalt.started()
    payload = cobalt.payload(job_id)

    job = cobalt.control(f"/jobs/{job_id}")
    [delivery] = cobalt.control("/deliveries", job_id=job_id)["deliveries"]

    assert job in cobalt.control("/jobs")["jobs"]
    assert job["clinic"] == "mesa"
    assert (job["search_by"], job["start_date"], job["end_date"]) == ("date_range", MONDAY, FRIDAY)
    assert (job["state"], job["faults"]) == ("completed", [])
    assert job["event_id"] == payload["id"]
    assert job["appointment_count"] == payload["data"]["appointment_count"]
    [request] = receiver.received
    assert delivery.pop("started_at")
    assert 0 <= delivery.pop("seconds") < 5
    assert delivery == {
        "event_id": payload["id"],
        "event_type": "appointment.live_fetch_completed",
        "job_id": job_id,
        "url": receiver.url(),
        "attempt": 1,
        "outcome": "delivered",
        "response_status": 200,
        "body_sha256": hashlib.sha256(request.body).hexdigest(),
        "bytes": len(request.body),
    }
    body = cobalt.http.get(f"/_sandbox/events/{payload['id']}/body")
    assert body.content == request.body
    assert cobalt.control("/deliveries", job_id="job_other")["deliveries"] == []


def test_once_more_when_redelivered(cobalt: Cobalt, receiver: Receiver) -> None:
    lost = cobalt.result()
    cobalt.register(receiver.url())

    answer = cobalt.steer(f"/redeliver/{lost['id']}")

    cobalt.idle()
    assert answer.status_code == 202
    assert receiver.received[0].payload == lost
    [row] = cobalt.rows()
    assert (row["webhook_url"], row["delivery_status"]) == (receiver.url(), "success")
    assert cobalt.steer("/redeliver/evt_none").status_code == 404


def test_first_state_again_when_reset(cobalt: Cobalt, receiver: Receiver) -> None:
    before = cobalt.control("/clinics")
    cobalt.register(receiver.url())
    cobalt.fault("lost")
    cobalt.send("/v1/settings", {"access_token_reference_id": "x"}, "mesa")
    cobalt.send("/v1/webhook/rotate-secret")
    cobalt.steer("/clock", {"advance_seconds": 60})
    cobalt.result()

    cobalt.steer("/reset")

    assert cobalt.control("/clinics") == before
    assert cobalt.control("/jobs")["jobs"] == []
    assert cobalt.control("/faults")["faults"] == []
    assert cobalt.control("/requests")["requests"] == []
    assert cobalt.control("/deliveries")["deliveries"] == []
    assert cobalt.control("/webhook-secret")["previous"] is None
    assert cobalt.control("/clock")["advanced_seconds"] == 0
    assert cobalt.read("/v1/webhook").json()["webhook_urls"] == []
    assert cobalt.rows() == []


@pytest.mark.parametrize("body", [{}, {"advance_seconds": -1}, {"advance_seconds": 1e30}, []])
def test_clock_stands_when_the_advance_is_none(cobalt: Cobalt, body: object) -> None:
    answer = cobalt.steer("/clock", body)

    assert answer.status_code == 400
    assert cobalt.control("/clock")["advanced_seconds"] == 0


@pytest.mark.parametrize(
    "body",
    [
        {"clinic": "mesa", "data": {}},
        {"type": "a", "clinic": "none", "data": {}},
        {"type": "a", "clinic": "mesa", "data": []},
        {"type": "a", "clinic": "mesa", "id": 1.5},
    ],
)
def test_no_event_when_it_is_not_described(cobalt: Cobalt, body: Mapping[str, object]) -> None:
    answer = cobalt.steer("/events", body)

    assert answer.status_code == 400
    assert cobalt.rows() == []


@pytest.mark.parametrize("path", ["/nothing", "/jobs/job_none", "/events/evt_none/body"])
def test_not_found_when_the_control_interface_has_none(cobalt: Cobalt, path: str) -> None:
    answer = cobalt.http.get(f"/_sandbox{path}")

    assert answer.status_code == 404
    assert answer.json()["message"]


def test_ready_document_when_it_listens(tmp_path: Path) -> None:
    options = ["--client-id", "me", "--client-secret", "mine", "--seed", "7"]
    earlier_run = tmp_path / "ready.json"
    earlier_run.touch()

    with running(tmp_path, *options) as (ready, process), httpx.Client(trust_env=False) as http:
        served = http.get(f"{ready['url']}/_sandbox/ready").json()

    assert served == ready
    assert (ready["client_id"], ready["client_secret"], ready["seed"]) == ("me", "mine", 7)
    assert ready["pid"] == process.pid
    assert ready["url"].startswith("http://127.0.0.1:")
    assert stat.S_IMODE((tmp_path / "ready.json").stat().st_mode) == 0o600
    assert process.returncode == 0


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_clean_end_within_a_second_when_calls_hang_and_deliveries_wait(
    tmp_path: Path, receiver: Receiver, ending: signal.Signals
) -> None:
    receiver.scripts["/hook"] = [Answer(delay=10)]
    with running(tmp_path, "--fetch-seconds", "0") as (ready, process):
        cobalt = Cobalt(ready)
        cobalt.register(receiver.url())
        cobalt.fetch()
        until(lambda: bool(receiver.received))
        cobalt.fault("hang")
        failed: list[BaseException] = []

        def hang() -> None:
            try:
                cobalt.fetch()
            except httpx.HTTPError as error:
                failed.append(error)

        thread = threading.Thread(target=hang)
        thread.start()
        until(lambda: len(cobalt.control("/requests")["requests"]) == 3)
        started = time.monotonic()

        process.send_signal(ending)
        process.wait(5)

        assert time.monotonic() - started < 1
        assert process.returncode == 0
        thread.join()
        cobalt.http.close()
    assert len(failed) == 1
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_no_secret_in_the_log_when_everything_is_logged(tmp_path: Path, receiver: Receiver) -> None:
    with running(tmp_path, "--log-level", "debug", "--log-json", "--fetch-seconds", "0") as (
        ready,
        _,
    ):
        cobalt = Cobalt(ready)
        secret = cobalt.register(receiver.url())
        patient = cobalt.result()["data"]["appointments"][0]["patient_name"]
        cobalt.read("/v1/appointments", "mesa", patient_name=patient)
        cobalt.http.close()

    text = (tmp_path / "log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {"listening", "api_call", "webhook_attempt", "ended"} <= {
        line["message"] for line in lines
    }
    attempt = next(line for line in lines if line["message"] == "webhook_attempt")
    assert (attempt["attempt"], attempt["outcome"], attempt["status"]) == (1, "delivered", 200)
    call = next(line for line in lines if line.get("path") == "/v1/appointments/fetch")
    assert (call["method"], call["status"], call["clinic"]) == ("POST", 202, "mesa")
    for hidden in (secret, ready["client_secret"], patient, *ready["access_tokens"].values()):
        assert hidden not in text


def test_help_or_a_clear_error_when_started_by_hand() -> None:
    expected = {
        ("--help",): "--fetch-seconds",
        ("--fetch-seconds", "5,2"): "MIN or MIN,MAX",
        ("--edition", "none"): "edition",
        ("--clock", "noon"): "ISO 8601",
        ("--host", "203.0.113.1"): "Cannot listen on",
        ("--ready-file", "/nowhere/ready.json"): "No such folder",
    }
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}

    started = {
        options: subprocess.Popen(
            [sys.executable, "-m", "sandbox", *options],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for options in expected
    }
    printed = {options: process.communicate(timeout=20)[0] for options, process in started.items()}

    for options, text in expected.items():
        assert text in printed[options]
        assert "Traceback" not in printed[options]
        assert started[options].returncode == (0 if options == ("--help",) else 2)
