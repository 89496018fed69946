"""Artifacts with what refers to them, between registries; and tags, lists and deletes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from ocimodel.errors import ConflictError, NotFoundError
from ocimodel.ops.browse import cat, inspect, ls
from ocimodel.ops.copy import copy
from ocimodel.ops.pull import pull
from ocimodel.ops.push import push
from ocimodel.ops.tags import rm, tag
from ocimodel.registry.referrers import fallback_tag
from ocimodel.spec.manifest import Index, Manifest
from ocimodel.store.copy import copy as copy_between
from ocimodel.store.memory import MemoryStore
from tests.artifacts import put_model
from tests.servers.fault_proxy import FaultProxy
from tests.servers.faults import Status
from tests.servers.registry import DockerRegistry, GgcrRegistry, RegistryProcess
from tests.trees import patient, read_tree, repository, small_model

Proxies = Callable[..., FaultProxy]


@pytest.fixture(params=["docker_registry", "ggcr"])
def registry(request: pytest.FixtureRequest) -> RegistryProcess:
    """Without the referrers API, and with it."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, RegistryProcess)
    return found


def sign(reference: str, note: str = "signature") -> str:
    """Put an artifact beside the one under `reference` that has it as its subject."""
    store = repository(reference)
    subject = store.manifest(reference.rpartition(":")[2])
    memory = MemoryStore()
    referrer = put_model(
        memory, {"signature.json": note.encode()}, subject=subject, annotations={"note": note}
    )
    copy_between(memory, store, referrer)
    return referrer.digest


def test_between_registries_with_referrers(
    registry: RegistryProcess,
    docker_registry: DockerRegistry,
    ggcr: GgcrRegistry,
    repo: str,
    model: Path,
    tmp_path: Path,
) -> None:
    other = ggcr if registry is docker_registry else docker_registry
    source = f"{registry.host}/{repo}:v1"
    pushed = push(model, source, client=patient())
    signatures = {sign(source, "one"), sign(source, "two")}
    destination = f"{other.host}/{repo}-copy"
    result = copy(source, destination, client=patient())
    assert result.reference == f"{destination}:v1"
    assert result.digest == pushed.digest
    assert set(result.manifests) == {pushed.digest, *signatures}
    seen = inspect(f"{destination}:v1", client=patient())
    assert {referrer.digest for referrer in seen.referrers} == signatures
    assert {referrer.annotations["note"] for referrer in seen.referrers} == {"one", "two"}
    pull(f"{destination}:v1", tmp_path / "target", client=patient())
    assert read_tree(tmp_path / "target") == read_tree(model)
    # again: nothing moves
    again = copy(source, destination, client=patient())
    assert again.bytes_copied == 0
    # and without them
    bare = copy(source, f"{other.host}/{repo}-bare", referrers=False, client=patient())
    assert bare.manifests == (pushed.digest,)
    assert inspect(f"{other.host}/{repo}-bare:v1", client=patient()).referrers == ()


def test_the_fallback_tag_lists_what_refers(
    docker_registry: DockerRegistry, repo: str, model: Path
) -> None:
    reference = f"{docker_registry.host}/{repo}:v1"
    pushed = push(model, reference, client=patient())
    one, two = sign(reference, "one"), sign(reference, "two")
    assert sign(reference, "two") == two
    store = repository(reference)
    listed = store.manifest(fallback_tag(pushed.digest))
    assert isinstance(listed, Index)
    assert [d.digest for d in listed.manifests] == [one, two]
    assert listed.manifests[0].annotations["note"] == "one"
    assert listed.manifests[0].artifact_type
    store.delete(one)
    assert [d.digest for d in store.referrers(pushed.digest)] == [two]


def test_inside_one_registry_blobs_are_mounted(
    docker_registry: DockerRegistry, fault_proxy: Proxies, repo: str, model: Path, tmp_path: Path
) -> None:
    proxy = fault_proxy(docker_registry)
    pushed = push(model, f"{proxy.host}/{repo}:v1", client=patient())
    proxy.clear()
    result = copy(f"{proxy.host}/{repo}:v1", f"{proxy.host}/{repo}-b:v1", client=patient())
    assert (result.bytes_copied, result.bytes_skipped) == (0, pushed.size)
    assert proxy.uploaded() == proxy.downloaded() == 0
    pull(f"{proxy.host}/{repo}-b:v1", tmp_path / "target", client=patient())
    assert read_tree(tmp_path / "target") == read_tree(model)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 500])
def test_a_refused_mount_is_an_upload(
    docker_registry: DockerRegistry, fault_proxy: Proxies, repo: str, model: Path, code: int
) -> None:
    proxy = fault_proxy(docker_registry)
    pushed = push(model, f"{proxy.host}/{repo}:v1", client=patient())
    proxy.clear()
    proxy.add(Status(code), method="POST", path="mount=", times=None)
    result = copy(f"{proxy.host}/{repo}:v1", f"{proxy.host}/{repo}-b:v1", client=patient())
    assert result.bytes_copied == pushed.size


def test_a_source_that_breaks_is_not_the_target_s_fault(
    docker_registry: DockerRegistry,
    ggcr: GgcrRegistry,
    fault_proxy: Proxies,
    repo: str,
    model: Path,
) -> None:
    from ocimodel.errors import IntegrityError, RegistryError
    from tests.servers.faults import FlipByte

    proxy = fault_proxy(docker_registry)
    target = fault_proxy(ggcr)
    push(model, f"{proxy.host}/{repo}:v1", client=patient())
    proxy.add(Status(500), method="GET", path="/blobs/", times=None)
    with pytest.raises(RegistryError) as caught:
        copy(f"{proxy.host}/{repo}:v1", f"{target.host}/{repo}:v1", client=patient())
    assert proxy.host in str(caught.value)
    proxy.clear()
    proxy.add(FlipByte(5), method="GET", path="/blobs/", times=None)
    with pytest.raises(IntegrityError):
        copy(f"{proxy.host}/{repo}:v1", f"{target.host}/{repo}:v1", client=patient())
    with pytest.raises(NotFoundError):
        inspect(f"{target.host}/{repo}:v1", client=patient())
    proxy.clear()
    copy(f"{proxy.host}/{repo}:v1", f"{target.host}/{repo}:v1", client=patient())


def test_cosign_s_tags_go_along(
    docker_registry: DockerRegistry, ggcr: GgcrRegistry, repo: str, model: Path
) -> None:
    source = f"{docker_registry.host}/{repo}:v1"
    pushed = push(model, source, client=patient())
    name = pushed.digest.replace(":", "-") + ".sig"
    memory = MemoryStore()
    signature = put_model(memory, {"payload": b"signed"})
    copy_between(memory, repository(source), signature, tag=name)
    copy(source, f"{ggcr.host}/{repo}:v1", client=patient())
    names = {found.name for found in ls(f"{ggcr.host}/{repo}", client=patient())}
    assert {"v1", name} <= names
    assert repository(f"{ggcr.host}/{repo}:v1").resolve(name).digest == signature.digest


def test_an_index_is_copied_whole(
    docker_registry: DockerRegistry, ggcr: GgcrRegistry, repo: str
) -> None:
    from tests.artifacts import put_index

    memory = MemoryStore()
    index = put_index(memory, [put_model(memory, {"a": b"1"}), put_model(memory, {"b": b"2"})])
    source = f"{docker_registry.host}/{repo}:v1"
    copy_between(memory, repository(source), index, tag="v1")
    result = copy(source, f"{ggcr.host}/{repo}:v1", client=patient())
    assert len(result.manifests) == 3
    seen = inspect(f"{ggcr.host}/{repo}:v1", client=patient())
    assert [d.digest for d in seen.manifests] == [d.digest for d in index.manifests]


def test_a_copy_by_digest_and_conflicts(
    docker_registry: DockerRegistry, repo: str, model: Path, tmp_path: Path
) -> None:
    source = f"{docker_registry.host}/{repo}:v1"
    pushed = push(model, source, client=patient())
    untagged = copy(pushed.pinned, f"{docker_registry.host}/{repo}-c", client=patient())
    assert untagged.reference == f"{docker_registry.host}/{repo}-c"
    pull(untagged.pinned, tmp_path / "target", client=patient())
    taken = f"{docker_registry.host}/{repo}-c:v1"
    push(small_model(tmp_path / "other", 5), taken, client=patient())
    with pytest.raises(ConflictError):
        copy(source, taken, client=patient())
    copy(source, taken, force_tag=True, client=patient())
    assert repository(taken).resolve("v1").digest == pushed.digest


def test_tags_lists_and_deletes(registry: RegistryProcess, repo: str, model: Path) -> None:
    base = f"{registry.host}/{repo}"
    pushed = push(model, f"{base}:v1", client=patient())
    assert tag(f"{base}:v1", "stable", client=patient()).previous == ""
    assert tag(f"{base}:v1", "stable", client=patient()).previous == pushed.digest
    listed = ls(base, long=True, client=patient())
    assert [(t.name, t.digest, t.size) for t in listed] == [
        ("stable", pushed.digest, pushed.size),
        ("v1", pushed.digest, pushed.size),
    ]
    # a tag goes, the artifact and its other tags stay
    removed = rm(f"{base}:v1", client=patient())
    assert (removed.digest, removed.deleted) == (pushed.digest, False)
    assert [t.name for t in ls(base, client=patient())] == ["stable"]
    assert isinstance(repository(base + ":stable").manifest("stable"), Manifest)
    with pytest.raises(NotFoundError):
        rm(f"{base}:v1", client=patient())
    # by digest all of it goes
    assert rm(pushed.pinned, client=patient()).deleted
    with pytest.raises(NotFoundError) as caught:
        inspect(pushed.pinned, client=patient())
    assert caught.value.exit_code == 3


def test_one_file_is_read(registry: RegistryProcess, repo: str, model: Path) -> None:
    reference = f"{registry.host}/{repo}:v1"
    push(model, reference, client=patient())
    out = io.BytesIO()
    found = cat(reference, "config.json", out, client=patient())
    assert out.getvalue() == (model / "config.json").read_bytes()
    assert found.size == len(out.getvalue())
    assert found.pinned.endswith(f"@{found.digest}")
    with pytest.raises(NotFoundError) as caught:
        cat(reference, "nope.json", out, client=patient())
    assert caught.value.hint
