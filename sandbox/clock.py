"""The clock of the diaries: real time plus whatever the tests have advanced it by."""

from datetime import UTC, datetime, timedelta


class Clock:
    """Tell the time inside the sandbox.

    Diaries, link tokens and the 24 hours of a rotated secret follow this clock. Time stamps of
    events and log rows stay in real time, since those are compared with the clocks of others.
    """

    def __init__(self, start: datetime | None = None) -> None:
        self._start_offset = timedelta() if start is None else start - datetime.now(UTC)
        self._advanced = timedelta()

    @property
    def advanced_seconds(self) -> float:
        """Seconds by which the clock was advanced since the start or the last reset."""
        return self._advanced.total_seconds()

    def now(self) -> datetime:
        """Give the sandbox's time, in UTC."""
        return datetime.now(UTC) + self._start_offset + self._advanced

    def advance(self, seconds: float) -> None:
        """Move the clock forward; raise ``OverflowError`` where that leaves the calendar."""
        advanced = self._advanced + timedelta(seconds=seconds)
        _ = datetime.now(UTC) + self._start_offset + advanced + timedelta(days=366)
        self._advanced = advanced

    def reset(self) -> None:
        """Take back every advance."""
        self._advanced = timedelta()


def iso_seconds(moment: datetime) -> str:
    """Write a moment as Cobalt's webhooks do: ``2023-10-28T11:00:00Z`` (docs: Webhooks)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_millis(moment: datetime) -> str:
    """Write a moment of the sandbox's own logs: ``2023-10-28T11:00:00.123Z``."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
