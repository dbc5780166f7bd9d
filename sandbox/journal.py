"""The log of calls that the sandbox received, for tests that ask what was really sent."""

from dataclasses import dataclass
from datetime import datetime

from sandbox.clock import iso_millis
from sandbox.ring import Ring

MOST_CALLS = 20_000


@dataclass(slots=True)
class Received:
    """One call; ``status`` stays ``None`` while it is unanswered, and for good if it never is."""

    at: datetime
    method: str
    path: str
    query: dict[str, str]
    clinic: str | None = None
    body: object = None
    status: int | None = None
    fault: str | None = None
    traceparent: str | None = None
    """The trace that the caller hands on, by W3C Trace Context."""

    def public(self) -> dict[str, object]:
        """Show the call on the control interface."""
        return {
            "at": iso_millis(self.at),
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "status": self.status,
            "clinic": self.clinic,
            "fault": self.fault,
            "body": self.body,
            "traceparent": self.traceparent,
        }


type Journal = Ring[Received]


def new_journal() -> Journal:
    """Give an empty journal."""
    return Ring(MOST_CALLS)
