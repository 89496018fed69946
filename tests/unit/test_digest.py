"""Digests: what is one, and that hashing names its algorithm."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.spec.digest import finish, hasher_for, parse_digest, sha256, short

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize("text", [f"sha256:{HEX}", f"sha512:{HEX}{HEX}"])
def test_a_digest_is_itself(text: str) -> None:
    assert parse_digest(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        HEX,
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX.upper()}",
        f"SHA256:{HEX}",
        f"sha512:{HEX}",
        f"md5:{HEX[:32]}",
        f"sha256:{HEX}\n",
        f" sha256:{HEX}",
        f"sha256:../{HEX[:-3]}",
        "sha256:" + "\u0660" * 64,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_digest(text)


@given(st.text())
def test_parse_gives_the_text_or_the_declared_error(text: str) -> None:
    try:
        assert parse_digest(text) == text
    except InputError:
        assert not text.startswith("sha256:") or len(text) != 71 or text != text.lower()


@given(st.binary(max_size=300), st.integers(0, 300))
def test_hashing_in_pieces_is_hashing(data: bytes, cut: int) -> None:
    for algorithm in ("sha256", "sha512"):
        like = f"{algorithm}:"
        hasher = hasher_for(like)
        hasher.update(data[:cut])
        hasher.update(memoryview(data)[cut:])
        digest = finish(hasher, like)
        assert digest == f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
        assert parse_digest(digest) == digest


def test_known_values() -> None:
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256(b"") == empty
    assert short(empty) == "e3b0c44298fc"
