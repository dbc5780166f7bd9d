"""POST /v1/appointments/fetch, by the contract of Cobalt's own route; /fetch/range for any days."""

from typing import Any

from cobalt_relay import api, bootstrap
from cobalt_relay.models import FetchRequest, RangeRequest
from cobalt_relay.observability import Context, observed

app = api.resolver()


@app.post("/appointments/fetch")
def fetch_appointments() -> api.Answer:
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


@app.post("/appointments/fetch/range")
def fetch_range() -> api.Answer:
    """Check in the same order, then put the range on record and its pieces into the queue."""
    event = app.current_event
    client_id, client_secret, access_token = api.fetch_headers(event)
    bootstrap.fetch_appointments().admit(client_id, client_secret, access_token)
    idempotency_key = api.idempotency_key(event)
    request = RangeRequest.from_body(api.json_object(event))
    found = bootstrap.fetch_ranges().start(
        access_token, request, request_id=api.request_id(event), idempotency_key=idempotency_key
    )
    return api.range_accepted(event, found.plan.range_id, len(request.pieces))


@observed
def lambda_handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Answer API Gateway."""
    return api.resolve(app, event, context)


bootstrap.warm_up(bootstrap.fetch_appointments)
