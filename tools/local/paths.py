"""Where things lie. Everything that the local environment writes is below ``.local/``."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / ".local"

STACK_FILE = LOCAL / "stack.json"
"""What `make up` tells other programs; there while its stack runs."""

UP = LOCAL / "up"
"""The home of the servers that `make up` leaves running."""
DEMO = LOCAL / "demo"
TESTS = LOCAL / "tests"
"""One home per test session, named for its process."""
SNAPSHOTS = LOCAL / "snapshots"
"""Deployed stacks, named for the digest of what was deployed; copied, never run themselves."""

WORKER = LOCAL / "worker"
"""The interpreter of the functions: no package but the standard library, like an empty Lambda."""
BUILD = LOCAL / "build"
BUILD_CACHE = LOCAL / "build-cache"
SAM_HOME = LOCAL / "sam"
"""SAM CLI's own settings, so that it neither reads nor changes the user's."""
