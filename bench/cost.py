"""What a month costs, from counted calls and the price list in `prices.toml`: nothing is by hand.

The calls of one piece are those of the tests that count them (`tests/unit/test_scale.py`) and of
the template; what a clinic's appointments weigh, and how long a call of Cobalt takes, are
assumptions, and named.
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rich.table import Table

from tools.audit import transform

PRICES: dict[str, float] = tomllib.loads((Path(__file__).parent / "prices.toml").read_text())
FLEETS = (1, 1_000, 1_000_000)
DAYS_A_MONTH = 30
PIECES = 2
"""Of the default schedule: today to +13 days."""

DAYS_OF_A_PIECE = 7
RESULT_MB = 0.15
"""Of one piece: 100 appointments of 1.5 KB."""
KEPT_DAYS = 30
COBALT_SECONDS = 1.0
"""Until Cobalt's 202."""
SPREAD_MINUTES = 10
"""Over which the pieces begin (`ScheduleSpreadMinutes`)."""
MOST_DELAY_MINUTES = 15
"""For which SQS keeps a message back: a piece that is to begin later is put off again each time."""
PUT_OFFS = 2.0
"""Of a second piece that finds the robot at the first: a fetch takes a minute or two."""

PLAN_CALLS_A_CONNECTION = {"reads": 1.0, "messages": PIECES}
UNITS_A_ROW = 2
"""Every write is a transaction, which costs each of its rows twice, also where it fails."""
RANGE_ROWS = 3
"""Written when its first piece begins, when its last one has ended, when that is announced."""
PIECE_ROWS = 6
"""The range's note of it; request, flight and robot; job and request."""
WEBHOOK_ROWS = 4
"""Event, job and connection; the job again, when its end is announced."""
PUT_OFF_ROWS = 3
"""Request, flight and robot, which another fetch has."""
RANGE_INDEXED, PIECE_INDEXED = 5, 7
"""Writes of indexes: into `due` and `by_connection`, from one place in `due` to another (two), out
of it; a piece has a request that goes in and out besides."""
PIECE_READS, WEBHOOK_READS, PUT_OFF_READS = 9, 5, 12
DETECT_READS, DETECT_PUTS, DETECT_GETS = 2, 9, 8
"""Of a piece's seven days: job and connection; seven days, what changed in them and a list; the
result and the days as they were."""
DETECT_SECONDS = 0.3
"""Several calls of S3 one after the other, days side by side."""
VERSION_DAYS, SNAPSHOT_DAYS = 15, 365
"""For which the former versions of a day are kept, and the day itself."""
LOG_LINES, LOG_LINE_BYTES = 8, 500


@dataclass(frozen=True)
class Month:
    """A month of a fleet that is fetched once each morning; USD."""

    connections: int
    lines: dict[str, float]

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.lines.values())

    @property
    def per_connection(self) -> float:
        """The share of one connection."""
        return self.total / self.connections


def month(connections: int, spread_minutes: int = SPREAD_MINUTES) -> Month:
    """Add up a month."""
    fetches = connections * DAYS_A_MONTH
    pieces = fetches * PIECES
    put_offs = fetches * (PIECES - 1) * PUT_OFFS
    too_early = pieces * max(spread_minutes / 2 / MOST_DELAY_MINUTES - 0.5, 0)
    runs = (pieces + put_offs + too_early) / _batch(connections)
    minutes = DAYS_A_MONTH * 24 * 60
    seconds = {
        "ReceiveWebhook": pieces * 0.15,
        "RunFetches": pieces * COBALT_SECONDS + put_offs * 0.05 + too_early * 0.02,
        "DetectChanges": pieces * DETECT_SECONDS,
        "PlanFetches": fetches * 0.0004,
        "ReconcileJobs": minutes * 0.3,
    }
    gb_seconds = sum(each * memory_gb(function) for function, each in seconds.items())
    requests = 2 * pieces + runs + DAYS_A_MONTH + minutes
    rows = pieces * (PIECE_ROWS + WEBHOOK_ROWS) + fetches * RANGE_ROWS + put_offs * PUT_OFF_ROWS
    writes = UNITS_A_ROW * rows + pieces * PIECE_INDEXED + fetches * RANGE_INDEXED
    reads = float(pieces * (PIECE_READS + WEBHOOK_READS) + fetches)
    reads += pieces * DETECT_READS
    reads += put_offs * PUT_OFF_READS + minutes * 4
    queue = pieces / 10 + put_offs + too_early + 2 * runs + _polls(minutes)
    lines = {
        "Lambda": gb_seconds * PRICES["lambda_gb_second"]
        + requests / 1e6 * PRICES["lambda_million_requests"],
        "DynamoDB": writes / 1e6 * PRICES["dynamodb_million_writes"]
        + reads / 1e6 * PRICES["dynamodb_million_reads"],
        "SQS": queue / 1e6 * PRICES["sqs_million_requests"],
        "API Gateway": pieces / 1e6 * PRICES["api_million_requests"],
        "S3": pieces * (1 + DETECT_PUTS) / 1e3 * PRICES["s3_thousand_puts"]
        + pieces * DETECT_GETS / 1e3 * PRICES["s3_thousand_gets"]
        + connections * _kept_mb() / 1024 * PRICES["s3_gb_month"],
        "EventBridge": (2 * pieces + fetches) / 1e6 * PRICES["eventbridge_million_events"]
        + minutes / 1e6 * PRICES["scheduler_million_invocations"],
        "logs": pieces * LOG_LINES * LOG_LINE_BYTES / 1e9 * PRICES["logs_gb"],
        "KMS": PRICES["kms_key_month"]
        + (pieces * 0.2 + fetches * 0.5 + minutes * 0.1) / 1e6 * PRICES["kms_million_requests"],
        "secrets, alarms": 2 * PRICES["secret_month"] + 6 * PRICES["alarm_month"],
    }
    return Month(connections, lines)


@cache
def memory_gb(function: str) -> float:
    """Give the memory of a function by the template."""
    megabytes: int = transform.parsed()["Resources"][function]["Properties"]["MemorySize"]
    return megabytes / 1024


def months() -> list[dict[str, object]]:
    """Give the months of the fleets, for the results."""
    return [
        {
            "connections": each.connections,
            "usd": {name: round(value, 2) for name, value in each.lines.items()},
            "total_usd": round(each.total, 2),
            "usd_per_connection": round(each.per_connection, 5),
        }
        for each in map(month, FLEETS)
    ]


def table() -> Table:
    """Show the months side by side."""
    found = [month(each) for each in FLEETS]
    title = "USD a month, 14 days fetched each morning"
    shown = Table(title=title, title_justify="left")
    shown.add_column("service")
    for each in found:
        shown.add_column(f"{each.connections:,}", justify="right")
    for name in found[0].lines:
        shown.add_row(name, *(f"{each.lines[name]:,.2f}" for each in found))
    shown.add_row("total", *(f"{each.total:,.2f}" for each in found), style="bold")
    shown.add_row("a connection", *(f"{each.per_connection:,.4f}" for each in found))
    return shown


def _kept_mb() -> float:
    """Give what is kept of a connection: results, its days to come in versions, and those past."""
    day_mb = RESULT_MB / DAYS_OF_A_PIECE
    days = PIECES * DAYS_OF_A_PIECE * VERSION_DAYS + SNAPSHOT_DAYS
    return PIECES * KEPT_DAYS * RESULT_MB + days * day_mb


def _batch(connections: int) -> float:
    """Give the messages of one run: a batch has five where there are enough of them."""
    return min(5.0, max(1.0, connections / 10))


def _polls(minutes: int) -> float:
    """Give what Lambda's own looks into an empty queue cost: five pollers, each waits 20 s."""
    return minutes * 3 * 5


if __name__ == "__main__":
    from rich.console import Console

    Console().print(table())
