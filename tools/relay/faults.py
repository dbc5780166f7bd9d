"""What can go wrong, by exit code. Messages say what to do, and never quote a secret.

RelayCommandError
├── NotWell             1     the command ran, and what it found or did is not well
├── WrongUsage          2     the command cannot be meant like this
├── NotFound            3     what it names is not there
├── Unreachable         4     AWS, the relay or Cobalt cannot be reached, or refuse
├── FetchEnded          5     a fetch came to an end, and that is no success
└── Interrupted         130   the person at the keyboard ended the command; 129 or 143: a signal
"""

from enum import IntEnum
from typing import Self


class ExitCode(IntEnum):
    """The exit codes of `relay`; its help lists them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    FETCH_ENDED = 5
    HUNG_UP = 129
    INTERRUPTED = 130
    CLOSED_PIPE = 141
    TERMINATED = 143


class RelayCommandError(Exception):
    """Base of them. `code` is stable, for programs; the message is for people."""

    exit_code: ExitCode = ExitCode.FAILED
    job_execution_id: str | None = None
    """The fetch that goes on nevertheless."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class NotWell(RelayCommandError):
    """The command ran, and what it found or did is not well."""


class WrongUsage(RelayCommandError):
    """The command cannot be meant like this."""

    exit_code = ExitCode.USAGE


class NotFound(RelayCommandError):
    """What the command names is not there."""

    exit_code = ExitCode.NOT_FOUND


class Unreachable(RelayCommandError):
    """AWS, the relay or Cobalt cannot be reached, or refuse."""

    exit_code = ExitCode.UNREACHABLE


class FetchEnded(RelayCommandError):
    """A fetch came to an end that is no success."""

    exit_code = ExitCode.FETCH_ENDED


class Interrupted(RelayCommandError):
    """Somebody ended the command: by Ctrl-C, or by the signal whose exit code is given."""

    def __init__(
        self,
        message: str = "Interrupted.",
        *,
        exit_code: ExitCode = ExitCode.INTERRUPTED,
        job_execution_id: str | None = None,
    ) -> None:
        super().__init__("interrupted", message)
        self.exit_code = exit_code
        self.job_execution_id = job_execution_id

    @classmethod
    def by(
        cls,
        early: KeyboardInterrupt | SystemExit,
        message: str = "Interrupted.",
        job_execution_id: str | None = None,
    ) -> Self:
        """Tell which signal it was. What ends the program for another reason is raised again."""
        if isinstance(early, KeyboardInterrupt):
            return cls(message, job_execution_id=job_execution_id)
        if early.code not in {ExitCode.HUNG_UP, ExitCode.TERMINATED}:
            raise early
        return cls(message, exit_code=ExitCode(early.code), job_execution_id=job_execution_id)
