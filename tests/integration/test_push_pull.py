"""The main job against a real docker-registry: what goes in comes back, and nothing twice."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest

from ocimodel.errors import ConflictError, InputError, NotFoundError
from ocimodel.ops.browse import cat, inspect, ls
from ocimodel.ops.pull import pull
from ocimodel.ops.push import pack, push
from tests.servers import quirks
from tests.servers.fault_proxy import FaultProxy
from tests.servers.models import generated
from tests.servers.registry import DockerRegistry
from tests.trees import (
    MIB,
    executables,
    noise,
    patient,
    read_tree,
    repository,
    small_model,
    write_tree,
)

Proxies = Callable[..., FaultProxy]
SCHEMA = Path(__file__).parents[1] / "vectors" / "modelpack-config.schema.json"


def test_the_real_model_comes_back(
    docker_registry: DockerRegistry,
    fault_proxy: Proxies,
    minilm_dir: Path,
    repo: str,
    tmp_path: Path,
) -> None:
    proxy = fault_proxy(docker_registry)
    reference = f"{proxy.host}/{repo}:v1"
    pushed = push(minilm_dir, reference, client=patient())
    assert pushed.size > 80 * MIB
    assert proxy.uploaded() == pushed.bytes_pushed == pushed.size
    target = tmp_path / "target"
    pulled = pull(pushed.pinned, target, client=patient())
    assert pulled.digest == pushed.digest
    assert read_tree(target) == read_tree(minilm_dir)
    # the big weight came in several ranges, and not a byte of it twice
    big = max(pulled.files, key=lambda file: file.size)
    requests = proxy.select("GET", f"/blobs/{big.digest}")
    assert_covers([r.headers["range"] for r in requests], big.size)
    assert proxy.downloaded() == pulled.bytes_fetched
    # the second time no blob moves, either way
    proxy.clear()
    again = pull(reference, target, client=patient())
    assert again.bytes_fetched == 0
    assert again.bytes_reused == sum(file.size for file in again.files)
    once_more = push(minilm_dir, reference, client=patient())
    assert (once_more.digest, once_more.bytes_pushed) == (pushed.digest, 0)
    assert proxy.downloaded() == 0
    assert proxy.uploaded() == 0
    # what is read from the weights and config.json ends up in the configuration
    seen = inspect(reference, client=patient())
    assert seen.config["architecture"]
    assert seen.config["format"]
    assert seen.config["paramSize"].startswith("22")


AWKWARD = {
    "weights with spaces.bin": b"spaced",
    "sub/deep/er/and/deeper/model.bin": b"deep",
    "m\u00f6del/\u6a21\u578b.bin": "\u6a21\u578b".encode(),
    "emoji \U0001f917.txt": b"hug",
    "empty.txt": b"",
    "other-empty.txt": b"",
    "one.bin": noise(100_000),
    "same-as-one.bin": noise(100_000),
    ".hidden": b"hidden",
    "-dash": b"dash",
    "per%20cent?&=#.bin": b"odd",
    "run.sh": b"#!/bin/sh\necho hi\n",
    "empty-dir/": b"",
    "nested/empty dir/": b"",
}


def test_awkward_trees_come_back(
    docker_registry: DockerRegistry, repo: str, tmp_path: Path
) -> None:
    model = write_tree(tmp_path / "awkward", AWKWARD)
    (model / "run.sh").chmod(0o755)
    reference = f"{docker_registry.host}/{repo}:v1"
    result = push(model, reference, client=patient())
    target = tmp_path / "target"
    pulled = pull(reference, target, client=patient())
    assert read_tree(target) == read_tree(model)
    assert executables(target) == {"run.sh"}
    assert pulled.digest == result.digest
    again = pull(reference, target, client=patient())
    assert again.bytes_fetched == 0


def test_a_hugging_face_snapshot(
    docker_registry: DockerRegistry, repo: str, tmp_path: Path
) -> None:
    cache = tmp_path / "models--org--name"
    blobs = {"config.json": b'{"model_type":"bert"}', "model.bin": noise(200_000), "a/b.txt": b"b"}
    snapshot = cache / "snapshots" / "abc"
    for i, (name, content) in enumerate(blobs.items()):
        write_tree(cache / "blobs", {f"hash{i}": content})
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(cache / "blobs" / f"hash{i}", link.parent))
    reference = f"{docker_registry.host}/{repo}:v1"
    pushed = push(snapshot, reference, client=patient())
    pull(reference, tmp_path / "target", client=patient())
    assert read_tree(tmp_path / "target") == blobs
    plain = write_tree(tmp_path / "plain", blobs)
    assert push(plain, reference, client=patient()).digest == pushed.digest
    (snapshot / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(InputError) as caught:
        push(snapshot, reference, client=patient())
    assert "passwd" in str(caught.value)


def test_the_same_bytes_give_the_same_digest(
    docker_registry: DockerRegistry, repo: str, tmp_path: Path
) -> None:
    model = write_tree(tmp_path / "one", AWKWARD)
    (model / "run.sh").chmod(0o755)
    reference = f"{docker_registry.host}/{repo}"
    first = push(model, f"{reference}:a", client=patient())
    other = tmp_path / "another name"
    mask = os.umask(0o077)
    try:
        for name in reversed(AWKWARD):
            write_tree(other, {name: AWKWARD[name]})
        (other / "run.sh").chmod(0o711)
    finally:
        os.umask(mask)
    for path in other.rglob("*"):
        os.utime(path, (0, 86400))
    second = push(other, f"{reference}:b", client=patient())
    assert second.digest == first.digest
    assert second.bytes_pushed == 0
    assert pack(other, f"oci:{tmp_path / 'layout'}:x", client=patient()).digest == first.digest


def test_a_changed_file_is_all_that_moves(
    docker_registry: DockerRegistry, fault_proxy: Proxies, repo: str, model: Path, tmp_path: Path
) -> None:
    proxy = fault_proxy(docker_registry)
    reference = f"{proxy.host}/{repo}"
    push(model, f"{reference}:v1", client=patient())
    target = tmp_path / "target"
    pull(f"{reference}:v1", target, client=patient())
    changed = noise(MIB, 4242)
    (model / "a.bin").write_bytes(changed)
    proxy.clear()
    pushed = push(model, f"{reference}:v2", client=patient())
    assert pushed.bytes_pushed == proxy.uploaded()
    assert MIB <= pushed.bytes_pushed < MIB + 100_000
    pulled = pull(f"{reference}:v2", target, client=patient())
    assert pulled.bytes_fetched == proxy.downloaded() == MIB
    assert read_tree(target) == read_tree(model)


def test_only_what_is_asked_for_is_fetched(
    docker_registry: DockerRegistry, fault_proxy: Proxies, repo: str, model: Path, tmp_path: Path
) -> None:
    proxy = fault_proxy(docker_registry)
    reference = f"{proxy.host}/{repo}:v1"
    push(model, reference, client=patient())
    proxy.clear()
    size = (model / "config.json").stat().st_size
    some = pull(reference, tmp_path / "some", include=["*.json"], client=patient())
    assert set(read_tree(tmp_path / "some")) == {"config.json"}
    assert proxy.downloaded() == some.bytes_fetched == size
    rest = pull(reference, tmp_path / "rest", exclude=["b.*"], client=patient())
    assert set(read_tree(tmp_path / "rest")) == {"config.json", "a.bin"}
    assert rest.bytes_fetched == size + MIB
    with pytest.raises(NotFoundError):
        pull(reference, tmp_path / "none", include=["*.gguf"], client=patient())
    assert not (tmp_path / "none").exists()


def test_extra_files_are_left_alone_and_named(
    docker_registry: DockerRegistry, repo: str, model: Path, tmp_path: Path
) -> None:
    reference = f"{docker_registry.host}/{repo}:v1"
    push(model, reference, client=patient())
    target = write_tree(tmp_path / "target", {"mine.txt": b"mine", "a.bin": b"old"})
    result = pull(reference, target, client=patient())
    assert result.extra_files == ("mine.txt",)
    assert read_tree(target) == {**read_tree(model), "mine.txt": b"mine"}


def test_a_cache_serves_the_second_directory(
    docker_registry: DockerRegistry, fault_proxy: Proxies, repo: str, model: Path, tmp_path: Path
) -> None:
    proxy = fault_proxy(docker_registry)
    reference = f"{proxy.host}/{repo}:v1"
    push(model, reference, client=patient())
    pull(reference, tmp_path / "one", cache=tmp_path / "cache", client=patient())
    proxy.clear()
    second = pull(reference, tmp_path / "two", cache=tmp_path / "cache", client=patient())
    assert second.bytes_fetched == proxy.downloaded() == 0
    assert read_tree(tmp_path / "two") == read_tree(model)


def test_a_big_file_in_ranges(
    docker_registry: DockerRegistry, fault_proxy: Proxies, repo: str, tmp_path: Path
) -> None:
    proxy = fault_proxy(docker_registry)
    generated(tmp_path / "model" / "big.bin", 40 * MIB + 5, seed=3)
    reference = f"{proxy.host}/{repo}:v1"
    push(tmp_path / "model", reference, client=patient())
    pull(reference, tmp_path / "target", client=patient())
    assert read_tree(tmp_path / "target") == read_tree(tmp_path / "model")
    asked = [r for e in proxy.select("GET", "/blobs/") if (r := e.headers.get("range"))]
    assert f"bytes=0-{16 * MIB - 1}" in asked
    assert_covers(asked, 40 * MIB + 5)


def assert_covers(ranges: list[str], size: int) -> None:
    """Several ranges, which touch and do not overlap, make up the whole."""
    pairs = sorted(tuple(map(int, r.removeprefix("bytes=").split("-"))) for r in ranges)
    assert len(pairs) > 1
    assert pairs[0][0] == 0
    assert pairs[-1][1] == size - 1
    assert all(b[0] == a[1] + 1 for a, b in pairwise(pairs))


def test_tags_are_immutable_unless_forced(
    docker_registry: DockerRegistry, repo: str, model: Path, tmp_path: Path
) -> None:
    reference = f"{docker_registry.host}/{repo}:v1"
    first = push(model, reference, client=patient())
    other = small_model(tmp_path / "other", seed=77)
    with pytest.raises(ConflictError) as caught:
        push(other, reference, client=patient())
    assert caught.value.exit_code == 9
    assert "--force-tag" in caught.value.hint
    assert repository(reference).resolve("v1").digest == first.digest
    second = push(other, reference, force_tag=True, client=patient())
    assert repository(reference).resolve("v1").digest == second.digest
    # the first is there still, by digest
    pull(first.pinned, tmp_path / "target", client=patient())
    assert read_tree(tmp_path / "target") == read_tree(model)


def test_a_dry_run_writes_nothing(
    docker_registry: DockerRegistry, fault_proxy: Proxies, repo: str, model: Path
) -> None:
    proxy = fault_proxy(docker_registry)
    reference = f"{proxy.host}/{repo}:v1"
    would = push(model, reference, dry_run=True, client=patient())
    assert would.dry_run
    assert would.bytes_pushed == would.size
    assert {exchange.method for exchange in proxy.log} <= {"GET", "HEAD"}
    with pytest.raises(NotFoundError):
        ls(reference.rpartition(":")[0], client=patient())
    did = push(model, reference, client=patient())
    assert (did.digest, did.bytes_pushed) == (would.digest, would.bytes_pushed)
    then = push(model, reference, dry_run=True, client=patient())
    assert then.bytes_pushed == 0


def test_a_registry_that_knows_few_types(
    docker_registry: DockerRegistry, fault_proxy: Proxies, repo: str, model: Path, tmp_path: Path
) -> None:
    from ocimodel.errors import RegistryError

    proxy = fault_proxy(docker_registry)
    proxy.apply(quirks.gitlab())
    reference = f"{proxy.host}/{repo}:v1"
    with pytest.raises(RegistryError):
        push(model, reference, client=patient())
    push(model, reference, compatible=True, client=patient())
    pull(reference, tmp_path / "target", client=patient())
    assert read_tree(tmp_path / "target") == read_tree(model)
    assert inspect(reference, client=patient()).config


def test_what_is_declared_is_in_the_configuration(
    docker_registry: DockerRegistry, repo: str, model: Path, tmp_path: Path
) -> None:
    write_tree(
        model,
        {
            "ocimodel.yaml": b"""
name: tiny
version: 1.2.3
family: testers
licenses: [Apache-2.0]
description: for tests
authors: [Ada]
architecture: transformer
precision: bf16
labels:
  team: search
exclude: ["*.tmp"]
"""
        },
    )
    write_tree(model, {"scratch.tmp": b"no"})
    reference = f"{docker_registry.host}/{repo}:v1"
    pushed = push(model, reference, client=patient())
    assert pushed.left_out == ("scratch.tmp",)
    seen = inspect(reference, client=patient())
    assert seen.descriptor["name"] == "tiny"
    assert seen.descriptor["version"] == "1.2.3"
    assert seen.descriptor["family"] == "testers"
    assert seen.descriptor["licenses"] == ["Apache-2.0"]
    assert seen.descriptor["authors"] == ["Ada"]
    assert seen.config["architecture"] == "transformer"
    assert seen.config["precision"] == "bf16"
    assert seen.annotations["team"] == "search"
    if SCHEMA.exists():
        raw = _config_bytes(reference)
        jsonschema.validate(json.loads(raw), json.loads(SCHEMA.read_text()))
    with (tmp_path / "out").open("wb") as out:
        cat(reference, "ocimodel.yaml", out, client=patient())
    assert b"team: search" in (tmp_path / "out").read_bytes()


def _config_bytes(reference: str) -> bytes:
    from ocimodel.spec.manifest import Manifest
    from ocimodel.store.streams import read_blob

    store = repository(reference)
    manifest = store.manifest("v1")
    assert isinstance(manifest, Manifest)
    return read_blob(store.open(manifest.config), manifest.config, MIB)


def test_a_layout_goes_up_and_comes_down_as_it_is(
    docker_registry: DockerRegistry, repo: str, model: Path, tmp_path: Path
) -> None:
    layout = f"oci:{tmp_path / 'layout'}:v1"
    packed = pack(model, layout, client=patient())
    shutil.rmtree(model / "nothing", ignore_errors=True)
    reference = f"{docker_registry.host}/{repo}:v1"
    assert push(layout, reference, client=patient()).digest == packed.digest
    pull(reference, tmp_path / "target", client=patient())
    assert read_tree(tmp_path / "target") == read_tree(model)
