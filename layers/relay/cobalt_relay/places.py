"""Where results go in the bucket: names that tell nothing about a patient.

appointments/connection=<connection id>/date=<UTC day received>/<job_execution_id>
webhooks/type=<type>/date=<UTC day received>/<Cobalt's event id>
snapshots/connection=<connection id>/day=<day where the clinic is>/appointments.ndjson
changes/connection=<connection id>/date=<UTC day completed>/<job_execution_id>
"""

import hashlib
import re
from datetime import date

from cobalt_relay.patterns import pattern

_SAFE = pattern(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_UNSAFE_CHARACTER = pattern(r"[^A-Za-z0-9_-]", re.ASCII)


def safe_part(text: str) -> str:
    """Make an id fit for a key: itself where it is plain, else its plain part and a digest.

    Two different ids never become one, and neither a slash nor a dot path gets into a key.
    """
    if _SAFE.fullmatch(text) and text.strip("."):
        return text
    plain = _UNSAFE_CHARACTER.sub("_", text)[:64]
    return f"{plain}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:32]}"


def appointments_place(connection_id: str | None, day: date, job_execution_id: str) -> str:
    """Name where a live fetch's result goes; `day` is the UTC day on which it was received."""
    connection = connection_id or "unclaimed"
    return f"appointments/connection={connection}/date={day}/{safe_part(job_execution_id)}"


def event_place(event_type: str, day: date, event_id: str) -> str:
    """Name where a webhook of another type goes."""
    return f"webhooks/type={safe_part(event_type)}/date={day}/{safe_part(event_id)}"


def snapshots_place(connection_id: str) -> str:
    """Name the folder of a connection's days; they sort by their day."""
    return f"snapshots/connection={connection_id}/"


def snapshot_key(connection_id: str, day: date) -> str:
    """Name the object of a day, laid out for Athena: `connection` and `day` are partitions."""
    return f"{snapshots_place(connection_id)}day={day}/appointments.ndjson"


def day_of_key(key: str) -> date:
    """Read the day in what `snapshot_key` named."""
    return date.fromisoformat(key.rpartition("/day=")[2][:10])


def changes_place(connection_id: str, day: date, job_execution_id: str) -> str:
    """Name where it goes what a fetch changed; `day` is the UTC day on which it was completed."""
    return f"changes/connection={connection_id}/date={day}/{safe_part(job_execution_id)}"
