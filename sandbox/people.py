"""The people of a clinic: made up, and recognisable as made up.

Every surname ends in ``-Sample``, every telephone number lies in the range 555-0100 to 555-0199
that no subscriber gets, and no provider number begins with the 1 or 2 of a real NPI.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

from faker import Faker

from sandbox.clinics import Profile
from sandbox.dice import dice, digest

POOL = 240
"""Patients per clinic."""

FIRST_MRN = 100_000

PAYERS: tuple[str, ...] = (
    "Example Health Plan",
    "Sample Mutual",
    "Placeholder Blue",
    "Fictional Care PPO",
)


@dataclass(frozen=True, slots=True)
class Provider:
    """Somebody with a diary."""

    ehr_id: str
    name: str
    npi: str


@dataclass(frozen=True, slots=True)
class Patient:
    """Somebody in a diary."""

    ehr_id: str
    mrn: str
    first_name: str
    last_name: str
    dob: str
    gender: str
    phone: str
    payer: str
    member_number: str
    group_number: str

    @property
    def name(self) -> str:
        """First and last name, as the diary shows it."""
        return f"{self.first_name} {self.last_name}"


@cache
def _faker(locale: str) -> Faker:
    return Faker(locale)


def _seeded_faker(seed: int, profile: Profile, role: str, index: int) -> Faker:
    locale = dice(seed, profile.name, role, index, "locale").choice(profile.locales)
    fake = _faker(locale)
    fake.seed_instance(int(digest(seed, profile.name, role, index, length=12), 16))
    return fake


@lru_cache(maxsize=512)
def providers(seed: int, profile: Profile) -> tuple[Provider, ...]:
    """Give the providers of a clinic, always the same for a seed."""
    found = []
    for index in range(profile.provider_count):
        fake = _seeded_faker(seed, profile, "provider", index)
        chance = dice(seed, profile.name, "provider", index)
        found.append(
            Provider(
                ehr_id=str(9000 + 10 * index + chance.randrange(10)),
                name=f"Dr. {fake.first_name()} {fake.last_name()}-Sample",
                npi=f"9{chance.randrange(10**9):09d}",
            )
        )
    return tuple(found)


@lru_cache(maxsize=4096)
def patient(seed: int, profile: Profile, index: int) -> Patient:
    """Give patient ``index`` (0 to ``POOL`` - 1) of a clinic, always the same for a seed."""
    fake = _seeded_faker(seed, profile, "patient", index)
    chance = dice(seed, profile.name, "patient", index)
    return Patient(
        ehr_id=str(40_000 + index),
        mrn=str(FIRST_MRN + index),
        first_name=fake.first_name(),
        last_name=f"{fake.last_name()}-Sample",
        dob=f"{chance.randint(1935, 2019)}-{chance.randint(1, 12):02d}-{chance.randint(1, 28):02d}",
        gender=chance.choice(("female", "male")),
        phone=f"{chance.choice((212, 312, 415, 602))}-555-01{chance.randrange(100):02d}",
        payer=chance.choice(PAYERS),
        member_number=f"SMP{chance.randrange(10**8):08d}",
        group_number=f"GRP{chance.randrange(1000):03d}",
    )


def patient_index(mrn: str) -> int | None:
    """Find the patient with this medical record number, or ``None`` where there is none."""
    if not (mrn.isascii() and mrn.isdigit()):
        return None
    index = int(mrn) - FIRST_MRN
    return index if 0 <= index < POOL and str(FIRST_MRN + index) == mrn else None
