"""Invoked every minute: looks after the requests, jobs and announcements that are still open."""

from typing import Any

from cobalt_relay import bootstrap
from cobalt_relay.observability import Context, observed


@observed
def lambda_handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Do as much as there is time for, and tell how much that was."""
    return bootstrap.reconcile_jobs().run(
        lambda: context.get_remaining_time_in_millis() / 1000, event.get("scheduled_at")
    )


bootstrap.warm_up(bootstrap.reconcile_jobs)
