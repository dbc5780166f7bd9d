"""Everything one run of the sandbox holds, in memory only."""

from collections.abc import Mapping
from datetime import UTC, datetime

from sandbox.cache import Cache
from sandbox.clinics import Clinic, ClinicBook
from sandbox.clock import Clock
from sandbox.deliveries import Courier, Timing
from sandbox.diary import local_minute
from sandbox.events import EventLog
from sandbox.faults import FaultBook
from sandbox.jobs import Robot
from sandbox.journal import Journal, new_journal
from sandbox.links import Link, LinkBook
from sandbox.settings import Settings
from sandbox.webhooks import WebhookBook


class World:
    """The state of a run, wired together."""

    def __init__(self, settings: Settings, timing: Timing | None = None) -> None:
        self.settings = settings
        self.started_at = datetime.now(UTC)
        self.clock = Clock(settings.clock_start)
        self.clinics = ClinicBook(settings.seed)
        self.faults = FaultBook(settings.seed)
        self.webhooks = WebhookBook(settings.seed)
        self.links = LinkBook()
        self.events = EventLog()
        self.cache = Cache(settings.seed)
        self.journal: Journal = new_journal()
        self.courier = Courier(self.webhooks, timing)
        self.robot = Robot(
            settings,
            self.clock,
            self.faults,
            self.events,
            self.courier,
            self.webhooks,
            self.cache,
        )
        self._fill_cache()

    def link(self, link: Link) -> Clinic:
        """Connect the clinic of a finished link and take the first look at its diary."""
        clinic = self.clinics.link(link.organisation, link.emr_name, link.emr_instance_domain)
        self.cache.start(clinic, local_minute(clinic.profile, self.clock.now()))
        return clinic

    def reset(self) -> None:
        """Go back to the start: same seed, no jobs, no faults, no webhooks, empty logs."""
        self.robot.reset()
        self.courier.reset()
        self.clock.reset()
        self.clinics.reset()
        self.faults.reset()
        self.webhooks.reset()
        self.links.reset()
        self.events.reset()
        self.cache.reset()
        self.journal.clear()
        self._fill_cache()

    async def close(self) -> None:
        """Stop every job and close every connection."""
        self.robot.cancel()
        await self.courier.close()

    def ready_document(self, url: str, pid: int) -> Mapping[str, object]:
        """Give what a client needs to begin: address, credentials, access tokens."""
        return {
            "url": url,
            "pid": pid,
            "client_id": self.settings.client_id,
            "client_secret": self.settings.secret,
            "access_tokens": {clinic.name: clinic.access_token for clinic in self.clinics},
            "seed": self.settings.seed,
        }

    def _fill_cache(self) -> None:
        for clinic in self.clinics:
            self.cache.start(clinic, local_minute(clinic.profile, self.clock.now()))
