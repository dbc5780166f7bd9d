"""`relay fetch`: a live fetch through the relay's own API, as a client of it does one.

The table and the file name patients. A file is made readable by its owner alone before the first
byte is written, and cells of a CSV that a spreadsheet would take for a formula are made text.
"""

import csv
import json
import os
import re
import shlex
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import date, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import requests

from cobalt_relay.clinic_time import today, zone_named
from cobalt_relay.errors import InvalidDateFormat, RelayError
from cobalt_relay.models import (
    MAX_PROVIDER_WINDOW_DAYS,
    MAX_WINDOW_DAYS,
    Connection,
    Window,
    in_days,
    utc_now,
)
from tools.relay import jobs, rows
from tools.relay.faults import Interrupted, NotFound, NotWell, Unreachable, WrongUsage
from tools.relay.output import Output, plain
from tools.relay.session import Deployment

TIMEOUT = (5, 35)
"""Seconds: API Gateway gives up after 29."""
LEAST_PAUSE, MOST_PAUSE = 0.2, 30.0
TRIES = 5
"""Looks at a job that may fail one after the other before the waiting ends."""
DEFAULT_DAYS = 7
"""Where the options do not say how many."""
DAYS = {"today": 0, "tomorrow": 1, "yesterday": -1}
_OFFSET = re.compile(r"[+-]?\d{1,4}", re.ASCII)
_FORMULA = ("=", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-][\d\s().-]*", re.ASCII)

COLUMNS = (
    ("time", ("datetime", "date_time")),
    ("status", ("status",)),
    ("type", ("appointment_type",)),
    ("provider", ("provider_name", "provider_ehr_id", "provider_id")),
    ("patient", ("patient_name", "patient_id", "patient_ehr_id")),
    ("MRN", ("patient_mrn", "mrn")),
)
"""Of the table: each with the names that editions of Cobalt give the field, the newest first."""
USUAL = ["id", *(names[0] for _, names in COLUMNS)]


class Asked(NamedTuple):
    """What is to be fetched, as the options say."""

    connection: str
    first: str | None = None
    days: int | None = None
    start: str | None = None
    end: str | None = None
    search_by: str = "date_range"
    provider_ids: tuple[str, ...] = ()


class Wanted(NamedTuple):
    """What becomes of it, as the options say."""

    file: Path | None = None
    format: str | None = None
    wait: bool = True


def fetch(deployment: Deployment, output: Output, asked: Asked, wanted: Wanted) -> None:
    """Start it, wait for it, and show what came."""
    _check(asked, wanted)
    [row] = rows.find_in_use(deployment, asked.connection)
    days = _days(deployment, output, asked, row)
    api = Api(deployment, row)
    with _told_when_interrupted(
        "Interrupted before the relay answered: the fetch may have been started, and"
        " `relay jobs list` shows it then."
    ):
        answer = api.start(_body(asked, days), as_range=_is_long(asked, days))
    job = str(answer["job_execution_id"])
    if not wanted.wait:
        if output.as_json:
            output.document(answer)
        else:
            output.say(f"{job} has begun. `relay jobs watch {job}` waits for it.")
        return
    with _told_when_interrupted(
        f"Interrupted. {job} goes on at the clinic: `relay jobs watch {job}` follows it.", job
    ):
        output.note(f"{job}: {days.start_date} to {days.end_date}")
        report = _await(api, output, job)
    appointments = _appointments(deployment, report)
    _deliver(output, report, appointments, wanted)
    if report["status"] != jobs.GOOD:
        jobs.end_badly(output, report)


@contextmanager
def _told_when_interrupted(message: str, job: str | None = None) -> Iterator[None]:
    """Tell what goes on without us, whichever signal it is."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as early:
        raise Interrupted.by(early, message, job) from early


# ----------------------------------------------------------------------------------- what is asked


def _check(asked: Asked, wanted: Wanted) -> None:
    if bool(asked.start) != bool(asked.end):
        raise WrongUsage("days", "--start and --end go together.")
    if asked.start and (asked.first is not None or asked.days is not None):
        raise WrongUsage("days", "Name the days by --start and --end, or by --from and --days.")
    if asked.search_by == "provider" and not asked.provider_ids:
        raise WrongUsage("providers", "--search-by provider needs --provider-id.")
    if asked.search_by != "provider" and asked.provider_ids:
        raise WrongUsage("providers", "--provider-id needs --search-by provider.")
    if wanted.file and not wanted.wait:
        raise WrongUsage("no_wait", "With --no-wait there is nothing to write into a file.")
    if wanted.format and not wanted.file:
        raise WrongUsage("format", "--format is of the file that --output names.")
    if wanted.file and not wanted.file.absolute().parent.is_dir():
        raise WrongUsage("no_folder", "The folder of the file is not there.")


def _days(deployment: Deployment, output: Output, asked: Asked, row: Connection) -> Window:
    if asked.start and asked.end:
        window = _window(asked.start, asked.end)
    else:
        first = _first_day(deployment, output, asked.first or "today", row)
        try:
            window = in_days(first, 0, asked.days or DEFAULT_DAYS)
        except OverflowError:
            raise WrongUsage("days", "The calendar ends with the year 9999.") from None
    least = 0 if asked.search_by == "provider" else 1
    if window.days_between < least:
        raise WrongUsage("days", "The last day must come after the first: ask for 2 days or more.")
    return window


def _first_day(deployment: Deployment, output: Output, said: str, row: Connection) -> date:
    offset = DAYS.get(said.lower())
    if offset is None and _OFFSET.fullmatch(said):
        offset = int(said)
    if offset is None:
        return _window(said, said).start_date
    return _today(deployment, output, row) + timedelta(days=offset)


def _window(first: str, last: str) -> Window:
    try:
        return Window.parse(first, last)
    except InvalidDateFormat:
        raise WrongUsage(
            "days",
            "A day is written as 2026-03-02; --from also takes today, tomorrow, yesterday, or a"
            " number from today.",
        ) from None


def _today(deployment: Deployment, output: Output, row: Connection) -> date:
    """Give the day that it is where the clinic is."""
    name = row.time_zone
    if name is None:
        with suppress(RelayError):
            token = deployment.connections.token(row.connection_id)
            name = deployment.cobalt.settings_of(deployment.credentials(), token).time_zone
    zone = zone_named(name or "")
    if zone is None:
        zone = ZoneInfo(deployment.default_time_zone)
        output.note(
            f"The clinic's time zone is not known: today is that of {zone.key}, the stack's"
            " DefaultTimezone.",
            style="yellow",
        )
    return today(utc_now(), zone)


def _is_long(asked: Asked, days: Window) -> bool:
    if asked.search_by == "date_range":
        return days.days_between > MAX_WINDOW_DAYS
    most = MAX_PROVIDER_WINDOW_DAYS if len(asked.provider_ids) == 1 else 0
    return days.days_between > most


def _body(asked: Asked, days: Window) -> dict[str, Any]:
    body: dict[str, Any] = days.model_dump(mode="json")
    if asked.search_by == "provider":
        body |= {"search_by": "provider", "provider_ids": list(asked.provider_ids)}
    return body


# -------------------------------------------------------------------------------------------- calls


class Api:
    """The relay's own API, spoken to with the stored credentials and a connection's token."""

    def __init__(self, deployment: Deployment, row: Connection) -> None:
        credentials = deployment.credentials()
        self._named = row.access_token_reference_id or row.connection_id
        self._url = deployment.api_url
        self._session = requests.Session()
        self._session.trust_env = False
        self._headers = {
            "client_id": credentials.client_id,
            "client_secret": credentials.client_secret,
            "access_token": deployment.connections.token(row.connection_id),
        }
        if key := deployment.outputs.get("ApiKeyId"):
            answer = deployment.client("apigateway").get_api_key(apiKey=key, includeValue=True)
            self._headers["x-api-key"] = answer["value"]

    def start(self, body: dict[str, Any], *, as_range: bool = False) -> dict[str, Any]:
        """Start a fetch; give the body of the 202."""
        path = "/appointments/fetch/range" if as_range else "/appointments/fetch"
        response = self._send("POST", path, json=body, headers=self._headers)
        answer = _object(response)
        if response.status_code == 202 and answer.get("job_execution_id"):
            return answer
        raise _refusal(response, answer, self._named)

    def look(self, job: str) -> tuple[dict[str, Any], float]:
        """Give what is known of a job, and the seconds after which to look again."""
        response = self._send("GET", f"/appointments/fetch/{job}", headers=self._headers)
        answer = _object(response)
        if response.status_code != 200:
            raise _refusal(response, answer, self._named)
        after = response.headers.get("Retry-After", "")
        pause = float(after) if after.isdecimal() else 2.0
        return answer, min(max(pause, LEAST_PAUSE), MOST_PAUSE)

    def _send(self, method: str, path: str, **options: Any) -> requests.Response:  # noqa: ANN401
        return self._session.request(
            method, self._url + path, timeout=TIMEOUT, allow_redirects=False, **options
        )


def _object(response: requests.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except requests.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _refusal(response: requests.Response, answer: dict[str, Any], named: str) -> Exception:
    """Tell why, and what to do about it; `named` is the connection that was meant."""
    status, said = response.status_code, answer.get("message")
    message = plain(said) if isinstance(said, str) and said else f"The relay answered {status}."
    if status == 404:
        return NotFound("no_such_job", message)
    if status in {400, 422}:
        return WrongUsage("refused", message)
    code, more = str(answer.get("error") or f"answer_{status}"), []
    if status == 401:
        code, remedy = _remedy(code, message, named)
        more.append(remedy)
    if after := plain(response.headers.get("Retry-After")):
        more.append(f"Try again in {after} s." if after.isdecimal() else f"Try again at {after}.")
    request = response.headers.get("x-request-id") or response.headers.get("x-amzn-RequestId")
    if request and status >= 500:
        more.append(f"The x-request-id is {plain(request)}.")
    if more and not message.endswith("."):  # words of Cobalt, as they came
        message += "."
    return Unreachable(code, " ".join([message, *more]))


def _remedy(code: str, message: str, named: str) -> tuple[str, str]:
    """Give the code of a 401, and the commands that mend it.

    The contract has no code for what was refused. So the words choose which command is named; where
    they do not tell, both are.
    """
    configure = "`relay configure` puts other client credentials."
    replace = f"`relay connections replace {shlex.quote(plain(named))}` gives it a new token."
    is_client, is_token = (word in message.lower() for word in ("client", "token"))
    if is_client == is_token:
        return code, f"{replace} {configure}"
    if is_token:
        return "access_token_refused", replace
    return "wrong_client_credentials", configure


def _await(api: Api, output: Output, job: str) -> dict[str, Any]:
    """Look at a job until it has ended, as often as the relay says."""
    began, failed = time.monotonic(), 0
    with output.working(f"Cobalt works in the clinic's EMR on {job} ...") as working:
        while True:
            try:
                report, pause = api.look(job)
                failed = 0
            except (requests.RequestException, Unreachable):
                failed += 1
                if failed == TRIES:
                    raise
                report, pause = {"status": jobs.OPEN}, LEAST_PAUSE * 2**failed
            if report["status"] != jobs.OPEN:
                return report
            seconds = time.monotonic() - began
            working.say(f"{_progress(report)} {seconds:.0f} s ...")
            time.sleep(min(pause, max(LEAST_PAUSE, seconds / 4)) if seconds < 8 else pause)


def _progress(report: dict[str, Any]) -> str:
    pieces = report.get("pieces") or []
    if not pieces:
        return "Cobalt works in the clinic's EMR,"
    ended = sum(piece["status"] not in {"PENDING", jobs.OPEN} for piece in pieces)
    return f"{ended} of {len(pieces)} pieces have ended,"


# ------------------------------------------------------------------------------------------ results


def _appointments(deployment: Deployment, report: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the appointments of a job, or of the pieces of a range that succeeded."""
    parts = report.get("pieces") or [report]
    ids = [part["job_execution_id"] for part in parts if part["status"] == jobs.GOOD]
    _, kept = deployment.jobs.rows(job_ids=ids)
    if len(kept) < len(ids):
        raise NotFound("no_result", "The result is not kept any more.")
    found: list[dict[str, Any]] = []
    for job in kept.values():
        data = rows.result_of(deployment, job).get("data")
        listed = data.get("appointments") if isinstance(data, dict) else None
        found += [each for each in listed or [] if isinstance(each, dict)]
    return sorted(found, key=lambda each: _field(each, COLUMNS[0][1]))


def _deliver(
    output: Output,
    report: dict[str, Any],
    appointments: list[dict[str, Any]],
    wanted: Wanted,
) -> None:
    is_good = report["status"] in {jobs.GOOD, "PARTIAL"}
    if wanted.file and is_good:
        _write(wanted.file, _format(wanted), appointments)
        if output.as_json:
            output.document({**report, "file": str(wanted.file), "written": len(appointments)})
        else:
            output.say(f"{len(appointments)} appointments are in {wanted.file}.", style="green")
        return
    if output.as_json:
        kept = {} if wanted.file else {"appointments": appointments}
        output.document({**report, **kept})
        return
    if not is_good:
        if wanted.file:
            output.note(f"Nothing was written into {wanted.file}.")
        return
    if output.out.is_terminal and appointments:
        output.note("The table names patients: mind who sees this screen.", style="yellow")
    if appointments:
        headings = [heading for heading, _ in COLUMNS]
        cells = [_cells(each, short=output.is_narrow) for each in appointments]
        output.table(headings, cells, cut=("type", "provider", "patient"))
    output.say(f"{len(appointments)} appointments.")


def _cells(appointment: dict[str, Any], *, short: bool) -> list[str]:
    cells = [_field(appointment, names) for _, names in COLUMNS]
    cells[0] = _short_time(cells[0], short=short)
    return cells


def _short_time(text: str, *, short: bool) -> str:
    """Give the time as the clinic's clocks show it: as it is written, to the minute."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{moment:%m-%d %H:%M}" if short else f"{moment:%Y-%m-%d %H:%M}"


def _field(appointment: dict[str, Any], names: Iterable[str]) -> str:
    values = (appointment.get(name) for name in names)
    return next((str(each) for each in values if each is not None and each != ""), "")


def _format(wanted: Wanted) -> str:
    if wanted.format:
        return wanted.format
    return "csv" if wanted.file and wanted.file.suffix.lower() == ".csv" else "json"


def _write(path: Path, format_: str, appointments: list[dict[str, Any]]) -> None:
    """Write a file of the owner's alone, in one step."""
    text = _as_csv(appointments) if format_ == "csv" else _as_json(appointments)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        reason = error.strerror or "unknown"
        raise NotWell("not_written", f"The file cannot be written: {reason}.") from error


def _as_json(appointments: list[dict[str, Any]]) -> str:
    return json.dumps(appointments, indent=2, ensure_ascii=False) + "\n"


def _as_csv(appointments: list[dict[str, Any]]) -> str:
    """Give a column for every field that any of them has; lists and objects as JSON.

    Where there are none, those of the table: what reads the file looks for a heading.
    """
    names = list(dict.fromkeys(name for each in appointments for name in each)) or USUAL
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    for each in appointments:
        writer.writerow([_csv_cell(each.get(name)) for name in names])
    return text.getvalue()


def _csv_cell(value: object) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    is_number = bool(_NUMBER.fullmatch(text))
    is_formula = text.startswith(_FORMULA) or (text[:1] in {"+", "-"} and not is_number)
    return f"'{text}" if is_formula else text
