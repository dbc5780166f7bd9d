"""Where the gates and their environment lie; ``.audit/`` holds all that is installed or written."""

from pathlib import Path

from tools.local.paths import ROOT

HERE = Path(__file__).parent
AUDIT = ROOT / ".audit"
PROGRAMS = AUDIT / "venv" / "bin"
NODE_MODULES = AUDIT / "node_modules"
WORK = AUDIT / "work"
"""What was judged, as the tools saw it; stays to be read."""
