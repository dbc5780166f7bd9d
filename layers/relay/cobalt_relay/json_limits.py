"""How deep and how full JSON is: asked of a text before anything is made of it, or afterwards."""

import gc
from itertools import accumulate
from typing import Any

MAX_EVENT_DEPTH = 64
"""Levels of what Cobalt delivers, or tells when it is asked for a result; the documented ones have
5."""

_OPENING = b"[{"
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{},'))


def is_within(text: bytes, *, depth: int, values: int) -> bool:
    """Whether a JSON text nests no deeper than `depth` and has at most `values` values.

    Every key has a value, so `values` bounds the keys too. Whether the text is JSON at all is not
    looked at; of a broken one, what stands before the break is judged rightly, and that is all that
    a parser reads. No look-ahead and no step per byte in Python: a hostile text costs no more.
    """
    plain = text.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in text else text
    structure = plain.translate(None, _NOT_STRUCTURE)
    if structure.count(b'"') > 4 * values:  # a key and a value, two quotes each
        return False
    outside_strings = b"".join(structure.split(b'"')[::2])
    openings = sum(map(outside_strings.count, _OPENING))
    if 1 + openings + outside_strings.count(b",") > values:
        return False
    brackets = outside_strings.replace(b",", b"")
    steps = (1 if bracket in _OPENING else -1 for bracket in brackets)
    return openings <= depth or max(accumulate(steps)) <= depth


def nests_within(document: Any, depth: int) -> bool:  # noqa: ANN401 - whatever JSON gives
    """Whether what was parsed nests no deeper than `depth`.

    Of a text that is parsed anyhow, this is told much cheaper than by `is_within`. Level by level,
    and without a step of Python for each value: the collector of garbage tells what containers
    hold, and which of that it tracks. What it does not track holds no container (CPython), so only
    the last level has to be looked at in full.
    """
    if depth < 1:
        return type(document) not in _CONTAINERS
    level = [document]
    for _ in range(depth - 1):
        if not level:
            return True
        level = list(filter(gc.is_tracked, gc.get_referents(*level)))
    return not any(type(each) in _CONTAINERS for each in gc.get_referents(*level))


_CONTAINERS = frozenset({dict, list})
