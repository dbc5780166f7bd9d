"""Chance that repeats: the same parts always give the same draws, on every machine."""

import hashlib
import random


def dice(*parts: object) -> random.Random:
    """Give a generator whose draws depend on nothing but ``parts``.

    Strings seed ``random.Random`` through SHA-512, so hash randomisation does not matter.
    """
    return random.Random("/".join(map(str, parts)))  # noqa: S311 - repeatable on purpose, guards nothing


def digest(*parts: object, length: int = 32) -> str:
    """Give ``length`` (at most 64) hex digits that depend on nothing but ``parts``."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:length]
