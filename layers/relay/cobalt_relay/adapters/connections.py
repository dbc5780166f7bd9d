"""Connections: a row for each, and its access token as an SSM SecureString.

    row        CONNECTION#<connection id>, in the sparse index `connections`
    token      <token path>/<connection id>

The token goes first: a row without a token would be a connection that no schedule can fetch. It is
kept before Cobalt is asked for the first time, for should the answer get lost, only the token can
tell later whose fetch it was; it is forgotten where Cobalt refuses it.
"""

import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from cobalt_relay.adapters.aws import AWS_FAULTS, error_code
from cobalt_relay.adapters.secrets import Remembered
from cobalt_relay.adapters.table import ConditionFailedError, Key, Put, Table
from cobalt_relay.errors import TokensFault, UnknownConnection
from cobalt_relay.models import iso

if TYPE_CHECKING:
    from mypy_boto3_ssm import SSMClient

REGISTRY_SHARDS = 8
MOST_TOKENS = 1_000
"""That a function remembers."""
_INDEX = "connections"


class Connections:
    """The connections that registered themselves. Raises `TableFault` and `TokensFault`."""

    def __init__(
        self,
        table: Table,
        ssm: "SSMClient",
        token_path: str,
        key_arn: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._ssm = ssm
        self._token_path = token_path
        self._key_arn = key_arn
        self._clock = clock
        self._tokens: dict[str, Remembered[str]] = {}

    def is_registered(self, connection_id: str) -> bool:
        """Whether the connection has its row, and with it its token."""
        return self._table.get(_key(connection_id)) != [None]

    def keep_token(self, connection_id: str, access_token: str) -> bool:
        """Keep the token, under the stack's own key; False where it is kept already."""
        try:
            self._ssm.put_parameter(
                Name=self._parameter(connection_id),
                Description="Cobalt access token of a connection",
                Value=access_token,
                Type="SecureString",
                KeyId=self._key_arn,
            )
        except AWS_FAULTS as error:
            if error_code(error) != "ParameterAlreadyExists":
                raise TokensFault from error
            return False
        return True

    def forget_token(self, connection_id: str) -> None:
        """Forget the token; harmless where there is none."""
        self._tokens.pop(connection_id, None)
        try:
            self._ssm.delete_parameter(Name=self._parameter(connection_id))
        except AWS_FAULTS as error:
            if error_code(error) != "ParameterNotFound":
                raise TokensFault from error

    def register(self, connection_id: str, now: datetime) -> None:
        """Write the row of a connection whose token is kept; harmless where it is there already."""
        row = {
            "connection_id": connection_id,
            "state": "active",
            "registered_at": iso(now),
            "registry_shard": _shard(connection_id),
        }
        with suppress(ConditionFailedError):
            self._table.write(Put(_key(connection_id), row))

    def ids(self) -> Iterator[str]:
        """List every connection; read page by page, so memory does not grow with their number."""
        for shard in range(REGISTRY_SHARDS):
            for item in self._table.keys_of_index(_INDEX, ("registry_shard", str(shard))):
                yield item["connection_id"]

    def token(self, connection_id: str, *, refresh: bool = False) -> str:
        """Give the kept token; `UnknownConnection` where there is none.

        It is remembered for minutes; `refresh` it where Cobalt refused it.
        """
        remembered = self._tokens.pop(connection_id, None) or Remembered(
            partial(self._read_token, connection_id), self._clock
        )
        token = remembered.get(refresh=refresh)
        self._tokens[connection_id] = remembered  # the last one is the last to be dropped
        if len(self._tokens) > MOST_TOKENS:
            del self._tokens[next(iter(self._tokens))]
        return token

    def _read_token(self, connection_id: str) -> str:
        try:
            answer = self._ssm.get_parameter(
                Name=self._parameter(connection_id), WithDecryption=True
            )
        except AWS_FAULTS as error:
            if error_code(error) == "ParameterNotFound":
                raise UnknownConnection from error
            raise TokensFault from error
        return answer["Parameter"]["Value"]

    def _parameter(self, connection_id: str) -> str:
        return f"{self._token_path}/{connection_id}"


def _key(connection_id: str) -> Key:
    return Key("CONNECTION", connection_id)


def _shard(connection_id: str) -> str:
    return str(zlib.crc32(connection_id.encode()) % REGISTRY_SHARDS)
