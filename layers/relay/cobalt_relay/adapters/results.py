"""The results bucket: bytes as Cobalt sent them, under keys that tell nothing about a patient."""

import hashlib
import re
from datetime import date
from typing import TYPE_CHECKING

from cobalt_relay.adapters.aws import AWS_FAULTS, error_code
from cobalt_relay.errors import ResultsFault
from cobalt_relay.models import ResultLocation

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SAFE = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict"}
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
    """Writes to the bucket. Raises `ResultsFault` where S3 fails.

    No object is ever overwritten, so what a row names stays what it was: a writer that finds its
    key taken (a rival, or an attempt before a crash) writes beside it, under its own digest.
    """

    def __init__(self, client: "S3Client", bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def put_appointments(
        self, connection_id: str | None, day: date, job_execution_id: str, body: bytes
    ) -> ResultLocation:
        """Store the result of a live fetch; `day` is the UTC day on which it was received."""
        connection = connection_id or "unclaimed"
        name = safe_part(job_execution_id)
        return self._put(f"appointments/connection={connection}/date={day}/{name}", body)

    def put_event(self, event_type: str, day: date, event_id: str, body: bytes) -> ResultLocation:
        """Archive a webhook of another type."""
        kind, name = safe_part(event_type), safe_part(event_id)
        return self._put(f"webhooks/type={kind}/date={day}/{name}", body)

    def _put(self, stem: str, body: bytes) -> ResultLocation:
        """Store the bytes and tell exactly where."""
        own_key = f"{stem}.{hashlib.sha256(body).hexdigest()[:16]}.json"
        return (
            self._create(f"{stem}.json", body)
            or self._create(own_key, body)
            or ResultLocation(bucket=self._bucket, key=own_key)  # these very bytes, written before
        )

    def _create(self, key: str, body: bytes) -> ResultLocation | None:
        """Store the bytes under a key that is free; None where it is not."""
        try:
            answer = self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=body,
                ContentType="application/json",
                IfNoneMatch="*",
            )
        except AWS_FAULTS as error:
            if error_code(error) in _TAKEN:
                return None
            raise ResultsFault from error
        return ResultLocation(bucket=self._bucket, key=key, version_id=answer.get("VersionId"))
