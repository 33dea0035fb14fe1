"""Canonical JSON out (RFC 8785's own examples), strict JSON and YAML in: what other loaders let pass is refused."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from perunml.wire.canonical import (
    MAX_DEPTH,
    MAX_DOCUMENT,
    MAX_SAFE_INTEGER,
    MAX_YAML,
    canonical,
    check_values,
    load_canonical,
    load_json,
    load_yaml,
)
from perunml.wire.errors import PerunError, UsageError

LOADERS = [load_json, load_canonical, load_yaml]

# What can be signed and read again: JSON's types, floats in the range that reads back, no lone surrogates.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER) | st.floats(-1e15, 1e15)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def malformed(load: Any, data: bytes) -> PerunError:
    with pytest.raises(UsageError) as refused:
        load(data)
    assert refused.value.code == "malformed"
    return refused.value


# --- RFC 8785


def test_rfc_8785_the_sample_object() -> None:
    """Section 3.2.2 and 3.2.3: literals, numbers, escapes, sorted names."""
    sample = (
        r'{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],'
        r'"string": "\u20ac$\u000F\u000aA\u0027\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}'
    )
    assert canonical(json.loads(sample)) == (
        b'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        b'"string":"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


def test_rfc_8785_names_are_sorted_by_utf_16() -> None:
    """Section 3.2.3: an emoji outside the basic plane sorts before U+FB33."""
    names = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    assert list(json.loads(canonical(names)).values()) == [2, 4, 6, 7, 1, 5, 3]


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        ("0000000000000000", "0"), ("8000000000000000", "0"), ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"), ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"), ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"), ("44b52d02c7e14af6", "1e+23"), ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef50", "1e+21"), ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"), ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"), ("41b3de4355555554", "333333333.33333325"), ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)  # fmt: skip
def test_rfc_8785_numbers(bits: str, text: str) -> None:
    """Appendix B."""
    assert canonical(struct.unpack(">d", bytes.fromhex(bits))[0]).decode() == text


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, 2**53, -(2**53), "\ud800", {1: 2}, b"", object(), {"a": {1, 2}}]
)
def test_what_json_cannot_say_has_no_canonical_form(value: Any) -> None:
    """A caller's mistake: `ValueError`."""
    with pytest.raises(ValueError):
        canonical(value)


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_what_is_written_reads_back(value: Any) -> None:
    """Round trip; the canonical form is a fixed point, and YAML's flow style reads it too when it is ASCII."""
    data = canonical(value)
    assert canonical(load_canonical(data)) == data
    check_values(value)


# --- strict JSON


@pytest.mark.parametrize(
    "data",
    [
        b"", b" ", b"{", b"[1,]", b"{'a':1}", b"{a:1}", b"nul", b"01", b"+1", b".5", b"1.", b"0x10", b"- 1", b"1 2", b'"a', b"[1]]",
        b'"\n"', b'"\x00"', b'"\\x41"', b"NaN", b"Infinity", b"-Infinity", b'{"a":NaN}', b"// c\n1", b"/**/1",
        b"\xef\xbb\xbf{}", b"\xff\xfe1\x00", b'"\xff"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\\ud800"', b'{"\\udfff":1}',
        b'"\\udc00\\ud800"',
    ],
)  # fmt: skip
def test_json_of_another_form_is_refused(data: bytes) -> None:
    """Comments, trailing commas, other encodings, constants that JSON has not, lone surrogates."""
    malformed(load_json, data)


@pytest.mark.parametrize("data", [b'{"a":1,"a":1}', b'{"x":{"a":1,"b":2,"a":3}}', b'[{"a":1,"\\u0061":2}]'])
def test_p9_duplicate_keys_are_refused(data: bytes) -> None:
    """P9: also when one is spelled with an escape, and also when the values agree."""
    for load in LOADERS[:2]:
        assert "twice" in str(malformed(load, data))


@pytest.mark.parametrize(
    "data",
    [b"9007199254740992", b"-9007199254740992", b"1" * 5000, b"-" + b"1" * 100_000, b"1e400", b"-1e400", b"1e16", b"1e20",
     b"9007199254740992.0", b"1e" + b"9" * 5000],
)  # fmt: skip
def test_numbers_past_2_to_the_53_are_refused(data: bytes) -> None:
    """They would lose digits on the way, or not read back; TPM clocks travel as strings."""
    malformed(load_json, data)
    malformed(load_yaml, b"clock: " + data)


@pytest.mark.parametrize(
    ("data", "value"), [(b"9007199254740991", MAX_SAFE_INTEGER), (b"1e21", 1e21), (b"-0", 0), (b"1E2", 100.0)]
)
def test_numbers_that_are_read(data: bytes, value: float) -> None:
    """The last safe integer, and floats that are written with an exponent."""
    assert load_json(data) == value


@pytest.mark.parametrize(
    "data",
    [b'{"b":1,"a":2}', b'{"a": 1}', b"1.0", b"1e2", b"-0", b'"\\u0041"', b'"\\/"', b'{"a":1}\n', b" 1", b'"\\u00E9"', b"10E0",
     b'"\\u000a"'],
)  # fmt: skip
def test_p9_what_is_not_canonical_is_refused(data: bytes) -> None:
    """P9: one value, one spelling; `load_json` reads them, `load_canonical` does not."""
    load_json(data)
    malformed(load_canonical, data)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("unit", [b"[", b'{"a":', b'[{"a":', b"- ", b"{? "])
def test_d2_deep_nesting_is_refused(load: Any, unit: bytes) -> None:
    """D2: 10^5 levels, closed or not, end in the coded refusal and not in a full stack."""
    deep = unit * 100_000
    malformed(load, deep[:MAX_YAML] if load is load_yaml else deep)
    if unit == b"[":
        malformed(load, (b"[" * 60_000 + b"]" * 60_000))


@pytest.mark.parametrize("load", LOADERS)
def test_nesting_is_read_up_to_the_bound(load: Any) -> None:
    """MAX_DEPTH levels are read, one more is not; brackets inside strings are no nesting."""
    assert load(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    malformed(load, b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2))
    brackets = '["' + "[{" * 200 + '\\"[[\\\\"]'
    assert load(brackets.encode()) == json.loads(brackets)


@pytest.mark.parametrize(
    ("load", "limit"), [(load_json, MAX_DOCUMENT), (load_canonical, MAX_DOCUMENT), (load_yaml, MAX_YAML)]
)
def test_d1_large_documents_are_refused(load: Any, limit: int) -> None:
    """D1: by their length, before anything is parsed."""
    assert str(limit) in str(malformed(load, b"[" * (limit + 1)))
    with pytest.raises(UsageError):
        load(b"[1,2]", limit=4)
    assert load(b"[1,2]", limit=5) == [1, 2]


@settings(max_examples=250, deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet="[]{}\",:\\u0d8e19.-tfn \n&*!?|>#%@`'", max_size=60).map(str.encode))
def test_random_bytes_never_crash(data: bytes) -> None:
    """Each loader gives a value that has a canonical form, or the coded refusal."""
    for load in LOADERS:
        try:
            value = load(data)
        except UsageError:
            continue
        assert load_canonical(canonical(value)) == value


@settings(max_examples=80, deadline=None)
@given(VALUES, st.data())
def test_truncated_json_is_refused_or_another_value(value: Any, data: st.DataObject) -> None:
    """A cut canonical document of an object or list never loads."""
    whole = canonical([value])
    cut = data.draw(st.integers(0, len(whole) - 1))
    malformed(load_canonical, whole[:cut])


# --- YAML


def test_yaml_reads_json_types_and_nothing_else() -> None:
    """The traps of YAML 1.1 stay strings."""
    text = b"""
a: no
b: yes
c: on
d: 2027-06-30T00:00:00Z
e: 2027-06-30
f: 012
g: 0x1F
h: 1_000
i: 12:30:45
j: ~
k: null
l: true
m: 1.5
n: "1"
o: '1'
p: |
  1
q: .inf
r: .nan
s: +1
t: .5
u: True
v: NULL
w:
x: 0o17
y: 1e3
z: 0b1
"""
    assert load_yaml(text) == {
        "a": "no", "b": "yes", "c": "on", "d": "2027-06-30T00:00:00Z", "e": "2027-06-30", "f": "012", "g": "0x1F", "h": "1_000",
        "i": "12:30:45", "j": None, "k": None, "l": True, "m": 1.5, "n": "1", "o": "1", "p": "1\n", "q": ".inf", "r": ".nan",
        "s": "+1", "t": ".5", "u": "True", "v": "NULL", "w": None, "x": "0o17", "y": 1000.0, "z": "0b1",
    }  # fmt: skip


def test_yaml_keys_are_strings_as_written() -> None:
    """No number, date or truth value becomes a key of another type."""
    assert load_yaml(b"1: a\nyes: b\nnull: c\n2027-06-30: d\n'<<': e\n") == {
        "1": "a", "yes": "b", "null": "c", "2027-06-30": "d", "<<": "e",
    }  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        b"a: &x 1\nb: *x", b"a: *x", b"&x a: 1", b"a: &x [*x]", b"a: &x {b: 1}\nc: {<<: *x}", b"<<: {a: 1}", b"!!str a: 1", b"a: !!str 1",
        b"a: !!python/object/apply:os.system [id]", b"a: !x 1", b"a: ! 1", b"!!map {a: 1}", b"? [a]\n: 1", b"? {a: 1}\n: 1",
        b"a: 1\na: 2", b"{a: 1, 'a': 2}", b"a: 1\n---\nb: 2", b"a: 1\n...\n---\n", b"a: [", b"a: b: c", b"\ta: 1", b"a: 'x", b"a: @x",
        b"a: `x", b"a: %x\n%", b"a: NaN", b"a: Infinity", b"a: -Infinity", b"a: 1e999", b'a: "\\ud800"', b"a: \x1b[31m", b"a: \x00", b"\xff\xfea\x00",
        b"a: \xff", b"%YAML 9.9\n---\na: 1", b"\xed\xa0\x80", b"- a\nb",
    ],
)  # fmt: skip
def test_yaml_of_another_form_is_refused(data: bytes) -> None:
    """P9, D2: anchors, aliases, tags, merge keys, several documents, duplicate keys, broken text."""
    malformed(load_yaml, data)


def test_a_refusal_of_yaml_names_the_line() -> None:
    """The message helps whoever wrote it."""
    assert "line 3" in str(malformed(load_yaml, b"a: 1\nb: 2\nc: *x\n"))
    assert "line 2" in str(malformed(load_yaml, b"a: 1\nb: [\n"[:8] + b"]]"))
    assert "line 4" in str(malformed(load_yaml, b"a: 1\nb: 2\n\nc: !t 3\n"))


def test_a_billion_laughs_is_refused_at_the_first() -> None:
    """D4: nothing is expanded."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert "line 1" in str(malformed(load_yaml, "\n".join(lines).encode()))


@pytest.mark.parametrize("data", [b"", b"\n", b"# nothing\n", b"---\n", b"~"])
def test_empty_yaml_is_null(data: bytes) -> None:
    """Missing is not an empty mapping: schemas refuse it."""
    assert load_yaml(data) is None


PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(st.characters(max_codepoint=126, min_codepoint=32), max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab<*&!: #", max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(PLAIN)
def test_yaml_reads_json(value: Any) -> None:
    """JSON is YAML's flow style, and means the same here."""
    assert load_yaml(json.dumps(value).encode()) == value


@given(VALUES)
@settings(max_examples=200)
def test_the_fast_way_writes_what_the_reference_writes(value: Any) -> None:
    """Objects that Python's own encoder may write come out byte for byte as RFC 8785's reference writes them."""
    assert canonical(value) == rfc8785.dumps(value)


@pytest.mark.parametrize(
    "value",
    [
        "".join(map(chr, range(0x80))) + "\u2028\u2029\uffff\U0001f600",
        {"\U0001f600": 1, "\ufb33": 2, "a": 3},
        {"b": True, "a": {"d": None, "c": -1}},
        [0, -0.0, 1.0, 1e21, 5e-324],
    ],
    ids=["characters", "order", "nested", "floats"],
)
def test_the_fast_way_and_the_reference_agree_where_encoders_differ(value: Any) -> None:
    """Escapes, the order of keys beyond the basic plane, and floats are RFC 8785's."""
    assert canonical(value) == rfc8785.dumps(value)


@pytest.mark.parametrize(
    "value", [{1: 2}, {None: 1}, 2**53, -(2**53), math.nan, math.inf, b"x", {"a": {3}}, "\ud800"],
    ids=["number key", "null key", "large", "small", "nan", "infinite", "bytes", "set", "surrogate"],
)  # fmt: skip
def test_what_has_no_canonical_form_has_none(value: Any) -> None:
    """Python's encoder would write most of these; they are refused."""
    with pytest.raises(ValueError):
        canonical(value)
