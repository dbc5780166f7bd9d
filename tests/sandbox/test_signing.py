"""``stringify`` against what JavaScript's ``JSON.stringify`` prints (ECMA-262)."""

import json
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.signing import sign, stringify


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0, "0"),
        (-7, "-7"),
        (1.0, "1"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1.5e-7, "1.5e-7"),
        (0.000001, "0.000001"),
        (1e21, "1e+21"),
        (123456789012345680000.0, "123456789012345680000"),
        (2**53, "9007199254740992"),
        (12345678901234567890, "12345678901234567000"),
        (5e-324, "5e-324"),
        (float("nan"), "null"),
        (10**400, "null"),
        ("é🙂\u2028</", '"é🙂\u2028</"'),
        ('"\\\b\f\n\r\t\x01\x7f', '"\\"\\\\\\b\\f\\n\\r\\t\\u0001\x7f"'),
        ("\ud83d", '"\\ud83d"'),
        ("\ud83d\ude42 \ude42", '"🙂 \\ude42"'),
        ([1, {"b": [], "a": {}}], '[1,{"b":[],"a":{}}]'),
        ({"b": 1, "10": 2, "9": 3, "01": 4}, '{"9":3,"10":2,"b":1,"01":4}'),
    ],
)
def test_same_text_as_javascript_when_a_value_is_written(value: object, text: str) -> None:
    written = stringify(value)

    assert written == text.encode()


def test_type_error_when_json_has_no_such_value() -> None:
    with pytest.raises(TypeError, match="JSON has no set"):
        stringify({1})


def test_known_digest_when_a_body_is_signed() -> None:
    # RFC 4231, test case 2.
    signature = sign(b"what do ya want for nothing?", "Jefe")

    assert signature == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    )
)
@settings(max_examples=50, deadline=None)
def test_text_is_stable_when_it_is_parsed_and_written_again(value: object) -> None:
    written = stringify(value)

    assert stringify(json.loads(written)) == written


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js to compare with")
def test_same_numbers_as_node_when_many_are_written() -> None:
    mantissas = [1, -1.25, 9.87654321]
    numbers = [each * 10.0**power for each in mantissas for power in range(-30, 30)]
    script = f"process.stdout.write(JSON.stringify({json.dumps(numbers)}))"

    printed = subprocess.run(
        [shutil.which("node") or "", "-e", script], capture_output=True, check=True, timeout=20
    )

    assert stringify(numbers) == printed.stdout
