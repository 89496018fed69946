"""Signing as an identity, with sigstore's own clients, at an instance of ours over loopback."""

from __future__ import annotations

import base64
import json
import sys
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from ocimodel.errors import AuthenticationError, InputError, RegistryError, UsageError
from ocimodel.signing import signer as signers
from ocimodel.signing.cosign import bundle_evidence, signature_statement
from ocimodel.signing.keyless import KeylessAuthority, KeylessSigner, open_public_key, open_signer
from ocimodel.spec.digest import sha256
from ocimodel.spec.modelsigning import ModelStatement
from tests.servers.sigstore import IDENTITY, ISSUER, SigstoreInstance
from tests.servers.sigstore_server import SigstoreServer, identity_token

STATEMENT = signature_statement(sha256(b"artifact"), {"dev.ocimodel.tag": "v1"})

pytest.importorskip("sigstore")


@pytest.fixture(scope="module")
def instance() -> SigstoreInstance:
    return SigstoreInstance()


def no_passphrase(what: str) -> bytes:
    raise AssertionError(f"asked for the passphrase of {what}")


def signer_at(server: SigstoreServer, folder: Path, token: str = "") -> KeylessSigner:
    config = server.write_trust_config(folder / "config.json")
    environ = {"SIGSTORE_ID_TOKEN": token or identity_token()}
    return open_signer(f"keyless:{config}", environ, no_passphrase)


def test_sign_then_verify(instance: SigstoreInstance, tmp_path: Path) -> None:
    """Certificate and log entry over HTTP, as sigstore asks for them."""
    with SigstoreServer(instance) as server:
        signer = signer_at(server, tmp_path)
        assert isinstance(signer, signers.BundleSigner)
        assert signer.identity == f"{IDENTITY}, according to {ISSUER}"
        found = bundle_evidence("here", signer.bundle(STATEMENT))
    assert found.subjects[0].digest == sha256(b"artifact")
    assert found.tag == "v1"
    root = instance.write_trusted_root(tmp_path / "root.json")
    assert KeylessAuthority(IDENTITY, ISSUER, root).identify(found, datetime.now(UTC))


def test_only_a_name_is_added(instance: SigstoreInstance, tmp_path: Path) -> None:
    named = ModelStatement("m", {"é": sha256(b"a")}).encode()
    with SigstoreServer(instance) as server:
        signer = signer_at(server, tmp_path)
        signed = [
            json.loads(signer.bundle(statement))["dsseEnvelope"]["payload"]
            for statement in (named, STATEMENT)
        ]
    assert base64.b64decode(signed[0]) == named
    expected = STATEMENT.replace(b'"subject":[{', b'"subject":[{"name":"",')
    assert base64.b64decode(signed[1]) == expected


def test_found_by_its_scheme() -> None:
    """By the entry point, where this is installed."""
    if not entry_points(group=signers.GROUP, name="keyless"):
        pytest.skip("installed before it had this entry point: pip install -e .")
    environ = {"SIGSTORE_ID_TOKEN": identity_token()}
    assert isinstance(signers.open_signer("keyless:", environ, no_passphrase), KeylessSigner)


def test_a_refused_token(instance: SigstoreInstance, tmp_path: Path) -> None:
    with SigstoreServer(instance, refuses=True) as server:
        signer = signer_at(server, tmp_path)
        with pytest.raises(AuthenticationError, match="refused"):
            signer.bundle(STATEMENT)


def test_nobody_there(instance: SigstoreInstance, tmp_path: Path) -> None:
    with SigstoreServer(instance) as server:
        signer = signer_at(server, tmp_path)
    with pytest.raises(RegistryError, match="signing without a key"):
        signer.bundle(STATEMENT)


@pytest.mark.parametrize(
    "token",
    ["nonsense", "a.b.c", identity_token(lifetime=timedelta(minutes=-5))],
    ids=["nonsense", "parts", "expired"],
)
def test_a_token_that_is_none(token: str) -> None:
    with pytest.raises(AuthenticationError, match="no usable identity token"):
        open_signer("keyless:", {"SIGSTORE_ID_TOKEN": token}, no_passphrase)


def test_no_identity_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AuthenticationError):
        open_signer("keyless:", {}, no_passphrase)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b" " * (5 << 20), None])
def test_a_configuration_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    environ = {"SIGSTORE_ID_TOKEN": identity_token()}
    signer = open_signer(f"keyless:{path}", environ, no_passphrase)
    with pytest.raises(InputError, match=r"config\.json"):
        signer.bundle(STATEMENT)


def test_an_identity_is_no_key() -> None:
    with pytest.raises(UsageError) as refused:
        open_public_key("keyless:")
    assert "--policy" in refused.value.hint


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sigstore.models", None)
    with pytest.raises(UsageError) as refused:
        open_signer("keyless:", {"SIGSTORE_ID_TOKEN": "x"}, no_passphrase)
    assert refused.value.hint == "pip install 'ocimodel[keyless]'"
