"""Other tools read what we write, and we read what they write."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ocimodel.ops.browse import inspect
from ocimodel.ops.pull import pull
from ocimodel.ops.push import push
from ocimodel.spec.digest import sha256
from ocimodel.spec.manifest import MANIFEST, parse_manifest
from ocimodel.store.copy import copy as copy_between
from ocimodel.store.memory import MemoryStore
from tests.servers.registry import DockerRegistry
from tests.trees import executables, noise, patient, read_tree, repository, write_tree

Tools = Callable[[str], Path]

MODEL = {
    "config.json": b'{"model_type":"bert"}',
    "model.bin": noise(300_000),
    "sub/tokenizer.json": b"{}",
    "sub/with space.txt": b"space",
    "empty.txt": b"",
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "model", MODEL)


def run(program: Path, *arguments: object, cwd: Path | None = None) -> str:
    argv = [str(program), *map(str, arguments)]
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# they read ours


def test_skopeo_reads_and_copies(
    tool_path: Tools, docker_registry: DockerRegistry, model: Path, tmp_path: Path
) -> None:
    skopeo = tool_path("skopeo")
    base = f"docker://{docker_registry.host}/interop/skopeo"
    reference = f"{docker_registry.host}/interop/skopeo:v1"
    pushed = push(model, reference, client=patient())
    raw = run(skopeo, "inspect", "--tls-verify=false", "--raw", f"{base}:v1")
    assert sha256(raw.encode()) == pushed.digest
    assert json.loads(raw)["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    config = run(skopeo, "inspect", "--tls-verify=false", "--config", "--raw", f"{base}:v1")
    assert json.loads(config)["modelfs"]["type"] == "layers"
    # the other form of inspect is for images, and reads the compatible profile
    compatible = push(model, f"{reference}-compat", compatible=True, client=patient())
    image = json.loads(run(skopeo, "inspect", "--tls-verify=false", f"{base}:v1-compat"))
    assert image["Digest"] == compatible.digest
    assert len(image["Layers"]) == compatible.n_files
    copy = [skopeo, "--insecure-policy", "copy", "--preserve-digests"]
    insecure = ("--src-tls-verify=false", "--dest-tls-verify=false")
    run(*copy, *insecure, f"{base}:v1", f"dir:{tmp_path / 'dir'}")
    run(*copy, *insecure, f"{base}:v1", f"oci:{tmp_path / 'layout'}:v1")
    # out of its layout, and back by way of it
    pull(f"oci:{tmp_path / 'layout'}:v1", tmp_path / "from-layout", client=patient())
    assert read_tree(tmp_path / "from-layout") == read_tree(model)
    run(*copy, *insecure, f"oci:{tmp_path / 'layout'}:v1", f"{base}-back:v1")
    pulled = pull(
        f"{docker_registry.host}/interop/skopeo-back:v1", tmp_path / "back", client=patient()
    )
    assert pulled.digest == pushed.digest
    assert read_tree(tmp_path / "back") == read_tree(model)


def test_oras_pulls_the_same_bytes(
    tool_path: Tools, docker_registry: DockerRegistry, model: Path, tmp_path: Path
) -> None:
    oras = tool_path("oras")
    reference = f"{docker_registry.host}/interop/oras:v1"
    push(model, reference, client=patient())
    target = tmp_path / "target"
    run(oras, "pull", "--plain-http", "-o", target, reference)
    assert read_tree(target) == read_tree(model)


def test_crane_reads_and_copies(
    tool_path: Tools, docker_registry: DockerRegistry, model: Path, tmp_path: Path
) -> None:
    crane = tool_path("crane")
    reference = f"{docker_registry.host}/interop/crane:v1"
    pushed = push(model, reference, client=patient())
    assert sha256(run(crane, "manifest", "--insecure", reference).encode()) == pushed.digest
    other = f"{docker_registry.host}/interop/crane-copy:v1"
    run(crane, "copy", "--insecure", reference, other)
    pulled = pull(other, tmp_path / "target", client=patient())
    assert pulled.digest == pushed.digest
    assert read_tree(tmp_path / "target") == read_tree(model)


# we read theirs


def test_what_oras_pushed_is_pulled(
    tool_path: Tools, docker_registry: DockerRegistry, model: Path, tmp_path: Path
) -> None:
    oras = tool_path("oras")
    reference = f"{docker_registry.host}/interop/oras-push:v1"
    (model / "empty.txt").unlink()
    names = [name for name in MODEL if name != "empty.txt"]
    run(
        oras,
        "push",
        "--plain-http",
        "--artifact-type",
        "application/x-model",
        reference,
        *names,
        cwd=model,
    )
    pulled = pull(reference, tmp_path / "target", client=patient())
    assert read_tree(tmp_path / "target") == read_tree(model)
    assert {file.path for file in pulled.files} == set(names)
    assert inspect(reference, client=patient()).artifact_type == "application/x-model"


def test_a_directory_that_oras_pushed_is_pulled(
    tool_path: Tools, docker_registry: DockerRegistry, model: Path, tmp_path: Path
) -> None:
    """oras packs a directory as one tar+gzip layer."""
    oras = tool_path("oras")
    reference = f"{docker_registry.host}/interop/oras-dir:v1"
    run(oras, "push", "--plain-http", reference, "./model", cwd=tmp_path)
    pull(reference, tmp_path / "target", client=patient())
    assert read_tree(tmp_path / "target" / "model") == read_tree(model)


def tar_of(files: Mapping[str, bytes], *, executable: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o755 if name == executable else 0o644
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def put_by_hand(
    registry: DockerRegistry,
    name: str,
    layers: list[tuple[str, bytes, dict[str, str]]],
    *,
    vendor: str = "cncf",
) -> str:
    """A manifest as the ModelPack specification shows it, written field by field."""
    blobs = {sha256(content): content for _, content, _ in layers}
    config = json.dumps(
        {
            "descriptor": {"name": "by-hand"},
            "config": {"format": "safetensors"},
            "modelfs": {"type": "layers", "diffIds": list(blobs)},
        }
    ).encode()
    blobs[sha256(config)] = config

    def described(media_type: str, content: bytes) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": sha256(content), "size": len(content)}

    raw = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": f"application/vnd.{vendor}.model.manifest.v1+json",
            "config": described(f"application/vnd.{vendor}.model.config.v1+json", config),
            "layers": [
                {**described(f"application/vnd.{vendor}.model.{kind}", content), "annotations": a}
                for kind, content, a in layers
            ],
        },
        indent=2,
    ).encode()
    memory = MemoryStore()
    memory.blobs.update(blobs)
    document = parse_manifest(raw)
    reference = f"{registry.host}/interop/{name}:v1"
    copy_between(memory, repository(reference), document, tag="v1")
    return reference


@pytest.mark.parametrize(("vendor", "prefix"), [("cncf", "org.cncf"), ("cnai", "org.cnai")])
def test_a_manifest_written_by_hand(
    docker_registry: DockerRegistry, tmp_path: Path, vendor: str, prefix: str
) -> None:
    path = f"{prefix}.model.filepath"
    metadata = json.dumps({"name": "run.sh", "mode": 0o755, "typeflag": 0, "size": 5})
    code = {"src/run.py": b"print()\n", "src/go.sh": b"go"}
    docs = {"docs/README.md": b"# Hi\n", "docs/LICENSE": b"free"}
    layers = [
        ("weight.v1.raw", noise(1000), {path: "model.safetensors"}),
        ("weight.config.v1.raw", b"{}", {path: "config.json"}),
        (
            "code.v1.raw",
            b"#!sh\n",
            {path: "run.sh", f"{prefix}.model.file.metadata+json": metadata},
        ),
        ("code.v1.tar", tar_of(code, executable="src/go.sh"), {path: "src"}),
        ("doc.v1.tar+gzip", gzip.compress(tar_of(docs)), {path: "docs"}),
    ]
    reference = put_by_hand(docker_registry, f"hand-{vendor}", layers, vendor=vendor)
    target = tmp_path / "target"
    pull(reference, target, client=patient())
    assert read_tree(target) == {
        "model.safetensors": noise(1000),
        "config.json": b"{}",
        "run.sh": b"#!sh\n",
        **code,
        **docs,
    }
    assert executables(target) == {"run.sh", "src/go.sh"}
    seen = inspect(reference, client=patient())
    assert seen.config["format"] == "safetensors"


def test_weights_in_one_tar(docker_registry: DockerRegistry, tmp_path: Path) -> None:
    layers = [("weight.v1.tar", tar_of(MODEL), {"org.cncf.model.filepath": "model"})]
    reference = put_by_hand(docker_registry, "one-tar", layers)
    pull(reference, tmp_path / "target", client=patient())
    assert read_tree(tmp_path / "target") == MODEL
    again = pull(reference, tmp_path / "target", client=patient())
    assert read_tree(tmp_path / "target") == MODEL
    assert again.digest
