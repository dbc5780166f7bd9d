"""Invoked with messages of the queue: makes the fetches whose time has come."""

from typing import Any

from aws_lambda_powertools.utilities.data_classes import SQSEvent
from aws_lambda_powertools.utilities.typing import LambdaContext

from cobalt_relay import bootstrap
from cobalt_relay.observability import observed
from cobalt_relay.services.run_fetches import Message


@observed
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer which of the messages are to come again; the others are deleted."""
    messages = [
        Message(
            record.message_id,
            record.receipt_handle,
            record.body,
            int(record.attributes.approximate_receive_count),
        )
        for record in SQSEvent(event).records
    ]
    again = bootstrap.run_fetches().run(
        messages, seconds_left=lambda: context.get_remaining_time_in_millis() / 1000
    )
    return {"batchItemFailures": [{"itemIdentifier": each} for each in again]}


bootstrap.warm_up(bootstrap.run_fetches)
