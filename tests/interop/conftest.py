"""A pushed model on each kind of registry, and the program to sign it with."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import ocimodel
from tests.e2e.conftest import Cli
from tests.servers.cosign import PASSPHRASE, Cosign
from tests.servers.registry import RegistryProcess
from tests.trees import noise, write_tree

MODEL = {"config.json": b'{"model_type":"bert"}', "model.bin": noise(100_000)}
KEY_KINDS = {
    "P-256": ("EC", "ec_paramgen_curve:P-256"),
    "P-384": ("EC", "ec_paramgen_curve:P-384"),
    "RSA-3072": ("RSA", "rsa_keygen_bits:3072"),
    "Ed25519": ("ED25519", ""),
}
Keys = Callable[[str, str], tuple[Path, Path]]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def cli(work: Path) -> Cli:
    return Cli(work, env={"COSIGN_PASSWORD": PASSPHRASE})


@pytest.fixture(params=["docker_registry", "ggcr"])
def registry(request: pytest.FixtureRequest) -> RegistryProcess:
    """One without and one with the referrers API."""
    found: RegistryProcess = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def repo(registry: RegistryProcess, tmp_path: Path) -> str:
    """A repository of the test's own."""
    name = re.sub(r"[^a-z0-9]+", "-", tmp_path.name.lower()).strip("-")
    return f"{registry.host}/interop/{name}"


@pytest.fixture
def artifact(repo: str, work: Path) -> str:
    """A model at `repo:v1`, by its digest."""
    model = write_tree(work / "model", MODEL)
    return ocimodel.push(model, f"{repo}:v1").pinned.replace(":v1@", "@")


@pytest.fixture(params=[2, 3], ids=lambda major: f"cosign{major}")
def cosign(request: pytest.FixtureRequest, tool_path: Callable[[str], Path], work: Path) -> Cosign:
    return Cosign(tool_path(f"cosign{request.param}"), request.param, work)


@pytest.fixture
def openssl_keys(tool_path: Callable[[str], Path], work: Path) -> Keys:
    """`openssl_keys(kind, name)`: a plain PKCS #8 key and its public half."""

    def make(kind: str, name: str) -> tuple[Path, Path]:
        algorithm, option = KEY_KINDS[kind]
        private, public = work / f"{name}.pem", work / f"{name}.pub"
        options = ("-pkeyopt", option) if option else ()
        for argv in (
            ("genpkey", "-algorithm", algorithm, *options, "-out", private),
            ("pkey", "-in", private, "-pubout", "-out", public),
        ):
            subprocess.run([tool_path("openssl"), *argv], check=True, capture_output=True)
        return private, public

    return make
