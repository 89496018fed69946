"""Signing a directory, and what a directory must be like for its signature to hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from ocimodel.errors import InputError, NotFoundError, PolicyError, UsageError
from ocimodel.signing.authorities import KeyAuthority
from ocimodel.signing.keys import PrivateKey, PublicKey, parse_public_key
from ocimodel.signing.oms import (
    CheckedDirectory,
    SignedDirectory,
    read_signature,
    sign_directory,
    verify_directory,
)
from ocimodel.spec.bundle import encode_bundle, parse_bundle
from ocimodel.spec.dsse import IN_TOTO, Envelope, pae
from ocimodel.spec.modelsigning import ModelStatement
from ocimodel.store.memo import Memo
from tests.servers.certs import new_key, self_signed
from tests.trees import write_tree

VECTORS = Path(__file__).parents[1] / "vectors" / "signing"
NOW = datetime.now(UTC)
KEY = PrivateKey.generate()
MODEL = {
    "config.json": b"{}",
    "weights.bin": b"w" * 5000,
    "sub/tokenizer.json": b"[]",
    "empty.txt": b"",
    ".gitattributes": b"*.bin filter=lfs\n",
}
SIGNED = ["config.json", "empty.txt", "sub/tokenizer.json", "weights.bin"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "model", MODEL)


def verify(directory: Path, key: PublicKey = KEY.public_key) -> CheckedDirectory:
    return verify_directory(directory, KeyAuthority(key), NOW)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_golden() -> None:
    key = parse_public_key((VECTORS / "oms.pub").read_bytes(), "oms.pub")
    found = verify(VECTORS / "omsmodel", key)
    assert replace(found, signer="") == CheckedDirectory("omsmodel", "", 4)
    assert key.fingerprint[:19] in found.signer
    assert found.holds


def test_sign_then_verify(model: Path) -> None:
    assert sign_directory(model, KEY) == SignedDirectory(model / "model.sig", 4)
    found = verify(model)
    assert found.holds
    assert (found.name, found.n_files, found.uncovered) == ("model", 4, (".gitattributes",))
    _, statement = read_signature((model / "model.sig").read_bytes(), "here")
    assert sorted(statement.files) == SIGNED
    assert names(model) == sorted([*{n.split("/")[0] for n in MODEL}, "model.sig"])


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_hash_of_the_curve(model: Path, curve: ec.EllipticCurve) -> None:
    """The one that model_signing takes for each curve."""
    secret = ec.generate_private_key(curve)
    key = PrivateKey(secret)
    sign_directory(model, key)
    evidence, _ = read_signature((model / "model.sig").read_bytes(), "here")
    digest = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[curve.key_size]
    secret.public_key().verify(evidence.signature, evidence.message, ec.ECDSA(digest))
    assert verify(model, key.public_key).holds


CHANGES: dict[str, tuple[Callable[[Path], object], dict[str, tuple[str, ...]]]] = {
    "a byte": (
        lambda m: (m / "weights.bin").write_bytes(b"w" * 4999 + b"x"),
        {"changed": ("weights.bin",)},
    ),
    "longer": (
        lambda m: (m / "weights.bin").write_bytes(b"w" * 5001),
        {"changed": ("weights.bin",)},
    ),
    "gone": (lambda m: (m / "config.json").unlink(), {"missing": ("config.json",)}),
    "more": (lambda m: (m / "sub/x.py").write_bytes(b""), {"extra": ("sub/x.py",)}),
    "renamed": (
        lambda m: (m / "config.json").rename(m / "config2.json"),
        {"missing": ("config.json",), "extra": ("config2.json",)},
    ),
    "swapped": (
        lambda m: (
            (m / "config.json").write_bytes(b"[]"),
            (m / "sub/tokenizer.json").write_bytes(b"{}"),
        ),
        {"changed": ("config.json", "sub/tokenizer.json")},
    ),
    "what packing leaves out": (
        lambda m: write_tree(m, {"__pycache__/modeling.pyc": b"evil", "sub/.cache/x": b""}),
        {"extra": ("__pycache__", "sub/.cache")},
    ),
    "a signature below": (
        lambda m: (m / "sub/model.sig").write_bytes(b""),
        {"extra": ("sub/model.sig",)},
    ),
    "a link": (
        lambda m: (
            (m / "config.json").rename(m / ".github"),
            (m / "config.json").symlink_to(".github"),
        ),
        {"links": ("config.json",), "uncovered": (".gitattributes", ".github")},
    ),
    "a folder by link": (
        lambda m: ((m / "sub").rename(m / "other"), (m / "sub").symlink_to("other")),
        {"links": ("sub/tokenizer.json",), "extra": ("other/tokenizer.json",)},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_directory(model: Path, name: str) -> None:
    sign_directory(model, KEY)
    change, differences = CHANGES[name]
    change(model)
    found = verify(model)
    expected = {"uncovered": (".gitattributes",), **differences}
    assert found == CheckedDirectory("model", found.signer, 4, **expected)
    assert not found.holds


def test_ignored_files_are_named(model: Path) -> None:
    """Nobody vouches for them, and they are no difference."""
    sign_directory(model, KEY)
    write_tree(model, {".github/x.yml": b"", ".git/config": b""})
    found = verify(model)
    assert found.holds
    assert found.uncovered == (".git", ".gitattributes", ".github/x.yml")


def test_modes_and_empty_folders_are_not_covered(model: Path) -> None:
    """As in model_signing; the artifact's digest covers them."""
    sign_directory(model, KEY)
    (model / "config.json").chmod(0o755)
    (model / "nothing").mkdir()
    assert verify(model).holds


def test_another_key(model: Path) -> None:
    sign_directory(model, PrivateKey.generate())
    with pytest.raises(PolicyError, match=r"model\.sig: not signed by this key"):
        verify(model)


def test_the_hint_counts_for_nothing(model: Path) -> None:
    other = PrivateKey.generate()
    sign_directory(model, other)
    bundle = parse_bundle((model / "model.sig").read_bytes())
    forged = encode_bundle(bundle.envelope, hint=KEY.public_key.hint)
    (model / "model.sig").write_bytes(forged)
    with pytest.raises(PolicyError):
        verify(model)
    assert verify(model, other.public_key).holds


def test_an_altered_statement(model: Path) -> None:
    """The attacker's file, with a digest and a root that fit, under the old signature."""
    sign_directory(model, KEY)
    bundle = parse_bundle((model / "model.sig").read_bytes())
    (model / "config.json").write_bytes(b"evil")
    sign_directory(model, PrivateKey.generate())
    forged = parse_bundle((model / "model.sig").read_bytes()).envelope.payload
    envelope = Envelope(forged, IN_TOTO, bundle.envelope.signatures)
    (model / "model.sig").write_bytes(encode_bundle(envelope, hint=bundle.hint))
    with pytest.raises(PolicyError):
        verify(model)


def test_who_signed_is_asked_first(model: Path) -> None:
    """Before any file is hashed."""
    sign_directory(model, PrivateKey.generate())
    seen: list[object] = []
    with pytest.raises(PolicyError):
        verify_directory(model, KeyAuthority(KEY.public_key), NOW, observer=seen.append)
    assert seen == []


def test_evidence_is_about_no_artifact(model: Path) -> None:
    sign_directory(model, KEY)
    evidence, _ = read_signature((model / "model.sig").read_bytes(), "here")
    assert evidence.subjects == ()
    assert evidence.predicate_type == "https://model_signing/signature/v1.0"


def test_other_statements_sign_no_directory(model: Path) -> None:
    payload = json.dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {"sha256": "a" * 64}}],
            "predicateType": "https://sigstore.dev/cosign/sign/v1",
            "predicate": {},
        }
    ).encode()
    envelope = Envelope(payload, IN_TOTO, (KEY.sign(pae(IN_TOTO, payload)),))
    (model / "model.sig").write_bytes(encode_bundle(envelope))
    with pytest.raises(InputError, match="model signature states"):
        verify(model)


def test_nothing_signed(model: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no model\.sig"):
        verify(model)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[" * 100_000, b"\xff", b" " * (5 << 20)])
def test_malformed(model: Path, raw: bytes) -> None:
    (model / "model.sig").write_bytes(raw)
    with pytest.raises(InputError):
        verify(model)


# what is signed


def test_signs_what_packing_takes(model: Path) -> None:
    write_tree(
        model,
        {".cache/x": b"", "__pycache__/y.pyc": b"", "notes.txt": b"secret", ".git/config": b""},
    )
    signed = sign_directory(model, KEY, wanted=lambda path: path != "notes.txt")
    assert signed.left_out == (".cache", "__pycache__", "notes.txt")
    raw = (model / "model.sig").read_bytes()
    assert b"notes" not in parse_bundle(raw).envelope.payload
    assert not verify(model).holds
    for name in (".cache", "__pycache__"):
        shutil.rmtree(model / name)
    (model / "notes.txt").unlink()
    assert verify(model).holds


def test_follows_the_links_that_packing_follows(tmp_path: Path) -> None:
    """A snapshot of the Hugging Face cache: every file is a link to a blob."""
    repository = tmp_path / "models--org--name"
    write_tree(repository, {"blobs/1": b"{}", "blobs/2": b"weights"})
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/1")
    (snapshot / "model.bin").symlink_to("../../blobs/2")
    signed = sign_directory(snapshot, KEY, name="org/name")
    assert signed.links == ("config.json", "model.bin")
    assert not signed.path.is_symlink()
    found = verify(snapshot)
    assert found.holds
    assert found.name == "org/name"
    # as a pull leaves it
    shutil.copytree(snapshot, tmp_path / "pulled", symlinks=False)
    assert verify(tmp_path / "pulled").holds


def test_a_link_out_of_the_directory(model: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (model / "x").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="leads out of the model directory"):
        sign_directory(model, KEY)


def test_signed_again(model: Path) -> None:
    """The older signature is no part of what is signed."""
    sign_directory(model, PrivateKey.generate())
    assert sign_directory(model, KEY).n_files == 4
    assert verify(model).holds


def test_a_failure_leaves_the_old_signature(model: Path) -> None:
    class Broken:
        public_key = KEY.public_key

        def sign(self, message: bytes) -> bytes:
            raise UsageError("the token was pulled out")

    sign_directory(model, KEY)
    before = (model / "model.sig").read_bytes()
    with pytest.raises(UsageError):
        sign_directory(model, Broken())
    assert (model / "model.sig").read_bytes() == before
    assert names(model) == sorted([*{n.split("/")[0] for n in MODEL}, "model.sig"])


def test_a_directory_that_cannot_be_written(model: Path) -> None:
    (model / "model.sig").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        sign_directory(model, KEY)
    assert not [name for name in names(model) if name.startswith(".ocimodel")]


def test_a_memo_is_believed_when_signing_and_never_when_verifying(
    model: Path, tmp_path: Path
) -> None:
    memo = Memo(tmp_path / "digests.db")
    sign_directory(model, KEY, memo=memo)
    memo.note((model / "config.json").stat(), f"sha256:{'0' * 64}")
    sign_directory(model, KEY, memo=memo)
    assert verify(model).changed == ("config.json",)


def test_keys_that_model_signing_does_not_take(model: Path) -> None:
    with pytest.raises(UsageError, match="takes no Ed25519"):
        sign_directory(model, PrivateKey(ed25519.Ed25519PrivateKey.generate()))
    assert not (model / "model.sig").exists()


def test_a_certificate_of_another_key(model: Path) -> None:
    certificate = self_signed("somebody", new_key())
    der = certificate.public_bytes(serialization.Encoding.DER)
    for chain in ([der], [b"no certificate"]):
        with pytest.raises(UsageError, match="certificate"):
            sign_directory(model, KEY, chain=chain)


def test_certificates_are_kept_in_order(model: Path) -> None:
    key = new_key()
    chain = [
        self_signed(name, k).public_bytes(serialization.Encoding.DER)
        for name, k in (("leaf", key), ("root", new_key()))
    ]
    sign_directory(model, PrivateKey(key), chain=chain)
    evidence, _ = read_signature((model / "model.sig").read_bytes(), "here")
    assert evidence.certificates == tuple(chain)


def test_a_signature_that_packing_would_leave_out(model: Path) -> None:
    with pytest.raises(InputError, match="left out of the artifact"):
        sign_directory(model, KEY, wanted=lambda path: not path.endswith(".sig"))


def test_nothing_to_sign(tmp_path: Path) -> None:
    write_tree(tmp_path / "m", {".gitignore": b"", "model.sig": b""})
    with pytest.raises(InputError, match="no files to sign"):
        sign_directory(tmp_path / "m", KEY)


def test_statement_of_too_many_files(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocimodel.signing.oms.MAX_BUNDLE_BYTES", 1000)
    with pytest.raises(InputError, match="over the limit of 1000"):
        sign_directory(model, KEY)


def test_the_name_is_the_directory_s(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model)
    sign_directory(Path(), KEY)
    assert verify(Path()).name == "model"
    assert isinstance(read_signature(Path("model.sig").read_bytes(), "")[1], ModelStatement)
