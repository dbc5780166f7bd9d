"""The search finds a leak wherever and in whatever form it is planted; otherwise it is worth nothing."""

import base64
import hashlib
import json
from collections.abc import Callable
from functools import partial
from urllib.parse import quote

import pytest

from tests.leaks import canaries
from tests.leaks.search import Canary, Search, Text

TOKEN = "at_riverside_3f9ac81b64d2e0577f1c9b3a6d5e4f20c1b2a398_1"
CANARIES = [*canaries.PATIENTS, Canary("token", TOKEN)]
LONG = [canary for canary in CANARIES if len(canary.text) >= 28]
SEARCH = Search(
    CANARIES,
    documented=["conn_" + hashlib.sha256(TOKEN.encode()).hexdigest()[:32]],
)


def in_base64(encoding: str, before: int, text: str) -> str:
    """Write a text with as many bytes before it, and some behind it."""
    raw = bytes(before) + text.encode(encoding, "surrogatepass") + b"tail"
    return base64.urlsafe_b64encode(raw).decode()


FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "upper case": str.upper,
    "as JSON": json.dumps,
    "as JSON with the characters as they are": lambda text: json.dumps(text, ensure_ascii=False),
    "as JSON within JSON": lambda text: json.dumps(json.dumps(text)),
    "every character escaped": lambda text: "".join(f"\\u{ord(each):04X}" for each in text),
    "as repr": repr,
    "in a URL": lambda text: quote(text.encode(errors="surrogatepass")),
    "in hex": lambda text: text.encode(errors="surrogatepass").hex(),
    "in UTF-16": lambda text: text.encode("utf-16", "surrogatepass").decode("latin-1"),
    "in UTF-16, hex": lambda text: text.encode("utf-16-be", "surrogatepass").hex().upper(),
    "SHA-256": lambda text: hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16],
    **{
        f"in {name} base64 after {before}": partial(in_base64, name, before)
        for name in ("utf-8", "utf-16-le")
        for before in range(3)
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("canary", CANARIES, ids=lambda c: c.name)
def test_leak_is_found_in_whatever_form(canary: Canary, form: str) -> None:
    leak = f'{{"a": 1, "b": "before {FORMS[form](canary.text)} behind"}}'

    assert canary.name in {found.canary for found in SEARCH([Text("somewhere", leak)])}


@pytest.mark.parametrize("canary", LONG, ids=lambda c: c.name)
def test_leak_is_found_when_half_of_it_is_cut_off(canary: Canary) -> None:
    middle = len(canary.text) // 2

    for half in (canary.text[:middle], canary.text[middle:]):
        assert SEARCH([Text("somewhere", half)])


def test_number_is_found_when_it_is_written_otherwise() -> None:
    found = SEARCH([Text("somewhere", "born 19310729, call 9415550173")])

    assert {each.canary for each in found} == {"date of birth", "telephone"}


def test_finding_tells_the_place_and_not_the_leak() -> None:
    found = SEARCH([Text("log", canaries.MRN), Text("row", "nothing"), Text("log", "more")])

    assert {each.place for each in found} == {"log"}
    assert canaries.MRN not in str(found)


def test_nothing_is_found_in_what_the_relay_may_tell() -> None:
    harmless = {
        "connection_id": "conn_" + hashlib.sha256(TOKEN.encode()).hexdigest()[:32],
        "message": "job_ended",
        "window": {"start_date": "2025-01-06", "end_date": "2025-01-10"},
        "clinic": "riverside",
        "body_sha256": hashlib.sha256(b"a body").hexdigest(),
    }

    assert SEARCH([Text("event", json.dumps(harmless))]) == []


def test_canary_without_a_core_is_no_canary() -> None:
    with pytest.raises(ValueError, match="short has no stretch"):
        Search([Canary("short", "Jane Doe")])
