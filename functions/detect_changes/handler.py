"""Started by the event `Appointments Fetched`: tells what the fetch changed."""

from typing import Any

from cobalt_relay import bootstrap
from cobalt_relay.observability import Context, observed
from cobalt_relay.services.detect_changes import Notice


@observed
def lambda_handler(event: dict[str, Any], context: Context) -> None:  # noqa: ARG001 - Lambda's
    """Bring the days up to date that were fetched, and announce the difference."""
    bootstrap.detect_changes().run(Notice.parse(event))


bootstrap.warm_up(bootstrap.detect_changes)
