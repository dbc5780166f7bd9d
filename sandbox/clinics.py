"""The clinics: which EMR, time zone and vocabulary each has, and the state of its link."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from zoneinfo import ZoneInfo

from sandbox.dice import dice, digest

LIVE_FETCH_EMR = "eClinicalWorks"


class Stage(StrEnum):
    """Where an appointment stands; each clinic writes it with a code of its own."""

    SCHEDULED = "scheduled"
    CONFIRMED = "confirmed"
    ARRIVED = "arrived"
    CHECKED_OUT = "checked_out"
    CANCELLED = "cancelled"
    NO_SHOW = "no_show"


type Vocabulary = dict[Stage, tuple[str, str]]

# Status codes are per clinic; only the settings say what they mean (docs: Settings).
VOCABULARIES: tuple[Vocabulary, ...] = (
    {
        Stage.SCHEDULED: ("PEN", "Pending"),
        Stage.CONFIRMED: ("CONF", "Confirmed"),
        Stage.ARRIVED: ("ARR", "Arrived"),
        Stage.CHECKED_OUT: ("CHK", "Checked Out"),
        Stage.CANCELLED: ("CANC", "Cancelled"),
        Stage.NO_SHOW: ("N/S", "No Show"),
    },
    {
        Stage.SCHEDULED: ("S", "Scheduled"),
        Stage.CONFIRMED: ("C", "Confirmed by phone"),
        Stage.ARRIVED: ("W", "In waiting room"),
        Stage.CHECKED_OUT: ("D", "Visit done"),
        Stage.CANCELLED: ("X", "Cancelled by patient or office"),
        Stage.NO_SHOW: ("NS", "Did not come"),
    },
    {
        Stage.SCHEDULED: ("10", "Booked"),
        Stage.CONFIRMED: ("20", "Reminder answered"),
        Stage.ARRIVED: ("30", "Checked in"),
        Stage.CHECKED_OUT: ("40", "Checked out"),
        Stage.CANCELLED: ("90", "Cancelled"),
        Stage.NO_SHOW: ("95", "No show"),
    },
)

VISIT_TYPES: tuple[tuple[str, str, int], ...] = (
    ("OV", "Office Visit", 20),
    ("NP", "New Patient", 40),
    ("FU", "Follow Up", 15),
    ("PE", "Annual Physical", 30),
    ("TEL", "Telehealth Visit", 15),
    ("INJ", "Injection", 10),
    ("LAB", "Lab Review", 15),
)

TIMEZONES: tuple[str, ...] = (
    "America/New_York",
    "America/Chicago",
    "America/Denver",
    "America/Phoenix",
    "America/Los_Angeles",
    "Pacific/Honolulu",
)


@dataclass(frozen=True, slots=True)
class Profile:
    """What never changes about a clinic; its diary follows from the seed and this alone."""

    name: str
    timezone: str
    emr_name: str = LIVE_FETCH_EMR
    provider_count: int = 3
    vocabulary: int = 0
    locales: tuple[str, ...] = ("en_US",)
    expressive_notes: bool = False
    linked: bool = True
    has_settings: bool = True

    @property
    def zone(self) -> ZoneInfo:
        """The clinic's time zone."""
        return ZoneInfo(self.timezone)

    @property
    def statuses(self) -> Vocabulary:
        """The clinic's own status codes and what they mean."""
        return VOCABULARIES[self.vocabulary]


PROFILES: tuple[Profile, ...] = (
    Profile("riverside", "America/New_York", provider_count=3),
    Profile("lakeside", "America/Chicago", provider_count=2, vocabulary=1),
    Profile(
        "harbor",
        "America/Los_Angeles",
        provider_count=2,
        vocabulary=2,
        locales=("es_ES", "fr_FR", "de_DE", "ja_JP", "en_US"),
        expressive_notes=True,
    ),
    Profile("mesa", "America/Phoenix", provider_count=1, vocabulary=1, has_settings=False),
    Profile("summit", "America/Denver", emr_name="athenahealth", provider_count=2),
    Profile("old-mill", "America/New_York", provider_count=1, linked=False),
)


@dataclass(slots=True)
class Clinic:
    """One connection: a profile with the token that stands for it and the state of its link."""

    profile: Profile
    access_token: str
    emr_instance_domain: str
    linked: bool = True
    access_token_reference_id: str | None = None
    wording: dict[str, str] = field(default_factory=dict)
    """What every appointment says in these fields, instead of its own."""

    @property
    def name(self) -> str:
        """The clinic's short name."""
        return self.profile.name

    @property
    def has_settings(self) -> bool:
        """Whether settings exist: a clinic of which nobody set a label may have none."""
        return self.profile.has_settings or self.access_token_reference_id is not None

    def settings(self) -> dict[str, object]:
        """Give the ``data`` of the documented settings answer (docs: Settings)."""
        return {
            "access_token_reference_id": self.access_token_reference_id,
            "visit_types": [
                {"code": code, "description": description} for code, description, _ in VISIT_TYPES
            ],
            "visit_statuses": [
                {"code": code, "description": description}
                for code, description in self.profile.statuses.values()
            ],
            "required_patient_fields": ["first_name", "last_name", "dob", "phone"],
            "timezone": self.profile.timezone,
        }


@dataclass(slots=True)
class ClinicBook:
    """All connections of the run, found by token, name or organisation."""

    seed: int
    _by_name: dict[str, Clinic] = field(default_factory=dict)
    _by_token: dict[str, Clinic] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reset()

    def __iter__(self) -> Iterator[Clinic]:
        return iter(self._by_name.values())

    def reset(self) -> None:
        """Forget clinics that were linked since the start and restore the others."""
        self._by_name.clear()
        self._by_token.clear()
        for profile in PROFILES:
            label = f"user_{profile.name}" if profile.has_settings else None
            self._add(profile, f"{profile.name}.ehr.example", label)

    def by_token(self, access_token: str) -> Clinic | None:
        """Find the connection a token stands for."""
        return self._by_token.get(access_token)

    def by_name(self, name: str) -> Clinic | None:
        """Find a connection by the clinic's short name."""
        return self._by_name.get(name)

    def names(self) -> list[str]:
        """List the short names of all clinics."""
        return list(self._by_name)

    def link(self, name: str, emr_name: str, emr_instance_domain: str) -> Clinic:
        """Connect a clinic and give it a fresh permanent token; an earlier token stops working.

        A known name keeps its profile and its label, so that a broken link can be repaired.
        """
        known = self._by_name.get(name)
        if known is not None:
            del self._by_token[known.access_token]
            generation = int(known.access_token.rsplit("_", 1)[1]) + 1
            known.access_token = self._token(name, generation)
            known.linked = True
            self._by_token[known.access_token] = known
            return known
        chance = dice(self.seed, "linked-clinic", name)
        profile = Profile(
            name,
            chance.choice(TIMEZONES),
            emr_name=emr_name,
            provider_count=chance.randint(1, 3),
            vocabulary=chance.randrange(len(VOCABULARIES)),
            has_settings=False,
        )
        return self._add(profile, emr_instance_domain, None)

    def _add(self, profile: Profile, domain: str, label: str | None) -> Clinic:
        clinic = Clinic(
            profile,
            self._token(profile.name, 1),
            domain,
            linked=profile.linked,
            access_token_reference_id=label,
        )
        self._by_name[profile.name] = clinic
        self._by_token[clinic.access_token] = clinic
        return clinic

    def _token(self, name: str, generation: int) -> str:
        secret = digest(self.seed, "access-token", name, generation, length=40)
        return f"at_{name}_{secret}_{generation}"
