"""Keys: each kind against OpenSSL both ways; what is weak or does not fit is refused."""

from __future__ import annotations

import base64
import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa, utils, x25519
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError, UsageError
from ocimodel.signing import ed25519ph
from ocimodel.signing.keys import MAX_KEY_BYTES, PrivateKey, PublicKey, parse_public_key
from ocimodel.signing.signer import KeySigner

KINDS = ("ECDSA P-256", "ECDSA P-384", "ECDSA P-521", "RSA 2048", "Ed25519")
# of the size of the curve
DIGESTS = dict(zip(KINDS, ("-sha256", "-sha384", "-sha512", "-sha256", ""), strict=True))
JWS = {
    "ECDSA P-256": ("ES256",),
    "ECDSA P-384": ("ES384",),
    "ECDSA P-521": ("ES512",),
    "RSA 2048": ("PS256", "PS384", "PS512"),
    "Ed25519": (),
}
ALGORITHMS = ("ES256", "ES384", "ES512", "PS256", "PS384", "PS512")
MESSAGE = b"what is signed\n"


@cache
def private(kind: str) -> Any:
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind.startswith("RSA"):
        return rsa.generate_private_key(65537, int(kind[4:]))
    curves = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}
    return ec.generate_private_key(curves[kind[6:]]())


def spki(key: Any) -> bytes:
    return bytes(
        key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


def openssl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["openssl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "message").write_bytes(MESSAGE)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_sized", [False, True])
def test_openssl_verifies_what_we_sign(kind: str, is_sized: bool, files: Path) -> None:
    """By default SHA-256, which is all that cosign verifies by key, on every curve."""
    key = PrivateKey(private(kind))
    assert isinstance(key, KeySigner)
    assert key.public_key.kind == kind
    signature = key.sign_sized(MESSAGE) if is_sized else key.sign(MESSAGE)
    assert key.public_key.verify(signature, MESSAGE)
    (files / "key.pub").write_bytes(key.public_key.pem)
    (files / "signature").write_bytes(signature)
    if kind == "Ed25519":
        common = ("pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", files / "key.pub")
        done = openssl(*common, "-sigfile", files / "signature", "-in", files / "message")
    else:
        digest = DIGESTS[kind] if is_sized else "-sha256"
        common = ("dgst", digest, "-verify", files / "key.pub")
        done = openssl(*common, "-signature", files / "signature", files / "message")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_we_verify_what_openssl_signs(kind: str, files: Path) -> None:
    (files / "key.pem").write_bytes(
        private(kind).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    out = ("-out", files / "signature")
    if kind == "Ed25519":
        common = ("pkeyutl", "-sign", "-rawin", "-inkey", files / "key.pem")
        done = openssl(*common, "-in", files / "message", *out)
    else:
        done = openssl("dgst", DIGESTS[kind], "-sign", files / "key.pem", *out, files / "message")
    assert done.returncode == 0, done.stderr
    openssl("pkey", "-in", files / "key.pem", "-pubout", "-out", files / "key.pub")
    key = parse_public_key((files / "key.pub").read_bytes(), "key.pub")
    signature = (files / "signature").read_bytes()
    assert key.kind == kind
    assert key.verify(signature, MESSAGE)
    assert not key.verify(signature, MESSAGE + b".")
    assert not key.verify(signature[:-1], MESSAGE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_jws_algorithm_is_exactly_that_one(kind: str, algorithm: str) -> None:
    key = PrivateKey(private(kind))
    if algorithm not in JWS[kind]:
        with pytest.raises(UsageError):
            key.sign_as(MESSAGE, algorithm)
        assert not key.public_key.verify(key.sign(MESSAGE), MESSAGE, algorithm)
        return
    signature = key.sign_as(MESSAGE, algorithm)
    accepted = [
        name for name in ("", *ALGORITHMS) if key.public_key.verify(signature, MESSAGE, name)
    ]
    assert accepted == [algorithm]
    assert not key.public_key.verify(signature, b"else", algorithm)
    assert not key.public_key.verify(signature + b"\0", MESSAGE, algorithm)
    assert not key.public_key.verify(b"\0" + signature, MESSAGE, algorithm)


def test_a_jws_number_has_all_its_bytes() -> None:
    key = PrivateKey(private("ECDSA P-521"))
    signature = b"\x01"
    # 521 bits in 66 bytes: every other s begins with a zero
    while signature[66:67] != b"\0":
        signature = key.sign_as(MESSAGE, "ES512")
    assert key.public_key.verify(signature, MESSAGE, "ES512")
    assert not key.public_key.verify(signature[:66] + signature[67:], MESSAGE, "ES512")


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_jws_algorithm_signs(kind: str) -> None:
    key = PrivateKey(private(kind))
    assert key.algorithm_name == (JWS[kind] or ("",))[0]


def test_openssl_verifies_our_pss(files: Path) -> None:
    key = PrivateKey(private("RSA 2048"))
    (files / "key.pub").write_bytes(key.public_key.pem)
    (files / "signature").write_bytes(key.sign_as(MESSAGE, "PS384"))
    options = ("-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest")
    common = ("dgst", "-sha384", *options, "-verify", files / "key.pub")
    done = openssl(*common, "-signature", files / "signature", files / "message")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["ECDSA P-384", "ECDSA P-521"])
def test_sha256_counts_on_every_curve_but_in_no_jws(kind: str) -> None:
    signature = private(kind).sign(MESSAGE, ec.ECDSA(hashes.SHA256()))
    key = PublicKey.of(private(kind).public_key())
    assert key.verify(signature, MESSAGE)
    n = {"ECDSA P-384": 48, "ECDSA P-521": 66}[kind]
    raw = b"".join(number.to_bytes(n) for number in utils.decode_dss_signature(signature))
    assert not key.verify(raw, MESSAGE, JWS[kind][0])


@pytest.mark.parametrize(
    "kind, digest", [("ECDSA P-256", hashes.SHA1()), ("ECDSA P-256", hashes.SHA384())]
)
def test_other_digests_do_not_count(kind: str, digest: Any) -> None:
    signature = private(kind).sign(MESSAGE, ec.ECDSA(digest))
    assert not PublicKey.of(private(kind).public_key()).verify(signature, MESSAGE)


def test_rsa_without_a_name_is_pkcs1_with_sha256() -> None:
    key = PublicKey.of(private("RSA 2048").public_key())
    sign = private("RSA 2048").sign
    assert key.verify(sign(MESSAGE, padding.PKCS1v15(), hashes.SHA256()), MESSAGE)
    assert not key.verify(sign(MESSAGE, padding.PKCS1v15(), hashes.SHA512()), MESSAGE)


def test_a_salt_of_another_length_is_no_jws() -> None:
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 20)
    signature = private("RSA 2048").sign(MESSAGE, pss, hashes.SHA256())
    assert not PublicKey.of(private("RSA 2048").public_key()).verify(signature, MESSAGE, "PS256")


def test_ecdsa_takes_der_only() -> None:
    key = PrivateKey(private("ECDSA P-256"))
    good = key.sign(MESSAGE)
    assert key.public_key.verify(good, MESSAGE)
    longer = bytes([0x30, 0x81, good[1]]) + good[2:]
    for sloppy in (longer, good + b"\0", key.sign_as(MESSAGE, "ES256")):
        assert not key.public_key.verify(sloppy, MESSAGE)


@given(st.sampled_from(KINDS), st.binary(max_size=200), st.sampled_from(["", "none", *ALGORITHMS]))
def test_no_signature_raises(kind: str, signature: bytes, algorithm: str) -> None:
    assert not PublicKey.of(private(kind).public_key()).verify(signature, MESSAGE, algorithm)


def test_names_of_a_key() -> None:
    """The hint stands in what cosign 3 wrote, the fingerprint is that of `openssl dgst`."""
    folder = Path("tests/vectors/signing")
    key = parse_public_key((folder / "p256.pub").read_bytes(), "p256.pub")
    bundle = json.loads((folder / "cosign3.bundle0.json").read_bytes())
    assert bundle["verificationMaterial"]["publicKey"]["hint"] == key.hint
    assert key.fingerprint == f"sha256:{base64.b64decode(key.hint).hex()}"
    assert key.pem == (folder / "p256.pub").read_bytes()
    assert parse_public_key(key.pem, "again") == key


def test_a_compressed_point_is_the_same_key() -> None:
    point = private("ECDSA P-256").public_key()
    raw = point.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    )
    header = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
    body = base64.encodebytes(header + raw)
    pem = b"-----BEGIN PUBLIC KEY-----\n" + body + b"-----END PUBLIC KEY-----\n"
    assert parse_public_key(pem, "it") == PublicKey.of(point)


def huge_rsa() -> Any:
    return rsa.RSAPublicNumbers(65537, (1 << 8200) + 1).public_key()


@pytest.mark.parametrize(
    "key, word",
    [
        (rsa.generate_private_key(65537, 1024).public_key(), "1024 bits"),
        (huge_rsa(), "8201 bits"),
        (ec.generate_private_key(ec.SECP256K1()).public_key(), "secp256k1"),
        (ec.generate_private_key(ec.BrainpoolP256R1()).public_key(), "brainpool"),
        (x25519.X25519PrivateKey.generate().public_key(), "X25519"),
        (dsa.generate_private_key(1024).public_key(), "DSA"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_weak_and_foreign_kinds_are_refused(key: Any, word: str) -> None:
    with pytest.raises(InputError, match=word):
        parse_public_key(spki(key), "it")


def test_a_private_key_of_a_foreign_kind_signs_nothing() -> None:
    with pytest.raises(InputError, match="X25519"):
        PrivateKey(x25519.X25519PrivateKey.generate())
    with pytest.raises(InputError, match="secp256k1"):
        PrivateKey(ec.generate_private_key(ec.SECP256K1()))


GOOD = spki(ec.derive_private_key(7, ec.SECP256R1()).public_key())


@pytest.mark.parametrize(
    "raw, message, hint",
    [
        (b"", "no PEM", ""),
        (GOOD[:-20], "ends before", ""),
        (GOOD + GOOD, "2 PEM blocks", ""),
        (GOOD.replace(b"MFk", b"MF!"), "no PEM", ""),
        (GOOD.replace(b"MFk", b"MFj"), "no public key that is understood", ""),
        (GOOD.replace(b"PUBLIC KEY", b"CERTIFICATE"), "a certificate, not a key", "keyring"),
        (GOOD.replace(b"PUBLIC KEY", b"PRIVATE KEY"), "is a private key", "public half"),
        (
            GOOD.replace(b"PUBLIC KEY", b"ENCRYPTED SIGSTORE PRIVATE KEY"),
            "is a private key",
            ".pub",
        ),
        (GOOD.replace(b"PUBLIC KEY", b"RSA PUBLIC KEY"), "RSA PUBLIC KEY", ""),
        (GOOD + b" " * MAX_KEY_BYTES, "larger than", ""),
    ],
)
def test_what_is_no_public_key(raw: bytes, message: str, hint: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_public_key(raw, "it.pub")
    assert str(caught.value).startswith("it.pub")
    assert hint in caught.value.hint


@given(st.binary(max_size=300) | st.binary(max_size=120).map(lambda b: b"-----BEGIN " + b))
def test_any_bytes_are_a_key_or_the_declared_error(raw: bytes) -> None:
    with pytest.raises(InputError):
        parse_public_key(raw, "it")


@given(st.integers(27, len(GOOD) - 26), st.integers(0, 255))
def test_a_damaged_key_is_a_key_or_the_declared_error(position: int, byte: int) -> None:
    damaged = GOOD[:position] + bytes([byte]) + GOOD[position + 1 :]
    try:
        parse_public_key(damaged, "it")
    except InputError:
        return


def test_nothing_secret_is_printed() -> None:
    key = PrivateKey.generate()
    assert key.public_key.kind == "ECDSA P-256"
    assert key.pkcs8.hex() not in repr(key)


# RFC 8032, 7.3
PH_SECRET = bytes.fromhex("833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42")
PH_SIGNATURE = bytes.fromhex(
    "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae41"
    "31f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406"
)
PH_KEY = ed25519.Ed25519PrivateKey.from_private_bytes(PH_SECRET).public_key().public_bytes_raw()


def test_ed25519ph_of_the_rfc() -> None:
    key = PublicKey.of(ed25519.Ed25519PublicKey.from_public_bytes(PH_KEY))
    assert key.verify(PH_SIGNATURE, b"abc")
    assert not key.verify(PH_SIGNATURE, b"abd")


def test_ed25519ph_of_cosign_3() -> None:
    """`cosign attest-blob` 3.1.1 with ed.key; its sign-blob writes pure Ed25519."""
    key = parse_public_key(Path("tests/vectors/signing/ed.pub").read_bytes(), "ed.pub")
    envelope = json.loads(COSIGN_PH)
    payload = base64.b64decode(envelope["payload"])
    message = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    assert key.verify(signature, message)
    assert not key.verify(signature, payload)


COSIGN_PH = (
    '{"payload":"eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjAuMSIsInN1YmplY3QiOlt7Im'
    "5hbWUiOiJibG9iIiwiZGlnZXN0Ijp7InNoYTI1NiI6IjU4OTFiNWI1MjJkNWRmMDg2ZDBmZjBiMTEwZmJkOWQyMWJi"
    "NGZjNzE2M2FmMzRkMDgyODZhMmU4NDZmNmJlMDMifX1dLCJwcmVkaWNhdGVUeXBlIjoiaHR0cHM6Ly9jb3NpZ24uc2"
    "lnc3RvcmUuZGV2L2F0dGVzdGF0aW9uL3YxIiwicHJlZGljYXRlIjp7IkRhdGEiOiJ7fVxuIiwiVGltZXN0YW1wIjoi"
    'MjAyNi0xMS0yNVQwNDo0MTowNloifX0=","payloadType":"application/vnd.in-toto+json","signatures'
    '":[{"sig":"NjcWHeoFG5/7Fq9D3vtpwx3cMPLZg+Qr7foDNasbFg+KRuwXpOY8HUK5x1R27XiZQ3EMvXl8AV/5Mvc'
    'MU3KJBA=="}]}'
)


@pytest.mark.parametrize("position", range(0, 64, 3))
def test_a_changed_ed25519ph_signature_is_none(position: int) -> None:
    changed = bytearray(PH_SIGNATURE)
    changed[position] ^= 1
    assert not ed25519ph.verify(PH_KEY, bytes(changed), b"abc")


L = 2**252 + 27742317777372353535851937790883648493
P = 2**255 - 19


def test_ed25519ph_takes_one_form_of_each_number() -> None:
    s = int.from_bytes(PH_SIGNATURE[32:], "little")
    again = PH_SIGNATURE[:32] + (s + L).to_bytes(32, "little")
    assert not ed25519ph.verify(PH_KEY, again, b"abc")
    assert not ed25519ph.verify(PH_KEY, PH_SIGNATURE + b"\0", b"abc")
    assert not ed25519ph.verify(PH_KEY[:31], PH_SIGNATURE, b"abc")


@pytest.mark.parametrize("y", [P, P + 1, 2**255 - 1, 2, (1 << 255) | 1])
def test_what_encodes_no_point_is_no_key(y: int) -> None:
    """Too large, off the curve, or x = 0 with a sign: with S = 0, R neutral all would pass."""
    neutral = (1).to_bytes(32, "little") + bytes(32)
    assert not ed25519ph.verify(y.to_bytes(32, "little"), neutral, b"abc")


@given(st.binary(max_size=100), st.binary(min_size=32, max_size=32))
def test_ed25519ph_is_what_libsodium_signs(message: bytes, seed: bytes) -> None:
    nacl = pytest.importorskip("nacl.bindings", reason="PyNaCl is not installed")
    public, secret = nacl.crypto_sign_seed_keypair(seed)
    state = nacl.crypto_sign_ed25519ph_state()
    nacl.crypto_sign_ed25519ph_update(state, message)
    signature = nacl.crypto_sign_ed25519ph_final_create(state, secret)
    assert ed25519ph.verify(public, signature, message)
    assert not ed25519ph.verify(public, signature, message + b"x")
