"""The text of `JSON.stringify(JSON.parse(body))`, held against Node.js itself."""

import json
import math
import random
import shutil
import struct
import subprocess
import tracemalloc

import pytest

from cobalt_relay import javascript
from cobalt_relay.javascript import MAX_BYTES, MAX_DEPTH, MAX_VALUES, canonical

NOT_PROVEN = "no node on the PATH: NOT PROVEN that the canonical form is that of real JavaScript"
SCRIPT = """
const lines = require('fs').readFileSync(0, 'utf8').trimEnd().split('\\n');
const answer = (line) => {
  let value;
  try { value = JSON.parse(JSON.parse(line)); } catch { return null; }
  return JSON.stringify(value);
};
process.stdout.write(lines.map((line) => JSON.stringify(answer(line))).join('\\n'));
"""


def by_node(bodies: list[str]) -> list[bytes | None]:
    """What JavaScript makes of each body; None where it refuses it. One process for all.

    Where there is no Node.js, the summary of the tests says what was not proven.
    """
    program = shutil.which("node") or pytest.skip(NOT_PROVEN)
    lines = "\n".join(json.dumps(body) for body in bodies)
    done = subprocess.run(
        [program, "-e", SCRIPT], input=lines.encode(), capture_output=True, check=True, timeout=60
    )
    answers = [json.loads(line) for line in done.stdout.decode().split("\n")]
    assert len(answers) == len(bodies)
    return [None if answer is None else answer.encode() for answer in answers]


def differences(bodies: list[str]) -> list[tuple[str, bytes | None, bytes | None]]:
    ours = [canonical(body.encode()) for body in bodies]
    return [row for row in zip(bodies, ours, by_node(bodies), strict=True) if row[1] != row[2]]


class Writer:
    """Writes JSON texts at random, in every way that JSON can be written."""

    KEYS = (
        *("0", "1", "2", "10", "01", "-1", "1.0", "1e3", "4294967293", "4294967294", "4294967295"),
        *("99999999999", "", "a", "b", "id", "__proto__", "constructor", "toString", "length"),
        *("é", "\u2028", "\ud83e\udd8a", "\u0661", "０"),
    )
    CHARACTERS = (
        *'abc"\\/\b\f\n\r\t\x00\x01\x1f\x7f\x80\xa0é’',
        *"\u2028\u2029\ufeff\ufffe\uffff\ud7ff\ue000\U0001f98a\U0010ffff\ud800\udbff\udc00\udfff",
    )
    NUMBERS = (
        *("0", "-0", "-0.0", "0e5", "1", "-1", "1.0", "1.50", "1e2", "1E+2", "1e-7", "1e-6"),
        *("0.000001", "0.0000001", "1e20", "1e21", "123456789012345678901", "9007199254740993"),
        *("9007199254740992", "-9007199254740993", "1e999", "-1e999", "1e-999", "5e-324"),
        *("1.7976931348623157e308", "1.7976931348623159e308", "0.1", "0.30000000000000004"),
        *("4.35", "100000000000000000000", "999999999999999", "9999999999999999", "1" * 400),
        *("2.2250738585072011e-308", "9.5e-7", "1.5e-9", "123e-20", "1e16", "12345678901234567"),
    )

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)  # noqa: S311

    def text(self, depth: int = 4) -> str:
        pad = self.dice.choice(("", "", "", " ", "\n\t", "\r\n  "))
        return pad + self._value(depth) + pad

    def _value(self, depth: int) -> str:
        match self.dice.randrange(8 if depth else 5):
            case 0:
                return self.dice.choice(("true", "false", "null"))
            case 1:
                return self.number()
            case 2 | 3:
                return self.string(self.dice.choices(self.CHARACTERS, k=self.dice.randrange(6)))
            case 4:
                return self.dice.choice(self.NUMBERS)
            case 5:
                return f"[{','.join(self.text(depth - 1) for _ in range(self.dice.randrange(4)))}]"
            case _:
                return f"{{{','.join(self._field(depth) for _ in range(self.dice.randrange(7)))}}}"

    def _field(self, depth: int) -> str:
        return f"{self.string(self.dice.choice(self.KEYS))} :{self.text(depth - 1)}"

    def number(self) -> str:
        """Any double, in one of the ways to write it."""
        (double,) = struct.unpack("d", self.dice.randbytes(8))
        if not math.isfinite(double) or self.dice.random() < 0.3:
            double = self.dice.uniform(-1, 1) * 10.0 ** self.dice.randint(-12, 25)
        form = self.dice.choice(("r", ".17e", ".20f", ".3e", ".0f"))
        return repr(double) if form == "r" else format(double, form)

    def string(self, characters: list[str] | str) -> str:
        return f'"{"".join(self._character(each) for each in characters)}"'

    def _character(self, character: str) -> str:
        code = ord(character)
        must = character in '"\\' or code < 0x20 or 0xD800 <= code < 0xE000
        short = {'"': '"', "\\": "\\", "/": "/", "\b": "b", "\f": "f", "\n": "n"}.get(character)
        if short and self.dice.random() < 0.5:
            return f"\\{short}"
        if must or self.dice.random() < 0.2:
            units = character.encode("utf-16-be", "surrogatepass")
            form = self.dice.choice(("04x", "04X"))
            return "".join(
                f"\\u{format(units[i] << 8 | units[i + 1], form)}" for i in range(0, len(units), 2)
            )
        return character


def test_form_is_that_of_javascript_whatever_the_document() -> None:
    writer = Writer(1)
    bodies = [writer.text() for _ in range(6_000)]

    different = differences(bodies)

    assert different == []
    assert sum(canonical(body.encode()) is not None for body in bodies) == len(bodies)


def test_numbers_are_those_of_javascript() -> None:
    writer = Writer(2)
    bodies = [f"[{','.join(writer.number() for _ in range(100))}]" for _ in range(300)]

    different = differences(["[" + ",".join(Writer.NUMBERS) + "]", *bodies])

    assert different == []


def test_refused_is_what_javascript_refuses() -> None:
    writer = Writer(3)
    inserted = (*'{}[]",:\\0e+-.tfn /', "\ufeff", "\x00", "\x0b", "\xa0", "\u2028", "'", "NaN")
    bodies = []
    for _ in range(6_000):
        text = writer.text(3)
        at = writer.dice.randrange(len(text) + 1)
        cut = writer.dice.randrange(2)
        bodies.append(text[:at] + writer.dice.choice(inserted) + text[at + cut :])

    different = differences(bodies)

    assert different == []
    refused = sum(canonical(body.encode()) is None for body in bodies)
    assert 1_000 < refused < 5_900


BROKEN = [
    *("", " ", "NaN", "Infinity", "-Infinity", "[NaN]", '{"a":-Infinity}', "undefined", "nul"),
    *("\ufeff{}", '"\x01"', '"\n"', '"\t"', "'a'", "{a:1}", "[1,]", '{"a":1,}', "[,1]", "// a\n1"),
    *("01", "-", "+1", ".5", "1.", "1e", "1e+", "0x1", "1_000", "١", "1\u00a0", "\u20281", "1 2"),
    *(
        '"\\x"',
        '"\\u12"',
        '"\\u 123"',
        '"\\u+123"',
        '"\\u12_3"',
        '"\\"',
        '"a',
        "[",
        "{",
        "[[]",
        "]",
    ),
    *('{"a"}', '{"a":}', "{1:2}", '{"a":1 "b":2}', "[1 2]", "True", "None", "\x0c1", "1\x00"),
]


def test_javascript_refuses_what_is_listed_as_broken() -> None:
    answers = by_node(BROKEN)

    assert set(answers) == {None}


@pytest.mark.parametrize("body", BROKEN)
def test_no_form_when_javascript_refuses_the_body(body: str) -> None:
    form = canonical(body.encode())

    assert form is None


@pytest.mark.parametrize(
    "body", [b'"\xff"', b'"\xed\xa0\x80"', b'\xff\xfe"\x00a\x00"\x00', b'"\xc0\xaf"']
)
def test_no_form_when_the_body_is_no_utf8(body: bytes) -> None:
    form = canonical(body)

    assert form is None


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (' { "b" : 1.0 , "a" : [ ] } ', '{"b":1,"a":[]}'),
        ('{"b":1,"2":2,"a":3,"10":4,"1":5}', '{"1":5,"2":2,"10":4,"b":1,"a":3}'),
        ('{"4294967295":1,"4294967294":2}', '{"4294967294":2,"4294967295":1}'),
        ('{"a":1,"b":2,"a":3}', '{"a":3,"b":2}'),
        ('{"__proto__":{"a":1},"b":2}', '{"__proto__":{"a":1},"b":2}'),
        ("[1e21,1e20,1e-6,1e-7,-0,0.1e1]", "[1e+21,100000000000000000000,0.000001,1e-7,0,1]"),
        ("[9007199254740993,1e999,-1e999,123456789e-15]", "[9007199254740992,null,null,1.23456789e-7]"),
        ('"\\u0041\\/\\u001F\\b\\u2028\\ud83e\\udd8a"', '"A/\\u001f\\b\u2028🦊"'),
        ('"\\uD83E\\uDBFF"', '"\\ud83e\\udbff"'),
        ("{}", "{}"),
        (' "" ', '""'),
    ],
)  # fmt: skip
def test_form_is_known_for_documents_that_tell(body: str, form: str) -> None:
    written = canonical(body.encode())

    assert written == form.encode()


# ------------------------------------------------------------------------------------------- limits

MEGABYTE = 1024 * 1024
BOMBS = {
    "6 MB of [": b"[" * (6 * MEGABYTE),
    "2 MB of [": b"[" * MAX_BYTES,
    "6 MB of digits": b"9" * (6 * MEGABYTE),
    "6 MB of a string": b'"' + b"a" * (6 * MEGABYTE) + b'"',
    "300,000 keys": b"{" + b",".join(b'"%x":1' % n for n in range(300_000)) + b"}",
    "300,000 numbers": b"[" + b"1," * 300_000 + b"1]",
    "a million objects": b"[" + b"{}" * (MEGABYTE - 1) + b"]",
    "deep objects": b'{"a":' * 200_000,
    "deep below the surface": b"[0," * 40 + b"]" * 40,
    "2 MB of strings": b'"" ,' * (MAX_BYTES // 4),
    "2 MB of quotes": b'"' * MAX_BYTES,
    "2 MB of backslashes": b"\\" * MAX_BYTES,
    "2 MB of escaped quotes, unended": b'"' + b'\\"' * (MEGABYTE - 2),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_has_no_form_and_takes_little_memory(name: str) -> None:
    tracemalloc.start()

    form = canonical(BOMBS[name])

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert form is None
    assert peak < 20 * MEGABYTE


HEAVIEST = {
    "as many keys as are allowed": b"{" + b",".join(b'"%x":1' % n for n in range(MAX_VALUES - 1)) + b"}",
    "as many floats": b"[" + b",".join([b"1.5e-7"] * (MAX_VALUES - 1)) + b"]",
    "a string as long as is allowed": b'"' + "🦊".encode() * (MAX_BYTES // 4 - 1) + b'"',
    "one wide character in it": b'"' + b"a" * (MAX_BYTES - 6) + "🦊".encode() + b'"',
    "as many digits": b"9" * MAX_BYTES,
    "a long string as deep as is allowed": b"[" * MAX_DEPTH + b'"%s"' % (b"a" * MEGABYTE) + b"]" * MAX_DEPTH,
}  # fmt: skip


@pytest.mark.parametrize("name", HEAVIEST)
def test_heaviest_bodies_within_the_limits_take_bounded_memory(name: str) -> None:
    tracemalloc.start()

    form = canonical(HEAVIEST[name])

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert form is not None
    assert peak < 32 * MEGABYTE


@pytest.mark.parametrize(
    ("limit", "within", "beyond"),
    [
        ("MAX_BYTES", b'"' + b"a" * 98 + b'"', b'"' + b"a" * 99 + b'"'),
        ("MAX_VALUES", b"[" + b"1," * 98 + b"1]", b"[" + b"1," * 99 + b"1]"),
        ("MAX_DEPTH", b"[" * 100 + b"]" * 100, b"[" * 101 + b"]" * 101),
    ],
)
def test_form_ends_at_each_limit(
    monkeypatch: pytest.MonkeyPatch, limit: str, within: bytes, beyond: bytes
) -> None:
    for name in ("MAX_BYTES", "MAX_VALUES", "MAX_DEPTH"):
        monkeypatch.setattr(javascript, name, 100 if name == limit else 1000)

    forms = [canonical(within), canonical(beyond)]

    assert forms == [within, None]
