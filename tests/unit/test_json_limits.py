"""What is said of a JSON text without reading it, held against reading it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cobalt_relay.json_limits import is_within, nests_within

TEXTS = st.text(st.sampled_from('a"\\[]{},:\né🦊'), max_size=6)
DOCUMENTS = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def depth_of(document: Any) -> int:
    match document:
        case dict():
            return 1 + max(map(depth_of, document.values()), default=0)
        case list():
            return 1 + max(map(depth_of, document), default=0)
    return 0


def values_of(document: Any) -> int:
    match document:
        case dict():
            return 1 + sum(map(values_of, document.values()))
        case list():
            return 1 + sum(map(values_of, document))
    return 1


def empty_containers(document: Any) -> int:
    match document:
        case dict():
            return not document or sum(map(empty_containers, document.values()))
        case list():
            return not document or sum(map(empty_containers, document))
    return 0


@settings(derandomize=True, deadline=None, max_examples=400)
@given(DOCUMENTS, st.sampled_from([None, 2]), st.booleans())
def test_depth_and_values_are_judged_exactly(
    document: Any, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode()
    depth = depth_of(document)
    counted = values_of(document) + empty_containers(document)  # an empty one may yet get a value

    assert is_within(text, depth=depth, values=counted)
    assert not is_within(text, depth=depth, values=counted - 1)
    assert nests_within(document, depth)
    if depth:
        assert not is_within(text, depth=depth - 1, values=counted)
        assert not nests_within(document, depth - 1)


@pytest.mark.parametrize(
    "text", [b"", b"]" * 50, b'"', b'"\\', b"\\", b'"[[[[[[', b'\\"[', b"\xff" * 9, b',"' * 9]
)
def test_any_bytes_are_judged(text: bytes) -> None:
    assert is_within(text, depth=8, values=100)


@pytest.mark.parametrize("text", [b"[" * 9, b'"\\\\"' + b"[" * 9, b"]]]][" + b"[" * 12])
def test_what_stands_before_the_break_is_judged(text: bytes) -> None:
    assert not is_within(text, depth=8, values=100)
