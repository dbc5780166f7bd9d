"""Connections: a row for each, and its access token as an SSM SecureString.

    row        CONNECTION#<connection id>, in the sparse indexes `connections` and `by_reference`
    change     CHANGE#<connection id>@<moment>: that it was suspended or resumed, until announced
    token      <token path>/<connection id>

The token goes first: a row without a token would be a connection that no schedule can fetch. It is
kept before Cobalt is asked for the first time, for should the answer get lost, only the token can
tell later whose fetch it was; it is forgotten where Cobalt refuses it.
"""

import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from functools import cached_property, partial
from itertools import batched
from typing import TYPE_CHECKING, Any, Literal

from cobalt_relay import tracing
from cobalt_relay.adapters.aws import AWS_FAULTS, error_code
from cobalt_relay.adapters.layout import (
    announcement,
    due_attributes,
    move,
    set_expression,
    values_of,
)
from cobalt_relay.adapters.secrets import Remembered
from cobalt_relay.adapters.table import (
    Delete,
    Item,
    Key,
    Put,
    Table,
    Update,
    wrote,
)
from cobalt_relay.errors import TokensFault, UnknownConnection
from cobalt_relay.models import (
    CONNECTION_MOVES,
    LIVE_FETCH_EMR,
    LOGIN_REQUIRED,
    ClinicSettings,
    Connection,
    ConnectionChange,
    ConnectionState,
    Reporter,
    before,
    iso,
)

if TYPE_CHECKING:
    from mypy_boto3_ssm import SSMClient

REGISTRY_SHARDS = 8
MOST_TOKENS = 1_000
"""That a function remembers."""
CHANGE_KEPT = timedelta(days=30)
_INDEX = "connections"
_BY_REFERENCE = "by_reference"
_AT_ONCE = 100
"""Connections that are read in one call."""


class Registry:
    """The rows of the connections. Raises `TableFault`."""

    shards = REGISTRY_SHARDS

    def __init__(self, table: Table) -> None:
        self._table = table

    def is_registered(self, connection_id: str) -> bool:
        """Whether the connection has its row, and with it its token."""
        return self._table.get(_key(connection_id)) != [None]

    def register(self, connection_id: str, now: datetime, emr_name: str | None = None) -> None:
        """Write the row of a connection whose token is kept; harmless where it is there already.

        Its settings are due to be asked for.
        """
        connection = Connection(
            connection_id=connection_id,
            state=ConnectionState.ACTIVE,
            registered_at=now,
            emr_name=emr_name,
        )
        self.put(connection, now)

    # ------------------------------------------------------------------------------ what is known

    def ids(self) -> Iterator[str]:
        """List every connection; read page by page, so memory does not grow with their number."""
        for shard in range(self.shards):
            yield from self._of_shard(shard)

    def _of_shard(self, shard: int) -> Iterator[str]:
        for item in self._table.keys_of_index(_INDEX, ("registry_shard", str(shard))):
            yield item["connection_id"]

    def get(self, connection_id: str) -> Connection | None:
        """Read a connection; None where there is none."""
        (item,) = self._table.get(_key(connection_id))
        return Connection.model_validate(item) if item else None

    def all(self) -> Iterator[Connection]:
        """Give every connection; read page by page, so memory does not grow with their number."""
        for some in batched(self.ids(), _AT_ONCE, strict=False):
            yield from self.several(some)

    def several(self, connection_ids: Iterable[str]) -> list[Connection]:
        """Read up to 100 connections in one call; those that are not there are left out."""
        items = self._table.get(*map(_key, connection_ids))
        return [Connection.model_validate(item) for item in items if item]

    def with_label(self, access_token_reference_id: str) -> list[str]:
        """Give the ids of the connections that have a label; the index lags behind by a moment."""
        partition = ("access_token_reference_id", access_token_reference_id)
        listed = self._table.keys_of_index(_BY_REFERENCE, partition)
        return [Key.of(item).id for item in listed]

    def note_settings(
        self, connection_id: str, settings: ClinicSettings, now: datetime, life: timedelta
    ) -> None:
        """Note what Cobalt knows of a clinic, and when to ask again; what it leaves out stays."""
        changes = settings.model_dump(exclude_none=True) | {
            "settings_read_at": iso(now),
            "looks": 0,
        }
        self._change(connection_id, changes | due_attributes(connection_id, now + life))

    def note_failure(
        self, connection_id: str, error_code: str, now: datetime, emr_name: str | None = None
    ) -> None:
        """Note that a fetch failed, and the EMR where that was the reason."""
        changes = {"last_failure_at": iso(now), "last_failure_code": error_code}
        self._change(connection_id, changes | ({"emr_name": emr_name} if emr_name else {}))

    def note_password_warning(self, connection_id: str, now: datetime) -> None:
        """Note that the clinic's password is about to change."""
        self._change(connection_id, {"password_warning_at": iso(now)})

    def _change(self, connection_id: str, changes: Item) -> None:
        key, expression = _key(connection_id), set_expression(changes)
        wrote(self._table, Update(key, expression, "attribute_exists(pk)", values_of(changes)))

    # ------------------------------------------------------------------------------- its standing

    def suspend(
        self, connection: Connection, reporter: Reporter, said_at: datetime, now: datetime
    ) -> bool:
        """Suspend a connection whose link is broken, and open the announcement of that.

        False where it is suspended already, or a fetch has succeeded since this was said.
        """
        changes = {
            "suspended_at": iso(now),
            "suspended_by": reporter,
            "last_failure_at": iso(now),
            "last_failure_code": LOGIN_REQUIRED,
        }
        condition = (
            "#state = :former AND attribute_not_exists(last_success_at)"
            " OR #state = :former AND last_success_at < :said"
        )
        change = _change_of(connection, ConnectionState.LOGIN_REQUIRED, now, reported_by=reporter)
        return self._transition(ConnectionState.ACTIVE, change, changes, condition, said_at)

    def resume(
        self, connection: Connection, job_execution_id: str, said_at: datetime, now: datetime
    ) -> bool:
        """Resume a suspended connection of which a fetch succeeded, and open the announcement.

        False where it is not suspended, or was suspended since this was said.
        """
        if connection.suspended_at is None:
            return False
        change = _change_of(
            connection,
            ConnectionState.ACTIVE,
            now,
            suspended_at=connection.suspended_at,
            job_execution_id=job_execution_id,
        )
        changes = {"last_success_at": iso(now), "emr_name": LIVE_FETCH_EMR}
        condition = "#state = :former AND suspended_at < :said"
        former, remove = ConnectionState.LOGIN_REQUIRED, ("suspended_at", "suspended_by")
        return self._transition(former, change, changes, condition, said_at, remove)

    def _transition(
        self,
        former: ConnectionState,
        change: ConnectionChange,
        changes: Item,
        condition: str,
        said_at: datetime,
        remove: tuple[str, ...] = (),
    ) -> bool:
        """Move a connection, together with the row that says so until it is announced."""
        changes = {"state": change.state.value, **changes}
        values = {":former": former.value, ":said": iso(said_at), **values_of(changes)}
        key, expression = _key(change.connection_id), set_expression(changes, remove)
        item = change.model_dump(mode="json", exclude_none=True) | announcement(
            change.change_id, "", change.changed_at
        )
        item["expires_at"] = int((change.changed_at + CHANGE_KEPT).timestamp())
        put = Put(Key("CHANGE", change.change_id), item)
        return wrote(self._table, put, Update(key, expression, condition, values))

    # ---------------------------------------------------------------------------- by an operator

    def put(self, connection: Connection, due: datetime) -> bool:
        """Write the row of a new connection; False where there is one already.

        Its settings are asked for when they are `due`.
        """
        item = connection.model_dump(mode="json", exclude_none=True, exclude={"looks"})
        shard = {"registry_shard": _shard(connection.connection_id)}
        due_at = due_attributes(connection.connection_id, due)
        return wrote(self._table, Put(_key(connection.connection_id), item | due_at | shard))

    def hand_over(self, connection_id: str, heir: str) -> bool:
        """Record that another connection has taken the place of this one.

        False where it has done so before, or there is no such connection.
        """
        changes = {"state": ConnectionState.REPLACED.value, "replaced_by": heir}
        states = before(CONNECTION_MOVES, ConnectionState.REPLACED)
        remove = ("due_shard", "due_at")
        return wrote(self._table, move(_key(connection_id), states, changes, remove))


class Connections(Registry):
    """The connections with their tokens. Raises `TableFault` and `TokensFault`."""

    def __init__(
        self,
        table: Table,
        make_ssm: "Callable[[], SSMClient]",
        token_path: str,
        key_arn: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(table)
        self._make_ssm = make_ssm
        self._token_path = token_path
        self._key_arn = key_arn
        self._clock = clock
        self._tokens: dict[str, Remembered[str]] = {}

    @cached_property
    def _ssm(self) -> "SSMClient":
        """Make the client when it is needed: most fetches are of connections that are known."""
        return self._make_ssm()

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

    def remove(self, connection_id: str) -> None:
        """Remove a connection's token, then its row; harmless where there is neither."""
        self.forget_token(connection_id)
        self._table.write(Delete(_key(connection_id)))


def _key(connection_id: str) -> Key:
    return Key("CONNECTION", connection_id)


def _change_of(
    connection: Connection,
    state: Literal[ConnectionState.LOGIN_REQUIRED, ConnectionState.ACTIVE],
    now: datetime,
    **facts: Any,  # noqa: ANN401 - fields of the row
) -> ConnectionChange:
    return ConnectionChange(
        change_id=f"{connection.connection_id}@{iso(now)}",
        connection_id=connection.connection_id,
        access_token_reference_id=connection.access_token_reference_id,
        state=state,
        changed_at=now,
        trace_id=tracing.current(),
        notification="open",
        **facts,
    )


def _shard(connection_id: str) -> str:
    return str(zlib.crc32(connection_id.encode()) % REGISTRY_SHARDS)
