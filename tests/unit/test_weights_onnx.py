"""The walk over ONNX models, against the onnx package and hand-made messages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.weights.cursor import PAGE, WINDOW, windowed
from ocimodel.weights.facts import read_facts
from ocimodel.weights.onnx import DTYPES, read_header
from tests.weights import (
    ONNX_GRAPH,
    field,
    onnx_external,
    onnx_files,
    onnx_model,
    onnx_tensor,
    over,
    varint,
)

RAW = b"\0" * 24
GOOD = onnx_model(ONNX_GRAPH)
FUNCTION = onnx_files()[0]


def test_a_small_file() -> None:
    header = read_header(over(GOOD), len(GOOD))
    assert (header.ir_version, header.producer) == (9, "test")
    found = {item.name: item for item in header.tensors}
    assert set(found) == {"inner", "c", "w", "typed", "s", "i"}
    assert (found["w"].shape, found["w"].dtype, found["w"].length) == ((2, 3), "F32", 24)
    assert GOOD[found["w"].offset :][:24] == RAW
    assert (found["typed"].shape, found["typed"].dtype) == ((4,), "I8")
    for name in ("m.onnx", "no-ending"):
        facts = read_facts(over(GOOD), len(GOOD), name)
        assert facts is not None
        assert (facts.format, facts.n_parameters) == ("onnx", 6 + 2 + 1 + 4 + 2)


def test_constants_of_functions_have_the_name_of_what_they_give() -> None:
    header = read_header(over(FUNCTION), len(FUNCTION))
    assert header.tensors[-1].name == "in_function"
    assert (header.opsets, header.producer_version) == ({"": 17}, "1.0")


def test_external_data_names_its_file() -> None:
    data = onnx_model(field(5, onnx_tensor("w", [2, 3], 1, None, onnx_external("m.onnx_data"))))
    (found,) = read_header(over(data), len(data)).tensors
    assert (found.file, found.offset, found.length) == ("m.onnx_data", 8, 24)


def test_golden_against_the_package(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the onnx package is not installed")
    from onnx import TensorProto, helper, numpy_helper

    arrays = {
        "f32": np.arange(12, dtype="float32").reshape(3, 4),
        "i8": np.arange(5, dtype="int8"),
        "i64": np.arange(4, dtype="int64"),
        "empty": np.zeros((0, 3), "float16"),
    }
    made = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    made.append(helper.make_tensor("typed", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0]))
    made.append(helper.make_tensor("small", TensorProto.INT8, [3], [-1, 2, 3]))
    made.append(helper.make_tensor("text", TensorProto.STRING, [1], [b"x"]))
    graph = helper.make_graph(
        [helper.make_node("Identity", ["f32"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4])],
        made,
    )
    data = helper.make_model(graph).SerializeToString()
    found = {item.name: item for item in read_header(over(data), len(data)).tensors}
    assert set(found) == {*arrays, "typed", "small"}
    for name, array in arrays.items():
        assert found[name].shape == array.shape
        item = found[name]
        assert data[item.offset : item.offset + item.length] == array.tobytes()
    assert found["typed"].n_elements == found["small"].n_elements == 3
    for name, number in onnx.TensorProto.DataType.items():
        assert number in DTYPES or name in ("UNDEFINED", "STRING") or number > max(DTYPES)


BAD = {
    "empty": b"",
    "no graph": field(1, 9) + field(8, b""),
    "no operator set": field(1, 9) + field(7, b""),
    "ir version 0": onnx_model(b"", ir_version=0),
    "field number 0": b"\0\1",
    "group": b"\x0b",
    "endless varint": b"\x08" + b"\xff" * 20,
    "length over the file": field(1, 9) + b"\x3a" + varint(2**62),
    "negative dimension": onnx_model(field(5, onnx_tensor("w", [2**64 - 1], 1, b""))),
    "overflowing shape": onnx_model(field(5, onnx_tensor("w", [2**62, 2**62], 1, b""))),
    "wrong raw length": onnx_model(field(5, onnx_tensor("w", [3], 1, b"\0" * 11))),
    "no data": onnx_model(field(5, onnx_tensor("w", [2**40], 1, None))),
    "unknown dtype": onnx_model(field(5, onnx_tensor("w", [1], 99, b"\0"))),
    "name not UTF-8": onnx_model(
        field(5, field(1, 1) + field(2, 2) + field(8, b"\xff") + field(9, b"x"))
    ),
    "many dimensions": onnx_model(field(5, onnx_tensor("w", [1] * 65, 2, b"\0"))),
    "external above": onnx_model(
        field(5, onnx_tensor("w", [2, 3], 1, None, onnx_external("../x")))
    ),
    "external absolute": onnx_model(
        field(5, onnx_tensor("w", [2, 3], 1, None, onnx_external("/x")))
    ),
    "external nowhere": onnx_model(field(5, onnx_tensor("w", [2, 3], 1, None, onnx_external("")))),
    "external offset": onnx_model(
        field(5, onnx_tensor("w", [2, 3], 1, None, onnx_external("x", "-1")))
    ),
    "external length": onnx_model(
        field(5, onnx_tensor("w", [2, 3], 1, None, onnx_external("x", "0", "23")))
    ),
}


def deep_graph(levels: int) -> bytes:
    graph = b""
    for _ in range(levels):
        graph = field(1, field(5, field(6, graph)))
    return onnx_model(graph)


BAD["deep graphs"] = deep_graph(40)


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_malformed_files_are_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        read_header(over(data), len(data))
    with pytest.raises(InputError, match=r"^x\.onnx: "):
        read_facts(over(data), len(data), "x.onnx")
    # Without the name, nothing says that this should be ONNX.
    assert read_facts(over(data), len(data), "x") is None


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=8))
def test_every_mutation_is_a_value_or_an_input_error(position: int, patch: bytes) -> None:
    data = GOOD[:position] + patch + GOOD[position + len(patch) :]
    try:
        header = read_header(over(data), len(data))
    except InputError:
        return
    inside = [item for item in header.tensors if not item.file]
    assert all(0 <= item.offset <= item.offset + item.length <= len(data) for item in inside)


@given(st.integers(0, len(GOOD) - 1))
def test_every_truncation_is_refused(length: int) -> None:
    with pytest.raises(InputError):
        read_header(over(GOOD[:length]), length)


def test_weights_are_not_read() -> None:
    body = b"\0" * (4 * WINDOW * 100)
    data = onnx_model(field(5, onnx_tensor("w", [WINDOW * 100], 1, body)))
    asked = []

    def read_at(offset: int, length: int) -> bytes:
        asked.append(length)
        return data[offset : offset + length]

    read_header(read_at, len(data))
    assert sum(asked) <= 4 * PAGE


@given(st.binary(max_size=50), st.integers(0, 3 * WINDOW), st.integers(0, 3 * WINDOW))
def test_windows_give_the_same_bytes(seed: bytes, offset: int, length: int) -> None:
    data = (seed or b"x") * (3 * WINDOW // len(seed or b"x"))
    read = windowed(over(data), len(data))
    assert read(offset, length) == data[offset : offset + length]
    assert read(offset + 1, length) == data[offset + 1 : offset + 1 + length]
