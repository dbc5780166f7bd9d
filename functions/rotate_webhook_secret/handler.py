"""Invoked by Secrets Manager, once for each of the four steps of a rotation."""

from typing import Any

from cobalt_relay import bootstrap
from cobalt_relay.observability import Context, observed
from cobalt_relay.services.rotate_webhook_secret import RotationStep


@observed
def lambda_handler(event: dict[str, Any], context: Context) -> None:  # noqa: ARG001
    """Take the step; an error is how Secrets Manager learns that it has to come again."""
    bootstrap.rotate_webhook_secret().run(RotationStep.parse(event))


bootstrap.warm_up(bootstrap.rotate_webhook_secret)
