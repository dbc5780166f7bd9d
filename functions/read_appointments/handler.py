"""GET /v1/appointments: what is known of some days; …/fetch/{id}: what became of a fetch."""

from typing import Any

from cobalt_relay import api, bootstrap
from cobalt_relay.observability import Context, observed

app = api.resolver()


@app.get(api.JOB_PATH)
def read_job() -> api.Answer:
    """Tell nobody but the connection whose job it is."""
    event = app.current_event
    client_id, client_secret, access_token = api.fetch_headers(event)
    wait_seconds = api.wait_seconds(event)
    found = bootstrap.read_jobs().job(
        client_id,
        client_secret,
        access_token,
        api.job_id(event),
        wait_seconds,
        app.lambda_context.get_remaining_time_in_millis() / 1000,
    )
    report = found.report.model_dump(mode="json")
    return api.job_found(event, report, found.pause_seconds, found.progress)


@app.get("/appointments")
def read_appointments() -> api.Answer:
    """Check in the order of a fetch: headers, credentials, query; then tell what is known."""
    event = app.current_event
    client_id, client_secret, access_token = api.fetch_headers(event)
    service = bootstrap.read_appointments()
    service.admit(client_id, client_secret, access_token)
    reading = service.read(
        access_token,
        api.query(event),
        accept=api.accept(event),
        known_tags=api.known_tags(event),
        request_id=api.request_id(event),
    )
    return api.appointments_read(event, reading)


@observed
def lambda_handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Answer API Gateway."""
    return api.resolve(app, event, context)


bootstrap.warm_up(bootstrap.read_jobs, bootstrap.read_appointments)
