"""The operator's command line against the deployed stack: in this process, but for terminals."""

import csv
import io
import json
import os
import pty
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cobalt_relay.adapters.table import Key, Put, Table
from cobalt_relay.models import (
    FetchWork,
    Job,
    JobState,
    RangePlan,
    RangeRequest,
    Window,
    connection_id_of,
    range_id_of,
    utc_now,
)
from tests.integration.support import DEFAULT_ZONE, Relay, eventually
from tools.local.eventlog import EventLog
from tools.local.sandbox import Sandbox
from tools.local.stack import Stack
from tools.relay import redrive
from tools.relay.app import run as run_relay
from tools.relay.session import Session

CLINIC, HEIR = "harbor", "mesa"
PROCESS_SECONDS = 30


class Ran(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


type Cli = Callable[..., Ran]


@pytest.fixture(scope="module")
def stack_file(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make up` writes, of this session's stack."""
    path = tmp_path_factory.mktemp("relay") / "stack.json"
    path.write_text(json.dumps(asdict(stack)))
    return path


@pytest.fixture
def secrets_of(stack: Stack) -> Callable[[], list[str]]:
    """Everything that must never be shown."""

    def secrets() -> list[str]:
        own = stack.sandbox.webhook_secret()
        webhook = [own[name] for name in ("current", "previous") if own.get(name)]
        return [stack.client_secret, *stack.access_tokens.values(), *webhook]

    return secrets


@pytest.fixture
def cli(
    stack_file: Path,
    secrets_of: Callable[[], list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Cli]:
    """Run `relay --local …` in this process; standard input is a text, and never a terminal."""
    before = dict(os.environ)

    def run(*arguments: str, stdin: str = "") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = run_relay(["--stack-file", str(stack_file), *arguments])
        ran = Ran(int(code), *capsys.readouterr())
        _expect_no_secret(secrets_of(), ran.out, ran.err)
        return ran

    yield run
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def connection(cli: Cli, stack: Stack, relay: Relay) -> Iterator[str]:
    """The clinic's connection, added from standard input; it and its heir are removed at the end."""
    relay.settle()
    assert cli("connections", "add", stdin=stack.access_tokens[CLINIC] + "\n").code == 0
    yield connection_id_of(stack.access_tokens[CLINIC])
    for clinic in (CLINIC, HEIR):
        code = cli(
            "connections", "remove", connection_id_of(stack.access_tokens[clinic]), "--yes"
        ).code
        assert code in {0, 3}


def _expect_no_secret(secrets: list[str], *texts: str) -> None:
    shown = [secret[:6] for secret in secrets for text in texts if secret in text]
    assert shown == []


def _command(stack_file: Path, *arguments: str) -> list[str]:
    """Give the command line as an operator has it, from wherever he is."""
    launcher = Path(sys.executable).parent / "relay"
    return [str(launcher), "--stack-file", str(stack_file), *arguments]


# ---------------------------------------------------------------------------------------- configure


def test_webhook_is_registered_again_when_cobalt_has_forgotten_it(cli: Cli, stack: Stack) -> None:
    stack.sandbox.forget_other_webhooks("")
    credentials = {"client_id": stack.client_id, "client_secret": stack.client_secret}

    first = cli("configure", "--json", stdin=json.dumps(credentials))
    again = cli("configure", stdin="")

    assert (first.code, again.code) == (0, 0)
    assert first.json["webhook"] == "registered"
    assert first.json["credentials"] == "unchanged"
    assert "Nothing was to be done." in again.out
    arn = stack.outputs["WebhookSecretArn"]
    stored = stack.aws.secretsmanager.get_secret_value(SecretId=arn)["SecretString"]
    current = stack.sandbox.webhook_secret()["current"]
    assert json.loads(stored)["webhook_secret_key"] == current


def test_right_credentials_stay_when_cobalt_refuses_what_was_entered(
    cli: Cli, stack: Stack
) -> None:
    ran = cli("configure", "--json", stdin="nobody\nwrong\n")

    assert ran.code == 4
    assert ran.json["error"]["code"] == "wrong_client_credentials"
    arn = stack.outputs["CobaltCredentialsArn"]
    stored = stack.aws.secretsmanager.get_secret_value(SecretId=arn)["SecretString"]
    assert json.loads(stored)["client_secret"] == stack.client_secret


# ------------------------------------------------------------------------------------------- doctor


def test_all_is_well_but_what_is_broken_on_purpose(cli: Cli, stack: Stack, connection: str) -> None:
    queue = stack.outputs["EventFailuresUrl"]
    sqs = stack.aws.sqs
    for name in ("ScheduleFailuresUrl", "EventFailuresUrl", "FetchFailuresUrl"):
        sqs.purge_queue(QueueUrl=stack.outputs[name])

    well = cli("doctor", "--json")
    sqs.send_message(QueueUrl=queue, MessageBody="{}")
    broken = cli("doctor")
    sqs.purge_queue(QueueUrl=queue)

    status = {each["check"]: each["status"] for each in well.json["checks"]}
    assert [each for each in well.json["checks"] if each["status"] == "failed"] == []
    assert (well.code, well.json["well"]) == (0, True)
    proven = ("client credentials", "Cobalt", "webhook secret", "signature", "clock", "reconciler")
    assert {status[check] for check in proven} == {"ok"}
    assert status["alarms"] == "skipped"
    assert broken.code == 1
    assert "✗ failure queues: 1 events that were not delivered" in broken.out
    assert "relay redrive" in broken.out


def test_nothing_is_put_when_the_input_ends_at_the_prompt(stack_file: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        _command(stack_file, "configure"), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = _read_up_to(b"): ", ours)
    os.write(ours, b"\x04")
    shown += _rest_of(ours)

    assert process.wait(PROCESS_SECONDS) == 2
    assert b"Client id" in shown
    assert b"Standard input ended before all was given." in shown


# -------------------------------------------------------------------------------------- connections


def test_token_is_not_echoed_when_it_is_typed(
    stack: Stack, stack_file: Path, secrets_of: Callable[[], list[str]], connection: str
) -> None:
    ours, theirs = pty.openpty()
    command = _command(stack_file, "connections", "replace", f"user_{CLINIC}")
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    shown = _read_up_to(b"(hidden): ", ours)
    os.write(ours, stack.access_tokens[HEIR].encode() + b"\n")
    shown += _read_up_to(b"[y/N]", ours)  # Cobalt has no label for it
    os.write(ours, b"y\n")
    shown += _rest_of(ours)

    assert process.wait(PROCESS_SECONDS) == 0
    text = shown.decode()
    assert "takes the place of" in text
    _expect_no_secret(secrets_of(), text, " ".join(command))
    heir = stack.aws.dynamodb.get_item(
        TableName=stack.table,
        Key={
            "pk": {"S": f"CONNECTION#{connection_id_of(stack.access_tokens[HEIR])}"},
            "sk": {"S": "CONNECTION"},
        },
    )["Item"]
    assert heir["replaces"]["S"] == connection


def _read_up_to(prompt: bytes, terminal: int) -> bytes:
    shown = b""
    while prompt not in shown:
        shown += os.read(terminal, 1000)
    return shown


def _rest_of(terminal: int) -> bytes:
    shown = b""
    try:
        while part := os.read(terminal, 1000):
            shown += part
    except OSError:  # the program has ended, and its side of the terminal is closed
        pass
    os.close(terminal)
    return shown


def days_of(relay: Relay, connection_id: str) -> set[str]:
    """The days of which something is known."""
    keys = relay.object_keys(f"snapshots/connection={connection_id}/")
    return {key.split("/")[2] for key in keys}


def test_history_and_schedules_go_on_when_a_connection_is_replaced(
    cli: Cli, stack: Stack, relay: Relay, connection: str
) -> None:
    job = cli("fetch", connection, "--days", "2", "--json").json["job_execution_id"]
    started = cli("fetch", connection, "--days", "9", "--no-wait", "--json").json
    relay.settle()
    eventually(lambda: len(days_of(relay, connection)) >= 2)
    new = connection_id_of(stack.access_tokens[HEIR])

    token = stack.access_tokens[HEIR]
    unsure = cli("connections", "replace", connection, stdin=token)
    foreign = cli("connections", "replace", connection, stdin=stack.access_tokens["riverside"])
    replaced, again = (
        cli("connections", "replace", f"user_{CLINIC}", "--yes", "--json", stdin=token)
        for _ in range(2)
    )

    assert (unsure.code, foreign.code, again.code) == (2, 1, 0)
    assert "another clinic's" in foreign.err
    assert (replaced.code, replaced.json["replaces"]) == (0, connection)
    row = relay.job(job)
    assert row
    assert row["connection_id"] == new
    assert days_of(relay, new) >= days_of(relay, connection)
    shown = cli("jobs", "show", started["job_execution_id"], "--json").json
    assert (shown["connection_id"], len(shown["pieces"])) == (new, 2)
    listed = cli("connections", "list", "--json").json["connections"]
    states = {each["connection_id"]: each["state"] for each in listed}
    assert (states[connection], states[new]) == ("replaced", "active")
    found = cli("jobs", "list", "--connection", connection, "--json").json["jobs"]
    assert job in {each["job_execution_id"] for each in found}
    assert cli("connections", "replace", new, stdin=token).code == 1
    assert cli("connections", "show", new).code == 0


def test_connection_stays_when_nobody_confirms_its_removal(cli: Cli, connection: str) -> None:
    refused = cli("connections", "remove", connection)

    assert refused.code == 2
    assert "--yes" in refused.err
    assert cli("connections", "show", f"user_{CLINIC}", "--json").json["state"] == "active"


@pytest.mark.parametrize(
    ("arguments", "stdin", "code"),
    [
        (("connections", "add"), "unknown-token\n", 4),
        (("connections", "add"), "\n", 2),
        (("connections", "show", "nobody"), "", 3),
        (("connections", "show", "conn_"), "", 2),
        (("jobs", "show", "job_nobody"), "", 3),
        (("schedules", "run-now", "never"), "", 3),
        (("connections", "replace", "nobody"), "", 3),
        (("fetch", "conn_", "--start", "2026-01-01"), "", 2),
        (("redrive", "--expired", "--since", "soon"), "", 2),
        (("nonsense",), "", 2),
    ],
)
def test_error_is_one_document_when_json_is_asked_for(
    cli: Cli, stack: Stack, connection: str, arguments: tuple[str, ...], stdin: str, code: int
) -> None:
    with_another = cli("connections", "add", stdin=stack.access_tokens[HEIR])

    ran = cli(*arguments, "--json", stdin=stdin)

    assert (with_another.code, ran.code) == (0, code)
    assert set(ran.json["error"]) == {"code", "message"}


# -------------------------------------------------------------------------------------------- fetch


def test_appointments_are_shown_and_written_for_their_owner_alone(
    cli: Cli, connection: str, tmp_path: Path
) -> None:
    file = tmp_path / "appointments.csv"

    # Four days: two of them may be a weekend, on which nobody has an appointment.
    written = cli("fetch", f"user_{CLINIC}", "--days", "4", "--output", str(file))
    shown = cli("fetch", connection, "--from", "tomorrow", "--days", "4")
    document = cli("fetch", connection[:17], "--days", "4", "--json")

    assert (written.code, shown.code, document.code) == (0, 0, 0)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    appointments = document.json["appointments"]
    assert document.json["appointment_count"] == len(appointments) > 0
    assert sorted(each["id"] for each in rows) == sorted(each["id"] for each in appointments)
    assert shown.out.splitlines()[0].split()[:2] == ["time", "status"]
    assert shown.out.splitlines()[-1].endswith(" appointments.")


@pytest.mark.usefixtures("cli")
def test_clinic_is_where_the_stack_says_when_cobalt_does_not(stack_file: Path) -> None:
    assert Session(stack_file=stack_file).deployment.default_time_zone == DEFAULT_ZONE


def test_exit_code_tells_when_a_fetch_ends_without_success(
    cli: Cli, sandbox: Sandbox, connection: str
) -> None:
    sandbox.add_fault("failed", count=1, clinic=CLINIC)

    failed = cli("fetch", connection, "--days", "2", "--json")
    watched = cli("jobs", "watch", failed.json["job_execution_id"])
    listed = cli("jobs", "list", "--connection", connection, "--state", "failed", "--json")

    assert (failed.code, failed.json["status"], watched.code) == (5, "FAILED", 5)
    ids = [each["job_execution_id"] for each in listed.json["jobs"]]
    assert ids[0] == failed.json["job_execution_id"]


@pytest.mark.usefixtures("connection")
def test_whole_story_of_a_job_is_told_by_its_trace(
    cli: Cli, stack: Stack, relay: Relay, events: EventLog
) -> None:
    trace_id = uuid.uuid4().hex
    headers = stack.headers(CLINIC) | {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    days = {"start_date": "2031-06-02", "end_date": "2031-06-03"}
    job = relay.fetch(days, headers=headers).json()["job_execution_id"]
    relay.ended_job(job)
    eventually(lambda: events.of(job) and events.changes_of(job))

    def story() -> Ran | None:
        ran = cli("jobs", "show", job, "--trace", "--json")
        messages = {line.get("message") for line in ran.json["log"]}
        return ran if messages >= {"fetch_accepted", "job_ended", "changes_detected"} else None

    told, plain = eventually(story), cli("jobs", "show", job, "--trace")
    assert told
    functions = [line["function"] for line in told.json["log"]]
    traces = {line["trace_id"] for line in told.json["log"]}
    [call] = [
        each
        for each in stack.sandbox.requests("/v1/appointments/fetch")
        if trace_id in (each["traceparent"] or "")
    ]
    assert told.json["trace_id"] == trace_id
    assert traces == {trace_id}
    assert list(dict.fromkeys(functions)) == [
        "fetch_appointments",
        "receive_webhook",
        "detect_changes",
    ]
    about = [*events.of(job), *events.changes_of(job)]
    assert {event["detail"]["trace_id"] for event in about} == {trace_id}
    assert call["status"] == 202
    assert "receive_webhook    INFO job_ended" in plain.out


def test_story_is_refused_when_the_relay_did_not_start_the_job(cli: Cli, relay: Relay) -> None:
    job = f"job_{uuid.uuid4().hex[:24]}"
    row = Job(job_execution_id=job, state=JobState.ACCEPTED)
    table = Table(relay.stack.aws.dynamodb, relay.stack.table)
    expiry = {"expires_at": int(utc_now().timestamp()) + 600}
    item = row.model_dump(mode="json", exclude_none=True) | expiry
    table.write(Put(Key("JOB", job), item))

    assert cli("jobs", "show", job).code == 0
    assert cli("jobs", "show", job, "--trace").code == 3


def test_fetch_that_goes_on_is_told_when_its_waiting_is_ended(
    sandbox: Sandbox, stack_file: Path, connection: str
) -> None:
    sandbox.add_fault("silent", count=1, clinic=CLINIC)
    waiting = subprocess.Popen(
        _command(stack_file, "fetch", connection, "--from", "50", "--days", "2", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waiting.stderr
    job = waiting.stderr.readline().partition(":")[0]

    waiting.terminate()
    told, _ = waiting.communicate(timeout=PROCESS_SECONDS)

    document = json.loads(told)
    assert waiting.returncode == 143
    assert (document["error"]["code"], document["job_execution_id"]) == ("interrupted", job)
    assert f"relay jobs watch {job}" in document["error"]["message"]


def test_refusal_is_told_when_the_clinic_has_to_link_its_account_again(
    cli: Cli, sandbox: Sandbox, connection: str
) -> None:
    sandbox.set_linked(CLINIC, linked=False)

    refused = cli("fetch", connection, "--days", "2", "--json")
    doctor = cli("doctor", "--json")

    assert (refused.code, refused.json["error"]["code"]) == (4, "login_required")
    assert doctor.code == 1
    [finding] = [each for each in doctor.json["checks"] if "suspended" in each["found"]]
    assert (finding["status"], f"user_{CLINIC}" in finding["found"]) == ("failed", True)


# ---------------------------------------------------------------------------------------- schedules


def test_schedule_fetches_when_it_is_run_now(cli: Cli, connection: str) -> None:
    when = ("--at", "06:00", "--spread-minutes", "0")
    what = ("--connection", connection, "--from-day", "3", "--days", "2")

    added = cli("schedules", "add", "dawn", *when, *what, "--json")
    taken = cli("schedules", "add", "dawn", "--rate", "1 day")
    dusk = cli("schedules", "add", "dusk", "--rate", "1 day", "--json")
    cli("schedules", "remove", "dusk", "--yes")
    listed = cli("schedules", "list")
    ran = cli("schedules", "run-now", "dawn", "--json")
    warned = cli("connections", "remove", connection)
    removed = cli("schedules", "remove", "dawn", "--yes")

    codes = [each.code for each in (added, taken, listed, ran, warned, removed)]
    assert codes == [0, 2, 0, 0, 2, 0]
    assert added.json["input"]["connections"] == [connection]
    spreads = [each.json["input"]["spread_minutes"] for each in (added, dusk)]
    assert spreads == [0, 10]  # as asked for, and as the template's own
    assert "06:00 clinic time" in listed.out
    assert f"{added.json['name']} names {connection}" in warned.err
    assert (ran.json["result"]["planned"], ran.json["result"]["messages"]) == (1, 1)

    def job() -> dict[str, Any] | None:
        found = cli("jobs", "list", "--connection", connection, "--json").json["jobs"]
        return next((each for each in found if each["trigger"] == "schedule"), None)

    fetched = eventually(job)
    assert fetched
    assert fetched["range_id"].startswith("range_")


def test_templates_own_schedule_stays(cli: Cli) -> None:
    refused = cli("schedules", "remove", "fetch-all", "--yes", "--json")

    assert (refused.code, refused.json["error"]["code"]) == (2, "of_the_template")


# ------------------------------------------------------------------------------------------- events


def test_events_are_told_live_and_nothing_is_left_when_it_is_interrupted(
    cli: Cli, stack: Stack, stack_file: Path, connection: str
) -> None:
    prefix = f"{stack.stack_name}-tail-"
    old = str(int(time.time()) - 7200)
    stack.aws.sqs.create_queue(QueueName=f"{prefix}dead", tags={"relay-tail-alive": old})
    filters = ("--connection", connection, "--type", "Appointments Fetched", "--json")
    tail = subprocess.Popen(
        _command(stack_file, "events", "tail", *filters),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tail.stdout
    assert tail.stderr
    assert tail.stderr.readline().startswith("Listening")
    left = stack.aws.sqs.list_queues(QueueNamePrefix=prefix)["QueueUrls"]

    job = cli("fetch", connection, "--days", "2", "--json").json["job_execution_id"]
    event = json.loads(tail.stdout.readline())
    tail.send_signal(signal.SIGINT)
    rest, told = tail.communicate(timeout=PROCESS_SECONDS)

    assert (event["detail-type"], event["detail"]["job_execution_id"]) == (
        "Appointments Fetched",
        job,
    )
    assert tail.returncode == 130
    assert (rest, told) == ("", "\nInterrupted.\n")
    assert len(left) == 1
    assert not stack.aws.sqs.list_queues(QueueNamePrefix=prefix).get("QueueUrls")
    rules = stack.aws.events.list_rules(EventBusName=stack.bus, NamePrefix=prefix)["Rules"]
    assert rules == []


# ------------------------------------------------------------------------------------------ redrive


def test_failed_fetch_and_expired_window_are_fetched_when_they_are_put_back(
    cli: Cli, stack: Stack, connection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redrive, "LOOK_SECONDS", 0)  # the local AWS sees every message at once
    cli("connections", "add", stdin=stack.access_tokens[HEIR])
    now = utc_now()
    first = now.date() + timedelta(days=40)
    window = Window(start_date=first, end_date=first + timedelta(days=1))
    for name in ("ScheduleFailuresUrl", "EventFailuresUrl", "FetchFailuresUrl"):
        stack.aws.sqs.purge_queue(QueueUrl=stack.outputs[name])
    failed = _lost_fetch(stack, connection, window, now - timedelta(days=2))
    other = connection_id_of(stack.access_tokens[HEIR])
    expired = _expired_job(stack, other, window, now)

    only_shown = cli("redrive", "--expired", "--dry-run")
    done = cli("redrive", "--expired", "--json")

    assert (only_shown.code, done.code) == (0, 0)
    assert {failed, expired} <= set(only_shown.out.split())
    assert done.json["messages"][0]["outcome"] == "put into the queue of fetches"
    again = range_id_of("redrive", expired)
    eventually(lambda: _have_completed(cli, failed, again))


def _lost_fetch(stack: Stack, connection: str, window: Window, accepted_at: datetime) -> str:
    """Put a fetch into the failure queue whose time was over long ago; give its range."""
    plan = RangePlan(
        range_id=range_id_of("lost", str(accepted_at)),
        connection_id=connection,
        trigger="schedule",
        request=RangeRequest(window=window),
        accepted_at=accepted_at,
    )
    work = FetchWork(plan=plan, piece=0, not_before=accepted_at)
    stack.aws.sqs.send_message(
        QueueUrl=stack.outputs["FetchFailuresUrl"], MessageBody=work.model_dump_json()
    )
    return plan.range_id


def _expired_job(stack: Stack, connection: str, window: Window, now: datetime) -> str:
    """Write a job that expired an hour ago."""
    job = Job(
        job_execution_id=f"job_expired_{now.timestamp():.0f}",
        state=JobState.EXPIRED,
        connection_id=connection,
        trigger="schedule",
        search_by="date_range",
        window=window,
        accepted_at=now - timedelta(hours=3),
        deadline=now - timedelta(hours=1),
        expired_at=now - timedelta(hours=1),
    )
    later = int((datetime.now(UTC) + timedelta(days=1)).timestamp())
    item = job.model_dump(mode="json", exclude_none=True) | {"expires_at": later}
    table = Table(stack.aws.dynamodb, stack.table)
    table.write(Put(Key("JOB", job.job_execution_id), item))
    return job.job_execution_id


def _have_completed(cli: Cli, *range_ids: str) -> bool:
    shown = [cli("jobs", "show", range_id, "--json") for range_id in range_ids]
    return all(each.code == 0 and each.json["status"] == "COMPLETED" for each in shown)


# ----------------------------------------------------------------------------------------- anything


def test_reader_that_has_gone_is_no_fault(stack_file: Path, connection: str) -> None:
    command = _command(stack_file, "connections", "list")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    process.stdout.close()

    _, told = process.communicate(timeout=PROCESS_SECONDS)

    assert (process.returncode, told) == (141, "")
