"""Logs and metrics. Constant messages in snake_case; ids, counts, durations and codes beside them.

Never an event, a body, a header, a dump of a model, or the text of an exception: each of them can
quote a patient.
"""

import json
import logging
import traceback
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import Metrics, MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from cobalt_relay import tracing
from cobalt_relay.errors import RateLimited, RelayError, UnexpectedFailure, UpstreamFault

# Escaped to ASCII, so that no separator of another alphabet breaks a line in two.
_serialize = partial(json.dumps, separators=(",", ":"), default=str)
logger = Logger(service="cobalt-relay", utc=True, json_serializer=_serialize)
metrics = Metrics(namespace="CobaltRelay")
"""Their one dimension, `service`, is POWERTOOLS_SERVICE_NAME: the stack's name, so that two stacks
of an account neither mix their figures nor ring each other's alarms."""

# Lambda sets the level of the root logger. At DEBUG these would log requests and answers whole,
# secrets and tokens among them; urllib3 warns with the malformed headers of an answer.
for _talkative in ("boto3", "botocore", "requests", "urllib3"):
    logging.getLogger(_talkative).setLevel(logging.ERROR)


def _with_trace(record: logging.LogRecord) -> bool:
    record.trace_id = tracing.current()
    return True


logger.addFilter(_with_trace)

Context = LambdaContext
"""What Lambda tells a handler of its invocation."""

type Handler = Callable[[dict[str, Any], Context], Any]


_FAILURES = {"login_required": "LoginRequired", "fetch_failed": "Unexplained"}
"""The codes of a failed job that are known, by what a metric calls them."""


def count(name: str, value: int = 1) -> None:
    """Add to a metric of this invocation."""
    metrics.add_metric(name=name, unit=MetricUnit.Count, value=value)


def measure_seconds(name: str, seconds: float) -> None:
    """Add a duration to the metrics of this invocation."""
    metrics.add_metric(name=name, unit=MetricUnit.Seconds, value=seconds)


def measure_percent(name: str, percent: float) -> None:
    """Add a share to the metrics of this invocation."""
    metrics.add_metric(name=name, unit=MetricUnit.Percent, value=percent)


def upstream_answered(seconds: float, error: RelayError | None) -> None:
    """Measure a call of Cobalt: how long it took, and whether it failed by no fault of the call's.

    What Cobalt refuses is the caller's affair, but for its wish to be asked less often. Errors are
    counted at zero too, so that their average is the share of the calls that failed.
    """
    measure_seconds("UpstreamLatency", seconds)
    count("UpstreamError", int(isinstance(error, UpstreamFault)))
    if isinstance(error, RateLimited):
        count("UpstreamRateLimited")


def job_failed(error_code: str | None) -> None:
    """Count a job that brought no appointments, by its code; those that Cobalt may add are others.

    A metric costs money for each name, and Cobalt's words are not ours to name things by.
    """
    count("JobFailed")
    count("JobFailed" + _FAILURES.get(error_code or "fetch_failed", "Otherwise"))


def failure(error: BaseException) -> dict[str, str]:
    """Describe an unexpected error for a log: its type and its place, never its text."""
    frames = traceback.extract_tb(error.__traceback__)
    place = [f"{frame.name}:{frame.lineno}" for frame in frames[-3:]]
    return {"error_type": type(error).__qualname__, "error_place": " > ".join(place)}


def observed(handler: Handler) -> Handler:
    """Give every log line the ids of the invocation and a trace; send its metrics when it ends.

    What nobody foresaw leaves as `UnexpectedFailure`: Lambda writes the text of an exception into
    its log, into the answer and into the failure queue.
    """

    # Never the event, whatever the environment says: it holds credentials.
    @logger.inject_lambda_context(clear_state=True, log_event=False)
    @wraps(handler)
    def invoke(event: dict[str, Any], context: Context) -> Any:  # noqa: ANN401 - Lambda's
        try:
            with tracing.traced(tracing.of_request(context.aws_request_id)):
                return handler(event, context)
        except RelayError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, its text stays here
            count("UnexpectedError")
            logger.error("unexpected_error", extra=failure(error))  # noqa: TRY400 - not its text
            raise UnexpectedFailure from None
        finally:
            if metrics.metric_set:
                metrics.flush_metrics()

    return invoke
