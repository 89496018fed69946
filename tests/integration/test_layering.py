"""Only what changed moves, in every layering, and what comes out is byte for byte what went in."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocimodel.events import BlobFinished, Outcome
from ocimodel.ops.packing import pack_view
from ocimodel.ops.pull import pull
from ocimodel.ops.push import pack, push
from ocimodel.spec.chunkindex import ChunkIndex
from ocimodel.spec.manifest import Manifest
from ocimodel.spec.modelpack import index_layer
from ocimodel.spec.paths import PARTIAL
from ocimodel.spec.segments import files_of
from ocimodel.store.assembly import MIN_COMPOSED_BYTES as MIN_BYTES
from ocimodel.store.memo import Memo
from tests.indexed import safetensors
from tests.servers.fault_proxy import FaultProxy
from tests.servers.finetunes import Finetunes, Variant, query_value
from tests.servers.models import generated_model
from tests.servers.registry import DockerRegistry
from tests.trees import MIB, Notices, noise, patient, read_tree, repository, write_tree

Proxies = Callable[..., FaultProxy]
LAYERINGS = ["file", "tensor"]
SLACK = 256 << 10


# any edit of any model


@dataclass(frozen=True)
class Model:
    """Tensors (name, dtype, bytes) in some files, and a file that is none of weights."""

    tensors: tuple[tuple[str, str, bytes], ...]
    metadata: str = ""
    n_files: int = 1
    raw: bytes = b""

    def write(self, root: Path) -> Path:
        files = {"raw.bin": self.raw, "config.json": b'{"model_type":"bert"}'}
        for number in range(self.n_files):
            values = {
                name: (dtype, [len(content)], content)
                for name, dtype, content in self.tensors[number :: self.n_files]
            }
            name = f"model-{number}-of-{self.n_files}.safetensors"
            files[name] = safetensors(
                values, {"note": self.metadata} if self.metadata else {}
            ).content
        return write_tree(root, files)


SIZES = [0, 1, 1000, 9000, 200_000, 262_144, 700_000, MIB + 5, 4 * MIB + 3]


def made(rng: random.Random) -> Model:
    tensors = [
        (f"layer.{i}", "U8", noise(rng.choice(SIZES), rng.randrange(1 << 30)))
        for i in range(rng.randrange(1, 12))
    ]
    raw = noise(rng.choice([0, 10, MIB, 5 * MIB]), rng.randrange(1 << 30))
    return Model(tuple(tensors), n_files=rng.randrange(1, 3), raw=raw)


def edited(model: Model, edit: str, rng: random.Random) -> Model:
    tensors = list(model.tensors)
    at = rng.randrange(len(tensors))
    name, dtype, content = tensors[at]
    place = rng.randrange(len(content) + 1)
    new = noise(rng.choice(SIZES), rng.randrange(1 << 30))
    match edit:
        case "add":
            tensors.insert(at, (f"new.{rng.randrange(1 << 30)}", "U8", new))
        case "remove":
            tensors = [t for t in tensors if t[0] != name] or tensors
        case "rename":
            tensors[at] = (f"renamed.{rng.randrange(1 << 30)}", dtype, content)
        case "resize":
            tensors[at] = (name, dtype, content[:place] or new)
        case "retype":
            tensors[at] = (name, "I8" if dtype == "U8" else "U8", content)
        case "change":
            tensors[at] = (name, dtype, content[:place] + b"!" + content[place + 1 :])
        case "reorder":
            rng.shuffle(tensors)
        case "metadata":
            return Model(tuple(tensors), "m" * rng.randrange(1, 300), model.n_files, model.raw)
        case "reshard":
            return Model(tuple(tensors), model.metadata, rng.randrange(1, 4), model.raw)
        case "raw":
            raw = model.raw[:place] + b"?" + model.raw[place + 1 :] + noise(20, place)
            return Model(tuple(tensors), model.metadata, model.n_files, raw)
    return Model(tuple(tensors), model.metadata, model.n_files, model.raw)


EDITS = [
    "add", "remove", "rename", "resize", "retype", "change", "reorder", "metadata", "reshard", "raw"
]  # fmt: skip


def damage(path: Path, how: str) -> None:
    """What may happen to a file between two pulls."""
    if how == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "flipped":
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(b"\xaa\x55")
    elif how == "longer":
        with path.open("ab") as file:
            file.write(b"more")


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 1 << 30),
    st.lists(st.sampled_from(EDITS), min_size=1, max_size=4),
    st.sampled_from(LAYERINGS),
    st.sampled_from(LAYERINGS),
    st.sampled_from([4 * MIB, 5 << 30]),
    st.sampled_from(["", "", "", "truncated", "flipped", "longer"]),
)
def test_any_edit_comes_out_as_it_went_in(
    seed: int, edits: list[str], before: str, after: str, max_layer_bytes: int, damaged: str
) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        tmp = Path(name)
        client = patient(environ={"HOME": str(tmp)})
        first = made(rng)
        second = first
        for edit in edits:
            second = edited(second, edit, rng)
        a, b = first.write(tmp / "a"), second.write(tmp / "b")
        how: dict[str, Any] = {"max_layer_bytes": max_layer_bytes, "client": client}
        pack(a, f"oci:{tmp}/layout:a", layering=before, **how)
        pack(b, f"oci:{tmp}/layout:b", layering=after, **how)
        target = tmp / "target"
        pull(f"oci:{tmp}/layout:a", target, client=client)
        assert read_tree(target) == read_tree(a)
        if damaged:
            damage(max(target.iterdir(), key=lambda p: p.stat().st_size), damaged)
        old = read_tree(target)
        kept = tmp / "kept"
        kept.mkdir()
        for path in target.iterdir():
            os.link(path, kept / path.name)
        pulled = pull(f"oci:{tmp}/layout:b", target, client=client)
        assert read_tree(target) == {**old, **read_tree(b)}
        assert read_tree(kept) == old, "an old file was changed in place"
        if not damaged:
            assert pulled.bytes_fetched <= to_fetch(a, b, after, max_layer_bytes)
        again = pull(f"oci:{tmp}/layout:b", target, client=client)
        assert again.bytes_fetched == 0
        fresh = pull(f"oci:{tmp}/layout:b", tmp / "fresh", client=client)
        assert read_tree(tmp / "fresh") == read_tree(b)
        assert fresh.digest == pulled.digest


def to_fetch(old: Path, new: Path, layering: str, max_layer_bytes: int) -> int:
    """The bytes of chunks that the old directory does not have, and the index that tells so."""
    how: dict[str, Any] = {"memo": Memo(None), "environ": {}}
    before = pack_view(old, **how)
    after = pack_view(new, layering=layering, max_layer_bytes=max_layer_bytes, **how)
    known: set[bytes] = set()
    same_files = set()
    for file in files_of(before.root):
        if file.size >= MIN_BYTES:
            known |= chunks_of(before.index, before.root, file.path)
        there = new / file.path
        if there.exists() and there.read_bytes() == (old / file.path).read_bytes():
            same_files.add(file.path)
    index = index_layer(after.root)
    n_bytes = index.size if index else 0
    counted = set()
    for file in files_of(after.root):
        for layer in file.layers if file.path not in same_files else ():
            blob = after.index.chunks(layer)
            if layer.digest in counted or blob is None:
                continue
            counted.add(layer.digest)
            # a small file is fetched without a look around
            here = known if file.size >= MIN_BYTES else set()
            n_bytes += sum(c.length for c in blob.at() if c.digest not in here)
    return n_bytes


def chunks_of(index: ChunkIndex, root: Manifest, path: str) -> set[bytes]:
    (file,) = [f for f in files_of(root) if f.path == path]
    blobs = [index.chunks(layer) for layer in file.layers]
    return {chunk.digest for blob in blobs if blob for chunk in blob.at()}


# relatives of the real model, over the wire


@pytest.fixture(scope="module")
def relatives(minilm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finetunes]:
    root = tmp_path_factory.mktemp("relatives")
    yield Finetunes(minilm_dir, root)
    shutil.rmtree(root)


@dataclass
class Pushed:
    """The original in a repository under both layerings, and a proxy before the registry."""

    registry: DockerRegistry
    repo: str
    roots: dict[str, Manifest] = field(default_factory=dict)


@pytest.fixture(scope="module")
def original(docker_registry: DockerRegistry, minilm_dir: Path) -> Pushed:
    found = Pushed(docker_registry, "layering/minilm")
    for layering in LAYERINGS:
        reference = f"{docker_registry.host}/{found.repo}:{layering}"
        push(minilm_dir, reference, layering=layering, client=patient())
        root = repository(reference).manifest(layering)
        assert isinstance(root, Manifest)
        found.roots[layering] = root
    return found


VARIANTS: dict[str, Callable[[Finetunes], Variant]] = {
    "last layers": lambda r: r.last_layers,
    "query and value": lambda r: r.query_value,
    "vocabulary": lambda r: r.vocabulary,
    "metadata only": lambda r: r.metadata_only,
    "resharded": lambda r: r.resharded,
}
PIECE = 4 * MIB


def bound(variant: Variant, root: Manifest) -> int:
    """What may move: the changed bytes and a little; of appended rows the piece they end up in."""
    index = index_layer(root)
    assert index is not None
    changed = variant.changed_bytes
    if variant.new_bytes < changed:
        changed = variant.new_bytes + PIECE
    return int(1.3 * changed) + index.size + SLACK


@pytest.mark.parametrize(
    ("name", "layering"),
    [
        *((name, "tensor") for name in VARIANTS),
        *((name, "file") for name in ("query and value", "vocabulary", "resharded")),
    ],
)
def test_a_relative_moves_what_changed(
    original: Pushed,
    fault_proxy: Proxies,
    relatives: Finetunes,
    tmp_path: Path,
    name: str,
    layering: str,
) -> None:
    """Up in tensor layers, and down in both layerings, with the original in the directory."""
    proxy = fault_proxy(original.registry)
    variant = VARIANTS[name](relatives)
    tag = name.replace(" ", "-") + f"-{layering}"
    reference = f"{proxy.host}/{original.repo}:{tag}"
    pushed = push(variant.path, reference, layering=layering, client=patient())
    root = repository(reference).manifest(tag)
    assert isinstance(root, Manifest)
    if layering == "tensor":
        assert proxy.uploaded() <= bound(variant, root)
        assert pushed.bytes_pushed <= bound(variant, root)
    proxy.clear()
    target = tmp_path / "target"
    shutil.copytree(relatives.original, target)
    pulled = pull(reference, target, client=patient())
    expected = {**read_tree(relatives.original), **read_tree(variant.path)}
    assert read_tree(target) == expected
    assert proxy.downloaded() <= bound(variant, root)
    assert proxy.downloaded() == pulled.bytes_fetched
    # nothing was asked for that has not changed
    asked = {e.path.rpartition("/")[2] for e in proxy.select("GET", "/blobs/")}
    known = {layer.digest for layer in original.roots[layering].layers}
    assert not asked & known
    weights = [x.digest for x in root.layers if x.size > PIECE]
    assert bool(weights) == (layering == "file")
    for exchange in proxy.select("GET", "|".join(weights)) if weights else ():
        assert "range" in exchange.headers, "the whole file was asked for"
    assert not (target / PARTIAL).exists()


def test_the_other_layering_is_an_older_version_too(
    original: Pushed, fault_proxy: Proxies, relatives: Finetunes, tmp_path: Path
) -> None:
    """Pulled as one blob, updated by segments: and the same files again cost nothing at all."""
    proxy = fault_proxy(original.registry)
    reference = f"{proxy.host}/{original.repo}"
    target = tmp_path / "target"
    pull(f"{reference}:file", target, client=patient())
    proxy.clear()
    same = pull(f"{reference}:tensor", target, client=patient())
    assert (same.bytes_fetched, proxy.downloaded()) == (0, 0)
    variant = relatives.query_value
    push(variant.path, f"{reference}:qv", layering="tensor", client=patient())
    root = repository(f"{reference}:qv").manifest("qv")
    assert isinstance(root, Manifest)
    proxy.clear()
    pull(f"{reference}:qv", target, client=patient())
    assert read_tree(target) == read_tree(variant.path)
    assert proxy.downloaded() <= bound(variant, root)


def test_what_a_sibling_repository_has_is_mounted(
    original: Pushed, fault_proxy: Proxies, minilm_dir: Path, tmp_path: Path
) -> None:
    proxy = fault_proxy(original.registry)
    # one that no other test pushes
    variant = query_value(minilm_dir, tmp_path / "finetune", seed=1)
    told = Notices()
    reference = f"{proxy.host}/layering/sibling:v1"
    pushed = push(
        variant.path,
        reference,
        layering="tensor",
        mount_from=original.repo,
        client=patient(),
        observer=told,
    )
    root = repository(reference).manifest("v1")
    assert isinstance(root, Manifest)
    known = {blob.digest for blob in original.roots["tensor"].blobs()}
    outcomes = {e.digest: e.outcome for e in told.events if isinstance(e, BlobFinished)}
    assert outcomes.keys() == {blob.digest for blob in root.blobs()}
    shared = outcomes.keys() & known
    assert len(shared) > 50
    assert {outcomes[digest] for digest in shared} == {Outcome.MOUNTED}
    assert {outcomes[digest] for digest in outcomes.keys() - known} == {Outcome.TRANSFERRED}
    assert proxy.uploaded() == pushed.bytes_pushed <= bound(variant, root)


# other tools


def test_other_tools_get_parts_that_cat_joins(
    tool_path: Callable[[str], Path], docker_registry: DockerRegistry, repo: str, tmp_path: Path
) -> None:
    oras = tool_path("oras")
    model = write_tree(tmp_path / "model", {"config.json": b"{}"})
    generated_model(model / "sub/model.safetensors", 12 * MIB, 40)
    reference = f"{docker_registry.host}/{repo}:v1"
    push(model, reference, layering="tensor", client=patient())
    parts = tmp_path / "parts"
    argv = [str(oras), "pull", "--plain-http", "-o", str(parts), reference]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    joined = subprocess.run(
        "cat sub/model.safetensors.segments/*",
        shell=True,
        cwd=parts,
        check=True,
        capture_output=True,
    )
    assert joined.stdout == (model / "sub/model.safetensors").read_bytes()
    assert len(list((parts / "sub/model.safetensors.segments").iterdir())) > 9
    # such a folder, pulled into by us, is left alone and makes no confusion
    pull(reference, parts, client=patient())
    assert (parts / "sub/model.safetensors").read_bytes() == joined.stdout


def test_only_the_wanted_file_of_several_in_segments(
    docker_registry: DockerRegistry, fault_proxy: Proxies, repo: str, tmp_path: Path
) -> None:
    """--include speaks of files, whatever layers they are in."""
    proxy = fault_proxy(docker_registry)
    model = tmp_path / "model"
    for number in (1, 2):
        generated_model(model / f"{number}.safetensors", 6 * MIB, 20, seed=number)
    reference = f"{proxy.host}/{repo}:v1"
    push(model, reference, layering="tensor", client=patient())
    proxy.clear()
    result = pull(reference, tmp_path / "target", include=["2.safetensors"], client=patient())
    assert set(read_tree(tmp_path / "target")) == {"2.safetensors"}
    assert [(f.path, f.n_segments > 1, f.digest) for f in result.files] == [
        ("2.safetensors", True, "")
    ]
    size = (model / "2.safetensors").stat().st_size
    assert proxy.downloaded() == result.bytes_fetched == size
    assert (tmp_path / "target/2.safetensors").read_bytes() == (
        model / "2.safetensors"
    ).read_bytes()
