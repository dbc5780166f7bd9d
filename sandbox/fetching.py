"""What a live fetch may ask for, and the exact words it is refused with (docs: Live fetch)."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date

MISSING_DATES = "Missing required parameters: start_date, end_date."
BAD_DATE = "Invalid date format. Use ISO format (YYYY-MM-DD)."
END_BEFORE_START = "end_date must be after start_date."
TOO_LONG = "Date range cannot exceed 7 days."
UNSUPPORTED_EMR = (
    "Live fetch for appointments is not supported for {emr_name}."
    " Currently supported: eClinicalWorks."
)

# The documentation has no words for these; a client must not depend on them.
UNKNOWN_SEARCH = "Invalid search_by. Use date_range, mrn or provider."
MISSING_MRN = "Missing required parameters: mrn."
MISSING_PROVIDERS = "Missing required parameters: provider_ids, start_date, end_date."
BAD_PROVIDERS = "provider_ids must be a list of 1 to 10 provider ids."
ONE_PROVIDER_TOO_LONG = "end_date must be at most 5 days after start_date for one provider."
PROVIDERS_TOO_LONG = "start_date must equal end_date for more than one provider."

DATE_RANGE_DAYS = 7
ONE_PROVIDER_DAYS = 5
MOST_PROVIDERS = 10

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class RefusedError(ValueError):
    """A request that Cobalt answers with 400; the text is the message of the answer."""


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """A live fetch that passed the checks."""

    search_by: str
    start: date | None = None
    end: date | None = None
    mrn: str | None = None
    provider_ids: tuple[str, ...] = ()

    def window(self) -> dict[str, object]:
        """Give the window as the result repeats it; a fetch by ``mrn`` has none."""
        if self.start is None or self.end is None:
            return {}
        return {"start_date": self.start.isoformat(), "end_date": self.end.isoformat()}


def parse_day(value: object) -> date:
    """Read a day written ``YYYY-MM-DD``; raise ``RefusedError`` for anything else."""
    if isinstance(value, str) and _DATE.fullmatch(value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise RefusedError(BAD_DATE)


def parse_fetch(body: Mapping[str, object]) -> FetchRequest:
    """Check the body of a live fetch; raise ``RefusedError`` with the documented words."""
    parse = _PARSERS.get(str(body.get("search_by", "date_range")))
    if parse is None:
        raise RefusedError(UNKNOWN_SEARCH)
    return parse(body)


def _missing(body: Mapping[str, object], *names: str) -> bool:
    return any(body.get(name) in (None, "") for name in names)


def _by_date_range(body: Mapping[str, object]) -> FetchRequest:
    if _missing(body, "start_date", "end_date"):
        raise RefusedError(MISSING_DATES)
    start, end = parse_day(body["start_date"]), parse_day(body["end_date"])
    if end <= start:
        raise RefusedError(END_BEFORE_START)
    if (end - start).days > DATE_RANGE_DAYS:
        raise RefusedError(TOO_LONG)
    return FetchRequest("date_range", start, end)


def _by_mrn(body: Mapping[str, object]) -> FetchRequest:
    mrn = body.get("mrn")
    if isinstance(mrn, bool) or not isinstance(mrn, str | int) or mrn == "":
        raise RefusedError(MISSING_MRN)
    return FetchRequest("mrn", mrn=str(mrn))


def _by_provider(body: Mapping[str, object]) -> FetchRequest:
    if _missing(body, "provider_ids", "start_date", "end_date"):
        raise RefusedError(MISSING_PROVIDERS)
    ids = body["provider_ids"]
    if not isinstance(ids, list) or not 1 <= len(ids) <= MOST_PROVIDERS:
        raise RefusedError(BAD_PROVIDERS)
    if not all(isinstance(each, str | int) and not isinstance(each, bool) for each in ids):
        raise RefusedError(BAD_PROVIDERS)
    start, end = parse_day(body["start_date"]), parse_day(body["end_date"])
    if end < start:
        raise RefusedError(END_BEFORE_START)
    if len(ids) == 1 and (end - start).days > ONE_PROVIDER_DAYS:
        raise RefusedError(ONE_PROVIDER_TOO_LONG)
    if len(ids) > 1 and start != end:
        raise RefusedError(PROVIDERS_TOO_LONG)
    return FetchRequest("provider", start, end, provider_ids=tuple(map(str, ids)))


_PARSERS: dict[str, Callable[[Mapping[str, object]], FetchRequest]] = {
    "date_range": _by_date_range,
    "mrn": _by_mrn,
    "provider": _by_provider,
}
