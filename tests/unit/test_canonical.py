"""JSON: one way to write it, and nothing dubious is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.spec import canonical

keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)
documents = st.dictionaries(keys, values, max_size=5)


@given(documents)
def test_what_is_written_is_read(document: dict[str, Any]) -> None:
    assert canonical.decode(canonical.encode(document), "it") == document


@given(documents)
def test_order_does_not_matter(document: dict[str, Any]) -> None:
    backwards = dict(reversed(document.items()))
    assert canonical.encode(document) == canonical.encode(backwards)


def test_the_form() -> None:
    assert canonical.encode({"b": [1, True], "a": "ü\n"}) == '{"a":"ü\\n","b":[1,true]}'.encode()
    with pytest.raises(ValueError):
        canonical.encode({"x": float("nan")})


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"1",
        b"null",
        b'"text"',
        b"{",
        b"{} {}",
        b"{}x",
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b"{'a':1}",
        b'{"a":1,}',
        b'{"\xff":1}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\\ud800"}',
        b'{"\\uDFFF":1}',
        b'{"a":"\x00"}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'\xef\xbb\xbf{"a":1}',
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-16-le"),
        '{"a":1}'.encode("utf-32"),
        b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"a":' * 100_000,
    ],
    ids=range(27),
)
def test_what_is_refused(raw: bytes) -> None:
    with pytest.raises(InputError, match="it "):
        canonical.decode(raw, "it")


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (rb'{"a":"\ud83d\ude00"}', {"a": "\U0001f600"}),
        (rb'{"a":"\\ud800"}', {"a": "\\ud800"}),
        (b' {"a": 1.5}\n', {"a": 1.5}),
        (b"{}", {}),
    ],
)
def test_what_is_read(raw: bytes, value: dict[str, Any]) -> None:
    assert canonical.decode(raw, "it") == value


@given(st.binary(max_size=200) | st.text().map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_decode_gives_an_object_or_the_declared_error(raw: bytes) -> None:
    try:
        document = canonical.decode(raw, "it")
    except InputError:
        return
    assert document == json.loads(raw)
    assert canonical.decode(canonical.encode(document), "it") == document


Read = Callable[[dict[str, Any], str, str], Any]


@pytest.mark.parametrize(
    ("read", "good", "bad"),
    [
        (canonical.text, ["", "x"], [1, True, [], {}, 1.5]),
        (canonical.integer, [0, -1, 2**70], [None, True, "1", 1.0, []]),
        (canonical.mapping, [{}, {"a": 1}], [[], "x", 1, False]),
        (canonical.sequence, [[], [1]], [{}, "x", 1, False]),
        (canonical.strings, [{}, {"a": "b"}], [[], {"a": 1}, {"a": None}, "x", {"a": ["b"]}]),
    ],
)
def test_members(read: Read, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert read({"key": value}, "key", "it") == value
    for value in bad:
        with pytest.raises(InputError, match="it: key"):
            read({"key": value}, "key", "it")


def test_absent_members() -> None:
    assert canonical.text({}, "key", "it", "default") == "default"
    assert canonical.mapping({"key": None}, "key", "it") == {}
    assert list(canonical.sequence({}, "key", "it")) == []
    assert canonical.strings({}, "key", "it") == {}
