"""POST /v1/webhooks/cobalt: what Cobalt has to tell, the results of live fetches before all."""

from typing import Any

from cobalt_relay import api, bootstrap
from cobalt_relay.observability import Context, observed

app = api.resolver()


@app.post("/webhooks/cobalt")
def receive_webhook() -> api.Answer:
    """Hand on the bytes as they came, for the signature is about those."""
    event = app.current_event
    verdict = bootstrap.receive_webhook().receive(
        api.raw_body(event), api.signature(event), api.unsigned_headers(event)
    )
    return api.received(event, verdict)


@observed
def lambda_handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Answer API Gateway."""
    return app.resolve(event, context)


bootstrap.warm_up(bootstrap.receive_webhook)
