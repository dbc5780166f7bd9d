"""The forms in which appointments are told, and which of them a caller wants.

Each writes one appointment as a text, and the texts into an answer piece by piece. All text is
ASCII: a character is a byte then, both on the wire and in memory.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from cobalt_relay.appointments import FIELDS, NOTES
from cobalt_relay.errors import NotAcceptable
from cobalt_relay.patterns import pattern
from cobalt_relay.reading import Envelope, Item

_write = json.JSONEncoder(separators=(",", ":")).encode
_WITHOUT_NOTES = tuple(name for name in FIELDS if name not in NOTES)


class Format(NamedTuple):
    """A form of answers.

    `text` writes an appointment, `body` the whole from those texts, which it takes one by one.
    `knows_statuses` where it needs the clinic's own list of what its codes mean.
    """

    name: str
    media_types: tuple[str, ...]
    text: Callable[[dict[str, Any], Envelope], str]
    body: Callable[[Iterable[str], Envelope], Iterator[str]]
    knows_statuses: bool = False


def told(item: Item, *, include_note: bool) -> dict[str, Any]:
    """Give an appointment with all of Cobalt's keys, null where it has nothing to say."""
    names = FIELDS if include_note else _WITHOUT_NOTES
    given = dict(zip(names, map(item.get, names), strict=True))
    return {**given, "extra": item.get("extra") or {}, "as_of": item["as_of"]}


def _plain(item: dict[str, Any], _envelope: Envelope) -> str:
    return _write(item)


def _json(texts: Iterable[str], envelope: Envelope) -> Iterator[str]:
    yield '{"success":true,"appointments":['
    separator = ""
    for text in texts:
        yield separator
        yield text
        separator = ","
    facts: dict[str, Any] = {
        "days": [each.told() for each in envelope.days],
        "days_never_fetched": [str(each) for each in envelope.never_fetched],
        "next_cursor": envelope.next_cursor,
    }
    refresh = envelope.refresh
    if refresh:
        facts["jobs"] = [refresh.work.told()] if refresh.work else []
        if refresh.error:
            code, message = refresh.error
            facts["fetch_error"] = {"code": code, "message": message}
    yield "],"
    yield _write(facts)[1:]


def _lines(texts: Iterable[str], _envelope: Envelope) -> Iterator[str]:
    for text in texts:
        yield text
        yield "\n"


def _entry(item: dict[str, Any], envelope: Envelope) -> str:
    from cobalt_relay.fhir import entry  # noqa: PLC0415 - the other forms do without

    return _write(entry(item, envelope.connection_id, envelope.visit_statuses))


def _bundle(texts: Iterable[str], envelope: Envelope) -> Iterator[str]:
    from cobalt_relay.fhir import outcome, write_bundle  # noqa: PLC0415 - as above

    pages = {"self": envelope.this_page, "next": envelope.next_page}
    stale = {each.day: each.as_of for each in envelope.days if each.is_stale and each.as_of}
    return write_bundle(
        map(json.loads, texts),
        links={relation: url for relation, url in pages.items() if url},
        outcome=outcome(envelope.never_fetched, stale),
    )


FORMATS = (
    Format("json", ("application/json",), _plain, _json),
    Format("ndjson", ("application/x-ndjson", "application/ndjson"), _plain, _lines),
    Format("fhir", ("application/fhir+json",), _entry, _bundle, knows_statuses=True),
)
"""The first one is for callers who do not say what they want."""


# ------------------------------------------------------------------------------------- negotiation

_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_RANGE = pattern(rf"\s*({_WORD}/{_WORD})\s*(?:;(.*))?", re.DOTALL)
_WEIGHT = pattern(r"\s*q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*", re.ASCII | re.IGNORECASE)


def negotiated(accept: str) -> tuple[Format, str]:
    """Choose by an `Accept` header (RFC 9110, 12.5.1); beside it, by which name it was wanted.

    Raises `NotAcceptable`. What is no media range in the header counts for nothing; parameters
    other than the weight do not make a difference.
    """
    if not accept.strip():
        return FORMATS[0], FORMATS[0].media_types[0]
    weights = dict(_weighed(accept))
    offers = [(form, name) for form in FORMATS for name in form.media_types]
    best = max(offers, key=lambda offer: _weight(offer[1], weights))
    if not _weight(best[1], weights):
        raise NotAcceptable
    return best


def _weight(media_type: str, weights: dict[str, float]) -> float:
    """Give the weight of the most specific range that has the type."""
    ranges = (media_type, f"{media_type.partition('/')[0]}/*", "*/*")
    return next((weights[each] for each in ranges if each in weights), 0.0)


def _weighed(accept: str) -> Iterator[tuple[str, float]]:
    for each in accept.split(","):
        found = _RANGE.fullmatch(each)
        if not found:
            continue
        parameters = (found[2] or "").split(";")
        given = [parameter for parameter in parameters if parameter.strip()[:1] in {"q", "Q"}]
        weights = [_WEIGHT.fullmatch(parameter) for parameter in given]
        yield found[1].lower(), float(weights[0][1]) if weights and weights[0] else 1.0
