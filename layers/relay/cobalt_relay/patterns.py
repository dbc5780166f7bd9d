"""Regular expressions that are compiled when they are first used.

To compile one takes about as long as to define a class, and an invocation uses few of those that
its modules have: the others would only make every cold start longer.
"""

import re
from typing import Any, cast


class _Lazy:
    """Stands in for a compiled expression, and has its methods from the first use on."""

    def __init__(self, text: str | bytes, flags: int) -> None:
        self._text = text
        self._flags = flags

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - a method of the expression
        method = getattr(re.compile(self._text, self._flags), name)  # which `re` remembers
        setattr(self, name, method)
        return method


def pattern[T: (str, bytes)](text: T, flags: int = 0) -> re.Pattern[T]:
    """Give what `re.compile` would give; whether it is valid shows at its first use."""
    return cast("re.Pattern[T]", _Lazy(text, flags))
