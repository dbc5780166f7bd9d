"""The snapshots in the results bucket: one object for each day of a connection.

They are found by listing, which costs one call for up to a thousand days and tells the version of
each. A day is written on condition that it is still what was read, so no fetch undoes another.
"""

from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any

from cobalt_relay.adapters.aws import AWS_FAULTS, error_code
from cobalt_relay.adapters.results import GONE
from cobalt_relay.errors import ResultsFault
from cobalt_relay.models import Window
from cobalt_relay.places import day_of_key, snapshot_key, snapshots_place
from cobalt_relay.snapshots import Snapshot, StoredDay, StoredSnapshot

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CHANGED = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"}


class Snapshots:
    """Reads and writes them. Raises `ResultsFault` where S3 fails."""

    def __init__(self, client: "S3Client", bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def stored(self, connection_id: str, window: Window) -> Iterator[StoredDay]:
        """Give the days of a window that have a snapshot, in their order."""
        folder = snapshots_place(connection_id)
        place = {
            "Bucket": self._bucket,
            "Prefix": folder,
            "StartAfter": f"{folder}day={window.start_date}",  # sorts just before that day
        }
        page: dict[str, Any] = {}
        while True:
            try:
                answer = self._client.list_objects_v2(**place, **page)  # type: ignore[arg-type]
            except AWS_FAULTS as error:
                raise ResultsFault from error
            for each in answer.get("Contents", ()):
                day = day_of_key(each["Key"])
                if day > window.end_date:
                    return
                yield StoredDay(day, each["ETag"])
            if not answer.get("IsTruncated"):
                return
            page = {"ContinuationToken": answer["NextContinuationToken"]}

    def read(
        self, connection_id: str, day: date, version_id: str | None = None
    ) -> StoredSnapshot | None:
        """Read a day, its newest version or a certain one; None where there is none."""
        key = snapshot_key(connection_id, day)
        version: Any = {"VersionId": version_id} if version_id else {}
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key, **version)
            body = answer["Body"].read()
        except AWS_FAULTS as error:
            is_gone = error_code(error) in GONE or (
                error_code(error) == "AccessDenied" and not version_id and not self._is_there(key)
            )
            if is_gone:
                return None
            raise ResultsFault from error
        return StoredSnapshot(body, answer["ETag"], answer.get("VersionId"))

    def _is_there(self, key: str) -> bool:
        """Whether there is such an object.

        S3 tells a reader so by a 404 only where it may list the whole bucket; else by a 403, as it
        tells of a permission that is missing.
        """
        try:
            answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=key, MaxKeys=1)
        except AWS_FAULTS as error:
            raise ResultsFault from error
        return bool(answer.get("Contents"))

    def write(self, snapshot: Snapshot, replaced: StoredSnapshot | None) -> bool:
        """Store a day in place of what was read; False where that has changed meanwhile."""
        condition: Any = {"IfMatch": replaced.etag} if replaced else {"IfNoneMatch": "*"}
        try:
            self._client.put_object(
                Bucket=self._bucket,
                Key=snapshot_key(snapshot.connection_id, snapshot.day),
                Body=snapshot.lines(),
                ContentType="application/x-ndjson",
                **condition,
            )
        except AWS_FAULTS as error:
            if error_code(error) in _CHANGED:
                return False
            raise ResultsFault from error
        return True
