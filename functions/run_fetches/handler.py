"""Invoked with messages of the queue: makes the fetches whose time has come."""

from typing import Any

from cobalt_relay import bootstrap
from cobalt_relay.observability import Context, observed
from cobalt_relay.services.run_fetches import Message


@observed
def lambda_handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Answer which of the messages are to come again; the others are deleted."""
    messages = [
        Message(
            record["messageId"],
            record["receiptHandle"],
            record["body"],
            int(record["attributes"]["ApproximateReceiveCount"]),
        )
        for record in event["Records"]
    ]
    again = bootstrap.run_fetches().run(
        messages, seconds_left=lambda: context.get_remaining_time_in_millis() / 1000
    )
    return {"batchItemFailures": [{"itemIdentifier": each} for each in again]}


bootstrap.warm_up(bootstrap.run_fetches)
