"""verify --deep: silent on what is intact; names what is not what manifest or index say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ocimodel.errors import InputError, NotFoundError, UsageError
from ocimodel.ops.contents import Contents
from ocimodel.ops.push import pack
from ocimodel.ops.verify import verify
from ocimodel.spec.chunkindex import BlobChunks, ChunkIndex, IndexedFile, parse_index
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.manifest import Manifest
from ocimodel.spec.modelpack import FILEPATH, index_layer, new_index_layer
from ocimodel.spec.tensor import Tensor
from ocimodel.store.copy import copy
from ocimodel.store.layout import Layout
from ocimodel.store.memory import MemoryStore
from tests.artifacts import put_blob, put_layers, random_bytes
from tests.indexed import safetensors
from tests.trees import MIB, patient, write_tree

ROOT = Path(__file__).parents[2]
VALUES = {
    "embed": ("U8", [5 * MIB], random_bytes(5 * MIB, 1)),
    "bias": ("U8", [500], random_bytes(500, 2)),
    "norm": ("U8", [700], random_bytes(700, 3)),
    "last": ("U8", [MIB], random_bytes(MIB, 4)),
}
WEIGHTS = safetensors(VALUES, {"k": "v"}).content


class Bench:
    """A packed model in a layout, and the means to damage it."""

    def __init__(self, tmp_path: Path, layering: str) -> None:
        self.path = tmp_path / "layout"
        self.reference = f"oci:{self.path}:v1"
        model = write_tree(
            tmp_path / "model",
            {"model.safetensors": WEIGHTS, "copy.safetensors": WEIGHTS, "config.json": b"{}"},
        )
        pack(model, self.reference, layering=layering, client=patient())
        self.layout = Layout(self.path)
        root = self.layout.manifest("v1")
        assert isinstance(root, Manifest)
        self.root = root
        layer = index_layer(root)
        assert layer is not None
        self.index = parse_index(self.blob(layer.digest).read_bytes())

    def blob(self, digest: str) -> Path:
        return self.path / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def layer(self, path: str) -> Descriptor:
        return next(x for x in self.root.layers if x.annotations[FILEPATH] == path)

    def verify(self, reference: str = "") -> Contents:
        found = verify(reference or self.reference, deep=True, client=patient())
        assert found.contents is not None
        return found.contents

    def with_index(self, index: ChunkIndex) -> str:
        """The same files under another index; the reference of that artifact."""
        store = MemoryStore()
        for blob in self.root.blobs():
            store.blobs[blob.digest] = self.blob(blob.digest).read_bytes()
        raw = index.encode()
        layers = [*self.root.layers[:-1], new_index_layer(put_blob(store, raw), len(raw))]
        manifest = put_layers(store, layers)
        copy(store, self.layout, manifest, tag="other")
        return f"oci:{self.path}:other"

    def with_entry(self, change: Callable[[IndexedFile], IndexedFile], path: str) -> str:
        entry = change(self.index.files[path])
        return self.with_index(replace(self.index, files={**self.index.files, path: entry}))


@pytest.fixture(params=["file", "tensor"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(tmp_path, request.param)


def test_what_is_intact(bench: Bench) -> None:
    found = bench.verify()
    assert found.problems == ()
    assert found.n_blobs == len({b.digest for b in bench.root.blobs()})
    assert found.n_tensors == 2 * len(VALUES)
    assert found.n_chunks >= 5
    assert found.n_bytes == sum(blob.size for blob in bench.root.blobs())


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def test_a_flipped_byte(bench: Bench) -> None:
    entry = bench.index.files["model.safetensors"]
    digest = entry.segments[-1]
    flip(bench.blob(digest), -1)
    (problem,) = bench.verify().problems
    assert digest in problem
    assert problem.startswith(("copy.safetensors: ", "model.safetensors: "))


@pytest.mark.parametrize("kind", ["config", "index"])
def test_a_flipped_byte_in_a_document(bench: Bench, kind: str) -> None:
    if kind == "config":
        digest = bench.root.config.digest
        flip(bench.blob(digest), 5)
        (problem,) = bench.verify().problems
        assert digest in problem
    else:
        flip(bench.blob(bench.root.layers[-1].digest), 5)
        with pytest.raises(Exception, match=bench.root.layers[-1].digest):
            bench.verify()


@pytest.mark.parametrize("damage", ["short", "gone"])
def test_a_blob_that_is_short_or_gone(bench: Bench, damage: str) -> None:
    digest = bench.layer("config.json").digest
    path = bench.blob(digest)
    path.chmod(0o644)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"{")
    (problem,) = bench.verify().problems
    assert digest in problem


def test_a_lying_chunk_digest(bench: Bench) -> None:
    """The blobs are right, and whoever reads a chunk of them would be told that it is wrong."""
    # the last segment, or the only one
    same = [x for x in bench.root.layers if x.annotations[FILEPATH].startswith("model.")]
    start = sum(layer.size for layer in same[:-1])
    digest = same[-1].digest
    blob = bench.index.chunks(same[-1])
    assert blob is not None
    lie = BlobChunks(blob.lengths, random_bytes(32) + blob.digests[32:])
    found = bench.verify(bench.with_index(replace(bench.index, blobs={digest: lie})))
    (problem,) = found.problems
    assert f"the chunk at byte {start} is not" in problem
    assert problem.startswith(("copy.safetensors: ", "model.safetensors: "))


@pytest.mark.parametrize("path", ["model.safetensors", "copy.safetensors"])
def test_a_lying_fingerprint(bench: Bench, path: str) -> None:
    """Of either of two files with the same bytes."""

    def lie(entry: IndexedFile) -> IndexedFile:
        at = [t.name for t in entry.tensors].index("norm")
        prints = [*entry.fingerprints]
        assert prints[at], "it shares a chunk, so it has a fingerprint"
        prints[at] = random_bytes(32)
        return replace(entry, fingerprints=tuple(prints))

    (problem,) = bench.verify(bench.with_entry(lie, path)).problems
    assert path in problem
    assert "'norm'" in problem


@pytest.mark.parametrize("path", ["model.safetensors", "copy.safetensors"])
@pytest.mark.parametrize("what", ["metadata", "format", "shape", "name", "place"])
def test_an_index_that_is_not_what_the_header_says(bench: Bench, path: str, what: str) -> None:
    def lie(entry: IndexedFile) -> IndexedFile:
        if what == "metadata":
            return replace(entry, metadata={"k": "other"})
        if what == "format":
            return replace(entry, format="gguf")
        first = entry.tensors[0]
        changed = {
            "shape": replace(first, shape=(5, MIB)),
            "name": replace(first, name="other"),
            "place": Tensor(first.name, first.dtype, first.shape, first.offset - 8, first.length),
        }[what]
        return replace(entry, tensors=(changed, *entry.tensors[1:]))

    (problem,) = bench.verify(bench.with_entry(lie, path)).problems
    assert problem == f"{path}: its header is not what the index says"


def test_an_index_that_contradicts_the_manifest_is_refused(bench: Bench) -> None:
    reference = bench.with_entry(lambda e: replace(e, size=e.size + 1), "model.safetensors")
    with pytest.raises(InputError, match="index"):
        bench.verify(reference)


def test_artifacts_of_other_tools_are_verified_too(tmp_path: Path) -> None:
    store = MemoryStore()
    digest = put_blob(store, b"content")
    layer = Descriptor("application/x-other", digest, 7, {"org.opencontainers.image.title": "a"})
    manifest = put_layers(store, [layer])
    layout = Layout(tmp_path / "layout", create=True)
    copy(store, layout, manifest, tag="v1")
    found = verify(f"oci:{tmp_path / 'layout'}:v1", deep=True, client=patient()).contents
    assert found is not None
    assert (found.problems, found.n_blobs, found.n_tensors) == ((), 2, 0)
    path = tmp_path / "layout" / "blobs" / "sha256" / digest.removeprefix("sha256:")
    flip(path, 0)
    (problem,) = verify(f"oci:{tmp_path / 'layout'}:v1", deep=True, client=patient()).problems
    assert digest in problem


def test_what_cannot_be_verified(bench: Bench) -> None:
    with pytest.raises(UsageError):
        verify(bench.reference, client=patient())
    with pytest.raises(NotFoundError):
        bench.verify(f"oci:{bench.path}:nothing")


def test_the_exit_code_says_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "tensor")

    def run() -> tuple[int, dict[str, object]]:
        argv = [sys.executable, "-m", "ocimodel", "verify", "--deep", bench.reference, "--json"]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads(done.stdout)

    code, document = run()
    assert (code, document["problems"]) == (0, [])
    digest = bench.index.files["model.safetensors"].segments[2]
    assert digest == sha256(bench.blob(digest).read_bytes())
    flip(bench.blob(digest), 0)
    code, document = run()
    assert code == 6
    assert digest in str(document["problems"])
