"""Let an operator add a connection, give it a new token, and remove it.

A connection is known by its token, so one with a new token is another connection: the old one's
history goes to it, and the old one's row stays and names it, for the schedules that name the old
one. Each step may be repeated: what ended half-way is finished by doing it again.
"""

from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from cobalt_relay.errors import (
    AnotherClinic,
    ConnectionMoved,
    ConnectionUnregistered,
    SameToken,
    UnprovenClinic,
)
from cobalt_relay.models import (
    ClinicSettings,
    Connection,
    ConnectionState,
    Window,
    connection_id_of,
    utc_now,
)

if TYPE_CHECKING:
    from cobalt_relay.services.ports import (
        AskSettings,
        ConnectionOffice,
        CredentialStore,
        HistoryStore,
        RangeHistory,
        SnapshotStore,
    )

SETTINGS_LIFE = timedelta(days=1)
"""When the settings of a new connection are asked for again; the reconciler goes on from there."""
_EVER = timedelta(days=3650)
"""Every open request is due to be looked at within that time."""
_ALL_DAYS = Window(start_date=date.min, end_date=date.max)


class ManageConnections:
    """The use case. Raises `UpstreamRefusal`, `UpstreamFault`, `NotConfigured`, `StorageFault`."""

    def __init__(
        self,
        cobalt: "AskSettings",
        jobs: "HistoryStore",
        ranges: "RangeHistory",
        days: "SnapshotStore",
        connections: "ConnectionOffice",
        secrets: "CredentialStore",
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._cobalt = cobalt
        self._jobs = jobs
        self._ranges = ranges
        self._days = days
        self._connections = connections
        self._secrets = secrets
        self._now = now

    def add(self, access_token: str) -> Connection:
        """Register the connection of a token that Cobalt takes; give it as it is known then.

        One that is registered already has its settings read anew. Raises `ConnectionMoved` where
        another one has taken its place.
        """
        connection_id = connection_id_of(access_token)
        known = self._connections.get(connection_id)
        if known and known.state is ConnectionState.REPLACED:
            raise ConnectionMoved
        return self._admit(access_token, None, self._settings_of(access_token))

    def replace(self, old_id: str, access_token: str, *, sure: bool = False) -> Connection:
        """Let the connection of a new token take an old one's place; give it.

        The old one's jobs, ranges and open requests become the new one's, its days are there under
        either, and its token is forgotten. So both have to be of one clinic: their labels say that,
        or somebody is `sure`.
        Raises `AnotherClinic`, `UnprovenClinic`, `ConnectionUnregistered`, `SameToken`, and
        `ConnectionMoved` where another one than this has taken the old one's place, or this one's
        own place was taken.
        """
        new_id = connection_id_of(access_token)
        old = self._connections.get(old_id)
        if old is None:
            raise ConnectionUnregistered
        if new_id == old_id:
            raise SameToken
        if old.state is ConnectionState.REPLACED and old.replaced_by != new_id:
            raise ConnectionMoved
        heir = self._connections.get(new_id)
        if heir and heir.state is ConnectionState.REPLACED:  # two could be each other's heirs
            raise ConnectionMoved
        settings = self._settings_of(access_token)
        known_as = heir.access_token_reference_id if heir else None
        _expect_one_clinic(settings.access_token_reference_id or known_as, old, sure=sure)
        admitted = self._admit(access_token, old, settings)
        self._give_all(old_id, new_id)
        self._connections.hand_over(old_id, new_id)
        self._give_all(old_id, new_id)  # what came in meanwhile
        self._connections.forget_token(old_id)
        return admitted

    def remove(self, connection_id: str) -> None:
        """Forget a connection and its token, also one that was replaced; its jobs stay.

        Raises `ConnectionUnregistered`.
        """
        if self._connections.get(connection_id) is None:
            raise ConnectionUnregistered
        self._connections.remove(connection_id)

    def _settings_of(self, access_token: str) -> ClinicSettings:
        return self._cobalt.settings_of(self._secrets.credentials(), access_token)

    def _admit(
        self, access_token: str, old: Connection | None, settings: ClinicSettings
    ) -> Connection:
        """Register a token that Cobalt has taken; what Cobalt leaves out is the old one's."""
        connection_id, now = connection_id_of(access_token), self._now()
        self._keep(connection_id, access_token)
        connection = Connection(
            connection_id=connection_id,
            state=ConnectionState.ACTIVE,
            registered_at=now,
            access_token_reference_id=settings.access_token_reference_id
            or (old.access_token_reference_id if old else None),
            time_zone=settings.time_zone or (old.time_zone if old else None),
            visit_statuses=settings.visit_statuses or (old.visit_statuses if old else None),
            emr_name=old.emr_name if old else None,
            settings_read_at=now,
            last_success_at=old.last_success_at if old else None,
            replaces=old.connection_id if old else None,
        )
        if not self._connections.put(connection, now + SETTINGS_LIFE):
            self._connections.note_settings(connection_id, settings, now, SETTINGS_LIFE)
        return self._connections.get(connection_id) or connection

    def _keep(self, connection_id: str, access_token: str) -> None:
        """Keep a token in place of whatever stands under its name."""
        if self._connections.keep_token(connection_id, access_token):
            return
        if self._connections.token(connection_id, refresh=True) != access_token:
            self._connections.forget_token(connection_id)
            self._connections.keep_token(connection_id, access_token)

    def _give_all(self, old_id: str, new_id: str) -> None:
        for job in list(self._jobs.of_connection(old_id)):
            self._jobs.give(job, new_id)
        for request in self._jobs.open_requests(self._now() + _EVER):
            if request.connection_id == old_id:
                self._jobs.give(request, new_id)
        for found in list(self._ranges.of_connection(old_id)):
            self._jobs.give(found, new_id)
        # One that is there is the new one's own, and newer, or was given before.
        there = {day for day, _ in self._days.stored(new_id, _ALL_DAYS)}
        for day, _ in self._days.stored(old_id, _ALL_DAYS):
            stored = self._days.read(old_id, day) if day not in there else None
            if stored:
                snapshot = stored.snapshot
                known = {"connection_id": new_id, "copied_from": snapshot.copied_from or old_id}
                self._days.write(snapshot.model_copy(update=known), None)


def _expect_one_clinic(label: str | None, old: Connection, *, sure: bool) -> None:
    """Raise where a token's label is not that of the connection whose place it is to take."""
    known = old.access_token_reference_id
    if label and known and label != known:
        raise AnotherClinic
    if not (label and known) and not sure:
        raise UnprovenClinic
