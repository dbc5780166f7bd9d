"""POST /v1/appointments/fetch: a live fetch for a caller, by the contract of Cobalt's own route."""

from typing import Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.utilities.typing import LambdaContext

from cobalt_relay import api, bootstrap
from cobalt_relay.models import FetchRequest
from cobalt_relay.observability import observed

app = api.resolver()


@app.post("/appointments/fetch")
def fetch_appointments() -> Response[str]:
    """Check in the documented order: headers, credentials, body; then ask Cobalt."""
    event = app.current_event
    client_id, client_secret, access_token = api.fetch_headers(event)
    service = bootstrap.fetch_appointments()
    service.admit(client_id, client_secret, access_token)
    idempotency_key = api.idempotency_key(event)
    fetch = FetchRequest.from_body(api.json_object(event))
    started = service.start(
        access_token,
        fetch,
        request_id=api.request_id(event),
        trigger="api",
        idempotency_key=idempotency_key,
    )
    return api.accepted(event, started.job_execution_id, joined=started.joined)


@observed
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer API Gateway."""
    return app.resolve(event, context)
