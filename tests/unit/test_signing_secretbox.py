"""secretbox: equal to NaCl's, and nothing changed is opened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.signing import secretbox

# of NaCl's own tests, tests/secretbox.c
KEY = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
NONCE = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
PLAINTEXT = bytes.fromhex(
    "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c"
    "61296cdc3c01233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f"
    "21af1fde048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f937763848645e0705"
)
SEALED = bytes.fromhex(
    "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1"
    "186ac0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab9321645"
    "48e526ae90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b"
    "1f654cb45a74e355a5"
)


def test_the_known_answer() -> None:
    assert secretbox.seal(PLAINTEXT, NONCE, KEY) == SEALED
    assert secretbox.unseal(SEALED, NONCE, KEY) == PLAINTEXT


@given(
    st.binary(max_size=300),
    st.binary(min_size=24, max_size=24),
    st.binary(min_size=32, max_size=32),
)
def test_it_is_what_libsodium_writes(plaintext: bytes, nonce: bytes, key: bytes) -> None:
    nacl = pytest.importorskip("nacl.secret", reason="PyNaCl is not installed")
    sealed = secretbox.seal(plaintext, nonce, key)
    assert sealed == nacl.SecretBox(key).encrypt(plaintext, nonce).ciphertext
    assert secretbox.unseal(sealed, nonce, key) == plaintext


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_a_changed_byte_is_seen(position: int, change: int) -> None:
    changed = bytearray(SEALED)
    changed[position] ^= change
    assert secretbox.unseal(bytes(changed), NONCE, KEY) is None


@pytest.mark.parametrize("length", [0, 1, 15, 16, len(SEALED) - 1])
def test_a_truncated_box_stays_closed(length: int) -> None:
    assert secretbox.unseal(SEALED[:length], NONCE, KEY) is None


def test_another_key_and_another_nonce_open_nothing() -> None:
    assert secretbox.unseal(SEALED, NONCE, bytes(32)) is None
    assert secretbox.unseal(SEALED, bytes(24), KEY) is None


def test_wrong_sizes_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError):
        secretbox.seal(b"", NONCE[1:], KEY)
    with pytest.raises(ValueError):
        secretbox.unseal(SEALED, NONCE, KEY[1:])
