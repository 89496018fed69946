"""OpenSSF's model_signing takes what we sign, we take what it signs, and neither takes more."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ocimodel.ops.pull import pull
from ocimodel.ops.push import push
from ocimodel.signing.authorities import KeyAuthority
from ocimodel.signing.authority import Authority
from ocimodel.signing.keys import PrivateKey
from ocimodel.signing.oms import CheckedDirectory, sign_directory, verify_directory
from ocimodel.signing.x509 import CertificateAuthority
from tests.servers.certs import Key, key_pem, new_key, pem, self_signed
from tests.servers.registry import DockerRegistry
from tests.trees import patient, write_tree

NOW = datetime.now(UTC)
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
SMALL = {"config.json": b"{}", "a/b.bin": b"b", "a.bin": b"a", "Z.txt": b"", "README.md": b"#"}


@dataclass(frozen=True, slots=True)
class Pair:
    """A key in files, as both take it."""

    secret: ec.EllipticCurvePrivateKey
    key: Path
    pub: Path

    @property
    def signer(self) -> PrivateKey:
        return PrivateKey(self.secret)

    @property
    def holder(self) -> KeyAuthority:
        return KeyAuthority(self.signer.public_key)


@pytest.fixture(scope="session")
def program() -> Path:
    found = Path(sys.executable).with_name("model_signing")
    if not found.exists():
        pytest.skip("model_signing is not installed beside this Python: pip install model-signing")
    return found


@pytest.fixture
def theirs(program: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        argv = [str(program), *map(str, arguments)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)

    return run


Theirs = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return new_pair(tmp_path, new_key())


@pytest.fixture
def minilm(minilm_dir: Path, tmp_path: Path) -> Path:
    """The real model, to write to."""
    shutil.copytree(minilm_dir, tmp_path / "minilm")
    return tmp_path / "minilm"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "small", SMALL)


def new_pair(folder: Path, secret: ec.EllipticCurvePrivateKey) -> Pair:
    key, pub = folder / "signer.pem", folder / "signer.pub"
    key.write_bytes(key_pem(secret))
    pub.write_bytes(PrivateKey(secret).public_key.pem)
    return Pair(secret, key, pub)


def verified_by_them(
    theirs: Theirs, directory: Path, pub: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    signature = directory / "model.sig"
    return theirs(
        "verify", "key", directory, "--signature", signature, "--public_key", pub, *options
    )


def signed_by_them(theirs: Theirs, directory: Path, key: Path) -> None:
    signature = directory / "model.sig"
    done = theirs("sign", "key", directory, "--signature", signature, "--private_key", key)
    assert done.returncode == 0, done.stderr


def by_us(directory: Path, authority: Authority) -> CheckedDirectory:
    return verify_directory(directory, authority, NOW)


def tamper(directory: Path, name: str) -> None:
    """Another last byte, under the same size."""
    content = (directory / name).read_bytes()
    (directory / name).unlink()
    (directory / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_a_real_model_both_ways(theirs: Theirs, minilm: Path, pair: Pair) -> None:
    signed_by_them(theirs, minilm, pair.key)
    found = by_us(minilm, pair.holder)
    assert found.holds
    signed = sign_directory(minilm, pair.signer)
    assert signed.n_files == found.n_files
    done = verified_by_them(theirs, minilm, pair.pub)
    assert done.returncode == 0, done.stderr
    name = max(minilm.rglob("*"), key=lambda path: path.stat().st_size).relative_to(minilm)
    tamper(minilm, name.as_posix())
    done = verified_by_them(theirs, minilm, pair.pub)
    assert done.returncode == 1
    assert "Hash mismatch" in done.stderr
    assert by_us(minilm, pair.holder).changed == (name.as_posix(),)


@pytest.mark.parametrize("curve", CURVES)
def test_every_curve_both_ways(theirs: Theirs, small: Path, tmp_path: Path, curve: str) -> None:
    pair = new_pair(tmp_path, ec.generate_private_key(CURVES[curve]))
    signed_by_them(theirs, small, pair.key)
    assert by_us(small, pair.holder).holds
    tamper(small, "a.bin")
    assert by_us(small, pair.holder).changed == ("a.bin",)
    sign_directory(small, pair.signer)
    done = verified_by_them(theirs, small, pair.pub)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: write_tree(m, {"x.py": b""}), "Extra files"),
        (lambda m: (m / "a.bin").unlink(), "Missing files"),
        (lambda m: tamper(m, "a/b.bin"), "Hash mismatch"),
        (lambda m: (m / "a.bin").rename(m / "c.bin"), "Extra files"),
        (lambda m: write_tree(m, {"__pycache__/x.pyc": b""}), "Extra files"),
    ],
    ids=["extra", "missing", "changed", "renamed", "cache"],
)
def test_both_refuse(
    theirs: Theirs, small: Path, pair: Pair, change: Callable[[Path], object], said: str
) -> None:
    sign_directory(small, pair.signer)
    change(small)
    done = verified_by_them(theirs, small, pair.pub)
    assert done.returncode == 1
    assert said in done.stderr
    assert not by_us(small, pair.holder).holds


def test_both_ignore_the_same(theirs: Theirs, small: Path, pair: Pair) -> None:
    sign_directory(small, pair.signer)
    write_tree(small, {".git/config": b"", ".github/x.yml": b"", ".gitignore": b""})
    assert verified_by_them(theirs, small, pair.pub).returncode == 0
    assert by_us(small, pair.holder).uncovered == (".git", ".github/x.yml", ".gitignore")


def test_both_refuse_another_key(theirs: Theirs, small: Path, pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = new_pair(tmp_path / "other", new_key())
    sign_directory(small, other.signer)
    assert verified_by_them(theirs, small, pair.pub).returncode == 1
    assert verified_by_them(theirs, small, other.pub).returncode == 0


def test_after_a_pull(
    theirs: Theirs, small: Path, pair: Pair, docker_registry: DockerRegistry, tmp_path: Path
) -> None:
    """What packing leaves out is refused where it was signed, and gone where it is used."""
    write_tree(small, {".cache/x": b"", "notes.txt": b"", ".gitattributes": b"", "empty/": b""})
    (small / "ocimodel.yaml").write_text("exclude: [notes.txt]\n")
    signed = sign_directory(small, pair.signer, wanted=lambda path: path != "notes.txt")
    assert signed.left_out == (".cache", "notes.txt")
    assert "notes.txt" in verified_by_them(theirs, small, pair.pub).stderr
    reference = f"{docker_registry.host}/interop/oms:v1"
    push(small, reference, client=patient())
    pull(reference, tmp_path / "pulled", client=patient())
    done = verified_by_them(theirs, tmp_path / "pulled", pair.pub)
    assert done.returncode == 0, done.stderr
    assert by_us(tmp_path / "pulled", pair.holder).holds


def test_links(theirs: Theirs, small: Path, pair: Pair) -> None:
    """Signed as what they lead to; model_signing wants to be told."""
    (small / "link.bin").symlink_to("a.bin")
    assert sign_directory(small, pair.signer).links == ("link.bin",)
    done = verified_by_them(theirs, small, pair.pub)
    assert done.returncode == 1
    assert "symlink" in done.stderr
    done = verified_by_them(theirs, small, pair.pub, "--allow_symlinks")
    assert done.returncode == 0, done.stderr
    (small / "link.bin").unlink()
    shutil.copy(small / "a.bin", small / "link.bin")
    assert verified_by_them(theirs, small, pair.pub).returncode == 0


def test_certificates_both_ways(theirs: Theirs, small: Path, pair: Pair, tmp_path: Path) -> None:
    root_key = new_key()
    root = self_signed("model root", root_key)
    leaf = code_signer(pair.secret.public_key(), root, root_key)
    paths = {"leaf": tmp_path / "leaf.pem", "root": tmp_path / "root.pem"}
    paths["leaf"].write_bytes(pem(leaf))
    paths["root"].write_bytes(pem(root))
    anchors = [der(root)]
    authority = CertificateAuthority(anchors, ["CN=release"])
    signature = ("--signature", small / "model.sig")
    done = theirs(
        *("sign", "certificate", small, *signature, "--private_key", pair.key),
        *("--signing_certificate", paths["leaf"], "--certificate_chain", paths["root"]),
    )
    assert done.returncode == 0, done.stderr
    found = by_us(small, authority)
    assert found.holds
    assert "CN=release" in found.signer
    sign_directory(small, pair.signer, chain=[der(leaf), der(root)])
    check = ("verify", "certificate", small, *signature, "--certificate_chain", paths["root"])
    done = theirs(*check)
    assert done.returncode == 0, done.stderr
    assert by_us(small, authority).holds
    tamper(small, "a.bin")
    assert theirs(*check).returncode == 1
    assert by_us(small, authority).changed == ("a.bin",)


def code_signer(
    key: ec.EllipticCurvePublicKey, issuer: x509.Certificate, issuer_key: Key
) -> x509.Certificate:
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "release")]))
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # model_signing checks the chain for the time at which this begins
        .not_valid_before(NOW - timedelta(minutes=30))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
