"""The text that JavaScript's `JSON.stringify(JSON.parse(body))` gives.

Cobalt signs `JSON.stringify(payload)`. What is signed is not what was sent wherever something on
the way writes the JSON anew: other spaces, other escapes, `1.0` for `1`. This gives the signed text
back (ECMA-262: JSON.parse, JSON.stringify, Number::toString, OrdinaryOwnPropertyKeys).

It is tried on bodies of which nobody knows yet who sent them, so it is bounded: whatever goes
beyond a limit has no such text.
"""

import json
import math
from collections.abc import Iterable
from json.encoder import encode_basestring
from typing import NoReturn

from cobalt_relay.json_limits import is_within
from cobalt_relay.patterns import pattern

MAX_BYTES = 2 * 1024 * 1024
MAX_VALUES = 100_000
"""As many as `MAX_BYTES` of appointments have, with their short fields."""
MAX_DEPTH = 32
"""Webhooks as documented nest 5 deep."""

_PLAIN_INTEGER_LENGTH = 15
"""An integer of so many characters is exact as a double, and is written with just its digits."""
_ARRAY_INDEX = pattern("0|[1-9][0-9]{0,9}")
_LARGEST_ARRAY_INDEX = 2**32 - 2


class _Number(str):
    """A number as JavaScript writes it."""

    __slots__ = ()


def canonical(body: bytes) -> bytes | None:
    """Give JavaScript's text of a JSON body.

    None where `JSON.parse` refuses it, where it is no UTF-8, or beyond the limits.
    """
    if len(body) > MAX_BYTES or not is_within(body, depth=MAX_DEPTH, values=MAX_VALUES):
        return None
    try:
        document = json.loads(
            body.decode(), parse_int=_integer, parse_float=_number, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        return None
    pieces: list[str] = []
    _write(document, pieces)
    # Only lone surrogates are no UTF-8, and Python escapes them as JavaScript does: `\udc00`.
    return "".join(pieces).encode(errors="backslashreplace")


def _write(value: object, pieces: list[str]) -> None:
    """Append the text of a value, piece by piece: joined once, however deep it lies."""
    if isinstance(value, _Number):
        pieces.append(value)
    elif isinstance(value, str):
        pieces.append(encode_basestring(value))
    elif isinstance(value, dict):
        before = "{"
        for key, item in _in_order(value):
            pieces.append(f"{before}{encode_basestring(key)}:")
            _write(item, pieces)
            before = ","
        pieces.append("}" if value else "{}")
    elif isinstance(value, list):
        before = "["
        for item in value:
            pieces.append(before)
            _write(item, pieces)
            before = ","
        pieces.append("]" if value else "[]")
    else:
        pieces.append(json.dumps(value))


def _in_order(fields: dict[str, object]) -> Iterable[tuple[str, object]]:
    """Give the fields as JavaScript keeps them: array indexes come first, by size."""
    numerals = filter(_ARRAY_INDEX.fullmatch, fields)
    indexes = sorted((key for key in numerals if int(key) <= _LARGEST_ARRAY_INDEX), key=int)
    return (dict.fromkeys(indexes) | fields if indexes else fields).items()


def _integer(text: str) -> _Number:
    is_plain = len(text) <= _PLAIN_INTEGER_LENGTH and text != "-0"
    return _Number(text) if is_plain else _number(text)


def _number(text: str) -> _Number:
    """Write a number as Number::toString does.

    `repr` finds the same shortest digits, but takes to exponents earlier, and pads those.
    """
    number = float(text)
    if number == 0:
        return _Number("0")
    if math.isinf(number):
        return _Number("null")
    mantissa, _, exponent = repr(abs(number)).partition("e")
    power = int(exponent or 0)
    if not exponent:
        written = mantissa.removesuffix(".0")
    elif 0 < power < 21:
        written = mantissa.replace(".", "").ljust(power + 1, "0")
    elif -6 <= power < 0:
        written = f"0.{'0' * (-power - 1)}{mantissa.replace('.', '')}"
    else:
        written = f"{mantissa}e{power:+d}"
    return _Number(f"-{written}" if number < 0 else written)


def _no_constant(_name: str) -> NoReturn:
    raise ValueError
