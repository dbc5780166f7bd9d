"""Invoked by EventBridge Scheduler: starts one live fetch per connection."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from cobalt_relay import bootstrap
from cobalt_relay.observability import observed
from cobalt_relay.services.plan_fetches import SchedulePlan


@observed
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Carry out a schedule's input, and tell what was started and what was not."""
    plan = SchedulePlan.parse(event)
    return bootstrap.plan_fetches().run(
        plan, seconds_left=lambda: context.get_remaining_time_in_millis() / 1000
    )
