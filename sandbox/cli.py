"""The command line: ``python -m sandbox``."""

import asyncio
import ipaddress
import logging
import math
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sandbox import logs
from sandbox.server import listen, serve
from sandbox.settings import Edition, Settings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
logger = logging.getLogger("sandbox.cli")


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def parse_seconds(text: str) -> tuple[float, float]:
    """Read ``MIN`` or ``MIN,MAX``; raise ``typer.BadParameter`` for anything else."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    shortest, longest = (numbers[0], numbers[-1]) if numbers else (1.0, 0.0)
    if len(numbers) > 2 or not 0 <= shortest <= longest < math.inf:
        raise typer.BadParameter("Use MIN or MIN,MAX in seconds, such as 2,5.")
    return shortest, longest


def parse_moment(text: str) -> datetime:
    """Read an ISO 8601 moment, UTC unless it says otherwise."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter("Use ISO 8601, such as 2026-03-02T09:00:00Z.") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@app.command()
def main(  # noqa: PLR0913 - each parameter is an option of the command line
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Decides every clinic, diary, token and secret.")] = 1,
    client_id: Annotated[
        str, typer.Option(help="The client id that is accepted.")
    ] = "sandbox-client",
    client_secret: Annotated[
        str,
        typer.Option(
            envvar="SANDBOX_CLIENT_SECRET",
            show_default="from the seed",
            help="The client secret that is accepted.",
        ),
    ] = "",
    edition: Annotated[
        Edition,
        typer.Option(
            help="Edition of the documentation to follow. 'mixed' names the accepted job"
            " job_execution_id and sends the newest webhooks."
        ),
    ] = Edition.MIXED,
    fetch_seconds: Annotated[
        str, typer.Option(metavar="MIN[,MAX]", help="Seconds that the robot takes for a fetch.")
    ] = "2,5",
    clock: Annotated[
        str | None,
        typer.Option(metavar="ISO8601", show_default="now", help="The diaries' time at the start."),
    ] = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="Written once the sandbox listens: address, credentials and access tokens.",
        ),
    ] = None,
    log_level: Annotated[LogLevel, typer.Option(help="How much to log.")] = LogLevel.INFO,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Log one JSON object a line.")
    ] = False,
) -> None:
    """Run a stand-in for the Cobalt API and its clinics. Everything in it is made up.

    Tests steer it under /_sandbox: clinics, faults, clock, and logs of calls and deliveries.
    """
    logs.configure(log_level.value, as_json=log_json)
    settings = Settings(
        seed=seed,
        client_id=client_id,
        client_secret=client_secret,
        edition=edition,
        fetch_seconds=parse_seconds(fetch_seconds),
        clock_start=parse_moment(clock) if clock else None,
        ready_file=ready_file,
    )
    if ready_file is not None:
        if not ready_file.parent.is_dir():
            raise typer.BadParameter(f"No such folder: {ready_file.parent}.")
        ready_file.unlink(missing_ok=True)
    if not _is_loopback(host):
        logger.warning("reachable_from_outside", extra={"host": host})
    try:
        listener = listen(host, port)
    except OSError as error:
        reason = error.strerror or "address not usable"
        raise typer.BadParameter(f"Cannot listen on {host}:{port}: {reason}.") from error
    asyncio.run(serve(settings, listener))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
