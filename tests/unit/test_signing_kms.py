"""Keys elsewhere: a real PKCS #11 token, and AWS's and Vault's real clients against fakes.

Not exercised: the services themselves; gcpkms and azurekms beyond their names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ocimodel.errors import (
    AuthenticationError,
    InputError,
    IntegrityError,
    NotFoundError,
    RegistryError,
    UsageError,
)
from ocimodel.signing import kms
from ocimodel.signing.keys import PrivateKey, PublicKey
from ocimodel.signing.signer import KeySigner
from tests.servers.kms import FakeKms
from tests.servers.loopback import cache_root

pytest.importorskip("securesystemslib", reason="securesystemslib is not installed: extra kms")

P256 = ec.derive_private_key(7, ec.SECP256R1())
P384 = ec.derive_private_key(7, ec.SECP384R1())
RSA = rsa.generate_private_key(65537, 2048)
ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
PIN = "1234"


def never(what: str) -> bytes:
    raise AssertionError(f"asked for a passphrase for {what}")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKms]:
    """Both services on loopback, and the environment that leads their clients there."""
    with FakeKms(p256=P256, p384=P384, rsa=RSA, ed25519=ED25519) as server:
        settings = {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "VAULT_ADDR": server.url,
            "VAULT_TOKEN": "token",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def aws(service: FakeKms, monkeypatch: pytest.MonkeyPatch) -> FakeKms:
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    # it remembers credentials for the whole process
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    return service


@pytest.fixture
def vault(service: FakeKms) -> FakeKms:
    pytest.importorskip("hvac", reason="hvac is not installed")
    return service


@pytest.mark.parametrize(
    "name, kind, algorithm",
    [
        ("p256", "ECDSA P-256", "ECDSA_SHA_256"),
        ("p384", "ECDSA P-384", "ECDSA_SHA_384"),
        ("rsa", "RSA 2048", "RSASSA_PKCS1_V1_5_SHA_256"),
    ],
)
@pytest.mark.parametrize("form", ["awskms:{}", "awskms:///{}"])
def test_aws_signs_what_cosign_verifies(
    form: str, name: str, kind: str, algorithm: str, aws: FakeKms
) -> None:
    signer = kms.open_signer(form.format(name), {}, never)
    assert isinstance(signer, KeySigner)
    assert signer.public_key == PublicKey.of(aws.keys[name].public_key())
    assert signer.public_key == kms.open_public_key(form.format(name))
    assert signer.public_key.kind == kind
    assert not aws.asked
    signature = signer.sign(b"message")
    assert signer.public_key.verify(signature, b"message")
    assert aws.asked == [algorithm]


@pytest.mark.parametrize(
    "refusal, expected",
    [
        ("NotFoundException", NotFoundError),
        ("AccessDeniedException", AuthenticationError),
        ("UnrecognizedClientException", AuthenticationError),
        ("ExpiredTokenException", AuthenticationError),
        ("ValidationException", UsageError),
        ("KMSInternalException", RegistryError),
        ("ThrottlingException", RegistryError),
    ],
)
def test_what_aws_refuses(refusal: str, expected: type[Exception], aws: FakeKms) -> None:
    signer = kms.open_signer("awskms:p256", {}, never)
    aws.refusal = refusal
    with pytest.raises(expected, match=r"^awskms:p256: .*" + refusal):
        signer.sign(b"message")
    with pytest.raises(expected, match=r"^awskms:p256: .*" + refusal):
        kms.open_public_key("awskms:p256")


def test_an_unreachable_service(aws: FakeKms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(RegistryError):
        kms.open_public_key("awskms:p256")


def test_settings_that_are_missing(aws: FakeKms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    with pytest.raises(UsageError, match="region"):
        kms.open_public_key("awskms:p256")


def test_no_credentials(aws: FakeKms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    with pytest.raises(AuthenticationError):
        kms.open_public_key("awskms:p256")


def test_a_key_that_changed_in_between_signs_nothing(aws: FakeKms) -> None:
    signer = kms.open_signer("awskms:p256", {}, never)
    aws.keys["p256"] = ec.derive_private_key(8, ec.SECP256R1())
    with pytest.raises(IntegrityError, match="its own key does not verify"):
        signer.sign(b"message")


def test_a_weak_key_is_refused(aws: FakeKms) -> None:
    aws.keys["weak"] = rsa.generate_private_key(65537, 1024)
    with pytest.raises(InputError, match="1024 bits"):
        kms.open_signer("awskms:weak", {}, never)


@pytest.mark.parametrize("name", ["hv:ed25519", "hv://ed25519", "hv:ed25519/11"])
def test_vault_signs(name: str, vault: FakeKms) -> None:
    vault.versions = 11
    signer = kms.open_signer(name, {}, never)
    assert signer.public_key == PublicKey.of(ED25519.public_key()) == kms.open_public_key(name)
    assert signer.public_key.verify(signer.sign(b"message"), b"message")


def test_an_old_version_is_not_taken_for_the_newest(vault: FakeKms) -> None:
    vault.versions = 2
    with pytest.raises(UsageError, match="hv:ed25519/2"):
        kms.open_signer("hv:ed25519/1", {}, never)


def test_what_vault_refuses(vault: FakeKms, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError):
        kms.open_public_key("hv:none")
    monkeypatch.setenv("VAULT_TOKEN", "other")
    with pytest.raises(AuthenticationError, match="permission denied"):
        kms.open_public_key("hv:ed25519")
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:1")
    with pytest.raises(RegistryError):
        kms.open_public_key("hv:ed25519")


@pytest.mark.parametrize(
    "name, client, extra",
    [
        ("gcpkms:projects/p", "google.cloud.kms", "gcpkms"),
        ("azurekms://v.vault.azure.net/keys/k", "azure.keyvault.keys", "azurekms"),
        ("awskms:k", "boto3", "awskms"),
        ("hv:k", "hvac", "vault"),
        ("hsm:", "pkcs11", "hsm"),
    ],
)
def test_a_missing_client_library_says_what_to_install(name: str, client: str, extra: str) -> None:
    """In a process of its own, in which the client cannot be imported."""
    code = (
        "import sys\n"
        f"sys.modules[{client!r}] = None\n"
        "from ocimodel.errors import UsageError\n"
        "from ocimodel.signing import kms\n"
        "try:\n"
        f"    kms.open_public_key({name!r})\n"
        "except UsageError as error:\n"
        "    print(error.hint)\n"
    )
    if client.partition(".")[0] not in ("boto3", "hvac", "pkcs11") and _installed(client):
        pytest.skip(f"{client} is installed")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"pip install 'securesystemslib[{extra}]'\n"


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def test_a_missing_securesystemslib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "securesystemslib.signer", None)
    with pytest.raises(UsageError) as caught:
        kms.open_public_key("awskms:k")
    assert caught.value.hint == "pip install 'ocimodel[kms]'"


@pytest.mark.parametrize(
    "name",
    [
        "azurekms://v.example/keys/k",
        "azurekms://v.vault.azure.net",
        "azurekms://v.vault.azure.net/keys",
        "azurekms://v.vault.azure.net/keys/k/1/2",
        "hsm:x",
    ],
)
def test_names_that_name_nothing(name: str) -> None:
    with pytest.raises(UsageError):
        kms.open_public_key(name)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A SoftHSM token `t1` with a P-256 key under id 2, and a P-384 key that asks for the PIN."""
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
    program, module = softhsm()
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "conf").write_text(f"directories.tokendir = {folder / 'tokens'}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(folder / "conf"))
        patch.setenv("PYKCS11LIB", str(module))
        common = [str(program), "--module", str(module)]
        new = ["--init-token", "--free", "--label", "t1", "--pin", PIN, "--so-pin", "5678"]
        subprocess.run([*common, *new], check=True, capture_output=True)
        for number, key in (("02", P256), ("03", P384)):
            path = folder / f"{number}.pem"
            path.write_bytes(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
            add = ["--import", str(path), "--token", "t1", "--label", "k", "--id", number]
            subprocess.run([*common, *add, "--pin", PIN], check=True, capture_output=True)
        yield


def softhsm() -> tuple[Path, Path]:
    """SoftHSM's program and its library: installed, or Debian's packages unpacked in the cache."""
    cached = cache_root() / "tools" / "softhsm"
    if not shutil.which("softhsm2-util") and not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as scratch:
            try:
                get = ["apt-get", "-q", "download", "softhsm2", "libsofthsm2"]
                subprocess.run(get, cwd=scratch, check=True, capture_output=True, timeout=60)
                root = Path(scratch) / "root"
                for archive in Path(scratch).glob("*.deb"):
                    subprocess.run(["dpkg-deb", "-x", archive, root], check=True)
                root.rename(cached)
            except (OSError, subprocess.SubprocessError) as error:
                pytest.skip(f"SoftHSM is neither installed nor to be had: {error}")
    for root in (Path("/"), cached):
        program = root / "usr/bin/softhsm2-util"
        libraries = sorted(root.glob("usr/lib/**/softhsm/libsofthsm2.so"))
        if program.exists() and libraries:
            return program, libraries[0]
    pytest.skip("SoftHSM's library was not found")


@pytest.mark.parametrize("name, key", [("hsm:2?label=t1", P256), ("hsm:", P256), ("hsm:3", P384)])
def test_a_token_signs(name: str, key: ec.EllipticCurvePrivateKey, token: None) -> None:
    signer = kms.open_signer(name, {"COSIGN_PKCS11_PIN": PIN}, never)
    assert signer.public_key == PrivateKey(key).public_key == kms.open_public_key(name)
    assert signer.public_key.verify(signer.sign(b"message"), b"message")


def test_the_pin_is_asked_for_once_and_late(token: None) -> None:
    asked: list[str] = []

    def ask(what: str) -> bytes:
        asked.append(what)
        return PIN.encode()

    signer = kms.open_signer("hsm:2", {}, ask)
    assert not asked
    signer.sign(b"first")
    signer.sign(b"second")
    assert asked == ["hsm:2"]


def test_what_a_token_refuses(token: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AuthenticationError, match="PinIncorrect"):
        kms.open_signer("hsm:2", {"COSIGN_PKCS11_PIN": "9999"}, never).sign(b"message")
    with pytest.raises(UsageError, match="could not find"):
        kms.open_signer("hsm:9", {"COSIGN_PKCS11_PIN": PIN}, never)
    with pytest.raises(UsageError, match="No PKCS#11 token"):
        kms.open_public_key("hsm:2?label=other")
    monkeypatch.delenv("PYKCS11LIB")
    with pytest.raises(UsageError, match="PYKCS11LIB"):
        kms.open_public_key("hsm:2")
