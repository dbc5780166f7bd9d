"""Invoked every minute: looks after the requests, jobs and announcements that are still open."""

from datetime import datetime
from typing import Any

from cobalt_relay import bootstrap
from cobalt_relay.observability import Context, observed


@observed
def lambda_handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Do as much as there is time for, and tell how much that was."""
    return bootstrap.reconcile_jobs().run(
        lambda: context.get_remaining_time_in_millis() / 1000, _scheduled_at(event)
    )


def _scheduled_at(event: dict[str, Any]) -> datetime | None:
    """Give the minute that a run is for; whoever invokes it by hand need not tell."""
    try:
        return datetime.fromisoformat(event["scheduled_at"])
    except (KeyError, TypeError, ValueError):
        return None


bootstrap.warm_up(bootstrap.reconcile_jobs)
