"""The commands of `relay`, their options, and the exit codes.

The module of a command is loaded when it is run: help and completion need none of them.
"""

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer._click.exceptions import NoArgsIsHelpError
from typer.core import TyperGroup

from tools.relay.faults import (
    ExitCode,
    Interrupted,
    NotFound,
    NotWell,
    RelayCommandError,
    Unreachable,
    WrongUsage,
)
from tools.relay.output import Output

# ruff: noqa: PLC0415

HELP = """\
Operate a stack of Cobalt Relay: on AWS, or the local one of make up with --local.

Every command takes --json, and then writes one JSON document to standard output and nothing else.
"""
EXIT_CODES = """\
Exit codes: 0 done · 1 failed, or not well · 2 wrong usage · 3 not found · 4 AWS, the relay or
Cobalt cannot be reached or refuse · 5 a fetch ended without success · 129, 130 or 143 interrupted
· 141 closed pipe.
"""
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}
"""What the system says of a standard output that cannot be written, beside a closed pipe."""


@dataclass
class State:
    """What every command needs; `session` finds the stack on first use."""

    session: Any
    output: Output


class _Program(TyperGroup):
    """The whole program: takes what a command raises to `run`, before Typer makes its own of it."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - as Typer has it
        """Run a command."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except (BrokenPipeError, EOFError, KeyboardInterrupt) as error:
            raise _EndedEarlyError(error) from error
        return result


class _EndedEarlyError(Exception):
    """The reader of our output, our input, or the person at the keyboard has gone."""


def _group(name: str, about: str) -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, help=about, rich_markup_mode=None)
    app.add_typer(group, name=name)
    return group


app = typer.Typer(
    cls=_Program,
    help=HELP,
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
connections = _group("connections", "The clinics' connections: list, add, show, replace, remove.")
jobs = _group("jobs", "The live fetches: list, show, watch. Never a patient.")
schedules = _group("schedules", "When fetches happen by themselves: list, add, run-now, remove.")
events = _group("events", "What the relay tells on its bus.")

AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON document, nothing else.")]
Wide = Annotated[bool, typer.Option("--wide", help="Show ids whole, however narrow it is.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
Connection = Annotated[
    str,
    typer.Argument(metavar="CONNECTION", help="A connection's id, its beginning, or its label."),
]


@app.callback()
def where(
    context: typer.Context,
    *,
    stack: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The stack on AWS [default: as samconfig.toml says]."),
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="Its AWS region [default: as for the AWS CLI].")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="A profile of the AWS CLI [default: as there].")
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="The stack of make up; nothing else is ever reached.")
    ] = False,
    stack_file: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Remember which stack is meant."""
    if context.resilient_parsing:
        return
    from tools.relay.session import Session

    context.obj.session = Session(stack, region, profile, local, stack_file)


@app.command()
def configure(context: typer.Context, *, _json: AsJson = False) -> None:
    """Put Cobalt's client credentials, register the webhook, keep its secret.

    Asks for the client id and, hidden, the client secret; or takes them from standard input, as two
    lines or as {"client_id": …, "client_secret": …}. Where credentials are there already, nothing
    entered keeps them. What is right already is left alone.
    """
    from tools.relay.configure import configure as act

    act(context.obj.session.deployment, context.obj.output)


@app.command()
def doctor(
    context: typer.Context,
    *,
    days: Annotated[
        int, typer.Option(min=1, max=30, help="How far back to look for failed deliveries.")
    ] = 3,
    _json: AsJson = False,
    _wide: Wide = False,
) -> None:
    """Check the whole chain, and say what to do where it is broken.

    Exit code 1 where a check failed; a warning is none.
    """
    from tools.relay.doctor import examine

    examine(context.obj.session.deployment, context.obj.output, days)


@app.command()
def fetch(  # noqa: PLR0913 - each parameter is an option of the command line
    context: typer.Context,
    connection: Connection,
    *,
    first: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DAY",
            help="First day: today, tomorrow, days from today such as -1, or 2026-03-02."
            " Today is the clinic's own [default: today].",
        ),
    ] = None,
    days: Annotated[
        int | None,
        typer.Option(min=1, max=366, help="How many days, both counted [default: 7]."),
    ] = None,
    start: Annotated[str | None, typer.Option(metavar="DAY", help="First day, with --end.")] = None,
    end: Annotated[str | None, typer.Option(metavar="DAY", help="Last day, with --start.")] = None,
    search_by: Annotated[
        Literal["date_range", "provider"], typer.Option(help="What to search by.")
    ] = "date_range",
    provider_id: Annotated[
        list[str] | None, typer.Option(help="A provider's EMR id; may be given several times.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the appointments into this file.")
    ] = None,
    format_: Annotated[
        Literal["json", "csv"] | None,
        typer.Option("--format", help="Of the file [default: by its name, else json]."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait for the end, or only start it.")
    ] = True,
    _json: AsJson = False,
    _wide: Wide = False,
) -> None:
    """Fetch a clinic's appointments live, through the relay's own API, and show them.

    More than 8 days are fetched in pieces. The appointments name patients: a file that is written
    can be read by its owner alone. Exit code 5 where the fetch ends without success.
    """
    from tools.relay.fetch import Asked, Wanted
    from tools.relay.fetch import fetch as act

    asked = Asked(connection, first, days, start, end, search_by, tuple(provider_id or ()))
    act(context.obj.session.deployment, context.obj.output, asked, Wanted(output, format_, wait))


@app.command()
def redrive(
    context: typer.Context,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show.")] = False,
    expired: Annotated[
        bool,
        typer.Option("--expired", help="Queue the windows of expired jobs again, too."),
    ] = False,
    since: Annotated[
        str, typer.Option(metavar="SPAN", help="How far back --expired looks: 90m, 12h, 3d.")
    ] = "1d",
    _json: AsJson = False,
) -> None:
    """Put back what lies in the failure queues, once its cause is mended.

    Exit code 1 where something had to stay.
    """
    from tools.relay.putting_back import put_back

    put_back(
        context.obj.session.deployment,
        context.obj.output,
        dry_run=dry_run,
        since=since if expired else None,
    )


# -------------------------------------------------------------------------------------- connections


@connections.command("list")
def list_connections(context: typer.Context, *, _json: AsJson = False, _wide: Wide = False) -> None:
    """List every connection, with its state and its last success and failure."""
    from tools.relay.connections import show_all

    show_all(context.obj.session.deployment, context.obj.output)


@connections.command("show")
def show_connection(
    context: typer.Context, connection: Connection, *, _json: AsJson = False
) -> None:
    """Show everything about a connection but its token."""
    from tools.relay.connections import show

    show(context.obj.session.deployment, context.obj.output, connection)


@connections.command("add")
def add_connection(context: typer.Context, *, _json: AsJson = False) -> None:
    """Add a connection: its access token comes from a hidden prompt or standard input."""
    from tools.relay.connections import add

    add(context.obj.session.deployment, context.obj.output)


@connections.command("replace")
def replace_connection(
    context: typer.Context, old: Connection, *, yes: Yes = False, _json: AsJson = False
) -> None:
    """Give a connection a new access token, from a hidden prompt or standard input.

    The history of the old connection goes to the new one, so both have to be of one clinic: where
    one of them has no label, you are asked.
    """
    from tools.relay.connections import replace

    replace(context.obj.session.deployment, context.obj.output, old, sure=yes)


@connections.command("remove")
def remove_connection(
    context: typer.Context, connection: Connection, *, yes: Yes = False, _json: AsJson = False
) -> None:
    """Remove a connection and forget its token; what was fetched stays as long as it is kept."""
    from tools.relay.connections import remove

    remove(context.obj.session.deployment, context.obj.output, connection, sure=yes)


# --------------------------------------------------------------------------------------------- jobs


@jobs.command("list")
def list_jobs(
    context: typer.Context,
    *,
    connection: Annotated[
        str | None, typer.Option(help="Of this connection alone: id, beginning or label.")
    ] = None,
    state: Annotated[
        Literal["ACCEPTED", "COMPLETED", "FAILED", "EXPIRED"] | None,
        typer.Option(help="In this state alone.", case_sensitive=False),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 20,
    _json: AsJson = False,
    _wide: Wide = False,
) -> None:
    """List the jobs of all connections, the newest first."""
    from tools.relay.jobs import show_all

    show_all(context.obj.session.deployment, context.obj.output, connection, state, limit)


@jobs.command("show")
def show_job(
    context: typer.Context,
    job: str,
    *,
    trace: Annotated[
        bool, typer.Option("--trace", help="And what each function logged about it.")
    ] = False,
    _json: AsJson = False,
) -> None:
    """Show everything about a job, or about a range and its pieces."""
    from tools.relay.jobs import show

    show(context.obj.session.deployment, context.obj.output, job, trace=trace)


@jobs.command("watch")
def watch_job(context: typer.Context, job: str, *, _json: AsJson = False) -> None:
    """Wait for the end of a job or a range; exit code 5 where that is no success."""
    from tools.relay.jobs import watch

    watch(context.obj.session.deployment, context.obj.output, job)


# ---------------------------------------------------------------------------------------- schedules


@schedules.command("list")
def list_schedules(context: typer.Context, *, _json: AsJson = False, _wide: Wide = False) -> None:
    """List the schedules of this stack that fetch."""
    from tools.relay.schedules import show_all

    show_all(context.obj.session.deployment, context.obj.output)


@schedules.command("add")
def add_schedule(  # noqa: PLR0913 - each parameter is an option of the command line
    context: typer.Context,
    name: str,
    *,
    cron: Annotated[
        str | None, typer.Option(metavar="FIELDS", help="When: '0 6 * * ? *' is six each day.")
    ] = None,
    rate: Annotated[str | None, typer.Option(metavar="SPAN", help="How often: '6 hours'.")] = None,
    timezone: Annotated[
        str | None, typer.Option(help="The time zone of --cron [default: UTC].")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="HH:MM", help="Every day at that time where each clinic is."),
    ] = None,
    from_day: Annotated[int, typer.Option(min=-365, max=365, help="First day, from today.")] = 0,
    days: Annotated[int, typer.Option(min=2, max=366, help="How many days, both counted.")] = 14,
    connection: Annotated[
        list[str] | None,
        typer.Option(help="Of these connections alone; may be given several times."),
    ] = None,
    spread_minutes: Annotated[
        int | None,
        typer.Option(min=0, max=720, help="Over how many minutes the fetches are spread."),
    ] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Made, but not running.")] = False,
    _json: AsJson = False,
) -> None:
    """Add a schedule of your own, named after the stack."""
    from tools.relay.schedules import What, When, add

    when = When(cron, rate, timezone, at, disabled)
    what = What(from_day, days, tuple(connection or ()), spread_minutes)
    add(context.obj.session.deployment, context.obj.output, name, when, what)


@schedules.command("run-now")
def run_schedule(context: typer.Context, name: str, *, _json: AsJson = False) -> None:
    """Fetch at once what a schedule would fetch."""
    from tools.relay.schedules import run_now

    run_now(context.obj.session.deployment, context.obj.output, name)


@schedules.command("remove")
def remove_schedule(
    context: typer.Context, name: str, *, yes: Yes = False, _json: AsJson = False
) -> None:
    """Remove a schedule that was added here."""
    from tools.relay.schedules import remove

    remove(context.obj.session.deployment, context.obj.output, name, sure=yes)


# ------------------------------------------------------------------------------------------- events


@events.command("tail")
def tail_events(
    context: typer.Context,
    *,
    type_: Annotated[
        list[str] | None,
        typer.Option("--type", help="Of this detail-type alone; may be given several times."),
    ] = None,
    connection: Annotated[
        str | None, typer.Option(help="Of this connection alone: id, beginning or label.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many events.")] = None,
    _json: AsJson = False,
) -> None:
    """Show the events on the bus as they come, until Ctrl-C. With --json one document a line.

    It makes a queue and a rule of its own for that time, and removes them.
    """
    from tools.relay.events import tail

    tail(context.obj.session.deployment, context.obj.output, type_ or [], connection, count)


# ---------------------------------------------------------------------------------------------- end


def run(arguments: Sequence[str]) -> int:
    """Run the program; give its exit code."""
    if sys.stdout is None:
        print("Error: Standard output is closed: let it go somewhere.", file=sys.stderr)
        return ExitCode.FAILED
    output = Output(as_json="--json" in arguments, wide="--wide" in arguments)
    try:
        return _run(arguments, output)
    except OSError as error:
        return _unwritten(error, output)


def _run(arguments: Sequence[str], output: Output) -> int:
    """Run it. Raises the `OSError` of a standard output that takes nothing more."""
    try:
        done = app(
            args=list(arguments),
            prog_name="relay",
            standalone_mode=False,
            obj=State(None, output),
        )
    except _EndedEarlyError as early:
        return _ended(early.__cause__, output)
    except (BrokenPipeError, EOFError, KeyboardInterrupt, typer.Abort) as early:
        return _ended(early, output)
    except SystemExit as early:
        return output.error(Interrupted.by(early))
    except NoArgsIsHelpError as help_:  # a command group alone
        output.note(help_.format_message(), style="")
        return ExitCode.USAGE
    except Exception as error:  # no traceback ever reaches a user
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            raise
        return output.error(explained(error))
    return done if isinstance(done, int) else ExitCode.DONE


def _ended(early: BaseException | None, output: Output) -> ExitCode:
    if isinstance(early, BrokenPipeError):
        return _unwritten(early, output)
    if isinstance(early, EOFError):
        if sys.stdin.isatty():  # behind a prompt, whose line nobody has ended
            output.note("")
        return output.error(WrongUsage("no_input", "Standard input ended before all was given."))
    return output.error(Interrupted())


def _unwritten(error: OSError, output: Output) -> ExitCode:
    """Give standard output up, with what is left in its buffer; say why, but for a closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return ExitCode.CLOSED_PIPE
    reason = error.strerror or "unknown"
    failure = NotWell("not_written", f"Standard output cannot be written: {reason}.")
    with suppress(OSError):  # standard error may be the same file
        replace(output, as_json=False).error(failure)
    return failure.exit_code


def explained(error: Exception) -> RelayCommandError:
    """Turn whatever a command raised into what a person can do something about.

    The words of AWS are left out but for its code: they name accounts and people.
    """
    if isinstance(error, RelayCommandError):
        return error
    if isinstance(error, typer.TyperException):
        return WrongUsage("usage", _of_typer(error))
    return _of_a_library(error)


def _of_typer(error: typer.TyperException) -> str:
    """Give its words without those of the library below it, and where to read on."""
    said = error.format_message().replace(": Value error, ", ": ", 1).rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{said}. See `{context.command_path} --help`." if context else f"{said}."


def _of_a_library(error: Exception) -> RelayCommandError:
    import requests
    from botocore.exceptions import BotoCoreError, ClientError

    from cobalt_relay.errors import RelayError

    match error:
        case RelayError():
            return _of_the_relay(error)
        case ClientError():
            code = error.response["Error"]["Code"]
            return Unreachable("aws_refused", f"AWS refused {error.operation_name}: {code}.")
        case BotoCoreError():
            return Unreachable("aws_unreachable", f"AWS cannot be used: {error}")
        case requests.RequestException():
            return Unreachable("unreachable", "The relay's API cannot be reached.")
    return NotWell("unexpected_failure", f"Failed unexpectedly: {type(error).__name__}.")


_COBALT_FAILED = {
    "upstream_unreachable": "Cobalt cannot be reached. Run it again later.",
    "upstream_unavailable": "Cobalt does not take the request at the moment. Run it again later.",
    "upstream_broken": "Cobalt answered with an error of its own. Run it again.",
    "upstream_malformed": "Cobalt's answer could not be understood. Run it again.",
    "upstream_unanswered": "Cobalt did not answer. Run it again.",
}
"""By code. The relay's own words are about a fetch, and no command here asks Cobalt for one itself:
what it does ask may be asked again."""


def _of_the_relay(error: Any) -> RelayCommandError:  # noqa: ANN401 - a RelayError
    from cobalt_relay import errors

    kinds: list[tuple[tuple[type[Exception], ...], type[RelayCommandError]]] = [
        ((errors.UnknownConnection, errors.NoSuchJob), NotFound),
        ((errors.CallerError, errors.InvalidScheduleInput), WrongUsage),
        ((errors.UpstreamRefusal, errors.UpstreamFault, errors.StorageFault), Unreachable),
    ]
    kind = next((mine for theirs, mine in kinds if isinstance(error, theirs)), NotWell)
    return kind(error.code, _COBALT_FAILED.get(error.code, error.message))
