"""Logs and metrics. Constant messages in snake_case; ids, counts, durations and codes beside them.

Never an event, a body, a header, a dump of a model, or the text of an exception: each of them can
quote a patient.
"""

import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import Metrics, MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger(service="cobalt-relay", utc=True)
metrics = Metrics(namespace="CobaltRelay", service="cobalt-relay")

type Handler = Callable[[dict[str, Any], LambdaContext], Any]


def count(name: str, value: int = 1) -> None:
    """Add to a metric of this invocation."""
    metrics.add_metric(name=name, unit=MetricUnit.Count, value=value)


def failure(error: BaseException) -> dict[str, str]:
    """Describe an unexpected error for a log: its type and its place, never its text."""
    frames = traceback.extract_tb(error.__traceback__)
    place = [f"{frame.name}:{frame.lineno}" for frame in frames[-3:]]
    return {"error_type": type(error).__qualname__, "error_place": " > ".join(place)}


def observed(handler: Handler) -> Handler:
    """Give every log line the ids of the invocation, and send its metrics when it ends."""

    @logger.inject_lambda_context(clear_state=True)
    @wraps(handler)
    def invoke(event: dict[str, Any], context: LambdaContext) -> Any:  # noqa: ANN401 - Lambda's
        try:
            return handler(event, context)
        finally:
            if metrics.metric_set:
                metrics.flush_metrics()

    return invoke
