"""How often a warm function calls AWS and Cobalt for a request: counted, and exact.

    PYTHONPATH=layers/relay python -m bench --only calls

The rival is the design's minimum: a request on record before Cobalt hears of it, and a job after it
answered; a look whether a delivery is known, its end, and that it was told. `tests/unit` holds the
same numbers.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from bench.answers import Answers, Context, Handler, Json, fetch_call, result, webhook_call
from bench.figures import Figure

MINIMUM = {
    "fetch": {"table": 2, "Cobalt": 1, "secrets": 0},
    "webhook": {"table": 3, "S3": 1, "bus": 1, "secrets": 0},
}
KINDS = {
    "dynamodb": "table",
    "s3": "S3",
    "events": "bus",
    "secretsmanager": "secrets",
    "HTTP": "Cobalt",
    "ssm": "tokens",
    "sqs": "queue",
}


class Counted(NamedTuple):
    """Calls by what is called, and rows of the table, read and written."""

    calls: Counter[str]
    rows: Counter[str]


def measure(*, quick: bool = False) -> list[Figure]:  # noqa: ARG001 - it is quick as it is
    """Count, for an accepted fetch of a known connection and for the webhook of its job."""
    return [
        Figure(f"calls of a warm {name}: {kind}", "calls", counted.calls[kind],
               "the design's minimum", MINIMUM[name].get(kind, 0), "just as many", 1, "exactly")
        for name, counted in count().items()
        for kind in sorted(counted.calls.keys() | MINIMUM[name])
    ]  # fmt: skip


def count() -> dict[str, Counted]:
    """Count for each path; the first request, which reads the secrets, is not among it."""
    answers = Answers()
    with answers.in_place(), contextlib.redirect_stdout(io.StringIO()):
        from functions.fetch_appointments.handler import lambda_handler as fetch  # noqa: PLC0415
        from functions.receive_webhook.handler import lambda_handler as receive  # noqa: PLC0415

        return {
            "fetch": _counted(answers, fetch, fetch_call),
            "webhook": _counted(answers, receive, lambda: webhook_call(result())),
        }


def _counted(answers: Answers, handler: Handler, event: Callable[[], Json]) -> Counted:
    handler(event(), Context())
    answers.calls.clear()
    answers.rows.clear()
    answer = handler(event(), Context())
    if answer["statusCode"] not in {200, 202}:
        raise RuntimeError(f"answered {answer['statusCode']}")
    counted: Counter[str] = Counter()
    for call, number in answers.calls.items():
        counted[KINDS[call.partition(" ")[0]]] += number
    return Counted(counted, Counter(answers.rows))
