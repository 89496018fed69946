"""notation verifies what we sign with certificates, and we verify what it signs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import ocimodel
from tests.e2e.conftest import Cli
from tests.servers.notation import Notation, NotationError

SUBJECT = "C=DE, ST=Berlin, O=Example, CN=release"
LEAF = """\
basicConstraints=critical,CA:false
keyUsage=critical,digitalSignature
extendedKeyUsage=codeSigning
"""


@dataclass(frozen=True)
class Release:
    """A root, and what it certified: a key whose chain ends in it."""

    root: Path
    key: Path
    chain: Path


@pytest.fixture
def certify(tool_path: Callable[[str], Path], work: Path) -> Callable[[str], Release]:
    """`certify(name)` makes a root and a release key, as `openssl` does it."""

    def run(*arguments: str | Path) -> None:
        subprocess.run(
            [tool_path("openssl"), *arguments], cwd=work, check=True, capture_output=True
        )

    def make(name: str) -> Release:
        extensions = work / "leaf.ext"
        extensions.write_text(LEAF)
        new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        constraints = ("basicConstraints=critical,CA:true", "keyUsage=critical,keyCertSign")
        extra = [word for each in constraints for word in ("-addext", each)]
        subject = f"/{SUBJECT.replace(', ', '/')}"
        root, request, leaf = (work / f"{name}-{what}.pem" for what in ("root", "request", "leaf"))
        root_key, key, chain = (work / f"{name}.{what}" for what in ("root", "key", "chain"))
        run("req", "-x509", *new, "-keyout", root_key, "-out", root, "-subj", "/CN=root", *extra)
        run("req", *new, "-keyout", key, "-out", request, "-subj", subject)
        issuer = ("-CA", root, "-CAkey", root_key, "-CAcreateserial", "-extfile", extensions)
        run("x509", "-req", "-in", request, "-out", leaf, *issuer)
        chain.write_bytes(leaf.read_bytes() + root.read_bytes())
        return Release(root, key, chain)

    return make


@pytest.fixture
def release(certify: Callable[[str], Release]) -> Release:
    return certify("release")


@pytest.fixture
def notation(tool_path: Callable[[str], Path], work: Path, release: Release) -> Notation:
    """It signs as the release, and trusts nobody else."""
    found = Notation(tool_path("notation"), work / "config")
    found.use_key(release.key, release.chain)
    found.trust(release.root, [f"x509.subject: {SUBJECT}"])
    return found


def policy(work: Path, root: Path, identity: str = SUBJECT) -> Path:
    """Trusts what `identity` signs with a certificate from `root`."""
    path = work / "policy.yaml"
    keyring = {"release": {"certificates": str(root), "identities": [identity]}}
    scope = {"repositories": ["*"], "require": [{"by": ["release"]}]}
    path.write_text(json.dumps({"version": 1, "keyring": keyring, "scopes": [scope]}))
    return path


def test_notation_accepts_our_signature(
    notation: Notation, cli: Cli, artifact: str, release: Release
) -> None:
    with pytest.raises(NotationError, match="no signature"):
        notation.verify(artifact)
    how = ("--key", release.key, "--format", "notation", "--certificate-chain", release.chain)
    cli("sign", artifact, *how, "-a", "env=prod", "--expires", "3d")
    notation.verify(artifact, {"env": "prod"})
    with pytest.raises(NotationError, match="failed for all"):
        notation.verify(artifact, {"env": "dev"})
    # and so do we
    cli("verify", artifact, "--policy", policy(cli.cwd, release.root))


def test_notation_refuses_our_signature_by_a_stranger(
    notation: Notation, cli: Cli, artifact: str, certify: Callable[[str], Release]
) -> None:
    stranger = certify("stranger")
    how = ("--key", stranger.key, "--format", "notation", "--certificate-chain", stranger.chain)
    cli("sign", artifact, *how)
    with pytest.raises(NotationError, match="failed for all"):
        notation.verify(artifact)


def test_we_accept_their_signature(
    notation: Notation,
    cli: Cli,
    artifact: str,
    release: Release,
    certify: Callable[[str], Release],
) -> None:
    rules = policy(cli.cwd, release.root)
    cli("verify", artifact, "--policy", rules, code=7)
    notation.sign(artifact, {"env": "prod"})
    document = cli("verify", artifact, "--policy", rules, "--json").document
    (judgement,) = document["judgements"]
    (evidence,) = judgement["evidence"]
    assert evidence["form"] == "notation"
    assert "release" in evidence["countedBy"]
    cli("pull", artifact, "-o", "copy", "--policy", rules)
    assert (cli.cwd / "copy" / "config.json").exists()
    other = policy(cli.cwd, release.root, "C=DE, ST=Berlin, O=Example, CN=other")
    cli("verify", artifact, "--policy", other, code=7)
    cli("verify", artifact, "--policy", policy(cli.cwd, certify("stranger").root), code=7)


def test_both_signatures_live_together_and_travel(
    notation: Notation, cli: Cli, artifact: str, repo: str, release: Release
) -> None:
    how = ("--key", release.key, "--format", "notation", "--certificate-chain", release.chain)
    notation.sign(artifact, {"by": "first"})
    cli("sign", artifact, *how, "-a", "by=middle")
    notation.sign(artifact, {"by": "last"})
    copied = ocimodel.copy(artifact, f"{repo}-copy:v1").pinned.replace(":v1@", "@")
    for place in (artifact, copied):
        for who in ("first", "middle", "last"):
            notation.verify(place, {"by": who})
