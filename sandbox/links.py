"""The link flow: link token, the clinic's consent, public token, access token (docs: Link)."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sandbox.ring import KeyedRing

LIFETIME = timedelta(minutes=30)
"""How long a link token and a public token live."""


@dataclass(slots=True)
class Link:
    """One run through the flow; each token works once."""

    id: str
    link_token: str
    organisation: str
    emr_name: str
    emr_instance_domain: str
    expires_at: datetime
    public_token: str | None = None
    public_expires_at: datetime | None = None
    exchanged: bool = False


class LinkBook:
    """The links under way; the oldest are forgotten after a thousand."""

    def __init__(self) -> None:
        self._links: KeyedRing[Link] = KeyedRing(1000)

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._links))

    def create(self, organisation: str, emr_name: str, domain: str, now: datetime) -> Link:
        """Open a link for an organisation."""
        link_id = f"lnk_{secrets.token_hex(6)}"
        link = Link(
            link_id,
            f"link_token_{secrets.token_hex(20)}",
            organisation,
            emr_name,
            domain,
            now + LIFETIME,
        )
        self._links.put(link_id, link)
        return link

    def complete(self, key: str, now: datetime) -> Link | None:
        """Act as the clinic that goes through Link; ``key`` is a link's id or its link token.

        Gives ``None`` where the link is unknown, used or older than 30 minutes.
        """
        for link in self._links:
            if key in (link.id, link.link_token):
                if link.public_token is not None or now > link.expires_at:
                    return None
                link.public_token = f"public_token_{secrets.token_hex(20)}"
                link.public_expires_at = now + LIFETIME
                return link
        return None

    def exchange(self, public_token: str, now: datetime) -> Link | None:
        """Use a public token up; ``None`` where it is unknown, used or older than 30 minutes."""
        for link in self._links:
            if link.public_token == public_token:
                expired = link.public_expires_at is None or now > link.public_expires_at
                if link.exchanged or expired:
                    return None
                link.exchanged = True
                return link
        return None

    def reset(self) -> None:
        """Forget every link."""
        self._links.clear()
