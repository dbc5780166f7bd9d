"""Appointments as Cobalt writes them, in the newest and the oldest edition (docs: Appointments)."""

from collections.abc import Iterable
from dataclasses import dataclass

from sandbox.clinics import VISIT_TYPES, Clinic
from sandbox.diary import Entry, local_text
from sandbox.dice import dice
from sandbox.people import patient, providers

type Item = dict[str, object]

REASONS: tuple[tuple[str, str, str], ...] = (
    ("Cough for two weeks", "J20.9", "Acute bronchitis, unspecified"),
    ("Blood pressure check", "I10", "Essential (primary) hypertension"),
    ("Knee pain after a fall", "M25.561", "Pain in right knee"),
    ("Diabetes follow up", "E11.9", "Type 2 diabetes mellitus without complications"),
    ("Annual check", "Z00.00", "General adult medical examination"),
    ("Rash on both arms", "L30.9", "Dermatitis, unspecified"),
    ("Medication refill", "Z76.0", "Encounter for issue of repeat prescription"),
)
MEDICATIONS: tuple[str, ...] = ("Lisinopril 10 mg", "Metformin 500 mg", "Atorvastatin 20 mg")
SENTENCES: tuple[str, ...] = (
    "Patient reports feeling better since the last visit.",
    "Denies fever, chills or shortness of breath.",
    "Vital signs within normal limits.",
    "Discussed diet and exercise.",
    'Patient asked about the "new" vaccine; leaflet given.',
    "Return in three months or sooner if symptoms worsen.",
)
EXPRESSIVE_SENTENCES: tuple[str, ...] = (
    "Señora llegó con su hijo; prefiere español 🙂.",
    "Dolor 3/10 → 1/10 después del tratamiento ✅.",
    "次回の予約は電話で確認。",
    "Température 37 °C, pas de fièvre 🌡️.",
    "Läuft ohne Gehhilfe, fühlt sich „gut“.",
)
ROOMS: tuple[str, ...] = ("Main Office", "North Wing", "Suite 200")


@dataclass(frozen=True, slots=True)
class Filters:
    """What a reader of cached appointments asks for besides the window (docs: Appointments)."""

    patient_mrn: str | None = None
    patient_name: str | None = None
    patient_phone: str | None = None
    appointment_mode: str | None = None

    def accept(self, item: Item) -> bool:
        """Whether an appointment of the newest edition is asked for."""
        wanted_digits = _digits(self.patient_phone or "")
        name = (self.patient_name or "").casefold()
        return (
            self.patient_mrn in (None, item["patient_mrn"])
            and name in str(item["patient_name"]).casefold()
            and wanted_digits in _digits(str(item["patient_phone"]))
            and self.appointment_mode in (None, item["appointment_mode"])
        )


WORDED = (
    *("patient_name", "patient_first_name", "patient_last_name", "patient_mrn", "patient_dob"),
    *("patient_gender", "patient_phone", "insurance_subscriber", "reason", "note", "progress_note"),
)
"""Fields that the control interface may set."""


def newest(seed: int, clinic: Clinic, entry: Entry) -> Item:
    """Write an appointment with every field of the newest edition."""
    profile, booking = clinic.profile, entry.booking
    person = patient(seed, profile, booking.patient)
    doctor = providers(seed, profile)[booking.provider]
    chance = dice(seed, booking.key)
    type_code, type_name, minutes = VISIT_TYPES[booking.visit_type]
    reason, icd, diagnosis = chance.choice(REASONS)
    sentences = (*SENTENCES, *EXPRESSIVE_SENTENCES) if profile.expressive_notes else SENTENCES
    seen = entry.stage.value == "checked_out"
    insurance = {
        "name": person.payer,
        "number": person.member_number,
        "group_number": person.group_number,
        "subscriber": person.name,
    }
    return {
        "id": f"appt_{booking.key}",
        "ehr_appointment_id": str(int(booking.key[:9], 16)),
        "datetime": local_text(profile, entry.start),
        "duration": minutes,
        "status": profile.statuses[entry.stage][0],
        "appointment_type": type_name,
        "appointment_mode": "telemedicine" if type_code == "TEL" else "office",
        "location": ROOMS[booking.provider % len(ROOMS)],
        "reason": reason,
        "complaint_type": type_code,
        "patient_name": person.name,
        "patient_first_name": person.first_name,
        "patient_last_name": person.last_name,
        "patient_mrn": person.mrn,
        "patient_ehr_id": person.ehr_id,
        "patient_dob": person.dob,
        "patient_gender": person.gender,
        "patient_phone": person.phone,
        "provider_ehr_id": doctor.ehr_id,
        "provider_name": doctor.name,
        "provider_npi": doctor.npi,
        "secondary_provider_ehr_id": None,
        "insurance": person.payer,
        "insurance_number": person.member_number,
        "insurance_group_number": person.group_number,
        "insurance_subscriber": person.name,
        "secondary_insurance": None,
        "secondary_insurance_number": None,
        "insurances": [insurance],
        "diagnoses": [{"code": icd, "description": diagnosis}] if seen else [],
        "medications": [{"name": chance.choice(MEDICATIONS)}] if chance.random() < 0.6 else [],
        "note": chance.choice(sentences),
        "progress_note": " ".join(chance.sample(sentences, 3)) if seen else None,
        "created_at": local_text(profile, booking.created),
        "object_metadata": {"source": profile.emr_name, "synthetic": True},
        **clinic.wording,
    }


def oldest(item: Item) -> Item:
    """Write an appointment of the newest edition as the oldest edition did."""
    return {
        "id": item["id"],
        "patient_id": item["patient_ehr_id"],
        "date_time": item["datetime"],
        "provider_id": item["provider_ehr_id"],
        "mrn": item["patient_mrn"],
        "patient_name": item["patient_name"],
        "patient_dob": item["patient_dob"],
        "patient_sex": item["patient_gender"],
        "patient_phone": item["patient_phone"],
        "provider_name": item["provider_name"],
        "duration": item["duration"],
        "status": item["status"],
        "appointment_type": item["appointment_type"],
        "location": item["location"],
        "reason": item["reason"],
        "note": item["note"],
    }


def with_author(item: Item) -> Item:
    """Add who made the booking: items of a fetch by ``mrn`` carry it (docs: Live fetch)."""
    return {**item, "created_by": "Front Desk (sandbox)"}


def without_notes(item: Item) -> Item:
    """Leave the notes out, as cached reads do unless ``include_note`` is true."""
    return {key: value for key, value in item.items() if key not in ("note", "progress_note")}


def render(seed: int, clinic: Clinic, entries: Iterable[Entry]) -> list[Item]:
    """Write many entries in the newest edition."""
    return [newest(seed, clinic, entry) for entry in entries]


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())
