"""Damaged and lying files of every format: a value or InputError, in bounded memory."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.spec.chunkindex import parse_index
from ocimodel.spec.tensor import TensorMap
from ocimodel.weights import gguf, onnx, safetensors, torch_zip
from ocimodel.weights.reader import Reader
from tests.weights import (
    SEEDS,
    field,
    gguf_file,
    gguf_pair,
    gguf_text,
    onnx_external,
    onnx_model,
    onnx_tensor,
    over,
    torch_files,
    with_zip64_end,
    zipped,
)

READERS: dict[str, Reader] = {
    "safetensors": safetensors,
    "gguf": gguf,
    "onnx": onnx,
    "torch": torch_zip,
}
# numbers that lengths, counts and offsets lie with
EXTREMES = [0, 1, 2**16 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


class Counting:
    """A ReadAt over `data` that looks as long as `size`; counts what was asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.n_bytes = 0

    def __call__(self, offset: int, length: int) -> bytes:
        assert offset >= 0 and length >= 0
        self.n_bytes += length
        return self.data[offset : offset + length]


@st.composite
def damaged(draw: st.DrawFn, kind: str) -> bytes:
    """A valid file of `kind` after a few edits."""
    data = bytearray(draw(st.sampled_from(SEEDS[kind]())))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["patch", "insert", "cut", "repeat", "number", "truncate"])):
            case "patch":
                patch = draw(st.binary(min_size=1, max_size=8))
                data[at : at + len(patch)] = patch
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "cut":
                del data[at : at + draw(st.integers(1, 40))]
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(1, 80))]
            case "number":
                value = draw(st.sampled_from(EXTREMES))
                width = draw(st.sampled_from([2, 4, 8]))
                data[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
            case "truncate":
                del data[at:]
    return bytes(data)


def check(found: TensorMap | None, size: int) -> None:
    for tensor in found.tensors if found else ():
        tensor.name.encode()
        assert tensor.file or 0 <= tensor.offset <= tensor.offset + tensor.length <= size


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_files_are_a_value_or_an_input_error(kind: str, data: st.DataObject) -> None:
    read = Counting(data.draw(damaged(kind)))
    try:
        check(READERS[kind].read(read, len(read.data)), len(read.data))
    except InputError:
        pass
    finally:
        # windows overlap, and a walk over nested messages returns
        assert read.n_bytes <= 4 * len(read.data) + 4096


@given(damaged("index"))
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_indexes_are_a_value_or_an_input_error(data: bytes) -> None:
    try:
        found = parse_index(data)
    except InputError:
        return
    assert parse_index(found.encode()) == found


def headed(text: bytes) -> bytes:
    """The header of a safetensors file."""
    return len(text).to_bytes(8, "little") + text


def many_empty_lists() -> bytes:
    return headed(b'{"a":[' + b"[]," * 300_000 + b"0]}")


def many_gguf_keys() -> bytes:
    return gguf_file([gguf_pair(f"k{i}", 4, b"\0" * 4) for i in range(60_000)], [], b"")


def long_gguf_strings() -> bytes:
    texts = b"".join(gguf_text("x" * 70_000) for _ in range(30))
    return gguf_file([gguf_pair("a", 9, struct.pack("<IQ", 8, 30) + texts)], [], b"")


def many_onnx_tensors() -> bytes:
    one = field(5, onnx_tensor("", [], 1, b"\0" * 4, field(12, b"")))
    return onnx_model(field(1, field(5, one * 60_000)))


def many_zip_entries() -> bytes:
    return zipped({"m/data.pkl": b""} | {f"m/data/{i}": b"" for i in range(30_000)})


def deep_json() -> bytes:
    return headed(b'{"a":' * 200_000)


LARGE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "empty lists": ("safetensors", many_empty_lists),
    "deep objects": ("safetensors", deep_json),
    "many keys": ("gguf", many_gguf_keys),
    "long strings": ("gguf", long_gguf_strings),
    "many tensors": ("onnx", many_onnx_tensors),
    "many entries": ("torch", many_zip_entries),
}


@pytest.mark.parametrize(("kind", "make"), LARGE.values(), ids=LARGE.keys())
def test_memory_follows_what_was_read(kind: str, make: Callable[[], bytes]) -> None:
    read = Counting(make())
    READERS[kind].recognises(read.data[:4096], len(read.data), "x")
    tracemalloc.start()
    try:
        READERS[kind].read(read, len(read.data))
    except InputError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert read.n_bytes <= 3 * len(read.data)
    # an empty list is two bytes in JSON, and 64 in memory
    assert peak <= 32 * read.n_bytes + (1 << 20)


def patched(data: bytes, at: int, code: str, *values: int) -> bytes:
    return data[:at] + struct.pack(code, *values) + data[at + struct.calcsize(code) :]


TORCH = torch_files()[0]
CENTRAL = [i for i in range(len(TORCH)) if TORCH.startswith(b"PK\x01\x02", i)]
FIRST = TORCH.index(b"m/data/0") - 30
ZIP64 = with_zip64_end(TORCH)
RECORD, LOCATOR = ZIP64.index(b"PK\x06\x06"), ZIP64.index(b"PK\x06\x07")


def lied(**values: int) -> bytes:
    """The header of a file that claims what it does not hold."""
    return b"GGUF" + struct.pack("<IQQ", 3, values.get("tensors", 0), values.get("keys", 0))


LIES: dict[str, tuple[str, bytes]] = {
    "2^63 bytes of header": ("safetensors", struct.pack("<Q", 2**63) + b"{}"),
    "2^63 tensors": ("gguf", lied(tensors=2**63)),
    "2^63 keys": ("gguf", lied(keys=2**63)),
    "2^63 bytes of string": ("gguf", lied(keys=1) + struct.pack("<Q", 2**63) + b"k"),
    "2^63 items": (
        "gguf",
        gguf_file([gguf_pair("a", 9, struct.pack("<IQ", 0, 2**63))], [], b"\0" * 64),
    ),
    "2^63 bytes in an array": (
        "gguf",
        gguf_file([gguf_pair("a", 9, struct.pack("<IQQ", 8, 1, 2**63))], [], b"\0" * 64),
    ),
    "half a character": (
        "safetensors",
        headed(rb'{"\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}') + b"x",
    ),
    "not a number": (
        "safetensors",
        headed(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"b":NaN}}') + b"x",
    ),
    "two initializers of one name": (
        "onnx",
        onnx_model(field(5, onnx_tensor("w", [1], 2, b"x")) * 2),
    ),
    "external data on a drive": (
        "onnx",
        onnx_model(field(5, onnx_tensor("w", [2, 3], 1, None, onnx_external("C:\\w.bin")))),
    ),
    "external data with a control character": (
        "onnx",
        onnx_model(field(5, onnx_tensor("w", [2, 3], 1, None, onnx_external("a\0b")))),
    ),
    "external data in another model": (
        "onnx",
        onnx_model(field(5, onnx_tensor("w", [2, 3], 1, None, onnx_external("sub/other.onnx")))),
    ),
    "a larger storage than its entry": ("torch", patched(TORCH, CENTRAL[1] + 20, "<2I", 60, 60)),
    "a storage over the directory": ("torch", patched(TORCH, CENTRAL[1] + 20, "<2I", 2**31, 2**31)),
    "two entries in one place": ("torch", patched(TORCH, CENTRAL[2] + 42, "<I", FIRST)),
    "zip64: 2^63 entries": ("torch", patched(ZIP64, RECORD + 32, "<Q", 2**63)),
    "zip64: 2^63 bytes": ("torch", patched(ZIP64, RECORD + 40, "<Q", 2**63)),
    "zip64: starts at 2^63": ("torch", patched(ZIP64, RECORD + 48, "<Q", 2**63)),
    "zip64: record at 2^63": ("torch", patched(ZIP64, LOCATOR + 8, "<Q", 2**63)),
    "zip64: record elsewhere": ("torch", patched(ZIP64, LOCATOR + 8, "<Q", 7)),
}


@pytest.mark.parametrize(("kind", "data"), LIES.values(), ids=LIES.keys())
def test_lies_are_refused_and_ask_for_nothing(kind: str, data: bytes) -> None:
    read = Counting(data)
    with pytest.raises(InputError):
        READERS[kind].read(read, len(data))
    assert read.n_bytes <= 3 * len(data) + 4096


def test_zip64_numbers_in_the_extra_field_are_followed() -> None:
    (found,) = [data for data in torch_files() if b"PK\x06\x06" in data]
    tensor_map = torch_zip.read(over(found), len(found))
    assert tensor_map is not None
    (storage,) = tensor_map.tensors
    assert found[storage.offset : storage.offset + storage.length] == b"abcd"


def test_what_zipfile_reads_we_place_alike() -> None:
    for data in torch_files():
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            golden: dict[str, Any] = {
                i.filename.partition("/")[2]: archive.read(i)
                for i in archive.infolist()
                if i.compress_type == zipfile.ZIP_STORED
            }
        found = torch_zip.read(over(data), len(data))
        assert found is not None
        for tensor in found.tensors:
            stored = data[tensor.offset : tensor.offset + tensor.length]
            assert stored == golden[tensor.name]
