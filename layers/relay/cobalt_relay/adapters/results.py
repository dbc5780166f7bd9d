"""The results bucket: bytes as Cobalt sent them."""

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from cobalt_relay.adapters.aws import AWS_FAULTS, error_code
from cobalt_relay.errors import ResultsFault
from cobalt_relay.models import ResultLink, ResultLocation, utc_now

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LINK_LIFE = timedelta(minutes=5)
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict"}
GONE = {"NoSuchKey", "NoSuchVersion"}
"""What S3 says of an object or a version that is not there, to one who may list the bucket."""


class Results:
    """Writes to the bucket. Raises `ResultsFault` where S3 fails.

    No object is ever overwritten, so what a row names stays what it was.
    """

    def __init__(self, client: "S3Client", bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def create(self, place: str, body: bytes) -> ResultLocation | None:
        """Store the bytes at a place that is free; None where it is not."""
        return self._create(f"{place}.json", body)

    def put_beside(self, place: str, body: bytes) -> ResultLocation:
        """Store the bytes beside a place that is taken, under their digest."""
        key = f"{place}.{hashlib.sha256(body).hexdigest()[:16]}.json"
        taken_by_the_same = ResultLocation(bucket=self._bucket, key=key)
        return self._create(key, body) or taken_by_the_same

    def read(self, location: ResultLocation) -> bytes | None:
        """Give the bytes of a result; None where they are not kept any more."""
        version: Any = {"VersionId": location.version_id} if location.version_id else {}
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=location.key, **version)
            return answer["Body"].read()
        except AWS_FAULTS as error:
            if error_code(error) in GONE:
                return None
            raise ResultsFault from error

    def _create(self, key: str, body: bytes) -> ResultLocation | None:
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


class ResultLinks:
    """Signs URLs under which a result can be read without credentials. It calls nobody.

    The client is to have `aws.SIGNING`. Whoever has such a URL may do what the function's role may,
    as long as it and the role's own session last: it is a secret like a token.
    """

    def __init__(self, client: "S3Client", now: Callable[[], datetime] = utc_now) -> None:
        self._client = client
        self._now = now

    def link(self, result: ResultLocation) -> ResultLink:
        """Sign a URL for just these bytes. Raises `ResultsFault` without credentials.

        What it gives is not to be cached on the way, nor by a browser: it is about patients.
        """
        wanted: dict[str, Any] = {
            "Bucket": result.bucket,
            "Key": result.key,
            "ResponseCacheControl": "no-store",
        }
        if result.version_id:
            wanted["VersionId"] = result.version_id
        signed_at = self._now().replace(microsecond=0)  # a signature knows whole seconds
        try:
            url = self._client.generate_presigned_url(
                "get_object", Params=wanted, ExpiresIn=int(LINK_LIFE.total_seconds())
            )
        except AWS_FAULTS as error:
            raise ResultsFault from error
        return ResultLink(url=url, expires_at=signed_at + LINK_LIFE)
