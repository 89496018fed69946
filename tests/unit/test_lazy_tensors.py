"""Tensors as arrays: every type, any slice, and no more bytes than its rows have."""

from __future__ import annotations

import mmap
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocimodel.errors import InputError, UsageError
from ocimodel.lazy.tensors import FRAMEWORKS, new_buffer
from ocimodel.spec.tensor import Tensor
from tests.indexed import Weights
from tests.lazy import BIG, NUMPY, SAMPLE, array, file_of, opened, same
from tests.weights import gguf_files

WITH_STEPS = {
    "a.rows": ("F32", array((12, 5, 3))),
    "b.vector": ("BF16", array((17,), "BF16")),
    "c.one": ("U8", array((1, 1), "U8")),
}


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("shape", [(3, 4), (), (0, 3), (5,), (2, 1, 2)])
def test_numpy_has_every_type(dtype: str, shape: tuple[int, ...]) -> None:
    expected = array(shape, dtype)
    with opened({"m.safetensors": file_of({"t": (dtype, expected)})}) as it:
        tensor = it.model.tensors("numpy")["t"]
        assert (tensor.name, tensor.dtype, tensor.shape) == ("t", dtype, shape)
        assert tensor.n_bytes == expected.nbytes
        assert same(tensor.numpy(), expected)
        assert same(tensor[...], expected)
        assert same(np.asarray(tensor), expected)
        [(name, loaded)] = it.model.load(framework="numpy")
        assert name == "t"
        assert same(loaded, expected)
        assert tensor.numpy().flags.writeable


@pytest.mark.parametrize("dtype", NUMPY)
def test_torch_has_every_type(dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    expected = array((6, 4), dtype)
    with opened({"m.safetensors": file_of({"t": (dtype, expected)})}) as it:
        tensor = it.model.tensors("torch")["t"]
        for found in (tensor.torch(), tensor[...], next(it.model.load(framework="torch"))[1]):
            assert tuple(found.shape) == (6, 4)
            raw = found.contiguous().view(torch.uint8).numpy().tobytes()
            assert raw == expected.tobytes()
        assert tensor[4:0:-2].flatten()[0] == tensor[4].flatten()[0]


def test_torch_only_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with opened() as it, pytest.raises(UsageError, match="torch is not installed"):
        it.model.tensors("torch")["a.bias"].numpy and it.model.tensors("torch")["a.bias"][0:1]


@pytest.mark.parametrize("framework", ["jax", "Torch"])
def test_no_such_framework(framework: str) -> None:
    with opened() as it:
        with pytest.raises(UsageError) as caught:
            it.model.tensors(framework)
        assert all(name in caught.value.hint for name in FRAMEWORKS)
        with pytest.raises(UsageError):
            it.model.load(framework=framework)


def test_elements_of_less_than_a_byte_are_bytes() -> None:
    raw = bytes(range(12))
    weights = Weights(raw, "onnx", {}, (Tensor("t", "U4", (3, 8), 0, 12),))
    with opened({"m.onnx": weights}) as it:
        tensor = it.model.tensors("numpy")["t"]
        assert same(tensor.numpy(), np.arange(12, dtype="u1").reshape(3, 4))
        assert same(tensor[1:3], np.arange(4, 12, dtype="u1").reshape(2, 4))
    odd = Weights(raw[:6], "onnx", {}, (Tensor("t", "U4", (4, 3), 0, 6),))
    with opened({"m.onnx": odd}) as it:
        tensor = it.model.tensors("numpy")["t"]
        assert tensor.numpy().tobytes() == raw[:6]
        with pytest.raises(InputError, match="whole bytes"):
            tensor[1:2]


def test_blocks_of_quantised_weights_are_rows_of_bytes() -> None:
    raw = gguf_files()[0]
    expected = np.arange(288, dtype="u1")
    body = len(raw) - 300
    full = raw[:body] + expected.tobytes() + raw[body + 288 :]
    tensors = (Tensor("q", "Q4_K", (2, 256), body, 288), Tensor("f", "F32", (3,), body + 288, 12))
    with opened({"m.gguf": Weights(full, "gguf", {}, tensors)}) as it:
        quantised = it.model.tensors("numpy")["q"]
        assert same(quantised.numpy(), expected.reshape(2, 144))
        assert same(quantised[1], expected.reshape(2, 144)[1])
        assert same(quantised[1:], expected.reshape(2, 144)[1:])
        assert dict(it.model.load(["q"], framework="numpy"))["q"].shape == (2, 144)


def keys(n_dims: int) -> st.SearchStrategy[Any]:
    ends = st.none() | st.integers(-20, 20)
    slices = st.builds(slice, ends, ends, st.none() | st.integers(-4, 4).filter(bool))
    one = st.integers(-20, 20) | st.integers(-20, 20).map(np.int64) | slices
    many = st.lists(one | st.just(...), max_size=n_dims).map(tuple)
    masks = st.just(np.arange(12) % 3 == 0) | st.just([0, 2]) | st.none() | st.booleans()
    return one | many | st.just(...) | masks


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(WITH_STEPS)), st.data())
def test_slices_are_those_of_numpy(name: str, data: st.DataObject) -> None:
    expected = WITH_STEPS[name][1]
    key = data.draw(keys(expected.ndim))
    try:
        wanted = expected[key]
    except IndexError:
        with pytest.raises(IndexError):
            _ = _LAZY[name][key]
        return
    found = _LAZY[name][key]
    assert np.shape(found) == np.shape(wanted)
    assert np.asarray(found).tobytes() == np.asarray(wanted).tobytes()


_OPENED = opened({"m.safetensors": file_of(WITH_STEPS)})
_LAZY = _OPENED.model.tensors("numpy")


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        (slice(0, 1), [0]),
        (slice(1, 3), [1, 2]),
        (1, [1]),
        (-1, [2]),
        (np.int32(2), [2]),
        ((slice(2, None), slice(0, 5)), [2]),
        ((0, 5), [0]),
        (slice(None, 0, -1), [1, 2]),
        (slice(None, None, 2), [0, 1, 2]),
        (slice(1, 1), []),
    ],
)
def test_only_the_rows_that_are_wanted_are_fetched(key: Any, rows: list[int]) -> None:
    with opened() as it:
        found = it.model.tensors("numpy")["a.big"][key]
        expected = SAMPLE["a.big"][1]
        assert same(found, expected[key])
        assert it.source.n_bytes_read == len(rows) * BIG[1]
        assert it.model.traffic.n_fetched == it.source.n_bytes_read
        # one stretch, one request
        assert len(it.source.asked) == bool(rows)


def test_columns_need_all_rows() -> None:
    with opened() as it:
        found = it.model.tensors("numpy")["a.big"][:, 5:7]
        assert same(np.ascontiguousarray(found), np.ascontiguousarray(SAMPLE["a.big"][1][:, 5:7]))
        assert it.source.n_bytes_read == BIG[0] * BIG[1]


def test_tensors_are_sequences_of_rows() -> None:
    with opened({"m.safetensors": file_of({"t": ("F32", array((4, 2)))})}) as it:
        tensor = it.model.tensors("numpy")["t"]
        assert len(tensor) == 4
        assert [row.tolist() for row in tensor] == array((4, 2)).tolist()
        assert np.asarray(tensor, dtype="f8").dtype == np.float64
    with opened() as it:
        with pytest.raises(TypeError):
            len(it.model.tensors("numpy")["c.scalar"])
        with pytest.raises(IndexError):
            it.model.tensors("numpy")["c.scalar"][0]


def test_each_array_has_memory_of_its_own() -> None:
    with opened() as it:
        tensor = it.model.tensors("numpy")["a.bias"]
        one = tensor.numpy()
        one[:] = 0
        assert same(tensor.numpy(), SAMPLE["a.bias"][1])


@pytest.mark.parametrize("n_bytes", [0, 1, 4096, 5 << 20])
def test_buffers(n_bytes: int) -> None:
    buffer = new_buffer(n_bytes)
    assert len(buffer) == n_bytes
    assert not buffer.readonly
    assert bytes(buffer) == bytes(n_bytes)


def test_bf16_values_are_right() -> None:
    """Not only the bytes."""
    values = np.array([1.5, -2.0, 3e38, 1e-30], dtype=ml_dtypes.bfloat16)
    with opened({"m.safetensors": file_of({"t": ("BF16", values)})}) as it:
        found = it.model.tensors("numpy")["t"].numpy().astype("f4")
    assert found.tolist() == values.astype("f4").tolist()


def test_small_buffers_take_no_area_of_memory_of_their_own() -> None:
    """A process may have some 65,000 of them, and a model more tensors."""
    small, big = new_buffer(4096), new_buffer(4 << 20)
    assert isinstance(small.obj, bytearray)
    assert isinstance(big.obj, mmap.mmap)
    assert (len(small), len(big), len(new_buffer(0))) == (4096, 4 << 20, 0)
    assert not (small.readonly or big.readonly)
