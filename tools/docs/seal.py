"""A page that loads nothing: what it would fetch is taken out, and the browser told to refuse it.

Two nets, for neither is enough: the policy holds whatever the scripts do, and the search tells at
once, without a browser, what a newer renderer would fetch.
"""

import re
from collections.abc import Iterator, Mapping
from html import escape
from html.parser import HTMLParser
from types import MappingProxyType
from urllib.parse import quote

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'"
)
"""Nothing from any host, the page's own scripts and styles excepted."""

_LOGO = "data:image/svg+xml," + quote(
    '<svg xmlns="http://www.w3.org/2000/svg" width="44" height="16">'
    '<text x="0" y="12" font-family="sans-serif" font-size="12" fill="#0044d4">Redoc</text></svg>'
)
OFFLINE: Mapping[str, str] = MappingProxyType(
    {
        "https://cdn.redoc.ly/redoc/logo-mini-full.svg": _LOGO,
        "https://cdn.redoc.ly/redoc/logo-mini.svg": _LOGO,
        "https://cdn.redocly.com/icons/": "data:,",
        "https://otel.cloud.redocly.com/v1/traces": "data:,",
    }
)
"""What Redoc 3 fetches, and what stands in its place: its logo, icons that we do not use, and the
collector of its telemetry."""

_LOADS = frozenset({"background", "data", "href", "poster", "src", "srcset", "xlink:href"})
"""Attributes whose address is fetched; `href` of a link that is clicked is not."""
_CLICKED = frozenset({"a", "area"})
_WITHIN = ("data:", "blob:", "#")
_IN_STYLE = re.compile(r"""@import\s+[^;]+|url\(\s*["']?(?!data:|#)[^)"']+""", re.IGNORECASE)
_IN_SCRIPT = re.compile(
    r"""\b(?:fetch|import|importScripts|WebSocket|EventSource|Worker|sendBeacon)"""
    r"""\(\s*["'`](?:https?:|wss?:)?//[^"'`]+"""
    r"""|@import\s+(?:url\()?["']?https?://[^"')]+"""
    r"""|\burl\(\s*["']?(?:https?:)?//[^"')]+"""
    r"""|(?:https?:)?//(?:cdn|fonts|otel|telemetry|unpkg|[a-z0-9-]+\.jsdelivr)\.[^\s"'`)]+"""
    r"""|["'`]https?://[^\s"'`]+\.(?:css|gif|ico|jpe?g|m?js|png|svg|ttf|wasm|webp|woff2?)["'`]""",
    re.IGNORECASE,
)


class NotSelfContainedError(Exception):
    """A page would fetch something when it is opened; the message names it."""


def sealed(page: str) -> str:
    """Give the page without what it would fetch, and with a policy that allows nothing else.

    `NotSelfContainedError` where something is left, or where the page is not of the form that is
    known here.
    """
    for address, instead in OFFLINE.items():
        if address not in page:
            raise NotSelfContainedError(
                f"the renderer no longer names {address}. Look at what it fetches now, and mend "
                f"OFFLINE in tools/docs/seal.py."
            )
        page = page.replace(address, instead)
    if '"disableTelemetry":true' not in page:
        raise NotSelfContainedError(
            "the page would send telemetry. Look at how the renderer switches it off now."
        )
    head, opening, rest = page.partition("<head>")
    if not opening:
        raise NotSelfContainedError("the page has no <head> to put its policy into.")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
    page = f"{head}{opening}\n  {policy}{rest}"
    if found := sorted(set(loads(page))):
        raise NotSelfContainedError(f"the page would fetch {', '.join(found)}.")
    return page


def loads(page: str) -> list[str]:
    """Name what a page fetches from elsewhere by itself: elements, styles, and scripts."""
    search = _Search()
    search.feed(page)
    search.close()
    return search.found


class _Search(HTMLParser):
    """Reads a page; `found` is what it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._raw = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at the addresses and the styles of an element."""
        self._raw = tag if tag in self.CDATA_CONTENT_ELEMENTS else ""
        self.found += _of_element(tag, {name: value or "" for name, value in attrs})

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 theirs
        """Leave a script or style."""
        self._raw = ""

    def handle_data(self, data: str) -> None:
        """Look into a script or style."""
        pattern = {"script": _IN_SCRIPT, "style": _IN_STYLE}.get(self._raw)
        if pattern:
            self.found += (found[0][:120] for found in pattern.finditer(data))


def _of_element(tag: str, attributes: Mapping[str, str]) -> Iterator[str]:
    for name, value in attributes.items():
        address = value.strip()
        is_loaded = name in _LOADS and not (name == "href" and tag in _CLICKED)
        if is_loaded and address and not address.lower().startswith(_WITHIN):
            yield f"<{tag} {name}={address[:120]}>"
        if name == "style":
            yield from (found[0][:120] for found in _IN_STYLE.finditer(value))
    if tag == "meta" and attributes.get("http-equiv", "").lower() == "refresh":
        yield "<meta http-equiv=refresh>"
