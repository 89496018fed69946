"""cosign 2 and 3 verify what we sign, and we verify what they sign."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import ocimodel
from ocimodel.signing import cosign as forms
from ocimodel.signing.evidence import SIGNATURE
from ocimodel.signing.keyfile import open_signer
from ocimodel.signing.signer import KeySigner
from ocimodel.spec.reference import parse_reference
from tests.e2e.conftest import Cli
from tests.interop.conftest import KEY_KINDS, Keys
from tests.servers.cosign import PASSPHRASE, Cosign, CosignError
from tests.trees import repository

PROVENANCE = {
    "buildDefinition": {"buildType": "https://example.com/train", "externalParameters": {}},
    "runDetails": {"builder": {"id": "https://example.com/ci"}},
}
SLSA = "https://slsa.dev/provenance/v1"
WITHOUT_API = pytest.mark.parametrize("registry", ["docker_registry"], indirect=True)


@pytest.fixture
def ours(cli: Cli) -> tuple[Path, Path]:
    cli("keygen", "ours")
    return cli.cwd / "ours.key", cli.cwd / "ours.pub"


@pytest.fixture
def predicate(work: Path) -> Path:
    path = work / "provenance.json"
    path.write_text(json.dumps(PROVENANCE))
    return path


def counted(cli: Cli, *arguments: str | Path) -> set[tuple[str, str]]:
    """Form and predicate type of the evidence by which `ocimodel verify` accepts."""
    document = cli("verify", *arguments, "--json").document
    assert document["accepted"] is True
    (judgement,) = document["judgements"]
    return {(e["form"], e["predicateType"]) for e in judgement["evidence"] if e["countedBy"]}


# cosign reads ours


def test_cosign_accepts_our_signature(
    cosign: Cosign, cli: Cli, artifact: str, repo: str, ours: tuple[Path, Path]
) -> None:
    private, public = ours
    with pytest.raises(CosignError, match="no signatures"):
        cosign.verify(artifact, public)
    cli("sign", artifact, "--key", private, "-a", "env=prod", "-a", "größe=5")
    (payload,) = cosign.verify(artifact, public, {"env": "prod", "größe": "5"})
    image = payload["critical"]["image"]["docker-manifest-digest"]
    assert f"{repo}@{image}" == artifact
    assert payload["critical"]["identity"]["docker-reference"].partition("@")[0] == repo
    assert payload["optional"]["env"] == "prod"
    with pytest.raises(CosignError, match="annotation"):
        cosign.verify(artifact, public, {"env": "dev"})


@WITHOUT_API
@pytest.mark.parametrize("kind", KEY_KINDS)
def test_cosign_accepts_our_signature_with_any_key(
    cosign: Cosign, cli: Cli, artifact: str, openssl_keys: Keys, kind: str
) -> None:
    private, public = openssl_keys(kind, "key")
    _, other = openssl_keys(kind, "other")
    cli("sign", artifact, "--key", private)
    assert cosign.verify(artifact, public)
    with pytest.raises(CosignError):
        cosign.verify(artifact, other)


@WITHOUT_API
def test_a_key_pair_of_cosign_signs_here(cosign: Cosign, cli: Cli, artifact: str) -> None:
    private, public = cosign.generate_key_pair("theirs")
    cli("sign", artifact, "--key", private)
    assert cosign.verify(artifact, public)
    cli("verify", artifact, "--key", public)
    error = cli("sign", artifact, "--key", private, env={"COSIGN_PASSWORD": "no"}, code=10)
    assert "wrong passphrase" in error.err


def test_cosign_accepts_what_was_pushed_and_signed_at_once(
    cosign: Cosign, cli: Cli, artifact: str, repo: str, ours: tuple[Path, Path]
) -> None:
    private, public = ours
    cli("push", "model", f"{repo}-signed:v1", "--sign", private)
    assert cosign.verify(f"{repo}-signed:v1", public)


def test_cosign_accepts_our_attestation(
    cosign: Cosign, cli: Cli, artifact: str, ours: tuple[Path, Path], predicate: Path
) -> None:
    private, public = ours
    what = ("--type", "slsaprovenance1", "--predicate", predicate)
    compat = ["--compat"] if cosign.major == 2 else []
    cli("attest", artifact, "--key", private, *what, *compat)
    (envelope,) = cosign.verify_attestation(artifact, public, "slsaprovenance1")
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["predicateType"] == SLSA
    assert statement["predicate"] == PROVENANCE
    with pytest.raises(CosignError):
        cosign.verify_attestation(artifact, public, "spdxjson")


def test_a_signature_for_another_digest_is_refused_by_both(
    cosign: Cosign, cli: Cli, artifact: str, repo: str, ours: tuple[Path, Path]
) -> None:
    """What is genuine, moved in both forms to an artifact that nobody signed."""
    private, public = ours
    cli.cwd.joinpath("model", "model.bin").write_bytes(b"worse")
    other = ocimodel.push(cli.cwd / "model", f"{repo}:v2")
    signer = open_signer(str(private), {"COSIGN_PASSWORD": PASSPHRASE}, lambda _: b"")
    assert isinstance(signer, KeySigner)
    store = repository(artifact)
    digest = parse_reference(artifact).digest
    bundle = forms.sign_statement(signer, forms.signature_statement(digest, {}))
    target = store.resolve(other.digest)
    forms.attach_bundle(store, target, bundle, SIGNATURE, "2026-01-01T00:00:00Z")
    payload = forms.simple_payload(digest, repo, {})
    forms.attach_signature_tag(store, other.digest, payload, signer.sign(payload))
    with pytest.raises(CosignError):
        cosign.verify(f"{repo}@{other.digest}", public)
    cli("verify", f"{repo}@{other.digest}", "--key", public, code=7)
    cli("pull", f"{repo}:v2", "-o", "copy", "--key", public, code=7)
    assert not (cli.cwd / "copy").exists()


# we read theirs


def test_we_accept_their_signature(cosign: Cosign, cli: Cli, artifact: str) -> None:
    private, public = cosign.generate_key_pair("theirs")
    _, stranger = cosign.generate_key_pair("stranger")
    cli("verify", artifact, "--key", public, code=7)
    cosign.sign(artifact, private, {"env": "prod"})
    form = "simplesigning" if cosign.major == 2 else "bundle"
    assert counted(cli, artifact, "--key", public, "-a", "env=prod") == {(form, SIGNATURE)}
    cli("pull", artifact, "-o", "copy", "--key", public)
    cli("verify", artifact, "--key", public, "-a", "env=dev", code=7)
    cli("verify", artifact, "--key", stranger, code=7)


@WITHOUT_API
@pytest.mark.parametrize("kind", KEY_KINDS)
def test_we_accept_their_signature_with_any_key(
    cosign: Cosign,
    cli: Cli,
    artifact: str,
    openssl_keys: Keys,
    kind: str,
    tool_path: Callable[[str], Path],
) -> None:
    plain, public = openssl_keys(kind, "key")
    _, other = openssl_keys(kind, "other")
    # Debian's cosign 2 imports nothing but signs with what the other imported
    importer = Cosign(tool_path("cosign3"), 3, cli.cwd)
    cosign.sign(artifact, importer.import_key_pair(plain, "imported"))
    cli("verify", artifact, "--key", public)
    cli("verify", artifact, "--key", other, code=7)


@WITHOUT_API
def test_a_key_pair_of_ours_signs_there(
    cosign: Cosign, cli: Cli, artifact: str, ours: tuple[Path, Path]
) -> None:
    private, public = ours
    cosign.sign(artifact, private)
    assert cosign.verify(artifact, public)
    cli("verify", artifact, "--key", public)


def test_we_accept_their_attestation(
    cosign: Cosign, cli: Cli, artifact: str, predicate: Path
) -> None:
    private, public = cosign.generate_key_pair("theirs")
    cosign.attest(artifact, private, "slsaprovenance1", predicate)
    asked = (artifact, "--key", public, "--type", "slsaprovenance1")
    # cosign 3 would take the attestation for a signature
    cli("verify", artifact, "--key", public, code=7)
    cli("verify", *asked, code=7)
    cosign.sign(artifact, private)
    signed, attested = ("simplesigning", "dsse") if cosign.major == 2 else ("bundle", "bundle")
    assert counted(cli, *asked) == {(signed, SIGNATURE), (attested, SLSA)}
    cli("verify", artifact, "--key", public, "--type", "spdxjson", code=7)


# beside each other


def sign_in_turns(cosign: Cosign, cli: Cli, artifact: str, predicate: Path) -> Sequence[Path]:
    """Theirs, ours, theirs; the public keys."""
    first, last = (cosign.generate_key_pair(name) for name in ("first", "last"))
    cli("keygen", "middle")
    cosign.sign(artifact, first[0])
    cosign.attest(artifact, first[0], "slsaprovenance1", predicate)
    cli("sign", artifact, "--key", "middle.key")
    what: tuple[Any, ...] = ("--type", "slsaprovenance1", "--predicate", predicate)
    cli("attest", artifact, "--key", "middle.key", *what, "--compat")
    cosign.sign(artifact, last[0])
    cosign.attest(artifact, last[0], "slsaprovenance1", predicate)
    return first[1], cli.cwd / "middle.pub", last[1]


def test_nobody_removes_the_signatures_of_others(
    cosign: Cosign, cli: Cli, artifact: str, repo: str, predicate: Path
) -> None:
    keys = sign_in_turns(cosign, cli, artifact, predicate)
    cli("copy", artifact, "oci:layout")
    cli("copy", f"oci:layout@{parse_reference(artifact).digest}", f"{repo}-copy:v1")
    for place in (artifact, f"{repo}-copy:v1"):
        for key in keys:
            assert cosign.verify(place, key), place
            assert cosign.verify_attestation(place, key, "slsaprovenance1"), place
            cli("verify", place, "--key", key, "--type", "slsaprovenance1")
