"""What the commands say: tables on standard output for people, one JSON document for programs.

Progress, prompts, warnings and errors for people go to standard error, so that standard output
holds the result alone. What comes from outside is printed without its control characters: a
terminal would obey them.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tools.relay.faults import ExitCode, Interrupted, RelayCommandError, WrongUsage

PIPED_WIDTH = 200
"""Characters of a line that goes into a file or a pipe, where no terminal says how many fit."""
WIDE = 110
"""From this width on, ids are shown whole."""
SHORTEST_ID = 12
SHORTEST_CELL = 6
GAP = 2
"""Between two columns of a table: its box draws a blank, and the left one is padded by another."""

STYLES = {
    "active": "green",
    "COMPLETED": "green",
    "ENABLED": "green",
    "ok": "green",
    "login_required": "red",
    "FAILED": "red",
    "EXPIRED": "red",
    "PARTIAL": "yellow",
    "warning": "yellow",
    "skipped": "dim",
    "failed": "bold red",
    "replaced": "dim",
    "DISABLED": "yellow",
    "ACCEPTED": "cyan",
}

type Json = dict[str, Any]


class _Console(Console):
    """A console that says when its reader has gone."""

    def on_broken_pipe(self) -> None:
        """Rich would end the program here, with exit code 1."""
        raise BrokenPipeError


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return _Console(
        stderr=stderr, width=width, highlight=False, markup=False, soft_wrap=False, emoji=False
    )


@dataclass
class Output:
    """Where a command puts its result (`out`) and everything else (`err`)."""

    as_json: bool = False
    wide: bool = False
    out: Console = field(default_factory=lambda: _console(stderr=False))
    err: Console = field(default_factory=lambda: _console(stderr=True))

    def document(self, document: object) -> None:
        """Write the one JSON document of a command."""
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n")
        sys.stdout.flush()

    def line(self, document: object) -> None:
        """Write one of many JSON documents, on a line of its own."""
        sys.stdout.write(json.dumps(document, ensure_ascii=False, default=str) + "\n")
        sys.stdout.flush()

    def say(self, text: str = "", style: str = "") -> None:
        """Say something that is part of the result, to people only."""
        if not self.as_json:
            self.out.print(Text(text, style=style), soft_wrap=True)

    def note(self, text: str, style: str = "dim") -> None:
        """Say something beside the result."""
        self.err.print(Text(text, style=style), soft_wrap=True)

    def table(
        self,
        headings: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        cut: Sequence[str] = (),
    ) -> None:
        """Show a table; its first column stays whole, the others fold.

        Where some are named that are `cut`, those give way to the others, and a row is one line,
        unless all is wanted.
        """
        table = Table(
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_edge=False,
            header_style="bold",
        )
        cells = [[plain(cell) for cell in row] for row in rows]
        most = {} if self.wide or not cut else self._left_for(headings, cells, cut)
        for number, heading in enumerate(headings):
            table.add_column(
                heading,
                no_wrap=number == 0 or bool(most),
                overflow="ellipsis" if most else "fold",
                max_width=most.get(heading),
            )
        for row in cells:
            table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
        self.out.print(table)

    def _left_for(
        self, headings: Sequence[str], rows: list[list[str]], cut: Sequence[str]
    ) -> dict[str, int]:
        """Give the width that each of the columns can have that are to be cut.

        What the narrow ones do not need is for the others.
        """
        columns = zip(headings, *rows, strict=True)
        widths = {each[0]: max(map(cell_len, each)) for each in columns}
        taken = sum(width for name, width in widths.items() if name not in cut)
        left = self.out.width - taken - GAP * (len(headings) - 1)
        most: dict[str, int] = {}
        for name in sorted(cut, key=lambda each: widths[each]):
            share = left // (len(cut) - len(most))
            most[name] = min(widths[name], max(SHORTEST_CELL, share))
            left -= most[name]
        return most

    def facts(self, facts: Iterable[tuple[str, object]]) -> None:
        """Show names and values; those without a value are left out."""
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in facts:
            if value is not None and value != "":
                text = plain(value)
                grid.add_row(name, Text(text, style=STYLES.get(text, "")))
        self.out.print(grid)

    @contextmanager
    def working(self, text: str) -> Iterator["Working"]:
        """Show on a terminal that something goes on; say nothing anywhere else."""
        if self.err.is_terminal:
            with self.err.status(Text(text)) as status:
                yield Working(lambda said: status.update(Text(said)))
        else:
            yield Working(lambda _: None)

    @property
    def is_narrow(self) -> bool:
        """Whether ids and the like have to be short."""
        return not self.wide and self.out.width < WIDE

    def ids(self, ids: Iterable[str]) -> dict[str, str]:
        """Give each id as it fits: whole, or the shortest beginning that no other has."""
        found = list(dict.fromkeys(ids))
        if not self.is_narrow:
            return {each: each for each in found}
        length = SHORTEST_ID
        while len({each[:length] for each in found}) < len(found):
            length += 1
        return {each: each[:length] for each in found}

    def error(self, error: RelayCommandError) -> ExitCode:
        """Tell what went wrong; give the exit code."""
        if self.as_json:
            told: Json = {"error": {"code": error.code, "message": error.message}}
            if error.job_execution_id:
                told["job_execution_id"] = error.job_execution_id
            self.document(told)
        elif isinstance(error, Interrupted):
            self.note(f"\n{error.message}")
        else:
            self.err.print(Text.assemble(("Error: ", "bold red"), error.message), soft_wrap=True)
        return error.exit_code


@dataclass(frozen=True)
class Working:
    """A sign of life on the terminal."""

    say: Any


def plain(value: object) -> str:
    """Give a text without control characters, which a terminal would obey."""
    text = "" if value is None else str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def ago(moment: datetime | None, now: datetime) -> str:
    """Say how long ago something was, or how far off it is."""
    if moment is None:
        return "never"
    seconds = (now - moment).total_seconds()
    said = _span(abs(seconds))
    return "now" if said == "0 s" else f"{said} ago" if seconds > 0 else f"in {said}"


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size or (unit != "d" and seconds >= size):
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def moment(text: datetime | None) -> str:
    """Give a moment in the time of the person at the keyboard."""
    return f"{text.astimezone():%Y-%m-%d %H:%M:%S}" if text else ""


# -------------------------------------------------------------------------------------------- input


def read_secret(output: Output, prompt: str, *, may_be_empty: bool = False) -> str:
    """Read a secret: hidden from a terminal, else a line of standard input."""
    is_typed = sys.stdin.isatty()
    secret = _hidden(output, prompt) if is_typed else sys.stdin.readline().strip()
    if not secret and not may_be_empty:
        raise WrongUsage(
            "nothing_given",
            f"{prompt}: none was given. Type it at the prompt, or put it into standard input.",
        )
    return secret


def read_line(output: Output, prompt: str) -> str:
    """Read a line of which no secret is made. `EOFError` for Ctrl-D: that is no empty line."""
    output.err.print(Text(f"{prompt}: "), end="", soft_wrap=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.strip()


def confirm(output: Output, question: str) -> bool:
    """Ask; only a terminal can answer, so that nothing is taken for a yes by accident."""
    if not sys.stdin.isatty():
        raise WrongUsage("confirmation_needed", "Nobody is there to confirm this. Add --yes.")
    return read_line(output, f"{question} [y/N]").lower() in {"y", "yes"}


def _hidden(output: Output, prompt: str) -> str:
    from getpass import getpass  # noqa: PLC0415 - needed for a prompt alone

    output.err.file.flush()
    return getpass(f"{prompt} (hidden): ", stream=sys.stderr).strip()
