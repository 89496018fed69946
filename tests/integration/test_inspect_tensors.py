"""`inspect --tensors` against a real registry: what is listed, and that no weights come for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors

from ocimodel.errors import InputError, RegistryError
from ocimodel.ops.access import client_options, open_store
from ocimodel.ops.browse import inspect
from ocimodel.ops.push import pack, push
from ocimodel.ops.tensors import tensors_of_headers
from ocimodel.spec.chunkindex import BlobChunks, ChunkIndex, IndexedFile
from ocimodel.spec.modelpack import INDEX_PATH, REGULAR, file_layer, new_index_layer, read_layer
from ocimodel.spec.reference import parse_reference
from ocimodel.spec.segments import segment_path
from ocimodel.spec.tensor import Tensor
from ocimodel.store.copy import copy
from ocimodel.store.layout import Layout
from ocimodel.store.memory import MemoryStore
from tests.artifacts import Recorder, put_blob, put_layers, put_model, random_bytes
from tests.servers.fault_proxy import FaultProxy
from tests.servers.finetunes import resharded
from tests.servers.registry import DockerRegistry
from tests.trees import patient
from tests.weights import SEEDS, field, onnx_external, onnx_model, onnx_tensor

Proxies = Callable[..., FaultProxy]
MIB = 1 << 20


@pytest.mark.parametrize("n_files", [1, 3])
def test_no_weights_are_fetched(
    docker_registry: DockerRegistry,
    fault_proxy: Proxies,
    minilm_dir: Path,
    repo: str,
    tmp_path: Path,
    n_files: int,
) -> None:
    model = minilm_dir if n_files == 1 else resharded(minilm_dir, tmp_path / "m", n_files).path
    proxy = fault_proxy(docker_registry)
    reference = f"{proxy.host}/{repo}:v1"
    pushed = push(model, reference, client=patient())
    proxy.clear()
    found = inspect(reference, tensors=True, client=patient())
    assert proxy.downloaded("") < MIB < pushed.size
    ours = {tensor.name: tensor for tensor in found.tensors}
    assert len(ours) == len(found.tensors) == 104
    assert len({tensor.file for tensor in found.tensors}) == n_files
    for path in model.glob("*.safetensors"):
        with safetensors.safe_open(path, "numpy") as golden:
            for name in golden.keys():  # noqa: SIM118 - it is no dictionary
                tensor, their = ours[name], golden.get_slice(name)
                assert tensor.file == path.name
                assert (list(tensor.shape), tensor.dtype) == (their.get_shape(), their.get_dtype())
    proxy.clear()
    assert inspect(reference, client=patient()).tensors == ()


def test_headers_are_read_where_there_is_no_index(
    docker_registry: DockerRegistry, fault_proxy: Proxies, minilm_dir: Path, repo: str
) -> None:
    """As another tool packs it: one raw layer, and nothing of ours."""
    source = MemoryStore()
    weights = (minilm_dir / "model.safetensors").read_bytes()
    root = put_model(source, {"sub/model.safetensors": weights, "notes.bin": b"\0" * 100})
    proxy = fault_proxy(docker_registry)
    reference = f"{proxy.host}/{repo}:v1"
    send(source, root.digest, reference)
    proxy.clear()
    found = inspect(reference, tensors=True, client=patient())
    assert found.tensors_from == "headers"
    assert {tensor.file for tensor in found.tensors} == {"sub/model.safetensors"}
    assert len(found.tensors) == 104
    assert proxy.downloaded("") < MIB


def test_an_index_is_believed_and_segments_are_one_file(
    docker_registry: DockerRegistry, fault_proxy: Proxies, repo: str
) -> None:
    proxy = fault_proxy(docker_registry)
    for number, tampered in enumerate((False, True)):
        store = MemoryStore()
        root = put_segmented(store, tampered=tampered)
        reference = f"{proxy.host}/{repo}:v{number}"
        send(store, root, reference)
        proxy.clear()
        seen = inspect(reference, client=patient())
        assert [(f.path, f.size) for f in seen.files] == [("m.bin", 5 * MIB)]
        if tampered:
            with pytest.raises(InputError, match="index"):
                inspect(reference, tensors=True, client=patient())
            continue
        found = inspect(reference, tensors=True, client=patient())
        assert found.tensors_from == "index"
        assert found.tensors == (Tensor("w", "U8", (9,), 7, 9, "m.bin"),)
        assert proxy.downloaded("") < MIB


def put_segmented(store: MemoryStore, *, tampered: bool) -> str:
    """A file in two segments with an index, which contradicts the manifest if it is tampered."""
    parts = [random_bytes(3 * MIB, 1), random_bytes(2 * MIB, 2)]
    digests = [put_blob(store, part) for part in parts]
    layers = [
        file_layer(segment_path("m.bin", i + 1, 2), "weight", digests[i], len(parts[i]), REGULAR)
        for i in range(2)
    ]
    tensors = (Tensor("w", "U8", (9,), 7, 9),)
    segments = tuple(reversed(digests) if tampered else digests)
    file = IndexedFile("m.bin", 5 * MIB, segments, "mine", {}, tensors, (b"",))
    index = ChunkIndex({digests[0]: BlobChunks((MIB, 2 * MIB), b"d" * 64)}, {"m.bin": file})
    raw = index.encode()
    layers.append(new_index_layer(put_blob(store, raw), len(raw)))
    assert any(INDEX_PATH in layer.annotations.values() for layer in layers)
    return put_layers(store, layers).digest


def send(source: MemoryStore, digest: str, reference: str) -> None:
    name = parse_reference(reference)
    root = source.manifest(digest)
    target = open_store(name, client_options(patient()))
    copy(source, target, root)
    target.tag(name.tag, root.descriptor)


def test_a_layout_needs_no_server(minilm_dir: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(minilm_dir, model)
    packed = pack(model, f"oci:{tmp_path / 'layout'}:v1")
    found = inspect(packed.pinned, tensors=True)
    assert len(found.tensors) == 104
    assert Layout(tmp_path / "layout").tags() == ["v1"]


# stores that serve no ranges


def whole(files: dict[str, bytes]) -> tuple[Recorder, list[Tensor]]:
    store = MemoryStore()
    root = put_model(store, files)
    source = Recorder(store, whole=True)
    return source, tensors_of_headers(source, [read_layer(layer) for layer in root.layers])


def test_of_a_store_without_ranges_only_the_beginning_is_read() -> None:
    header = SEEDS["gguf"]()[0]
    info = b"".join([header, bytes(3 * MIB)])
    source, found = whole({"m.gguf": info})
    assert [tensor.name for tensor in found] == ["q", "f"]
    assert source.n_bytes_read < MIB


def test_a_store_without_ranges_that_would_send_the_weights_is_refused() -> None:
    checkpoint = SEEDS["torch"]()[0]
    assert [t.name for t in whole({"m.pt": checkpoint})[1]] == ["data/0", "data/1"]
    body = onnx_tensor("w", [17 * MIB], 2, bytes(17 * MIB))
    with pytest.raises(RegistryError, match="no ranges"):
        whole({"m.onnx": onnx_model(field(5, body))})


def test_external_data_lies_beside_the_model() -> None:
    graph = field(5, onnx_tensor("w", [2, 3], 1, None, onnx_external("w.bin", "0")))
    _, found = whole({"sub/m.onnx": onnx_model(graph), "sub/w.bin": bytes(24), "empty": b""})
    assert found == [Tensor("w", "F32", (2, 3), 0, 24, "sub/w.bin")]


def test_damaged_weights_are_named() -> None:
    with pytest.raises(InputError, match=r"^a\.safetensors: safetensors: "):
        whole({"a.safetensors": b"\1\0\0\0\0\0\0\0x"})


def test_a_header_that_is_too_long_is_not_fetched() -> None:
    size = 40 * MIB
    with pytest.raises(InputError, match="too long to look at from afar"):
        whole({"a.safetensors": size.to_bytes(8, "little") + b"{}".ljust(size)})
