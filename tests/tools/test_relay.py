"""The operator's command line, as far as it needs no stack."""

import io
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import requests
from botocore.exceptions import ClientError
from typer.main import get_command

from cobalt_relay.errors import (
    AccessTokenRefused,
    DaysNotBrought,
    RelayError,
    SameToken,
    TableFault,
    TokensFault,
    UnknownConnection,
    UpstreamFault,
    UpstreamUnreachable,
)
from cobalt_relay.models import (
    ClientCredentials,
    Connection,
    ConnectionState,
    Job,
    JobState,
    WebhookRegistration,
    Window,
    connection_id_of,
    in_days,
)
from tools.local.paths import ROOT
from tools.relay import doctor, fetch, output, rows, schedules
from tools.relay.app import app, explained, run
from tools.relay.doctor import Patient
from tools.relay.events import counted
from tools.relay.faults import NotFound, RelayCommandError, Unreachable, WrongUsage
from tools.relay.fetch import Asked, Wanted
from tools.relay.output import Output
from tools.relay.putting_back import uncovered
from tools.relay.schedules import What, When
from tools.relay.session import Deployment, Session

NOW = datetime(2026, 3, 2, 10, tzinfo=UTC)
ROW = Connection(
    connection_id=connection_id_of("token"),
    state=ConnectionState.ACTIVE,
    registered_at=NOW,
    access_token_reference_id="clinic_1",
    time_zone="Pacific/Kiritimati",
)


@pytest.fixture(autouse=True)
def _same_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`--local` forgets the user's settings: the next test has them again."""
    before = dict(os.environ)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield
    os.environ.clear()
    os.environ.update(before)


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its options."""
    program: Any = get_command(app)
    for name, found in program.commands.items():
        if hasattr(found, "commands"):
            yield from ((f"{name} {inner}", each) for inner, each in found.commands.items())
        else:
            yield name, found


# ------------------------------------------------------------------------------------ the program


def test_every_command_takes_json() -> None:
    without = [name for name, each in commands() if "--json" not in _options(each)]

    assert len(list(commands())) == 17
    assert without == []


def test_no_secret_can_be_given_as_an_argument() -> None:
    names = [option for _, each in commands() for option in _options(each)]
    named = [each for each in names if any(w in each for w in ("secret", "token", "password"))]
    from_environment = [p for _, each in commands() for p in each.params if p.envvar]

    assert named == []
    assert from_environment == []


def _options(command: Any) -> list[str]:
    return [option for parameter in command.params for option in parameter.opts]


def test_help_names_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0

    text = " ".join(capsys.readouterr().out.split())
    for code in ("0 done", "1 failed", "2 wrong usage", "3 not found", "4 AWS", "5 a fetch"):
        assert code in text
    assert "130" in text
    assert "141" in text


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["--stack", "x", "--local", "jobs", "list"], 2, "local_or_aws"),
        (["--stack-file", "/nowhere/stack.json", "doctor"], 3, "no_local_stack"),
        (["--profile", "nobody", "doctor"], 3, "no_profile"),
        (["--region", "us-east-1", "doctor"], 4, "no_credentials"),
        (["doctor"], 2, "no_region"),
        (["fetch"], 2, "usage"),
        (["fetch", "x", "--days", "no"], 2, "usage"),
    ],
)
def test_exit_code_and_error_are_told_when_it_cannot_begin(
    arguments: list[str],
    code: int,
    error: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    _no_aws_settings(monkeypatch, tmp_path)

    assert run([*arguments, "--json"]) == code

    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"]["code"] == error
    assert shown.err == ""


def test_local_stack_is_refused_when_it_is_not_on_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("stack_name", "region", "client_id", "client_secret", "bucket", "table", "bus")
    said: dict[str, Any] = dict.fromkeys(names, "x") | {
        "aws_endpoint": "http://127.0.0.1:9",
        "api_url": "https://abc.execute-api.us-east-1.amazonaws.com/v1",
        "webhook_url": "http://127.0.0.1:9/v1/webhooks/cobalt",
        "sandbox_url": "http://127.0.0.1:9",
        "access_tokens": {},
        "outputs": {},
    }
    file = tmp_path / "stack.json"
    codes = []
    for change in ({}, {"api_url": said["webhook_url"], "aws_endpoint": "https://aws.example.com"}):
        file.write_text(json.dumps(said | change))
        codes.append(run(["--stack-file", str(file), "jobs", "list"]))

    assert codes == [3, 3]
    assert "not on this machine" in capsys.readouterr().err


def _no_aws_settings(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    for name in [each for each in os.environ if each.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(home / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnknownConnection(), 3),
        (AccessTokenRefused(), 4),
        (UpstreamUnreachable(), 4),
        (TableFault(), 4),
        (SameToken(), 1),
        (ZeroDivisionError("Ann Lee"), 1),
    ],
)
def test_error_is_told_without_what_it_may_quote(error: Exception, code: int) -> None:
    told = explained(error)

    assert told.exit_code == code
    assert "Ann Lee" not in told.message
    if isinstance(error, RelayError):
        assert told.code == error.code
    if isinstance(error, RelayError) and not isinstance(error, UpstreamFault):
        assert told.message == error.message


@pytest.mark.parametrize(
    "fault", [each for each in UpstreamFault.__subclasses__() if each is not DaysNotBrought]
)
def test_no_fetch_is_told_of_when_cobalt_fails_where_none_was_asked_for(
    fault: type[UpstreamFault],
) -> None:
    told = explained(fault())

    assert (told.code, told.exit_code) == (fault.code, 4)
    assert "Run it again" in told.message
    assert not any(word in told.message for word in ("fetch", "started", "x-request-id"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["jobs", "list", "--state", "foo"], "Invalid value for '--state': 'foo' is not one of"),
        (["jobs", "list", "--state", "foo"], "See `relay jobs list --help`."),
        (["--local"], "Missing command. See `relay --help`."),
        (["schedules", "add", "x", "--days", "1"], "Invalid value for '--days'"),
        (["schedules", "add", "x", "--spread-minutes", "721"], "Invalid value for '--spread"),
    ],
)
def test_usage_is_told_in_words_of_our_own_when_it_is_wrong(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2

    told = capsys.readouterr().err
    assert said in told
    assert "Value error" not in told


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "tools.relay", *arguments]


def test_no_traceback_is_told_when_it_is_interrupted_in_its_imports(tmp_path: Path) -> None:
    stop = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n"
    (tmp_path / "typer.py").write_text(stop)
    paths = os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / "layers" / "relay")))

    ended = subprocess.run(
        program("--help"),
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize("arguments", [("doctor", "--json"), ("--help",)])
def test_reason_is_told_when_standard_output_cannot_be_written(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _no_aws_settings(monkeypatch, tmp_path)
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "layers" / "relay")))

    with Path(os.devnull).open() as not_to_be_written:
        ended = subprocess.run(
            program(*arguments),
            env={**os.environ, "PYTHONPATH": paths},
            stdout=not_to_be_written,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    said = "Error: Standard output cannot be written: Bad file descriptor.\n"
    assert (ended.returncode, ended.stderr) == (1, said)


def test_refusal_of_aws_is_told_by_its_code_alone() -> None:
    said = {"Error": {"Code": "AccessDenied", "Message": "User arn:aws:iam::123456789012:x"}}

    told = explained(ClientError(cast("Any", said), "GetItem"))

    assert (told.code, told.exit_code) == ("aws_refused", 4)
    assert told.message == "AWS refused GetItem: AccessDenied."


# ------------------------------------------------------------------------------------ what is shown


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "now"),
        (45, "45 s ago"),
        (60, "1 min ago"),
        (5400, "1 h ago"),
        (86_400 * 1.5, "36 h ago"),
        (86_400 * 3, "3 d ago"),
        (-120, "in 2 min"),
    ],
)
def test_time_is_told_as_a_person_would(seconds: float, said: str) -> None:
    assert output.ago(NOW - timedelta(seconds=seconds), NOW) == said


def test_terminal_obeys_nothing_that_comes_from_outside() -> None:
    assert output.plain("\x1b[31mred\x07\n") == " [31mred  "


@pytest.mark.parametrize("width", [80, 120])
def test_table_fits_the_terminal_and_its_ids_are_told_apart(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = Output()
    ids = [f"conn_{number:012}{'0' * 20}" for number in range(3)]

    names = shown.ids(ids)
    cells = [[names[each], "x" * 60, "y" * 60] for each in ids]
    shown.table(("id", "provider", "patient"), cells, cut=("provider", "patient"))

    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) == 2 + len(ids)
    assert len({line.split()[0] for line in lines[2:]}) == len(ids)
    assert (names == {each: each for each in ids}) is (width == 120)


def test_column_is_not_cut_when_another_leaves_it_the_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    row = ["conn_1", "x" * 30, "never"]

    Output().table(("id", "zone", "failure"), [row], cut=("zone", "failure"))

    assert "x" * 30 in capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 81, 92, 120])
def test_columns_stay_whole_that_are_not_to_be_cut(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    headings = [heading for heading, _ in fetch.COLUMNS]
    row = ["03-02 09:00", "CHECKED OUT", "t" * 40, "p" * 40, "n" * 40, "MRN-0012345"]

    Output().table(headings, [row], cut=("type", "provider", "patient"))

    heading, _, shown = capsys.readouterr().out.splitlines()
    assert ("status" in heading, "MRN" in heading, len(shown) <= width) == (True, True, True)
    assert "CHECKED OUT" in shown
    assert "MRN-0012345" in shown
    assert len(shown) > width - 3  # the others have all that is left


def test_prompt_keeps_its_blank_when_it_fills_the_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))

    assert output.read_line(Output(), "Remove it all? [y/N]") == "y"

    assert capsys.readouterr().err == "Remove it all? [y/N]: "


def test_end_of_the_input_is_no_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())

    with pytest.raises(EOFError):
        output.read_line(Output(), "Client id")


def test_secret_is_asked_for_when_none_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n"))

    with pytest.raises(WrongUsage) as raised:
        output.read_secret(Output(), "Access token")

    assert raised.value.message.startswith("Access token: none was given.")
    assert output.read_secret(Output(), "Client secret", may_be_empty=True) == ""


# ------------------------------------------------------------------------------------ connections


def found_in(*known: Connection) -> Deployment:
    connections = SimpleNamespace(all=lambda: iter(known))
    return cast("Deployment", SimpleNamespace(connections=connections))


HEIR = ROW.model_copy(update={"connection_id": connection_id_of("new"), "replaces": "x"})
REPLACED = ROW.model_copy(
    update={"state": ConnectionState.REPLACED, "replaced_by": HEIR.connection_id}
)


@pytest.mark.parametrize("named", [ROW.connection_id, ROW.connection_id[:12], "clinic_1"])
def test_connection_is_found_by_id_beginning_and_label(named: str) -> None:
    other = ROW.model_copy(
        update={"connection_id": connection_id_of("z"), "access_token_reference_id": "clinic_2"}
    )

    assert rows.find_connection(found_in(other, ROW), named) == ROW


def test_candidates_are_named_when_several_are_meant() -> None:
    with pytest.raises(WrongUsage) as raised:
        rows.find_connection(found_in(ROW, HEIR), "clinic_1")

    assert ROW.connection_id in raised.value.message
    assert HEIR.connection_id in raised.value.message
    with pytest.raises(NotFound):
        rows.find_connection(found_in(ROW), "")


@pytest.mark.parametrize(
    ("former", "named"),
    [(ROW, "clinic_1"), (REPLACED, "clinic_1"), (REPLACED, ROW.connection_id)],
)
def test_former_is_meant_when_its_replacement_is_said_again(former: Connection, named: str) -> None:
    known = found_in(former, HEIR)

    assert rows.find_predecessor(known, named, HEIR.connection_id) == former


def test_connection_itself_is_meant_when_no_other_is_so_named() -> None:
    assert rows.find_predecessor(found_in(ROW), "clinic_1", ROW.connection_id) == ROW


def test_heir_is_meant_when_a_connection_was_replaced() -> None:
    known = found_in(REPLACED, HEIR)

    assert rows.find_connection(known, "clinic_1") == HEIR
    assert rows.find_connection(known, ROW.connection_id) == REPLACED
    assert rows.find_in_use(known, ROW.connection_id, "clinic_1") == [HEIR]


# ------------------------------------------------------------------------------------------- fetch


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        (Asked("c", start="2026-03-02", end="2026-03-09"), "2026-03-02", "2026-03-09"),
        (Asked("c", first="2026-02-27", days=3), "2026-02-27", "2026-03-01"),
    ],
)
def test_days_are_those_of_the_calendar(asked: Asked, first: str, last: str) -> None:
    days = fetch._days(cast("Any", None), Output(), asked, ROW)

    assert days == Window.parse(first, last)


@pytest.mark.parametrize(("said", "offset"), [("today", 0), ("0", 0), ("tomorrow", 1), ("-1", -1)])
def test_today_is_the_clinics_own(said: str, offset: int) -> None:
    day = fetch._first_day(cast("Any", None), Output(), said, ROW)

    kiritimati = (datetime.now(UTC) + timedelta(hours=14)).date()
    assert day == kiritimati + timedelta(days=offset)


def test_today_is_that_of_the_default_zone_when_the_clinics_own_is_not_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def token(_: str) -> str:
        raise TokensFault

    deployment = cast(
        "Deployment",
        SimpleNamespace(
            connections=SimpleNamespace(token=token), default_time_zone="Pacific/Kiritimati"
        ),
    )
    nowhere = ROW.model_copy(update={"time_zone": None})

    day = fetch._first_day(deployment, Output(), "today", nowhere)

    assert day == (datetime.now(UTC) + timedelta(hours=14)).date()
    assert "Pacific/Kiritimati" in capsys.readouterr().err


@pytest.mark.parametrize("more", [("--from", "2030-01-01"), ("--days", "7")])
def test_days_are_refused_when_they_are_named_in_two_ways(
    more: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Session, "deployment", None)

    code = run(["fetch", "c", "--start", "2026-03-02", "--end", "2026-03-04", *more])

    assert code == 2
    assert "or by --from and --days" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("signalled", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)]
)
@pytest.mark.parametrize("as_json", [True, False])
def test_fetch_that_goes_on_is_told_when_its_waiting_is_interrupted(
    signalled: BaseException,
    code: int,
    as_json: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def look(_: str) -> None:
        raise signalled

    started = SimpleNamespace(start=lambda *_, **__: {"job_execution_id": "job_1"}, look=look)
    monkeypatch.setattr(Session, "deployment", found_in(ROW))
    monkeypatch.setattr(fetch, "Api", lambda *_: started)

    ended = run(["fetch", "clinic_1", *(["--json"] if as_json else [])])

    shown = capsys.readouterr()
    assert ended == code
    assert shown.err.startswith("job_1: ")
    if as_json:
        document = json.loads(shown.out)
        assert document["error"]["code"] == "interrupted"
        assert document["job_execution_id"] == "job_1"
    else:
        assert "`relay jobs watch job_1` follows it" in shown.err
        assert shown.out == ""


def answered(status: int, **headers: str) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


@pytest.mark.parametrize(
    ("response", "message", "code", "said"),
    [
        (answered(504, x_request_id="abc"), "Quote it.", "answer_504", "The x-request-id is abc."),
        (answered(429, Retry_After="7"), "Too many.", "answer_429", "Try again in 7 s."),
        (answered(401), "Invalid client_id.", "wrong_client_credentials", "`relay configure`"),
        (
            answered(401),
            "Invalid access token.",
            "access_token_refused",
            "`relay connections replace clinic_1`",
        ),
        (answered(401), "Unauthorized", "answer_401", "`relay configure`"),
        (answered(401), "Unauthorized", "answer_401", "`relay connections replace clinic_1`"),
    ],
)
def test_what_helps_is_told_when_the_relay_refuses(
    response: requests.Response, message: str, code: str, said: str
) -> None:
    refusal = fetch._refusal(response, {"message": message}, "clinic_1")

    assert isinstance(refusal, Unreachable)
    assert (refusal.code, refusal.exit_code) == (code, 4)
    assert refusal.message.startswith(message)
    assert said in refusal.message


@pytest.mark.parametrize(
    "asked",
    [
        Asked("c", start="2026-03-02", end="2026-03-02"),
        Asked("c", start="2026-02-30", end="2026-03-02"),
        Asked("c", start="20260302", end="2026-03-04"),
        Asked("c", first="soon"),
        Asked("c", first="2026-03-02", days=1),
        Asked("c", first="9999-12-30"),
    ],
)
def test_days_are_refused_when_they_are_none(asked: Asked) -> None:
    with pytest.raises(WrongUsage):
        fetch._days(cast("Any", None), Output(), asked, ROW)


@pytest.mark.parametrize(
    ("days", "providers", "is_long"),
    [(8, 0, False), (9, 0, True), (6, 1, False), (7, 1, True), (1, 2, False), (2, 2, True)],
)
def test_range_is_asked_for_when_cobalt_takes_less_at_once(
    days: int, providers: int, is_long: bool
) -> None:
    mode = "provider" if providers else "date_range"
    asked = Asked("c", search_by=mode, provider_ids=("7",) * providers)
    span = in_days(date(2026, 3, 2), 0, days)

    assert fetch._is_long(asked, span) is is_long


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("@x", "'@x"),
        ("-x", "'-x"),
        ("-12.5", "-12.5"),
        ("+1 (555) 01-2", "+1 (555) 01-2"),
        (None, ""),
        (["a"], '["a"]'),
    ],
)
def test_spreadsheet_takes_no_cell_for_a_formula(value: object, cell: str) -> None:
    assert fetch._csv_cell(value) == cell


def test_file_is_its_owners_alone_when_another_stood_there(tmp_path: Path) -> None:
    file = tmp_path / "appointments.json"
    file.write_text("old")
    file.chmod(0o644)
    report = {"status": "COMPLETED"}

    fetch._deliver(Output(), report, [{"id": 1}], Wanted(file))

    assert json.loads(file.read_text()) == [{"id": 1}]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("status", ["FAILED", "EXPIRED"])
def test_file_stays_as_it_is_when_the_fetch_has_failed(
    status: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "appointments.json"
    file.write_text("good")
    report = {"status": status}

    fetch._deliver(Output(), report, [], Wanted(file))
    fetch._deliver(Output(as_json=True), report, [], Wanted(file))

    told = capsys.readouterr()
    assert file.read_text() == "good"
    assert json.loads(told.out) == report
    assert told.err == f"Nothing was written into {file}.\n"


def test_file_has_a_heading_when_there_is_no_appointment(tmp_path: Path) -> None:
    file = tmp_path / "appointments.csv"

    fetch._deliver(Output(), {"status": "COMPLETED"}, [], Wanted(file))

    heading = "id,datetime,status,appointment_type,provider_name,patient_name,patient_mrn"
    assert file.read_text().splitlines() == [heading]


def test_patients_are_warned_of_once_when_a_terminal_shows_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    shown = [{"datetime": "2026-03-02T09:00:00-05:00", "patient_name": "Ann Sample"}]

    fetch._deliver(Output(), {"status": "COMPLETED"}, shown, Wanted())

    told = capsys.readouterr()
    assert "09:00" in told.out
    assert told.err.count("names patients") == 1


# ---------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("when", "expression", "zone"),
    [
        (
            When(cron="0 6 * * ? *", timezone="America/Denver"),
            "cron(0 6 * * ? *)",
            "America/Denver",
        ),
        (When(rate="6 hours"), "rate(6 hours)", "UTC"),
        (When(at="06:15"), "cron(0/15 * * * ? *)", "UTC"),
    ],
)
def test_schedule_runs_when_it_is_to(when: When, expression: str, zone: str) -> None:
    assert schedules._expression(when) == {
        "ScheduleExpression": expression,
        "ScheduleExpressionTimezone": zone,
    }


@pytest.mark.parametrize(
    "when",
    [
        When(),
        When(rate="1 day", at="06:00"),
        When(at="06:10"),
        When(at="06:00", timezone="UTC"),
        When(rate="soon"),
        When(cron="0 6 * * *"),
        When(cron="0 6 * * ? *", timezone="Mars/Base"),
    ],
)
def test_schedule_is_refused_when_its_time_is_none(when: When) -> None:
    with pytest.raises(WrongUsage):
        schedules._expression(when)


def test_plan_tells_its_clinics_time_and_its_own_name() -> None:
    what = What(from_day=-1, days=3, connections=("clinic_1",), spread_minutes=0)

    plan = schedules._plan(found_in(ROW), "relay-dawn", When(at="06:00"), what)

    assert plan == {
        "connections": [ROW.connection_id],
        "from_day": -1,
        "days": 3,
        "spread_minutes": 0,
        "at": "06:00",
        "schedule": "relay-dawn",
        "scheduled_at": "<aws.scheduler.scheduled-time>",
    }


# ------------------------------------------------------------------------------------------ redrive


def job(number: int, hours: float, state: str, first: int, last: int, **fields: Any) -> Job:
    """A job that was accepted so many hours ago, for days of March."""
    accepted_at = NOW - timedelta(hours=hours)
    return Job(
        job_execution_id=f"job_{number}",
        state=JobState(state),
        connection_id=ROW.connection_id,
        window=Window.parse(f"2026-03-{first:02}", f"2026-03-{last:02}"),
        accepted_at=accepted_at,
        deadline=accepted_at + timedelta(hours=2),
        expired_at=accepted_at + timedelta(hours=2) if state == "EXPIRED" else None,
        **({"search_by": "date_range"} | fields),
    )


EXPIRED = job(1, 6, "EXPIRED", 2, 5)


@pytest.mark.parametrize(
    ("later", "is_covered"),
    [
        (job(2, 3, "COMPLETED", 1, 7), True),
        (job(2, 3, "ACCEPTED", 2, 5), True),
        (job(2, 9, "COMPLETED", 1, 7), False),
        (job(2, 3, "COMPLETED", 3, 7), False),
        (job(2, 3, "FAILED", 1, 7), False),
        (job(2, 3, "COMPLETED", 1, 7, search_by="provider"), False),
    ],
)
def test_window_is_fetched_again_unless_a_later_job_covers_it(later: Job, is_covered: bool) -> None:
    since = NOW - timedelta(days=1)

    assert uncovered([later, EXPIRED], since) == ([] if is_covered else [EXPIRED])


def test_window_is_fetched_again_once_when_it_expired_several_times_of_late() -> None:
    newest, older = job(3, 4, "EXPIRED", 2, 5), job(2, 40, "EXPIRED", 6, 8)

    assert uncovered([newest, EXPIRED, older], NOW - timedelta(days=1)) == [newest]


# ------------------------------------------------------------------------------------------- doctor


URL = "https://relay.example.com/v1/webhooks/cobalt"


@pytest.fixture
def patient() -> Patient:
    """A stack whose parts are well."""
    deployment = Deployment(
        stack_name="relay",
        region="us-east-1",
        outputs={"EventLogUrl": "https://sqs/1/EventLog"},
        api_url="https://relay.example.com/v1",
        webhook_url=URL,
        is_local=False,
        make_client=lambda *_: None,
        status="UPDATE_COMPLETE",
    )
    patient = Patient(deployment, 3)
    patient.__dict__["credentials"] = ClientCredentials(client_id="c", client_secret="s")
    patient.__dict__["registration"] = WebhookRegistration(secret="whsec", ids={URL: "wh_1"})
    patient.__dict__["key"] = "whsec"
    return patient


def found(check: Callable[[], Iterator[doctor.Finding]]) -> list[tuple[str, str]]:
    return [(each.status, each.found) for each in check()]


def test_webhook_is_well_when_cobalt_delivers_here_and_signs_with_our_key(
    patient: Patient,
) -> None:
    assert found(patient.webhook_url) == [("ok", f"Cobalt delivers to {URL}")]
    assert found(patient.webhook_secret) == [("ok", "what Cobalt signs with")]


def test_remedy_is_told_when_cobalt_delivers_elsewhere_and_signs_with_another_key(
    patient: Patient,
) -> None:
    elsewhere = WebhookRegistration(secret="other", ids={"https://else.example.com": None})
    patient.__dict__["registration"] = elsewhere

    [missing, other] = patient.webhook_url()
    [secret] = patient.webhook_secret()

    assert [each.status for each in (missing, other, secret)] == ["failed", "warning", "failed"]
    assert "https://else.example.com" in other.found
    assert "relay configure" in missing.remedy
    assert "relay configure" in secret.remedy
    assert not any("other" in each.found for each in (missing, secret))


@pytest.mark.parametrize(
    ("status", "well"),
    [("CREATE_COMPLETE", "ok"), ("UPDATE_ROLLBACK_FAILED", "failed"), ("", "failed")],
)
def test_stack_is_well_when_its_last_deployment_went_well(
    patient: Patient, status: str, well: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient.deployment = replace(patient.deployment, status=status)
    monkeypatch.setattr(Patient, "_local_status", lambda _: "DELETE_FAILED")

    assert next(patient.stack()).status == well


@pytest.mark.parametrize(("off", "status"), [(0, "ok"), (59, "ok"), (-62, "failed")])
def test_clock_fails_when_it_is_off_by_more_than_a_minute(off: float, status: str) -> None:
    assert doctor._skew("AWS", time.time() + off).status == status


@pytest.mark.parametrize(
    ("answers", "status"),
    [((200, 401), "ok"), ((401, 401), "failed"), ((200, 200), "failed")],
)
def test_signature_is_well_when_ours_is_taken_and_a_forged_one_refused(
    patient: Patient,
    answers: tuple[int, int],
    status: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "PROBE_PAUSES", ())
    monkeypatch.setattr(doctor, "FrontDoor", lambda _: SimpleNamespace(deliver=deliver))
    given = iter(answers)

    def deliver(body: bytes, signature: str) -> int:
        assert json.loads(body)["type"] == "relay.probe"
        assert len(signature) == 64
        return next(given)

    assert [each.status for each in patient.signature()] == [status]


def target_for(*connections: str) -> dict[str, Any]:
    plan = {"connections": [connection_id_of(each) for each in connections], "days": 3}
    return {"Input": json.dumps(plan), "DeadLetterConfig": {"Arn": "arn"}}


def test_schedule_fails_when_it_names_nobody_keeps_nothing_or_its_input_is_none() -> None:
    def schedule(**changes: Any) -> dict[str, Any]:
        target = {"Input": '{"days": 3}', "DeadLetterConfig": {"Arn": "arn"}}
        return {"Name": "relay-x", "State": "ENABLED", "Target": target} | changes

    judged = [
        doctor._schedule(each, known={connection_id_of("one")}).status
        for each in (
            schedule(),
            schedule(Target=target_for("one")),
            schedule(Target=target_for("one", "another")),
            schedule(State="DISABLED"),
            schedule(Target={"Input": '{"days": 3}'}),
            schedule(Target={"Input": '{"days": 0}', "DeadLetterConfig": {"Arn": "arn"}}),
        )
    ]

    assert judged == ["ok", "ok", "failed", "warning", "failed", "failed"]


@pytest.mark.parametrize(
    "error",
    [
        TableFault(),
        NotFound("x", "gone"),
        ClientError(cast("Any", {"Error": {"Code": "AccessDenied"}}), "ListSchedules"),
    ],
)
def test_check_fails_when_it_cannot_look(error: RelayError | RelayCommandError) -> None:
    def check() -> Iterator[doctor.Finding]:
        raise error
        yield

    [finding] = doctor._findings("anything", check)

    assert (finding.check, finding.status) == ("anything", "failed")
    assert finding.remedy


def test_check_is_skipped_when_an_earlier_one_found_its_cause(patient: Patient) -> None:
    del patient.__dict__["registration"]
    patient.deployment.__dict__["cobalt"] = SimpleNamespace(webhook=_refuse)

    [finding] = doctor._findings("webhook URL", patient.webhook_url)

    assert (finding.status, found(patient.cobalt)[0][0]) == ("skipped", "failed")


def _refuse(_: ClientCredentials) -> WebhookRegistration:
    raise AccessTokenRefused


@pytest.mark.parametrize(("age", "statuses"), [(1, ["ok", "warning"]), (31, ["ok"])])
def test_warning_of_a_password_is_told_for_a_month(age: int, statuses: list[str]) -> None:
    warned_at = datetime.now(UTC) - timedelta(days=age)
    patient = Patient(found_in(ROW.model_copy(update={"password_warning_at": warned_at})), days=1)

    assert [status for status, _ in found(patient.connections)] == statuses


@pytest.mark.parametrize(
    ("code", "failed_after", "statuses"),
    [
        ("access_token_refused", 1, ["ok", "failed"]),
        ("access_token_refused", -1, ["ok"]),
        ("request_refused", 1, ["ok"]),
    ],
)
def test_connection_fails_when_cobalt_refused_its_token_last(
    code: str, failed_after: int, statuses: list[str]
) -> None:
    now = datetime.now(UTC)
    failure = {
        "last_success_at": now,
        "last_failure_at": now + timedelta(minutes=failed_after),
        "last_failure_code": code,
    }
    patient = Patient(found_in(ROW.model_copy(update=failure)), days=1)

    assert [status for status, _ in found(patient.connections)] == statuses


# -------------------------------------------------------------------------------------------- events


@pytest.mark.parametrize(
    ("detail", "told"),
    [
        ({"appointment_count": 0}, "0 appointments"),
        ({"created_count": 2, "changed_count": 0, "cancelled_count": 1}, "2 created, 1 cancelled"),
        ({"disappeared_count": 1, "baseline_days": ["2025-01-01"]}, "1 disappeared, 1 new days"),
        ({"created_count": 0, "baseline_days": []}, ""),
        ({}, ""),
    ],
)
def test_event_says_how_many_appointments_it_is_about(detail: dict[str, Any], told: str) -> None:
    assert counted(detail) == told
