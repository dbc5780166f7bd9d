"""`relay connections`: what is known of each clinic's connection, and its coming and going."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cobalt_relay.errors import UnprovenClinic
from cobalt_relay.models import Connection, connection_id_of, utc_now
from tools.relay import rows, schedules
from tools.relay.faults import NotWell, WrongUsage
from tools.relay.output import Output, ago, confirm, moment, read_secret
from tools.relay.session import Deployment

if TYPE_CHECKING:
    from cobalt_relay.services.manage_connections import ManageConnections


def show_all(deployment: Deployment, output: Output) -> None:
    """List all of them."""
    every = rows.connections(deployment)
    if output.as_json:
        output.document({"connections": [document(each) for each in every]})
        return
    if not every:
        output.say("No connection yet: add one with `relay connections add`.")
        return
    ids, now = output.ids(each.connection_id for each in every), utc_now()
    shown = [
        {
            "connection": ids[each.connection_id],
            "state": each.state,
            "label": each.access_token_reference_id or "",
            "time zone": each.time_zone or "",
            "EMR": each.emr_name or "",
            "success": ago(each.last_success_at, now),
            "failure": _failure(each),
        }
        for each in every
    ]
    left_out = {"EMR"} if output.is_narrow else set()
    headings = [name for name in shown[0] if name not in left_out]
    cut = ("label", "time zone", "failure")
    output.table(headings, [[each[name] for name in headings] for each in shown], cut=cut)


def _failure(row: Connection) -> str:
    said = ago(row.last_failure_at, utc_now())
    return f"{said}: {row.last_failure_code}" if row.last_failure_code else said


def show(deployment: Deployment, output: Output, named: str) -> None:
    """Show one of them."""
    _tell(output, rows.find_connection(deployment, named))


def add(deployment: Deployment, output: Output) -> None:
    """Register a connection by its token, which Cobalt must know."""
    token = _token(output, "Access token")
    with output.working("Asking Cobalt ..."):
        added = _manager(deployment).add(token)
    if not output.as_json:
        output.say("The connection is registered.", style="green")
    _tell(output, added)


def replace(deployment: Deployment, output: Output, named: str, *, sure: bool) -> None:
    """Give a connection another token, and with it another id; said again, it goes on with that."""
    with suppress(WrongUsage):  # of several that are so named the token tells which is meant
        rows.find_connection(deployment, named)
    token = _token(output, f"New access token of {named}")
    old = rows.find_predecessor(deployment, named, connection_id_of(token))
    manager = _manager(deployment)
    try:
        with output.working("Asking Cobalt ..."):
            new = manager.replace(old.connection_id, token, sure=sure)
    except UnprovenClinic:
        output.note("Nothing tells whether both tokens are of the same clinic.", style="yellow")
        question = f"Shall {connection_id_of(token)} get the history of {old.connection_id}?"
        if not confirm(output, question):
            raise NotWell("not_confirmed", "Not confirmed: nothing was changed.") from None
        with output.working("Asking Cobalt ..."):
            new = manager.replace(old.connection_id, token, sure=True)
    if not output.as_json:
        output.say(f"{new.connection_id} takes the place of {old.connection_id}.", style="green")
    _tell(output, new)


def remove(deployment: Deployment, output: Output, named: str, *, sure: bool) -> None:
    """Remove a connection and its token, once somebody has confirmed it."""
    row = rows.find_connection(deployment, named)
    naming = _warn_of_schedules(deployment, output, row)
    label = f" ({row.access_token_reference_id})" if row.access_token_reference_id else ""
    if not sure and not confirm(output, f"Remove {row.connection_id}{label} and its token?"):
        raise NotWell("not_confirmed", "Not confirmed: nothing was removed.")
    _manager(deployment).remove(row.connection_id)
    if output.as_json:
        output.document({"removed": row.connection_id, "named_by_schedules": naming})
    else:
        output.say(f"{row.connection_id} is removed.", style="green")


def document(row: Connection) -> dict[str, Any]:
    """Give all that is known of a connection, and what is not as null."""
    return row.model_dump(mode="json", exclude={"looks"})


def _manager(deployment: Deployment) -> "ManageConnections":
    from cobalt_relay.services.manage_connections import ManageConnections  # noqa: PLC0415 - to read needs none of it

    return ManageConnections(
        deployment.cobalt,
        deployment.jobs,
        deployment.ranges,
        deployment.days,
        deployment.connections,
        deployment.secrets,
    )


def _token(output: Output, prompt: str) -> str:
    token = read_secret(output, prompt)
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise WrongUsage("unusable_token", "An access token is visible ASCII without blanks.")
    return token


def _warn_of_schedules(deployment: Deployment, output: Output, row: Connection) -> list[str]:
    naming = schedules.naming(deployment, row.connection_id)
    for name in naming:
        output.note(
            f"Warning: the schedule {name} names {row.connection_id}, and fetches nothing for it"
            " from then on. Remove the schedule, and add it again without.",
            style="yellow",
        )
    return naming


def _tell(output: Output, row: Connection) -> None:
    if output.as_json:
        output.document(document(row))
        return
    now = utc_now()
    output.facts(
        [
            ("connection", row.connection_id),
            ("state", row.state),
            ("label", row.access_token_reference_id),
            ("EMR", row.emr_name),
            ("time zone", row.time_zone),
            ("status codes", len(row.visit_statuses) if row.visit_statuses else None),
            ("registered", moment(row.registered_at)),
            ("settings read", moment(row.settings_read_at)),
            ("last success", ago(row.last_success_at, now)),
            ("last failure", _failure(row)),
            ("suspended", moment(row.suspended_at)),
            ("suspended by", row.suspended_by),
            ("password warning", moment(row.password_warning_at)),
            ("replaced by", row.replaced_by),
            ("replaces", row.replaces),
        ]
    )
