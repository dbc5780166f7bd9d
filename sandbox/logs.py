"""Log lines: a constant message in snake case, and fields; no secret, no name of a patient."""

import json
import logging
import sys
from datetime import UTC, datetime

from sandbox.clock import iso_millis

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Formatter(logging.Formatter):
    """Shared: collect the fields that a line was given, leaving out those that are ``None``."""

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """Give the fields of the line besides its message."""
        fields = {
            key: value
            for key, value in vars(record).items()
            if key not in _STANDARD and (value is not None or key == "status")
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return fields

    def moment(self, record: logging.LogRecord) -> str:
        """Give the line's time in UTC."""
        return iso_millis(datetime.fromtimestamp(record.created, UTC))


class TextFormatter(_Formatter):
    """``time level message key=value …``."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a line for people."""
        fields = " ".join(f"{key}={_text(value)}" for key, value in self.fields(record).items())
        line = f"{self.moment(record)} {record.levelname:<7} {record.getMessage()} {fields}"
        return line.rstrip()


class JsonFormatter(_Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a line for programs."""
        line = {
            "at": self.moment(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **self.fields(record),
        }
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(level: str, *, as_json: bool) -> None:
    """Send the lines to standard error; libraries speak only from warnings upwards."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("sandbox").setLevel(level.upper())


def _text(value: object) -> str:
    text = "-" if value is None else str(value)
    return json.dumps(text, ensure_ascii=False) if " " in text or "\n" in text else text
