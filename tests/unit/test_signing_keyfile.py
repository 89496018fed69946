"""Key files: cosign's, OpenSSL's and ours; none that costs too much, none overwritten."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import ConflictError, InputError, NotFoundError, TargetError, UsageError
from ocimodel.signing import pbes2
from ocimodel.signing.keyfile import (
    encrypted,
    open_public_key,
    open_signer,
    parse_private_key,
    write_key_pair,
)
from ocimodel.signing.keys import MAX_KEY_BYTES, PrivateKey

VECTORS = Path("tests/vectors/signing")
PASSWORD = {"COSIGN_PASSWORD": "pw"}
SEALED = "ENCRYPTED SIGSTORE PRIVATE KEY"


class AskedError(Exception):
    """The passphrase was asked for: all that stands before it was accepted."""


def never(what: str) -> bytes:
    raise AskedError(what)


def pem(label: str, content: bytes) -> bytes:
    return f"-----BEGIN {label}-----\n".encode() + (
        base64.encodebytes(content) + f"-----END {label}-----\n".encode()
    )


def document(name: str = "p256.key") -> dict[str, Any]:
    lines = (VECTORS / name).read_bytes().splitlines()
    return dict(json.loads(base64.b64decode(b"".join(lines[1:-1]))))


def sealed(content: object) -> bytes:
    return pem(SEALED, json.dumps(content).encode())


@pytest.mark.parametrize("name", ["p256", "p384", "ed"])
def test_golden_key_files_open(name: str) -> None:
    key = open_signer(str(VECTORS / f"{name}.key"), PASSWORD, never)
    assert isinstance(key, PrivateKey)
    assert key.public_key == open_public_key(f"file:{VECTORS / name}.pub")
    assert key.public_key.verify(key.sign(b"x"), b"x")


def test_the_older_label_is_read() -> None:
    raw = (VECTORS / "p256.key").read_bytes().replace(b"SIGSTORE", b"COSIGN")
    key = parse_private_key(raw, lambda _: b"pw")
    assert key.public_key == open_public_key(str(VECTORS / "p256.pub"))


def test_a_key_in_the_environment() -> None:
    environ = {**PASSWORD, "SIGNING_KEY": (VECTORS / "p256.key").read_text()}
    key = open_signer("env://SIGNING_KEY", environ, never)
    assert key.public_key == open_public_key(str(VECTORS / "p256.pub"))
    with pytest.raises(NotFoundError, match="no OTHER"):
        open_signer("env://OTHER", environ, never)
    with pytest.raises(UsageError):
        open_public_key("env://SIGNING_KEY")


def test_the_passphrase_is_asked_for_only_without_the_variable() -> None:
    name = str(VECTORS / "p256.key")
    asked: list[str] = []

    def ask(what: str) -> bytes:
        asked.append(what)
        return b"pw"

    open_signer(name, PASSWORD, ask)
    assert not asked
    open_signer(name, {}, ask)
    assert asked == [name]
    # set to nothing is a passphrase as well
    with pytest.raises(InputError, match="wrong passphrase"):
        open_signer(name, {"COSIGN_PASSWORD": ""}, ask)
    assert asked == [name]


def test_a_wrong_passphrase_says_where_it_came_from() -> None:
    with pytest.raises(InputError, match="wrong passphrase for tests") as caught:
        open_signer(str(VECTORS / "p256.key"), {"COSIGN_PASSWORD": "no"}, never)
    assert "COSIGN_PASSWORD" in caught.value.hint
    assert caught.value.exit_code == 10


def changed(*path: str, to: object) -> dict[str, Any]:
    """The golden document with one member replaced; None removes it."""
    whole = document()
    place = whole
    for key in path[:-1]:
        place = place[key]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return whole


PARAMETERS = ("kdf", "params")


@pytest.mark.parametrize(
    "content",
    [
        changed(*PARAMETERS, "N", to=1 << 30),
        changed(*PARAMETERS, "N", to=1 << 19),
        changed(*PARAMETERS, "N", to=65535),
        changed(*PARAMETERS, "N", to=1),
        changed(*PARAMETERS, "N", to=-65536),
        changed(*PARAMETERS, "N", to=True),
        changed(*PARAMETERS, "N", to="65536"),
        changed(*PARAMETERS, "N", to=65536.0),
        changed(*PARAMETERS, "N", to=None),
        changed(*PARAMETERS, "r", to=0),
        changed(*PARAMETERS, "r", to=1 << 20),
        changed(*PARAMETERS, "p", to=0),
        changed(*PARAMETERS, "p", to=5),
        changed(*PARAMETERS, "p", to=1 << 29),
        changed("kdf", "name", to="argon2"),
        changed("kdf", "salt", to=base64.b64encode(bytes(31)).decode()),
        changed("kdf", "salt", to="A" * 42 + "B="),
        changed("kdf", "salt", to=None),
        changed("kdf", to=[]),
        changed("cipher", "name", to="none"),
        changed("cipher", "nonce", to=base64.b64encode(bytes(25)).decode()),
        changed("cipher", to=None),
        changed("ciphertext", to="!"),
    ],
)
def test_a_bad_document_is_refused_before_the_passphrase(content: object) -> None:
    with pytest.raises(InputError):
        parse_private_key(sealed(content), never)


@pytest.mark.parametrize("parameters", [{"N": 1 << 18, "r": 8, "p": 1}, {"N": 2, "r": 1, "p": 1}])
def test_affordable_costs_are_tried(parameters: dict[str, int]) -> None:
    with pytest.raises(AskedError):
        parse_private_key(sealed(changed(*PARAMETERS, to=parameters)), never)


def test_a_duplicate_key_is_refused() -> None:
    text = json.dumps(document())
    with pytest.raises(InputError, match="duplicate"):
        parse_private_key(pem(SEALED, text.replace("{", '{"ciphertext":"",', 1).encode()), never)


@pytest.mark.parametrize("kept", [0, 10, 60, 300, 600])
def test_a_truncated_file_is_refused(kept: int) -> None:
    with pytest.raises(InputError):
        parse_private_key((VECTORS / "p256.key").read_bytes()[:kept], never)


def test_an_empty_or_short_ciphertext_is_refused() -> None:
    for text in ("", base64.b64encode(bytes(16)).decode()):
        with pytest.raises(InputError, match="wrong passphrase"):
            parse_private_key(sealed(changed("ciphertext", to=text)), lambda _: b"pw")


@pytest.mark.parametrize(
    "key",
    [
        ec.derive_private_key(7, ec.SECP256R1()),
        ec.derive_private_key(7, ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["p256", "p521", "ed25519", "rsa"],
)
def test_plain_and_encrypted_pkcs8(key: Any) -> None:
    forms = serialization.PrivateFormat
    plain = key.private_bytes(serialization.Encoding.PEM, forms.PKCS8, serialization.NoEncryption())
    opened = parse_private_key(plain, never)
    locked = key.private_bytes(
        serialization.Encoding.PEM, forms.PKCS8, serialization.BestAvailableEncryption(b"pw")
    )
    assert parse_private_key(locked, lambda _: b"pw").public_key == opened.public_key
    assert PrivateKey(key).public_key == opened.public_key


def openssl(folder: Path, *arguments: str) -> bytes:
    command = ["openssl", *arguments]
    return subprocess.run(command, capture_output=True, cwd=folder, check=True).stdout


@pytest.mark.parametrize(
    "options", [("-v2", "aes-256-cbc"), ("-scrypt",), ("-v2", "aes-128-cbc", "-iter", "9999")]
)
def test_what_openssl_encrypts_opens(options: tuple[str, ...], tmp_path: Path) -> None:
    openssl(tmp_path, "ecparam", "-name", "prime256v1", "-genkey", "-out", "key.pem")
    # the curve stands before the key
    both = (tmp_path / "key.pem").read_bytes()
    assert b"EC PARAMETERS" in both
    public = parse_private_key(both, never).public_key
    assert openssl(tmp_path, "pkey", "-in", "key.pem", "-pubout") == public.pem
    locked = openssl(tmp_path, "pkcs8", "-topk8", "-in", "key.pem", *options, "-passout", "pass:pw")
    assert parse_private_key(locked, lambda _: b"pw").public_key == public
    with pytest.raises(InputError, match="wrong passphrase"):
        parse_private_key(locked, lambda _: b"no")
    with pytest.raises(InputError, match="wrong passphrase"):
        parse_private_key(locked, lambda _: b"")


@pytest.mark.parametrize(
    "command",
    [
        ("ec", "-in", "key.pem", "-aes128", "-passout", "pass:pw"),
        ("pkcs8", "-topk8", "-in", "key.pem", "-v1", "PBE-SHA1-3DES", "-passout", "pass:pw"),
    ],
    ids=["Proc-Type", "PBES1"],
)
def test_old_encryption_is_refused_with_a_way_out(command: tuple[str, ...], tmp_path: Path) -> None:
    openssl(tmp_path, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem")
    with pytest.raises(InputError) as caught:
        parse_private_key(openssl(tmp_path, *command), never)
    assert "openssl pkcs8 -topk8" in caught.value.hint


def der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    assert len(content) < 128
    return bytes([tag, len(content)]) + content


def number(value: int) -> bytes:
    return der(2, value.to_bytes(value.bit_length() // 8 + 1))


AES = der(0x30, der(6, bytes.fromhex("60864801650304012a")), der(4, bytes(16)))
PBKDF2, SCRYPT = (bytes.fromhex(oid) for oid in ("2a864886f70d01050c", "2b06010401da47040b"))
PBES2 = bytes.fromhex("2a864886f70d01050d")


def pkcs8(kdf: bytes, *numbers: int) -> bytes:
    settings = der(0x30, der(4, bytes(8)), *map(number, numbers))
    scheme = der(0x30, der(0x30, der(6, kdf), settings), AES)
    return der(0x30, der(0x30, der(6, PBES2), scheme), der(4, bytes(16)))


@pytest.mark.parametrize(
    "kdf, numbers",
    [
        (PBKDF2, (pbes2.MAX_ITERATIONS + 1,)),
        (PBKDF2, (2**31 - 1,)),
        (PBKDF2, (2**63 - 1,)),
        (PBKDF2, (1, 2**31)),
        (PBKDF2, ()),
        (SCRYPT, (1 << 30, 8, 1)),
        (SCRYPT, (1 << 14, 1 << 20, 1)),
        (SCRYPT, (1 << 14, 8, 1 << 20)),
        (SCRYPT, (1 << 14, 8)),
        (SCRYPT, (1 << 14, 0, 1)),
        (bytes(9), (2048,)),
    ],
)
def test_a_costly_pkcs8_is_refused_before_the_passphrase(
    kdf: bytes, numbers: tuple[int, ...]
) -> None:
    with pytest.raises(InputError):
        parse_private_key(pem("ENCRYPTED PRIVATE KEY", pkcs8(kdf, *numbers)), never)


@pytest.mark.parametrize("kdf, numbers", [(PBKDF2, (600_000,)), (SCRYPT, (1 << 14, 8, 1))])
def test_a_usual_pkcs8_is_tried(kdf: bytes, numbers: tuple[int, ...]) -> None:
    with pytest.raises(AskedError):
        parse_private_key(pem("ENCRYPTED PRIVATE KEY", pkcs8(kdf, *numbers)), never)


@pytest.mark.parametrize("length", [b"\x80", b"\x81", b"\x82\x00", b"\x83\x00\x00"])
def test_a_length_that_two_readers_could_read_differently(length: bytes) -> None:
    whole = pkcs8(PBKDF2, 2048)
    with pytest.raises(InputError, match="no encrypted PKCS #8"):
        parse_private_key(pem("ENCRYPTED PRIVATE KEY", b"\x30" + length + whole[1:]), never)


@given(st.binary(max_size=60), st.integers(0, 110))
def test_a_damaged_pkcs8_is_refused_or_tried(inserted: bytes, at: int) -> None:
    whole = pkcs8(PBKDF2, 2048)
    damaged = whole[:at] + inserted + whole[at + len(inserted) :]
    with pytest.raises((InputError, AskedError)):
        parse_private_key(pem("ENCRYPTED PRIVATE KEY", damaged), never)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.dictionaries(
        st.sampled_from(["kdf", "params", "N", "r", "p", "salt", "cipher", "name", "nonce"]), inner
    ),
    max_leaves=8,
)


@given(values)
def test_any_document_is_refused(content: object) -> None:
    with pytest.raises(InputError):
        parse_private_key(sealed(content), never)


@given(
    st.binary(max_size=300),
    st.sampled_from(
        ["", SEALED, "PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY"]
    ),
)
def test_any_bytes_are_refused(content: bytes, label: str) -> None:
    with pytest.raises(InputError):
        parse_private_key(pem(label, content) if label else content, never)


def test_a_key_that_takes_minutes_to_check_is_refused() -> None:
    with pytest.raises(InputError, match="more than"):
        parse_private_key(pem("RSA PRIVATE KEY", bytes(9000)), never)


def test_foreign_and_mixed_up_keys() -> None:
    key = x25519.X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with pytest.raises(InputError, match="X25519"):
        parse_private_key(key, never)
    with pytest.raises(InputError, match="not a private key") as caught:
        open_signer(str(VECTORS / "p256.pub"), {}, never)
    assert ".key" in caught.value.hint
    with pytest.raises(InputError, match="is a private key") as caught:
        open_public_key(str(VECTORS / "p256.key"))
    assert ".pub" in caught.value.hint


@pytest.mark.parametrize("read", [open_public_key, lambda name: open_signer(name, {}, never)])
def test_files_that_cannot_be_read(read: Callable[[str], object], tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        read(str(tmp_path / "none"))
    assert "keygen" in caught.value.hint
    with pytest.raises(InputError, match="directory"):
        read(str(tmp_path))
    with pytest.raises(InputError, match="no path"):
        read("a\0b")
    (tmp_path / "big").write_bytes(bytes(MAX_KEY_BYTES + 1))
    with pytest.raises(InputError, match="larger than"):
        read(str(tmp_path / "big"))


def test_a_written_pair(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        private, public = write_key_pair(tmp_path / "my.model", b"secret")
    finally:
        os.umask(umask)
    assert (private.name, public.name) == ("my.model.key", "my.model.pub")
    assert private.stat().st_mode & 0o777 == 0o600
    assert public.stat().st_mode & 0o777 == 0o644
    key = open_signer(str(private), {"COSIGN_PASSWORD": "secret"}, never)
    assert key.public_key == open_public_key(str(public))
    assert key.public_key.kind == "ECDSA P-256"
    assert openssl(tmp_path, "pkey", "-pubin", "-in", public.name) == public.read_bytes()


def test_the_form_is_cosigns(tmp_path: Path) -> None:
    """The same lines and members in the same order; only the random parts differ."""
    written = encrypted(PrivateKey.generate(), b"pw")
    golden = (VECTORS / "p256.key").read_bytes()
    assert list(map(len, written.splitlines())) == list(map(len, golden.splitlines()))
    assert written.splitlines()[0] == golden.splitlines()[0]
    assert written.endswith(b"-----\n")
    text = base64.b64decode(b"".join(written.splitlines()[1:-1]))
    ours, theirs = json.loads(text), document()
    for whole in (ours, theirs):
        whole["kdf"]["salt"] = whole["cipher"]["nonce"] = whole["ciphertext"] = ""
    assert json.dumps(ours) == json.dumps(theirs)
    assert b" " not in text


def test_two_files_of_one_key_share_nothing() -> None:
    key = PrivateKey.generate()
    first, second = (encrypted(key, b"").splitlines()[2:] for _ in range(2))
    assert not set(first[:-1]) & set(second[:-1])


@pytest.mark.parametrize("there", ["x.key", "x.pub"])
def test_nothing_is_overwritten_and_nothing_left(there: str, tmp_path: Path) -> None:
    (tmp_path / there).write_bytes(b"mine")
    with pytest.raises(ConflictError, match=there):
        write_key_pair(tmp_path / "x", b"pw")
    assert [path.name for path in tmp_path.glob("x*")] == [there]
    assert (tmp_path / there).read_bytes() == b"mine"


def test_a_dangling_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "x.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConflictError):
        write_key_pair(tmp_path / "x", b"pw")
    assert not (tmp_path / "elsewhere").exists()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(TargetError):
        write_key_pair(tmp_path / "none" / "x", b"pw")


def test_a_full_disk_leaves_nothing(small_disk: Path) -> None:
    with (small_disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(1 << 16))
    with pytest.raises(TargetError):
        write_key_pair(small_disk / "x", b"pw")
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_of_two_who_write_one_wins(tmp_path: Path) -> None:
    outcomes: list[object] = []

    def write() -> None:
        try:
            outcomes.append(write_key_pair(tmp_path / "x", b"pw"))
        except ConflictError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(outcome, tuple) for outcome in outcomes) == 1
    key = open_signer(str(tmp_path / "x.key"), PASSWORD, never)
    assert key.public_key == open_public_key(str(tmp_path / "x.pub"))
