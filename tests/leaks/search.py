"""Finds what must not be somewhere, in every form that it could have taken there.

A canary is searched for by its cores: stretches of ten characters, one beginning at every fifth. So
a text that a length limit cut anywhere is found as long as 14 characters of it are left. Each core
is looked for plain, in JSON's and URL's escapes, in hex, in base64 at its three alignments, and all
of that in UTF-16 too; the whole text also as a digest. The search for a few thousand needles in
megabytes of logs takes seconds.
"""

import hashlib
import math
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple
from urllib.parse import quote

CORE = 10
STEP = 5
DIGEST = 12
"""Characters of a digest that are enough to know it by."""

_RUN = re.compile(rf"[\w-]{{{CORE},}}")
_BACKSLASHES = re.compile(r"\\+")


class Text(NamedTuple):
    """What is written somewhere."""

    place: str
    text: str


class Finding(NamedTuple):
    """A leak: where, of what, and in which form; never the text itself."""

    place: str
    canary: str
    form: str


@dataclass(frozen=True)
class Canary:
    """Something that belongs nowhere, under a name that a finding may tell."""

    name: str
    text: str

    @cached_property
    def cores(self) -> frozenset[str]:
        """The stretches by which it is known; a number with its punctuation and without."""
        digits = re.sub(r"\D", "", self.text)
        runs = [*_RUN.findall(self.text), *([digits] if len(digits) >= 8 else [])]
        short = [self.text] if CORE <= len(self.text) <= 2 * CORE else []
        found = frozenset([*short, *(core for run in runs for core in _windows(run))])
        if not found:
            raise ValueError(f"{self.name} has no stretch of {CORE} characters")
        return found

    @cached_property
    def digests(self) -> frozenset[str]:
        """How the digests of the whole text begin."""
        wholes = {self.text, re.sub(r"\D", "", self.text)} - {""}
        raws = [whole.encode(errors="surrogatepass") for whole in wholes]
        made = [
            hashlib.new(algorithm, raw, usedforsecurity=False).digest()
            for algorithm in ("sha256", "sha1", "md5")
            for raw in raws
        ]
        return frozenset(
            text
            for digest in made
            for text in (digest.hex()[:DIGEST], b64encode(digest).decode()[:DIGEST])
        )


def _windows(run: str) -> Iterator[str]:
    last = max(len(run) - CORE, 0)
    for start in {*range(0, last, STEP), last}:
        yield run[start : start + CORE]


def forms_of(core: str) -> Iterator[tuple[str, str]]:
    """Name and write every form of a core."""
    raw = core.encode(errors="surrogatepass")
    yield "plain", core
    yield "escaped", "".join(f"\\u{ord(each):04x}" for each in core)
    yield "partly escaped", core.encode("ascii", "backslashreplace").decode()
    yield "URL", quote(raw)
    yield "URL, all of it", "".join(f"%{byte:02x}" for byte in raw)
    yield "hex", raw.hex()
    for text in _base64(raw):
        yield "base64", text
    for name in ("utf-16-le", "utf-16-be"):
        wide = core.encode(name, "surrogatepass")
        spread = wide.decode("latin-1")
        yield name, spread
        yield f"{name} escaped", spread.replace("\0", "\\u0000")
        yield f"{name} hex", wide.hex()
        for text in _base64(wide):
            yield f"{name} base64", text


def _base64(raw: bytes) -> Iterator[str]:
    """Write what stays the same of base64, whatever stands before and behind."""
    for before in range(3):
        text = b64encode(bytes(before) + raw).decode()
        whole = text[math.ceil(before * 8 / 6) : (before + len(raw)) * 8 // 6]
        yield whole
        yield whole.replace("+", "-").replace("/", "_")


class Search:
    """Looks for canaries. `documented` are texts that may stand anywhere: the connection ids."""

    def __init__(self, canaries: Iterable[Canary], documented: Iterable[str] = ()) -> None:
        self._documented = tuple(documented)
        self._exact: dict[str, tuple[str, str]] = {}
        self._in_any_case: dict[str, tuple[str, str]] = {}
        for canary in canaries:
            for core in canary.cores:
                for form, needle in forms_of(core):
                    self._add(canary, form, needle)
            for needle in canary.digests:
                self._add(canary, "digest", needle)
                self._add(canary, "base64 digest", needle)

    def _add(self, canary: Canary, form: str, needle: str) -> None:
        """File a needle; only base64 means another thing in another case."""
        if "base64" in form:
            self._exact.setdefault(needle, (canary.name, form))
        else:
            self._in_any_case.setdefault(needle.lower(), (canary.name, form))

    def __call__(self, texts: Iterable[Text]) -> list[Finding]:
        """Give every leak, each once for a place."""
        by_place: dict[str, list[str]] = {}
        for place, text in texts:
            by_place.setdefault(place, []).append(text)
        return sorted(
            {
                Finding(place, *found)
                for place, written in by_place.items()
                for found in self._found_in("\n\n".join(dict.fromkeys(written)))
            }
        )

    def _found_in(self, text: str) -> Iterator[tuple[str, str]]:
        for harmless in self._documented:
            text = text.replace(harmless, "")
        text = _BACKSLASHES.sub(r"\\", text)  # JSON within JSON
        lowered = text.lower()
        yield from (found for needle, found in self._exact.items() if needle in text)
        yield from (found for needle, found in self._in_any_case.items() if needle in lowered)
