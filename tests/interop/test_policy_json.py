"""podman, CRI-O and skopeo have one reader of policy.json, and by our example it takes ours."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import ocimodel
from tests.e2e.conftest import Cli
from tests.servers.registry import RegistryProcess

CONTAINERS = Path(__file__).parents[2] / "deploy" / "policy" / "containers"
SCOPE = "registry.example.com/team"
KEY = "/etc/pki/containers/release.pub"


@pytest.fixture
def accepts(
    tool_path: Callable[[str], Path], registry: RegistryProcess, cli: Cli
) -> Callable[[str], str]:
    """`accepts(reference)`: why skopeo refuses it under the example; empty when it does not."""
    rules, folder = cli.cwd / "policy.json", cli.cwd / "registries.d"
    folder.mkdir()
    scope = f"{registry.host}/interop"
    text = (CONTAINERS / "policy.json").read_text()
    rules.write_text(text.replace(SCOPE, scope).replace(KEY, str(cli.cwd / "release.pub")))
    for path in (CONTAINERS / "registries.d").iterdir():
        (folder / path.name).write_text(path.read_text().replace(SCOPE, scope))

    def copy(reference: str) -> str:
        program = [tool_path("skopeo-newer"), "--policy", rules, "--registries.d", folder]
        source, target = f"docker://{reference}", f"dir:{cli.cwd / 'node'}"
        argv = [*program, "copy", "--src-tls-verify=false", source, target]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        return done.stderr if done.returncode else ""

    return copy


def test_the_example_takes_what_is_signed_and_nothing_else(
    accepts: Callable[[str], str], cli: Cli, artifact: str, repo: str
) -> None:
    cli("keygen", "release")
    cli("keygen", "stranger")
    assert "no signature exists" in accepts(artifact)
    cli("sign", artifact, "--key", "stranger.key")
    assert "signature verification failed" in accepts(artifact)
    cli("sign", artifact, "--key", "release.key")
    assert accepts(artifact) == ""
    assert accepts(f"{repo}:v1") == ""
    # another model, that has the signature of this one
    (cli.cwd / "model" / "config.json").write_bytes(b"{}")
    ocimodel.push(cli.cwd / "model", f"{repo}:v2")
    assert "no signature exists" in accepts(f"{repo}:v2")


def test_a_copy_counts_once_it_is_signed_where_it_is(
    accepts: Callable[[str], str], cli: Cli, artifact: str, repo: str
) -> None:
    cli("keygen", "release")
    cli("sign", artifact, "--key", "release.key")
    cli("copy", artifact, f"{repo}-copy:v1")
    assert "is not accepted" in accepts(f"{repo}-copy:v1")
    cli("sign", f"{repo}-copy:v1", "--key", "release.key")
    assert accepts(f"{repo}-copy:v1") == ""
