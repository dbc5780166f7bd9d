"""The results bucket: bytes as Cobalt sent them, under keys that tell nothing about a patient."""

import hashlib
import re
from datetime import date
from typing import TYPE_CHECKING

from cobalt_relay.adapters.aws import AWS_FAULTS
from cobalt_relay.errors import ResultsFault
from cobalt_relay.models import ResultLocation

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SAFE = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_UNSAFE_CHARACTER = re.compile(r"[^A-Za-z0-9_-]", re.ASCII)


def safe_part(text: str) -> str:
    """Make an id fit for a key: itself where it is plain, else its plain part and a digest.

    Two different ids never become one, and neither a slash nor a dot path gets into a key.
    """
    if _SAFE.fullmatch(text) and text.strip("."):
        return text
    plain = _UNSAFE_CHARACTER.sub("_", text)[:64]
    return f"{plain}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:32]}"


class Results:
    """Writes to the bucket. Raises `ResultsFault` where S3 fails."""

    def __init__(self, client: "S3Client", bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def put_appointments(
        self, connection_id: str | None, day: date, job_execution_id: str, body: bytes
    ) -> ResultLocation:
        """Store the result of a live fetch; `day` is the UTC day on which it was received."""
        connection = connection_id or "unclaimed"
        name = safe_part(job_execution_id)
        return self._put(f"appointments/connection={connection}/date={day}/{name}.json", body)

    def put_event(self, event_type: str, day: date, event_id: str, body: bytes) -> ResultLocation:
        """Archive a webhook of another type."""
        kind, name = safe_part(event_type), safe_part(event_id)
        return self._put(f"webhooks/type={kind}/date={day}/{name}.json", body)

    def _put(self, key: str, body: bytes) -> ResultLocation:
        """Store the bytes and tell exactly where: the version is the one that was just written."""
        try:
            answer = self._client.put_object(
                Bucket=self._bucket, Key=key, Body=body, ContentType="application/json"
            )
        except AWS_FAULTS as error:
            raise ResultsFault from error
        return ResultLocation(bucket=self._bucket, key=key, version_id=answer.get("VersionId"))
