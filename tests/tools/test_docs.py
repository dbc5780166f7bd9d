"""The pages of the contracts: that they load nothing, and what is said where they would."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tools.docs import __main__ as docs
from tools.docs.seal import OFFLINE, POLICY, NotSelfContainedError, loads, sealed
from tools.local.paths import ROOT

AS_RENDERED = f"""<!DOCTYPE html>
<html><head><style>a {{ mask: url(data:image/png;base64,AA) }}</style></head>
<body><a href="https://docs.usecobalt.com">Cobalt</a><img src="data:image/png;base64,AA">
<script>const known = {list(OFFLINE)!r}, options = {{"disableTelemetry":true}};
const clicked = "https://redocly.com/learn", namespace = "http://www.w3.org/2000/svg";</script>
</body></html>"""


# ---------------------------------------------------------------------------------------- the page


def test_page_is_sealed_when_it_is_as_known() -> None:
    page = sealed(AS_RENDERED)

    head = page.partition("<head>")[2].lstrip()
    assert head.startswith('<meta http-equiv="Content-Security-Policy"')
    assert "default-src &#x27;none&#x27;" in head
    assert not [address for address in OFFLINE if address in page]
    assert '<a href="https://docs.usecobalt.com">' in page


def test_policy_allows_no_host() -> None:
    sources = {source for part in POLICY.split("; ") for source in part.split()[1:]}

    assert sources == {"'none'", "'unsafe-inline'", "data:", "blob:"}


@pytest.mark.parametrize(
    ("place", "left"),
    [
        ("<body>", '<script src="https://cdn.example.com/redoc.js"></script>'),
        ("<body>", "<script src=redoc.js></script>"),
        ("<body>", '<img src="//example.com/logo.png">'),
        ("<body>", '<img srcset="https://example.com/logo.png 2x">'),
        ("<body>", '<object data="https://example.com/a.pdf"></object>'),
        ("<body>", '<svg><use xlink:href="https://example.com/a.svg"/></svg>'),
        ("<body>", '<p style="background: url(https://example.com/a.png)">'),
        ("<head>", '<link rel="stylesheet" href="https://fonts.example.com/css">'),
        ("<head>", '<base href="https://example.com/">'),
        ("<head>", '<meta http-equiv="Refresh" content="0; url=https://example.com">'),
        ("<style>", '@import "https://example.com/a.css";'),
        ("<style>", "b { src: url('https://example.com/a.woff2') }"),
        ("<script>", "fetch(`https://example.com/openapi`);"),
        ("<script>", "new WebSocket('wss://example.com');"),
        ("<script>", "import('//example.com/a');"),
        ("<script>", "const base = `https://cdn.example.com/icons`;"),
        ("<script>", "const logo = full ? `https://example.com/full.svg` : null;"),
        ("<script>", "const rule = `mask: url(https://example.com/mask)`;"),
    ],
)
def test_page_is_refused_when_it_would_fetch(place: str, left: str) -> None:
    page = AS_RENDERED.replace(place, place + left, 1)

    with pytest.raises(NotSelfContainedError, match=r"the page would fetch .*"):
        sealed(page)

    assert len(loads(page)) > len(loads(AS_RENDERED))


@pytest.mark.parametrize("address", OFFLINE)
def test_page_is_refused_when_the_renderer_has_changed(address: str) -> None:
    page = AS_RENDERED.replace(f"'{address}'", "'https://elsewhere.example.com'")

    with pytest.raises(NotSelfContainedError, match=r"mend OFFLINE in tools/docs/seal\.py"):
        sealed(page)


def test_page_is_refused_when_it_would_send_telemetry() -> None:
    page = AS_RENDERED.replace('"disableTelemetry":true', '"disableTelemetry":false')

    with pytest.raises(NotSelfContainedError, match="would send telemetry"):
        sealed(page)


def test_page_is_refused_when_it_has_no_place_for_the_policy() -> None:
    with pytest.raises(NotSelfContainedError, match="no <head>"):
        sealed(AS_RENDERED.replace("<head>", ""))


# ------------------------------------------------------------------------------------------ the tool


@pytest.fixture
def renderer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Puts a program in Redocly's place; gives the folder of the pages."""

    def set_renderer(script: str) -> Path:
        modules, pages = tmp_path / "node_modules", tmp_path / "html"
        program = modules / ".bin" / "redocly"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        (modules / "installed.txt").touch()
        (tmp_path / "page.html").write_text(AS_RENDERED)
        monkeypatch.setattr(docs, "NODE_MODULES", modules)
        monkeypatch.setattr(docs, "PAGES", pages)
        monkeypatch.setattr(docs, "ROOT", tmp_path)
        monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/node")
        return pages

    return set_renderer


def test_every_contract_becomes_a_page(
    renderer: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    contracts = sorted(path.stem for path in (ROOT / "docs").glob("*api.yaml"))
    pages = renderer('test "$REDOCLY_TELEMETRY" = off && cp page.html "$5"')

    assert docs.main() == 0

    assert sorted(path.stem for path in pages.glob("*.html")) == contracts == sorted(docs.CONTRACTS)
    assert all("Content-Security-Policy" in path.read_text() for path in pages.glob("*.html"))
    assert "html/asyncapi.html" in capsys.readouterr().out


def test_page_of_before_stays_when_its_contract_cannot_be_rendered(
    renderer: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pages = renderer('echo "Can\'t resolve $ref" >&2; exit 1')
    pages.mkdir()
    (pages / "openapi.html").write_text("of before")

    assert docs.main() == 1

    assert (pages / "openapi.html").read_text() == "of before"
    said = capsys.readouterr().err
    assert "docs/openapi.yaml was not rendered: Can't resolve" in said
    assert "docs/asyncapi.yaml was not rendered" in said


def test_what_to_do_is_said_when_node_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(docs, "NODE_MODULES", tmp_path)

    assert docs.main() == 1

    assert "Node.js 20 or newer with npm" in capsys.readouterr().err
