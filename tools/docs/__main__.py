"""`make docs`: render both contracts into `docs/html/`; 1 where one could not be made."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tools.audit.paths import NODE_MODULES
from tools.docs.seal import NotSelfContainedError, sealed
from tools.local.paths import ROOT

DOCS = ROOT / "docs"
PAGES = DOCS / "html"
CONTRACTS: Mapping[str, str] = MappingProxyType(
    {"openapi": "Cobalt Relay: the HTTP API", "asyncapi": "Cobalt Relay: webhook and events"}
)
"""The title of each page by the name of its contract."""
SECONDS = 120
"""Patience with one page; it takes a second."""
QUIET: Mapping[str, str] = MappingProxyType(
    {"REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", "REDOCLY_TELEMETRY": "off"}
)
"""Redocly sends nothing and asks for no newer version; nor do the pages that it makes so."""


class RenderingFailedError(Exception):
    """A contract is no page now; the message is what the renderer said."""


def main() -> int:
    """Render each contract; a page of before stays where its contract cannot be rendered."""
    if not _renderer_is_there():
        print(
            "The pages need Node.js 20 or newer with npm, which is missing or was when make last "
            "looked. Install it, then make docs.",
            file=sys.stderr,
        )
        return 1
    PAGES.mkdir(exist_ok=True)
    failed = False
    for name, title in CONTRACTS.items():
        page = PAGES / f"{name}.html"
        try:
            page.write_text(sealed(rendered(DOCS / f"{name}.yaml", title)), encoding="utf-8")
        except (RenderingFailedError, NotSelfContainedError) as error:
            print(f"docs/{name}.yaml was not rendered: {error}", file=sys.stderr)
            failed = True
        else:
            print(f"{page.relative_to(ROOT)}  {page.stat().st_size / 1e6:.1f} MB, loads nothing")
    return int(failed)


def rendered(contract: Path, title: str) -> str:
    """Give the page as Redocly makes it, with its scripts in it and every `$ref` followed."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        done = subprocess.run(
            [
                str(NODE_MODULES / ".bin" / "redocly"),
                *("build-docs", str(contract), "--inlineBundle"),
                *("--output", str(page), "--title", title),
            ],
            cwd=ROOT,
            env=os.environ | QUIET,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode or not page.is_file():
            raise RenderingFailedError((done.stderr or done.stdout).strip())
        return page.read_text(encoding="utf-8")


def _renderer_is_there() -> bool:
    return shutil.which("node") is not None and (NODE_MODULES / "installed.txt").is_file()


if __name__ == "__main__":
    raise SystemExit(main())
