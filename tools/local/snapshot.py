"""A deployed stack on disk, so that a test session starts in seconds instead of building one.

A snapshot is named for the digest of what it was made from, and never run: a session runs a copy,
on free ports, with a sandbox of its own.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.local import deploy, emulator, processes, sandbox
from tools.local import stack as stacks
from tools.local.aws import Aws
from tools.local.errors import LocalError
from tools.local.paths import ROOT, SNAPSHOTS, TESTS
from tools.local.stack import Stack

FETCH_SECONDS = "0.1,0.3"
INGREDIENTS = ("requirements/dev.txt", "tools/local/launcher.py", "tools/local/snapshot.py")
KEPT = 2
"""How many snapshots are kept: going back and forth between two branches stays fast."""


@contextmanager
def session() -> Iterator[Stack]:
    """Run a copy of the newest snapshot, which is made first where there is none."""
    snapshot = prepare()
    _remove_orphans()
    home = TESTS / str(os.getpid())
    stacks.stop(home)
    try:
        shutil.copytree(snapshot / "aws", emulator.state_of(home))
        box = sandbox.start(home, None, fetch_seconds=FETCH_SECONDS, leashed=True)
        endpoint = emulator.start(home, None, leashed=True, shelf=emulator.shelf_of(snapshot))
        outputs = json.loads((snapshot / "outputs.json").read_text(encoding="utf-8"))
        stack = stacks.describe(endpoint, box, outputs)
        stacks.point_functions_at(stack, box.url)
        stacks.configure(stack)
        yield stack
    finally:
        stacks.stop(home)


def prepare() -> Path:
    """Give the snapshot of the present template and code."""
    values = deploy.parameters(deploy.PLACEHOLDER_URL, ScheduleState="DISABLED")
    also = {name: (ROOT / name).read_text(encoding="utf-8") for name in INGREDIENTS}
    snapshot = SNAPSHOTS / deploy.fingerprint(values | also)[:16]
    with processes.exclusive(SNAPSHOTS.with_suffix(".lock"), "the tests' stack"):
        if not snapshot.exists():
            _make(snapshot, values)
            _prune()
        os.utime(snapshot)
    return snapshot


def _make(snapshot: Path, values: dict[str, str]) -> None:
    draft = snapshot.with_suffix(".draft")
    stacks.stop(draft)
    try:
        aws = Aws(emulator.start(draft, None, leashed=True))
        deploy.deploy(aws, values)
        outputs = deploy.outputs(aws)
        if outputs is None:
            raise LocalError("The local AWS took the deployment but has no healthy stack.")
        emulator.unpack_layers(aws, outputs["FetchAppointmentsName"], emulator.shelf_of(draft))
        (draft / "outputs.json").write_text(json.dumps(outputs), encoding="utf-8")
        processes.stop(draft, emulator.NAME)  # saves its state
        if not emulator.was_saved(draft):
            raise LocalError("The local AWS ended without saving its state. Run this again.")
        shutil.rmtree(draft / "tmp")
        draft.rename(snapshot)
    finally:
        stacks.stop(draft)


def _prune() -> None:
    snapshots = [each for each in SNAPSHOTS.iterdir() if each.suffix != ".draft"]
    newest_first = sorted(snapshots, key=lambda each: each.stat().st_mtime, reverse=True)
    for old in newest_first[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def _remove_orphans() -> None:
    """Remove what sessions left that were killed; their servers ended by themselves."""
    for home in TESTS.glob("*"):
        if not processes.exists(int(home.name)):
            stacks.stop(home)
