"""The trace: one id from a caller's request through Cobalt, the webhook and the events.

It is a trace id of W3C Trace Context: 32 hexadecimal digits, which is what X-Ray's own id is
without its dashes. A caller may bring one in `traceparent`; else it is X-Ray's, or the request's.
The rows of a request, a job and a range keep it, so that whatever happens to one of them minutes
later, in another function, is told under the same id.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from uuid import uuid4

from cobalt_relay.patterns import pattern

_TRACEPARENT = pattern(r"(?!ff)[0-9a-f]{2}-(?P<id>[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_XRAY = pattern(r"(?:^|;)\s*Root=1-([0-9a-f]{8})-([0-9a-f]{24})(?:;|$)", re.ASCII)
_NO_DIGIT = pattern(r"[^0-9a-f]")
_LENGTH = 32
_NONE = "0" * _LENGTH
"""Invalid by the specification."""

_current: ContextVar[str | None] = ContextVar("trace_id", default=None)


def current() -> str | None:
    """Give the trace of what is being done; None outside of any."""
    return _current.get()


@contextmanager
def traced(trace_id: str | None) -> Iterator[None]:
    """Do something under a trace, and what follows under the former one again.

    None leaves it as it is: rows of an earlier edition have none.
    """
    token = _current.set(trace_id or _current.get())
    try:
        yield
    finally:
        _current.reset(token)


def follow(trace_id: str | None) -> None:
    """Go on under a trace that has just become known, to the end of the innermost `traced`.

    None leaves it as it is.
    """
    if trace_id:
        _current.set(trace_id)


def of_request(request_id: str) -> str:
    """Give the trace that is named for a request: the digits of its UUID, else random ones."""
    digits = _NO_DIGIT.sub("", request_id.lower())
    return digits if len(digits) == _LENGTH and digits != _NONE else uuid4().hex


def of_headers(headers: Mapping[str, str | None]) -> str | None:
    """Give the trace that a caller brings: `traceparent` (W3C), then `x-amzn-trace-id` (X-Ray).

    None where it brings none that is valid. The names are in lower case.
    """
    match = _TRACEPARENT.match((headers.get("traceparent") or "").strip())
    if match and match["id"] != _NONE:
        return match["id"]
    return _of_xray(headers.get("x-amzn-trace-id") or "")


def traceparent() -> dict[str, str]:
    """Give the header that hands the trace on; none outside of any."""
    trace_id = current()
    return {"traceparent": f"00-{trace_id}-{uuid4().hex[:16]}-01"} if trace_id else {}


def _of_xray(text: str) -> str | None:
    match = _XRAY.search(text)
    return "".join(match.groups()) if match else None
