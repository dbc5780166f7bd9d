"""The bytes of a webhook and its signature (docs: Webhooks).

``cobalt-verification`` is the hex HMAC-SHA256 of ``JSON.stringify(payload)`` under the webhook
secret. The body that is sent is that very text, so a receiver may check the bytes as they came.
"""

import hashlib
import hmac
import json
import math
import re
from collections.abc import Mapping
from json.encoder import encode_basestring

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_ARRAY_INDEX = re.compile("0|[1-9][0-9]{0,9}")
_LARGEST_ARRAY_INDEX = 2**32 - 2
_LARGEST_SAFE_INTEGER = 2**53 - 1


def sign(body: bytes, secret: str) -> str:
    """Give the lower-case hex HMAC-SHA256 of ``body``."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def stringify(value: object) -> bytes:
    """Write a value as JavaScript's ``JSON.stringify`` does, in UTF-8.

    No spaces, non-ASCII characters as they are, lone surrogates escaped, numbers as JavaScript
    prints them, and keys that look like array indexes first and in order.
    """
    text = _text(value)
    try:
        return text.encode()
    except UnicodeEncodeError:
        paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return _LONE_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", paired).encode()


def _text(value: object) -> str:
    match value:
        case str():
            return encode_basestring(value)
        case bool() | None:
            return json.dumps(value)
        case int():
            safe = -_LARGEST_SAFE_INTEGER <= value <= _LARGEST_SAFE_INTEGER
            return str(value) if safe else _number(_as_float(value))
        case float():
            return _number(value)
        case list() | tuple():
            return f"[{','.join(map(_text, value))}]"
        case Mapping():
            pairs = [(encode_basestring(key), _text(item)) for key, item in _in_order(value)]
            return f"{{{','.join(f'{key}:{item}' for key, item in pairs)}}}"
    raise TypeError(f"JSON has no {type(value).__name__}")


def _in_order(value: Mapping[str, object]) -> list[tuple[str, object]]:
    """Give the pairs as JavaScript keeps them: keys that are array indexes come first, by size."""
    pairs = list(value.items())
    if any(_ARRAY_INDEX.match(key) for key, _ in pairs):
        pairs.sort(key=lambda pair: _key_order(pair[0]))
    return pairs


def _key_order(key: str) -> tuple[int, int]:
    is_index = _ARRAY_INDEX.fullmatch(key) is not None and int(key) <= _LARGEST_ARRAY_INDEX
    return (0, int(key)) if is_index else (1, 0)


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _number(value: float) -> str:
    """Write a number after ECMAScript's Number::toString; Python's ``repr`` has the same digits."""
    if not math.isfinite(value):
        return "null"
    if value == 0:
        return "0"
    sign_text = "-" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        text = digits + "0" * (point - count)
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        power = point - 1
        tail = f".{digits[1:]}" if count > 1 else ""
        text = f"{digits[0]}{tail}e{'+' if power > 0 else '-'}{abs(power)}"
    return sign_text + text
