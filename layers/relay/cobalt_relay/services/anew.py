"""What Cobalt refuses may only be out of date here: it is read anew, and tried once more."""

from collections.abc import Callable
from typing import Protocol

from cobalt_relay.errors import AccessTokenRefused, RelayError, UpstreamRefusal


class Recall[V](Protocol):
    """Gives what is remembered; with `refresh`, reads it anew, but not too often."""

    def __call__(self, *, refresh: bool = False) -> V:
        """Raise `RelayError` where nothing can be had."""


def anew_where_refused[V, R](
    recall: Recall[V],
    ask: Callable[[V], R],
    refusals: type[UpstreamRefusal] | tuple[type[UpstreamRefusal], ...] = AccessTokenRefused,
) -> R:
    """Ask with what is remembered; where that is refused, once more with what is there now.

    The refusal stands where nothing else is there, or nothing can be read. It is safe to ask again:
    a refusal means that nothing was started.
    """
    value = recall()
    try:
        return ask(value)
    except refusals:
        newer = _read_anew(recall)
        if newer is None or newer == value:
            raise
    return ask(newer)


def _read_anew[V](recall: Recall[V]) -> V | None:
    try:
        return recall(refresh=True)
    except RelayError:
        return None
