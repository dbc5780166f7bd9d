"""Where events go and what they are signed with (docs: Webhooks, management)."""

import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sandbox.dice import digest

GRACE = timedelta(hours=24)
"""How long the previous secret keeps working after a rotation."""


@dataclass(frozen=True, slots=True)
class Registration:
    """One registered URL."""

    id: str
    url: str


@dataclass(slots=True)
class WebhookBook:
    """The registered URLs and the secret of the one client of the sandbox."""

    seed: int
    _registrations: dict[str, Registration] = field(default_factory=dict)
    _rotations: int = 0
    _rotated_at: datetime | None = None

    @property
    def registrations(self) -> list[Registration]:
        """The registered URLs, oldest first."""
        return list(self._registrations.values())

    @property
    def secret(self) -> str:
        """The secret that deliveries are signed with."""
        return self._secret(self._rotations)

    @property
    def previous_secret(self) -> str | None:
        """The secret before the last rotation, ``None`` where there was none."""
        return self._secret(self._rotations - 1) if self._rotations else None

    @property
    def previous_secret_works_until(self) -> datetime | None:
        """When the previous secret stops working, in the sandbox's time."""
        return self._rotated_at + GRACE if self._rotated_at else None

    def register(self, url: str) -> Registration:
        """Register a URL; one that is registered already stays as it is."""
        for known in self._registrations.values():
            if known.url == url:
                return known
        registration = Registration(f"wh_{secrets.token_hex(8)}", url)
        self._registrations[registration.id] = registration
        return registration

    def remove(self, registration_id: str) -> bool:
        """Remove a URL; tell whether it was registered."""
        return self._registrations.pop(registration_id, None) is not None

    def knows(self, registration_id: str) -> bool:
        """Whether a URL is registered under this id."""
        return registration_id in self._registrations

    def rotate(self, now: datetime) -> str:
        """Take a new secret into use and give it; the earlier one works for another 24 hours."""
        self._rotations += 1
        self._rotated_at = now
        return self.secret

    def reset(self) -> None:
        """Forget every URL and every rotation."""
        self._registrations.clear()
        self._rotations = 0
        self._rotated_at = None

    def _secret(self, generation: int) -> str:
        return f"whsec_{digest(self.seed, 'webhook-secret', generation, length=48)}"
