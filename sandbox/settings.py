"""What one run of the sandbox is told at its start."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from sandbox.dice import digest


class Edition(StrEnum):
    """Which edition of Cobalt's documentation the answers follow.

    ``MIXED`` is what clients have met longest: the founding 202 with ``job_execution_id`` together
    with the newest webhook payload and the newest rows of the webhook events.
    """

    OLDEST = "oldest"
    MIXED = "mixed"
    NEWEST = "newest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of the command line, with their defaults."""

    seed: int = 1
    client_id: str = "sandbox-client"
    client_secret: str = ""
    edition: Edition = Edition.MIXED
    fetch_seconds: tuple[float, float] = (2.0, 5.0)
    clock_start: datetime | None = None
    ready_file: Path | None = None

    @property
    def secret(self) -> str:
        """The client secret: the given one, else one that follows from the seed."""
        return self.client_secret or f"sandbox_secret_{digest(self.seed, 'client-secret')}"
