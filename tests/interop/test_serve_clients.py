"""Other people's clients against `serve`: skopeo, oras and crane push, pull, list and attach."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ocimodel.server import RegistryServer
from ocimodel.spec.digest import sha256
from ocimodel.store.copy import copy
from ocimodel.store.layout import Layout
from ocimodel.store.memory import MemoryStore
from tests.artifacts import put_model, random_bytes

FILES = {"config.json": b'{"a": 1}\n', "weights/model.bin": random_bytes(3_000_000)}
Run = Callable[..., str]
INSECURE = ("--src-tls-verify=false", "--dest-tls-verify=false")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "models", create=True)


@pytest.fixture
def packed(layout: Layout) -> str:
    """The digest of a model at `oci:models:v1`."""
    memory = MemoryStore()
    model = put_model(memory, FILES)
    memory.tag("v1", model.descriptor)
    copy(memory, layout, model)
    layout.tag("v1", model.descriptor)
    return model.digest


@pytest.fixture
def host(layout: Layout) -> Iterator[str]:
    with RegistryServer(layout, ("127.0.0.1", 0)) as server:
        yield server.host


@pytest.fixture
def run(tool_path: Callable[[str], Path], tmp_path: Path) -> Run:
    """`run(tool, *arguments)` gives the standard output of a run that went well."""
    work = tmp_path / "work"
    work.mkdir()

    def runs(name: str, *arguments: str, cwd: Path = work) -> str:
        done = subprocess.run(
            [tool_path(name), *arguments], cwd=cwd, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return runs


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name, content in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def test_skopeo_inspects_and_copies_out_what_is_packed(
    run: Run, host: str, packed: str, tmp_path: Path
) -> None:
    source = f"docker://{host}/any/name:v1"
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", source)
    assert sha256(raw.encode()) == packed
    listed = json.loads(run("skopeo", "list-tags", "--tls-verify=false", f"docker://{host}/any"))
    assert listed["Tags"] == ["v1"]
    out = tmp_path / "out"
    run("skopeo", "copy", "--insecure-policy", *INSECURE, source, f"dir:{out}")
    for content in FILES.values():
        assert (out / sha256(content).partition(":")[2]).read_bytes() == content


def test_skopeo_pushes_and_reads_back(
    run: Run, host: str, packed: str, layout: Layout, tmp_path: Path
) -> None:
    other = Layout(tmp_path / "other", create=True)
    with RegistryServer(other, ("127.0.0.1", 0)) as second:
        source, target = f"docker://{host}/m:v1", f"docker://{second.host}/team/a:v2"
        # a push of bytes, then one where all blobs are there, then a mount
        for destination in (target, target, f"docker://{second.host}/team/b:v2"):
            run("skopeo", "copy", "--insecure-policy", *INSECURE, source, destination)
        assert sorted(other.tags()) == ["team/a:v2", "team/b:v2"]
        run("skopeo", "delete", "--tls-verify=false", target)
        assert other.tags() == ["team/b:v2"]
    for content in FILES.values():
        assert other.blob_path(sha256(content)).read_bytes() == content


def test_oras_pushes_pulls_attaches_and_discovers(
    run: Run, host: str, layout: Layout, tree: Path, tmp_path: Path
) -> None:
    reference = f"{host}/team/a:v1"
    run("oras", "push", "--plain-http", "--artifact-type", "x/model", reference, *FILES, cwd=tree)
    assert layout.tags() == ["team/a:v1"]
    out = tmp_path / "out"
    run("oras", "pull", "--plain-http", reference, "-o", str(out))
    assert contents(out) == FILES
    assert run("oras", "repo", "tags", "--plain-http", f"{host}/team/a").split() == ["v1"]
    assert run("oras", "repo", "ls", "--plain-http", host).split() == ["team/a"]
    attach = ("attach", "--plain-http", "--artifact-type", "x/report", reference, "config.json")
    run("oras", *attach, cwd=tree)
    # through the API: no tag of the fallback scheme
    assert layout.tags() == ["team/a:v1"]
    discover = ("discover", "--plain-http", "--format", "json", reference)
    assert found_types(json.loads(run("oras", *discover))) == ["x/report"]
    run("oras", "cp", "-r", "--from-plain-http", "--to-plain-http", reference, f"{host}/team/b:v1")
    run("oras", "manifest", "delete", "--plain-http", "--force", reference)
    assert layout.tags() == ["team/b:v1"]


def found_types(document: dict[str, Any]) -> list[str]:
    """oras 1.3 calls them referrers, older ones manifests."""
    found = document.get("referrers", document.get("manifests", []))
    return [item["artifactType"] for item in found]


def test_oras_pushes_in_ranges_of_its_own(run: Run, host: str, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(FILES["weights/model.bin"])
    digest = sha256(blob.read_bytes())
    run("oras", "blob", "push", "--plain-http", f"{host}/team/a", str(blob))
    out = tmp_path / "fetched"
    fetch = ("fetch", "--plain-http", "--output", str(out), f"{host}/team/a@{digest}")
    run("oras", "blob", *fetch)
    assert out.read_bytes() == blob.read_bytes()
    run("oras", "blob", "delete", "--plain-http", "--force", f"{host}/team/a@{digest}")


def test_crane_lists_copies_and_pulls(
    run: Run, host: str, packed: str, layout: Layout, tmp_path: Path
) -> None:
    assert run("crane", "digest", "--insecure", f"{host}/any:v1").strip() == packed
    assert run("crane", "ls", "--insecure", f"{host}/any").split() == ["v1"]
    run("crane", "copy", "--insecure", f"{host}/any:v1", f"{host}/team/b:v9")
    assert sorted(layout.tags()) == ["team/b:v9", "v1"]
    run("crane", "tag", "--insecure", f"{host}/team/b:v9", "latest")
    assert run("crane", "ls", "--insecure", f"{host}/team/b").split() == ["latest", "v1", "v9"]
    assert run("crane", "catalog", "--insecure", host).split() == ["models", "team/b"]
    digest = sha256(FILES["config.json"])
    blob = run("crane", "blob", "--insecure", f"{host}/team/b@{digest}")
    assert blob.encode() == FILES["config.json"]
    out = tmp_path / "pulled"
    run("crane", "pull", "--insecure", "--format", "oci", f"{host}/any:v1", str(out))
    assert Layout(out).manifest(packed).digest == packed
    run("crane", "push", "--insecure", str(out), f"{host}/team/c:v3")
    run("crane", "delete", "--insecure", f"{host}/team/c:v3")
    with pytest.raises(AssertionError, match="MANIFEST_UNKNOWN"):
        run("crane", "manifest", "--insecure", f"{host}/team/c:v0")


def test_crane_appends_with_streamed_uploads(run: Run, host: str, tmp_path: Path) -> None:
    layer = tmp_path / "layer.tar"
    tree = tmp_path / "some"
    tree.mkdir()
    (tree / "file").write_bytes(random_bytes(100_000))
    subprocess.run(["tar", "cf", layer, "-C", tree, "file"], check=True)
    run("crane", "append", "--insecure", "-f", str(layer), "-t", f"{host}/team/a:v1")
    validated = run("crane", "validate", "--insecure", "--remote", f"{host}/team/a:v1")
    assert "PASS" in validated
