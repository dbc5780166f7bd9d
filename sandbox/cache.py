"""The cache behind the cached read: what Cobalt last saw of each provider's day.

Everything was seen once, when the clinic was linked; after that only live fetches look again
(docs: Appointments, "a completed live fetch also refreshes this cache").
"""

from collections.abc import Iterable
from datetime import date

from sandbox.clinics import Clinic
from sandbox.diary import DAY, Entry, day_of, days
from sandbox.people import providers
from sandbox.ring import KeyedRing

MOST_DAYS = 20_000


class Cache:
    """When each provider's day was last looked at, per clinic."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._linked: dict[str, int] = {}
        self._seen: KeyedRing[int] = KeyedRing(MOST_DAYS)

    def start(self, clinic: Clinic, now: int) -> None:
        """Take the first look at a clinic; ``now`` is a minute of its wall clock."""
        self._linked[clinic.name] = now

    def refresh(self, clinic: Clinic, start: date, end: date, now: int, who: Iterable[int]) -> None:
        """Look again at some providers' days."""
        indexes = tuple(who)
        for ordinal in days(start, end):
            for index in indexes:
                self._seen.put(_key(clinic, index, ordinal), now)

    def refresh_days_of(self, clinic: Clinic, entries: Iterable[Entry], now: int) -> None:
        """Look again at the days of these entries, as a fetch by patient does."""
        for entry in entries:
            self._seen.put(_key(clinic, entry.booking.provider, entry.start // DAY), now)

    def window(self, clinic: Clinic, start: date, end: date) -> list[Entry]:
        """Give a window as last seen; of an appointment seen on two days, the newer sight."""
        sights: dict[str, tuple[int, Entry]] = {}
        for ordinal in days(start, end):
            for index in range(len(providers(self._seed, clinic.profile))):
                seen = self._seen.get(_key(clinic, index, ordinal))
                as_of = self._linked.get(clinic.name, 0) if seen is None else seen
                for entry in day_of(self._seed, clinic.profile, index, ordinal, as_of):
                    key = entry.booking.key
                    if key not in sights or sights[key][0] < as_of:
                        sights[key] = (as_of, entry)
        return sorted(
            (entry for _, entry in sights.values()),
            key=lambda entry: (entry.start, entry.booking.key),
        )

    def reset(self) -> None:
        """Forget every look."""
        self._linked.clear()
        self._seen.clear()


def _key(clinic: Clinic, index: int, ordinal: int) -> str:
    return f"{clinic.name}/{index}/{ordinal}"
