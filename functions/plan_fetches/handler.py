"""Invoked by EventBridge Scheduler: queues the fetches of a schedule, connection by connection."""

from typing import Any

from cobalt_relay import bootstrap
from cobalt_relay.observability import Context, observed
from cobalt_relay.services.plan_fetches import SchedulePlan


@observed
def lambda_handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Plan what a schedule's input asks for, and tell how many of what were queued."""
    plan = SchedulePlan.parse(event)
    return bootstrap.plan_fetches().run(
        plan,
        run_id=context.aws_request_id,
        seconds_left=lambda: context.get_remaining_time_in_millis() / 1000,
    )


bootstrap.warm_up(bootstrap.plan_fetches)
