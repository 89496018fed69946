"""Directories cut, hashed and indexed: what the index says is so, and nothing is read twice."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from ocimodel.errors import InputError
from ocimodel.events import Event, HashAdvanced, HashStarted
from ocimodel.ops.indexing import Surveyed, hash_planned, plan
from ocimodel.ops.packing import Packed, pack_view
from ocimodel.spec.chunkindex import MAX_CHUNK_BYTES, fingerprint, parse_index
from ocimodel.spec.modelpack import FILEPATH
from ocimodel.spec.tensor import Tensor
from ocimodel.store.memo import Memo
from ocimodel.store.streams import drain
from ocimodel.store.tree import TreeFile
from ocimodel.weights.cuts import pieces
from tests.artifacts import random_bytes
from tests.indexed import Values, safetensors
from tests.trees import MIB, write_tree
from tests.weights import field, onnx_external, onnx_model, onnx_tensor

KIB = 1 << 10
SIZES = {
    "embed": 5 * MIB,
    "large": 300 * KIB,
    **{f"norm.{i}": 1000 + i for i in range(40)},
    "last": MIB,
}


def values(sizes: Mapping[str, int] = SIZES, seed: int = 0) -> Values:
    return {
        name: ("U8", [n], random_bytes(n, seed + i)) for i, (name, n) in enumerate(sizes.items())
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tree(
        tmp_path / "model",
        {
            "model.safetensors": safetensors(values(), {"k": "v"}).content,
            "config.json": b'{"model_type":"bert"}',
            "raw.bin": random_bytes(5 * MIB + 1, 99),
        },
    )


class Reads:
    """How many bytes were read to be hashed, by `preadv`, as all hashing of files is."""

    def __init__(self) -> None:
        self.n_bytes = 0

    def take(self) -> int:
        n, self.n_bytes = self.n_bytes, 0
        return n


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    real = os.preadv
    counted = Reads()

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        n = real(fd, buffers, offset)
        counted.n_bytes += n
        return n

    monkeypatch.setattr(os, "preadv", preadv)
    yield counted


def packed(
    model: Path,
    layering: str = "file",
    memo: Memo | None = None,
    rehash: bool = False,
    observer: Callable[[Event], None] = lambda _: None,
) -> Packed:
    return pack_view(
        model,
        memo=memo or Memo(None),
        environ={},
        layering=layering,
        rehash=rehash,
        observer=observer,
    )


def size_of(model: Path) -> int:
    return sum(p.stat().st_size for p in model.rglob("*") if p.is_file())


# what it says


@pytest.mark.parametrize("layering", ["file", "tensor"])
def test_the_index_is_true(model: Path, layering: str) -> None:
    """Each chunk, each segment, each tensor, against the bytes of the file."""
    found = packed(model, layering)
    layers = {layer.digest: layer for layer in found.root.layers}
    raw = (layers[index] for index in layers if "index.json" in str(layers[index].annotations))
    with found.view.open(next(raw)) as reader:
        assert parse_index(drain(reader)) == found.index
    for digest, blob in found.index.blobs.items():
        with found.view.open(layers[digest]) as reader:
            content = drain(reader)
        assert "sha256:" + hashlib.sha256(content).hexdigest() == digest
        assert blob.size == len(content)
        for chunk in blob.at():
            inside = content[chunk.start : chunk.start + chunk.length]
            assert hashlib.sha256(inside).digest() == chunk.digest
            assert chunk.length <= MAX_CHUNK_BYTES
    assert set(found.index.files) == {"model.safetensors"}
    entry = found.index.files["model.safetensors"]
    content = (model / "model.safetensors").read_bytes()
    joined = b""
    for digest in entry.segments:
        with found.view.open(layers[digest]) as reader:
            joined += drain(reader)
    assert joined == content
    assert (entry.format, entry.metadata, entry.size) == ("safetensors", {"k": "v"}, len(content))
    assert [t.name for t in entry.tensors] == list(SIZES)
    for tensor, made in zip(entry.tensors, entry.fingerprints, strict=True):
        parts = [hashlib.sha256(content[a : a + n]).digest() for a, n in pieces(tensor)]
        assert made in (b"", fingerprint(parts))
        # the small ones share chunks, and their bytes can be compared all the same
        assert bool(made) == tensor.name.startswith("norm")


def test_tensor_layers_are_segments_with_names_in_order(model: Path) -> None:
    names = [layer.annotations[FILEPATH] for layer in packed(model, "tensor").root.layers]
    segments = [n for n in names if ".segments/" in n]
    assert len(segments) > 5
    assert segments == [
        f"model.safetensors.segments/{i:06}-of-{len(segments):06}"
        for i in range(1, len(segments) + 1)
    ]
    assert names == [*sorted(names[:-1]), ".ocimodel/index.json"]


@pytest.mark.parametrize("layering", ["file", "tensor"])
def test_equal_content_gives_equal_digests(model: Path, tmp_path: Path, layering: str) -> None:
    """From other files, at other times, with and without a memo."""
    first = packed(model, layering)
    twin = write_tree(
        tmp_path / "twin",
        {p.name: p.read_bytes() for p in sorted(model.iterdir(), reverse=True)},
    )
    memo = Memo(tmp_path / "memo")
    for _ in range(3):
        again = packed(twin, layering, memo)
        assert again.root.raw == first.root.raw
    assert again.index.encode() == first.index.encode()
    other = "tensor" if layering == "file" else "file"
    assert packed(twin, other, memo).root.digest != first.root.digest
    assert packed(twin, layering, memo).root.raw == first.root.raw


def test_files_of_which_there_is_nothing_to_say_make_no_index(tmp_path: Path) -> None:
    model = write_tree(tmp_path / "model", {"a.txt": b"a", "b.bin": random_bytes(MIB)})
    found = packed(model)
    assert (dict(found.index.blobs), dict(found.index.files)) == ({}, {})
    assert len(found.root.layers) == 2


def test_a_name_like_a_segment_is_refused(tmp_path: Path) -> None:
    model = write_tree(tmp_path / "model", {"w.segments/000001-of-000002": b"x", "w": b"y"})
    with pytest.raises(InputError, match="name of a segment") as caught:
        packed(model)
    assert "exclude" in caught.value.hint
    write_tree(model, {"ocimodel.yaml": b'exclude: ["*.segments/**"]\n'})
    assert packed(model).n_files == 2


# one pass


@pytest.mark.parametrize("layering", ["file", "tensor"])
def test_every_byte_is_read_once_and_then_remembered(
    model: Path, tmp_path: Path, reads: Reads, layering: str
) -> None:
    memo = Memo(tmp_path / "memo")
    events: list[Event] = []
    size = size_of(model)
    first = packed(model, layering, memo, observer=events.append)
    assert reads.take() == size
    assert events[0] == HashStarted(size)
    assert sum(e.n_bytes for e in events if isinstance(e, HashAdvanced)) == size
    # in another process, which only has what was saved
    events.clear()
    again = packed(model, layering, Memo(tmp_path / "memo"), observer=events.append)
    assert reads.take() == 0
    assert again.root.raw == first.root.raw
    assert sum(e.n_bytes for e in events if isinstance(e, HashAdvanced)) == size
    # unless it is asked for
    packed(model, layering, Memo(tmp_path / "memo"), rehash=True)
    assert reads.take() == size


def test_one_changed_file_is_read_again(model: Path, tmp_path: Path, reads: Reads) -> None:
    memo = tmp_path / "memo"
    packed(model, "tensor", Memo(memo))
    reads.take()
    with (model / "model.safetensors").open("r+b") as out:
        out.seek(MIB)
        out.write(b"changed")
    changed = packed(model, "tensor", Memo(memo))
    assert reads.take() == (model / "model.safetensors").stat().st_size
    assert changed.root.raw == packed(model, "tensor").root.raw


def planned(path: Path) -> tuple[int, TreeFile]:
    return os.open(path, os.O_RDONLY), TreeFile(path.name, path, path.stat().st_size, False)


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("n_bytes", [1000, 9 * MIB])
def test_a_file_that_changes_meanwhile_is_refused(
    tmp_path: Path, change: int, n_bytes: int
) -> None:
    path = tmp_path / "f"
    path.write_bytes(random_bytes(n_bytes))
    memo = Memo(None)
    fd, file = planned(path)
    wanted = plan([Surveyed(file)])["f"]
    try:
        os.truncate(path, n_bytes + change)
        with pytest.raises(InputError, match="changed while it was read"):
            hash_planned(fd, wanted, memo, lambda _: None, rehash=False)
        assert memo.recall(os.fstat(fd)) == ""
    finally:
        os.close(fd)


def test_a_file_that_is_written_to_while_it_is_hashed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(random_bytes(9 * MIB))
    memo = Memo(None)
    fd, file = planned(path)

    def write(event: Event) -> None:
        # the beginning has been read by now
        with path.open("r+b") as out:
            out.write(b"x")

    try:
        with pytest.raises(InputError, match="changed while it was read"):
            hash_planned(fd, plan([Surveyed(file)])["f"], memo, write, rehash=False)
        assert memo.recall(os.fstat(fd)) == ""
        assert memo.recall_stretches(os.fstat(fd)) == {}
    finally:
        os.close(fd)


# tensors that lie elsewhere


def onnx(*external: tuple[str, str, int, int]) -> bytes:
    """A model of tensors (name, location, offset, length)."""
    return onnx_model(
        b"".join(
            field(5, onnx_tensor(name, [n], 2, None, onnx_external(where, str(at), str(n))))
            for name, where, at, n in external
        )
    )


def test_external_data_is_cut_at_the_tensors_of_the_model(tmp_path: Path) -> None:
    data = random_bytes(6 * MIB, 3)
    write_tree(
        tmp_path / "model",
        {
            "onnx/model.onnx": onnx(
                ("a", "data/w.bin", 0, MIB),
                ("b", "data/w.bin", MIB, 3 * MIB + 5),
                ("c", "data/w.bin", 5 * MIB, 100),
            ),
            "onnx/data/w.bin": data,
        },
    )
    found = packed(tmp_path / "model").index
    assert set(found.files) == {"onnx/model.onnx", "onnx/data/w.bin"}
    entry = found.files["onnx/model.onnx"]
    assert entry.tensors == (
        Tensor("a", "U8", (MIB,), 0, MIB, "onnx/data/w.bin"),
        Tensor("b", "U8", (3 * MIB + 5,), MIB, 3 * MIB + 5, "onnx/data/w.bin"),
        Tensor("c", "U8", (100,), 5 * MIB, 100, "onnx/data/w.bin"),
    )
    assert entry.fingerprints[:2] == (b"", b"")
    assert entry.fingerprints[2] == hashlib.sha256(data[5 * MIB : 5 * MIB + 100]).digest()
    holder = found.files["onnx/data/w.bin"]
    assert (holder.size, holder.tensors) == (6 * MIB, ())
    (digest,) = holder.segments
    starts = [chunk.start for chunk in found.blobs[digest].at()]
    assert starts[:3] == [0, MIB, 4 * MIB + 5]
    layered = packed(tmp_path / "model", "tensor").index
    assert len(layered.files["onnx/data/w.bin"].segments) > 2
    assert parse_index(layered.encode()) == layered


def test_external_data_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    """Not in the directory, or shorter than the model says: these tensors are left out."""
    write_tree(
        tmp_path / "model",
        {
            "model.onnx": onnx(
                ("missing", "gone.bin", 0, 10), ("there", "w.bin", 0, 10), ("over", "w.bin", 95, 10)
            ),
            "w.bin": random_bytes(100),
        },
    )
    for layering in ("file", "tensor"):
        entry = packed(tmp_path / "model", layering).index.files["model.onnx"]
        assert [t.name for t in entry.tensors] == ["there"]


def test_a_file_may_hold_tensors_of_several_models(tmp_path: Path) -> None:
    write_tree(
        tmp_path / "model",
        {
            "a.onnx": onnx(("a", "w.bin", 0, MIB)),
            "b.onnx": onnx(("b", "w.bin", MIB, MIB), ("half of a", "w.bin", MIB // 2, MIB // 4)),
            "w.bin": random_bytes(2 * MIB),
        },
    )
    found = packed(tmp_path / "model").index
    (digest,) = found.files["w.bin"].segments
    assert found.blobs[digest].lengths == (MIB, MIB)
    content = (tmp_path / "model/w.bin").read_bytes()
    half = hashlib.sha256(content[MIB // 2 : MIB // 2 + MIB // 4]).digest()
    assert found.files["b.onnx"].fingerprints == (half, b"")
