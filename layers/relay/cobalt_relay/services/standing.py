"""Whether a connection may be fetched: suspended where its link is broken, resumed by a success.

Each change is announced by the reconciler, from a row that is written together with it. What is
said about a connection may come late and twice, so it counts only where nothing newer contradicts.
"""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from cobalt_relay.models import (
    ACCOUNT_EVENTS,
    LOGIN_REQUIRED,
    LOGIN_REQUIRED_EVENT,
    PASSWORD_WARNING_EVENT,
    CobaltEvent,
    Connection,
    ConnectionState,
    Job,
    JobState,
    Reporter,
    utc_now,
)
from cobalt_relay.observability import count, logger

if TYPE_CHECKING:
    from cobalt_relay.services.ports import ConnectionStanding


class Standing:
    """The use case. Raises `TableFault`; doing it again does the rest."""

    def __init__(
        self, connections: "ConnectionStanding", now: Callable[[], datetime] = utc_now
    ) -> None:
        self._connections = connections
        self._now = now

    def failed(
        self, connection_id: str, error_code: str, reporter: Reporter, said_at: datetime
    ) -> None:
        """Suspend a connection whose link is broken, as was said at a moment; else just note it."""
        if error_code != LOGIN_REQUIRED:
            self._connections.note_failure(connection_id, error_code, self._now())
            return
        connection = self._connections.get(connection_id)
        if connection and connection.is_suspended:
            self._connections.note_failure(connection_id, error_code, self._now())
        elif connection and self._connections.suspend(connection, reporter, said_at, self._now()):
            count("ConnectionSuspended")
            ids = {"connection_id": connection_id, "reported_by": reporter}
            logger.warning("connection_suspended", extra=ids)

    def job_ended(self, job: Job, created_at: datetime | None) -> None:
        """Note how a job ends, with the connection that it is of; `created_at` by Cobalt's word.

        A job that was accepted after a connection was suspended shows by its success that it works.
        """
        completion, connection_id = job.completion, job.connection_id
        if not completion or not connection_id:
            return
        said_at = created_at or completion.completed_at
        connection = self._connections.get(connection_id)
        if completion.state is not JobState.COMPLETED:
            code = completion.error_code or ""
            if connection and _is_of_the_former(job.accepted_at, connection):
                self._connections.note_failure(connection_id, code, self._now())
            else:
                self.failed(connection_id, code, "result", said_at)
            return
        said_at = max(said_at, job.accepted_at or said_at)
        if connection and self._connections.resume(
            connection, job.job_execution_id, said_at, self._now()
        ):
            count("ConnectionResumed")
            logger.info("connection_resumed", extra={"connection_id": connection_id})

    def heard(self, event: CobaltEvent, received_at: datetime) -> str | None:
        """Take in what an event says of a connection itself; tell of which.

        None for an event of another kind, and where the label names none of ours or several: then
        it is not known which is meant, and the next fetch will tell.
        """
        label = event.access_token_reference_id
        if not event.type.startswith(ACCOUNT_EVENTS) or label is None:
            return None
        named = [self._connections.get(each) for each in self._connections.with_label(label)]
        in_use = [each for each in named if each and each.state is not ConnectionState.REPLACED]
        if len(in_use) != 1:
            logger.info("account_event_unclaimed", extra={"connections": len(in_use)})
            return None
        [connection] = in_use
        connection_id = connection.connection_id
        if event.type == LOGIN_REQUIRED_EVENT:
            said_at = event.created_at or received_at
            if not _is_of_the_former(said_at, connection):
                self.failed(connection_id, LOGIN_REQUIRED, "event", said_at)
        elif event.type == PASSWORD_WARNING_EVENT:
            count("PasswordChangeWarned")
            self._connections.note_password_warning(connection_id, received_at)
        return connection_id


def _is_of_the_former(moment: datetime | None, connection: Connection) -> bool:
    """Whether a job was accepted, or an event made, for the one whose place a connection has taken.

    What it says of the link is said of the old one.
    """
    has_taken_a_place = connection.replaces is not None
    return has_taken_a_place and moment is not None and moment < connection.registered_at
