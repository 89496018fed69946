"""The safetensors header, against the safetensors package and its rules."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.weights.facts import read_facts
from ocimodel.weights.safetensors import MAX_HEADER, read, read_header
from tests.weights import over


def build(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(
    begin: int, end: int, shape: list[int] | None = None, dtype: str = "U8"
) -> dict[str, Any]:
    shape = [end - begin] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD = build({"__metadata__": {"format": "np"}, "b": entry(4, 6), "a": entry(0, 4)}, b"\0" * 6)


def test_a_small_file() -> None:
    header = read_header(over(GOOD), len(GOOD))
    assert [tensor.name for tensor in header.tensors] == ["a", "b"]
    assert header.metadata == {"format": "np"}
    first = header.tensors[0]
    assert (first.dtype, first.shape, first.length) == ("U8", (4,), 4)
    assert (first.offset, header.data_start) == (len(GOOD) - 6, len(GOOD) - 6)


GOLDEN = ["bool", "int8", "uint8", "int16", "uint16", "int32", "int64", "float16", "float64"]


def test_golden_against_the_package(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"t.{name}": rng.integers(0, 2, (3, 5)).astype(name) for name in GOLDEN}
    arrays |= {"scalar": np.array(3, "float32"), "empty": np.zeros((0, 7), "float32")}
    data = safetensors.numpy.save(arrays, {"k": "ü"})
    header = read_header(over(data), len(data))
    assert header.metadata == {"k": "ü"}
    assert {tensor.name for tensor in header.tensors} == set(arrays)
    for tensor in header.tensors:
        assert tensor.shape == arrays[tensor.name].shape
        found = data[tensor.offset : tensor.offset + tensor.length]
        assert found == arrays[tensor.name].tobytes()


def test_golden_against_the_real_model(minilm_dir: Path) -> None:
    path = minilm_dir / "model.safetensors"
    with path.open("rb") as file:
        found = read(lambda o, n: os.pread(file.fileno(), n, o), path.stat().st_size).tensors
        facts = read_facts(
            lambda o, n: os.pread(file.fileno(), n, o), path.stat().st_size, path.name
        )
        with safetensors.safe_open(path, "numpy") as golden:
            assert {tensor.name for tensor in found} == set(golden.keys())
            for tensor in found:
                array = golden.get_tensor(tensor.name)
                assert tensor.shape == array.shape
                assert os.pread(file.fileno(), tensor.length, tensor.offset) == array.tobytes()
    assert facts is not None
    assert facts.dtypes == (("F32", 22713216), ("I64", 512))
    assert facts.n_parameters == 22713728


def test_subbyte_dtypes() -> None:
    data = build({"a": entry(0, 3, [6], "F4"), "b": entry(3, 6, [4], "F6_E2M3")}, b"\0" * 6)
    assert [tensor.length for tensor in read(over(data), len(data)).tensors] == [3, 3]


BAD = {
    "empty file": b"",
    "seven bytes": b"\0" * 7,
    "length over the file": (100).to_bytes(8, "little") + b"{}",
    "length over the cap": (MAX_HEADER + 1).to_bytes(8, "little") + b"{}",
    "length of 2^63": (2**63).to_bytes(8, "little") + b"{}",
    "no object": build(b"[]"),
    "leading blank": build(b" {}"),
    "no JSON": build(b'{"a":'),
    "no UTF-8": build(b'{"\xff":1}'),
    "deep": build(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "duplicate name": build(b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 1)).encode(),) * 2), b"\0"),
    "metadata of numbers": build({"__metadata__": {"a": 1}}),
    "metadata list": build({"__metadata__": []}),
    "entry of text": build({"a": "x"}),
    "no dtype": build({"a": {"shape": [1], "data_offsets": [0, 1]}}, b"\0"),
    "unknown dtype": build({"a": entry(0, 1, dtype="Q4")}, b"\0"),
    "negative dimension": build({"a": entry(0, 1, [-1])}, b"\0"),
    "boolean dimension": build({"a": entry(0, 1, [True])}, b"\0"),
    "float dimension": build({"a": {"dtype": "U8", "shape": [1.0], "data_offsets": [0, 1]}}, b"\0"),
    "overflowing shape": build({"a": entry(0, 1, [2**40, 2**40])}, b"\0"),
    "wrong length": build({"a": entry(0, 3, [1], "F32")}, b"\0" * 3),
    "backward offsets": build({"a": entry(2, 1, [1])}, b"\0\0"),
    "three offsets": build({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 2]}}, b"\0"),
    "half a byte": build({"a": entry(0, 1, [1], "F4")}, b"\0"),
    "hole at the start": build({"a": entry(1, 2)}, b"\0\0"),
    "hole": build({"a": entry(0, 1), "b": entry(2, 3)}, b"\0" * 3),
    "overlap": build({"a": entry(0, 2), "b": entry(1, 3)}, b"\0" * 3),
    "bytes left over": build({"a": entry(0, 1)}, b"\0\0"),
    "bytes missing": build({"a": entry(0, 2)}, b"\0"),
    "huge number": build(b'{"a":' + b"9" * 5000 + b"}"),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_malformed_files_are_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        read_header(over(data), len(data))
    with pytest.raises(InputError, match=r"^sub/model\.safetensors: "):
        read_facts(over(data), len(data), "sub/model.safetensors")


def test_a_length_that_lies_asks_for_nothing() -> None:
    asked = []

    def read_at(offset: int, length: int) -> bytes:
        asked.append(length)
        return ((MAX_HEADER).to_bytes(8, "little") + b"{}")[offset : offset + length]

    with pytest.raises(InputError):
        read_header(read_at, 10)
    assert max(asked) <= 10


def test_ninety_thousand_tensors_are_read_quickly() -> None:
    names = {f"model.layers.{i}.experts.weight": entry(i, i + 1) for i in range(90_000)}
    data = build(names, b"\0" * 90_000)
    assert len(read(over(data), len(data)).tensors) == 90_000


@given(st.integers(0, len(GOOD)))
def test_every_truncation_is_refused(length: int) -> None:
    data = GOOD[:length]
    if length < len(GOOD):
        with pytest.raises(InputError):
            read_header(over(data), len(data))


@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=4))
def test_every_mutation_is_a_value_or_an_input_error(position: int, patch: bytes) -> None:
    data = GOOD[:position] + patch + GOOD[position + len(patch) :]
    try:
        header = read_header(over(data), len(data))
    except InputError:
        return
    assert header.data_start + sum(tensor.length for tensor in header.tensors) == len(data)


@given(
    st.dictionaries(
        st.text(max_size=5), st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=4
    )
)
def test_what_we_accept_the_package_accepts(spans: dict[str, tuple[int, int]]) -> None:
    data = build({name: entry(*span) for name, span in spans.items()}, b"\0" * 9)
    try:
        ours = len(read(over(data), len(data)).tensors)
    except InputError:
        with pytest.raises(safetensors.SafetensorError):
            safetensors.deserialize(data)
        return
    assert ours == len(safetensors.deserialize(data))
