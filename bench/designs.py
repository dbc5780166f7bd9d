"""What a million fetches with their webhooks cost, here and in three other designs, in USD.

    PYTHONPATH=layers/relay python -m bench --only designs

Ours from counted calls and the template's memory sizes, all from the price list in `prices.toml`.
The others do the same work and keep the same rows, and are taken without what comes on top: no
retries, no idle polling, no second availability zone for what has one. What is the same for all is
left out: the days that are kept, storage, alarms, keys.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bench import cost
from bench.calls import Counted, count
from bench.cost import COBALT_SECONDS, LOG_LINE_BYTES, PRICES, memory_gb
from bench.figures import Figure

MILLION = 1_000_000
TABLE_SECONDS, STORE_SECONDS, BUS_SECONDS, QUEUE_SECONDS = 0.006, 0.030, 0.015, 0.008
"""How long a call takes, as a function waits for it; assumptions, equal for all designs."""
OWN_SECONDS = 0.02
"""Of a function itself, the SDK's work included: measured CPU, on a part of a processor."""
LINES_OF_A_REQUEST = 2
"""Written to the log: one line, and one of metrics."""
TRANSITIONS = 5
"""Start, ask Cobalt, wait for the webhook, end the job, announce."""
WORKFLOW_ROWS = 4
"""Written singly: the token that waits, the request, the job, its end."""
HOURS_OF_A_MONTH = 730
TASKS, TASK_VCPU, TASK_GB = 2, 0.25, 0.5
"""Of the smallest container, two for one that fails; one could not be deployed without a gap."""


@dataclass(frozen=True)
class Design:
    """What one fetch with its webhook takes, and what is paid each month however few there are."""

    name: str
    api_requests: float = 2
    runs: float = 2
    gb_seconds: float = 0
    writes: float = 0
    reads: float = 0
    puts: float = 1
    gets: float = 0
    events: float = 1
    queue_requests: float = 0
    transitions: float = 0
    log_lines: float = 2 * LINES_OF_A_REQUEST
    usd_a_month: float = 0

    @property
    def usd_of_a_million(self) -> float:
        """What a million cost, without what is paid each month."""
        return (
            self.api_requests * PRICES["api_million_requests"]
            + self.runs * PRICES["lambda_million_requests"]
            + self.gb_seconds * PRICES["lambda_gb_second"] * MILLION
            + self.writes * PRICES["dynamodb_million_writes"]
            + self.reads * PRICES["dynamodb_million_reads"]
            + self.puts * PRICES["s3_thousand_puts"] * 1_000
            + self.gets * PRICES["s3_thousand_gets"] * 1_000
            + self.events * PRICES["eventbridge_million_events"]
            + self.queue_requests * PRICES["sqs_million_requests"]
            + self.transitions * PRICES["step_functions_million_transitions"]
            + self.log_lines * LOG_LINE_BYTES * MILLION / 1e9 * PRICES["logs_gb"]
        )

    def usd(self, fetches_a_month: float = MILLION) -> float:
        """Give what a million cost where there are so many in a month."""
        return self.usd_of_a_million + self.usd_a_month * MILLION / fetches_a_month


def measure(*, quick: bool = False) -> list[Figure]:  # noqa: ARG001 - it is quick as it is
    """Compare, at a million fetches in a month."""
    ours, *rivals = designs()
    details = {"fetches_a_month": MILLION, "container_is_cheaper_from": cheaper_from(rivals[-1])}
    return [
        Figure("a million fetches with webhook", "USD", ours.usd(), rival.name, rival.usd(),
               "lowest", 1, "lowest", {**details, "ours": vars(ours), "rival": vars(rival)})
        for rival in rivals
    ]  # fmt: skip


def designs() -> tuple[Design, ...]:
    """Give ours first, the container last."""
    counted = count()
    fetch, webhook = counted["fetch"], counted["webhook"]
    fetch_gb, webhook_gb = memory_gb("FetchAppointments"), memory_gb("ReceiveWebhook")
    asking = COBALT_SECONDS + _waiting(fetch)
    writes = _sum(counted, lambda each: cost.UNITS_A_ROW * each.rows["written"])
    same = {"writes": writes + cost.PIECE_INDEXED, "reads": _sum(counted, lambda c: c.rows["read"])}
    return (
        Design("the relay", gb_seconds=asking * fetch_gb + _waiting(webhook) * webhook_gb, **same),
        Design(
            "SQS between",
            runs=4,
            gb_seconds=fetch_gb * (OWN_SECONDS + QUEUE_SECONDS + asking)
            + webhook_gb * (OWN_SECONDS + QUEUE_SECONDS + STORE_SECONDS + _waiting(webhook)),
            gets=1,
            queue_requests=6,  # sent, received and deleted, twice
            log_lines=4 * LINES_OF_A_REQUEST,
            **same,
        ),
        Design(
            "Step Functions",
            gb_seconds=fetch_gb * (OWN_SECONDS + COBALT_SECONDS)
            + webhook_gb * (OWN_SECONDS + TABLE_SECONDS + STORE_SECONDS + QUEUE_SECONDS),
            writes=WORKFLOW_ROWS + cost.PIECE_INDEXED,
            reads=1,
            transitions=TRANSITIONS,
        ),
        Design(
            "a container, always on",
            api_requests=0,
            runs=0,
            usd_a_month=HOURS_OF_A_MONTH
            * (
                TASKS * TASK_VCPU * PRICES["fargate_vcpu_hour"]
                + TASKS * TASK_GB * PRICES["fargate_gb_hour"]
                + PRICES["load_balancer_hour"]
                + PRICES["load_balancer_unit_hour"]
            ),
            **same,
        ),
    )


def cheaper_from(container: Design) -> int:
    """Tell from how many fetches in a month on the container costs less, as long as it suffices."""
    ours = designs()[0]
    return round(
        MILLION * container.usd_a_month / (ours.usd_of_a_million - container.usd_of_a_million)
    )


def _waiting(counted: Counted) -> float:
    """Give how long a function takes for a path, without Cobalt."""
    seconds = {"table": TABLE_SECONDS, "S3": STORE_SECONDS, "bus": BUS_SECONDS}
    return OWN_SECONDS + sum(
        number * seconds.get(kind, 0.0) for kind, number in counted.calls.items()
    )


def _sum(counted: dict[str, Counted], of: Callable[[Counted], float]) -> float:
    return sum(map(of, counted.values()))
