"""Small valid weights files and indexes, to be damaged by tests and fuzzers."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from ocimodel.spec.chunkindex import BlobChunks, ChunkIndex, IndexedFile
from ocimodel.spec.tensor import Tensor


def safetensors_files() -> list[bytes]:
    arrays = {"a": np.arange(6, dtype="f4").reshape(2, 3), "ü": np.zeros((0, 3), "i1")}
    return [safetensors.numpy.save(arrays, {"k": "v"}), safetensors.numpy.save({})]


def gguf_text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf_pair(key: str, kind: int, value: bytes) -> bytes:
    return gguf_text(key) + struct.pack("<I", kind) + value


def gguf_info(name: str, dims: list[int], kind: int, offset: int) -> bytes:
    packed = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return gguf_text(name) + packed + struct.pack("<IQ", kind, offset)


def gguf_file(
    pairs: list[bytes], infos: list[bytes], body: bytes, version: int = 3, align: int = 32
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(infos), len(pairs))
    head += b"".join(pairs) + b"".join(infos)
    return head + b"\0" * (-len(head) % align) + body


GGUF_PAIRS = [
    gguf_pair("general.architecture", 8, gguf_text("llama")),
    gguf_pair("general.file_type", 4, struct.pack("<I", 15)),
    gguf_pair("tokens", 9, struct.pack("<IQ", 8, 2) + gguf_text("a") + gguf_text("bc")),
    gguf_pair("scores", 9, struct.pack("<IQ", 6, 3) + b"\0" * 12),
    gguf_pair("nested", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 0, 2) + b"ab"),
    gguf_pair("flag", 7, b"\1"),
]
GGUF_INFOS = [gguf_info("q", [256, 2], 12, 0), gguf_info("f", [3], 0, 288)]


def gguf_files() -> list[bytes]:
    body = b"\0" * 300
    return [gguf_file(GGUF_PAIRS, GGUF_INFOS, body, version) for version in (2, 3)]


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    """A field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def onnx_tensor(
    name: str, dims: list[int], kind: int, raw: bytes | None, more: bytes = b""
) -> bytes:
    body = b"".join(field(1, dim) for dim in dims) + field(2, kind) + field(8, name.encode())
    return body + (field(9, raw) if raw is not None else b"") + more


def onnx_external(location: str, offset: str = "8", length: str = "24") -> bytes:
    pairs = {"location": location, "offset": offset, "length": length}
    entries = (field(13, field(1, k.encode()) + field(2, v.encode())) for k, v in pairs.items())
    return b"".join(entries) + field(14, 1)


def onnx_model(graph: bytes, ir_version: int = 9, more: bytes = b"") -> bytes:
    head = field(1, ir_version) + field(2, b"test") + field(3, b"1.0")
    return head + field(7, graph) + field(8, field(2, 17)) + more


_BRANCH = field(5, onnx_tensor("inner", [2], 7, b"\0" * 16))
_CONSTANT = field(5, field(1, b"value") + field(5, onnx_tensor("", [], 1, b"\0" * 4)))
_SPARSE = field(1, onnx_tensor("s", [1], 1, b"\0" * 4)) + field(
    2, onnx_tensor("i", [1], 7, b"8" * 8)
)
ONNX_GRAPH = (
    field(1, field(4, b"If") + field(5, field(1, b"then_branch") + field(6, _BRANCH)))
    + field(1, field(2, b"c") + field(4, b"Constant") + _CONSTANT)
    + field(2, b"main")
    + field(5, onnx_tensor("w", [2, 3], 1, b"\0" * 24))
    + field(5, field(1, b"\x04") + field(2, 3) + field(5, b"\1\2\3\4") + field(8, b"typed"))
    + field(15, _SPARSE)
)
_FUNCTION = field(25, field(7, field(2, b"in_function") + field(4, b"Constant") + _CONSTANT))


def onnx_files() -> list[bytes]:
    outside = field(5, onnx_tensor("w", [2, 3], 1, None, onnx_external("m.onnx_data")))
    return [onnx_model(ONNX_GRAPH, more=_FUNCTION), onnx_model(outside)]


TORCH = {"m/data.pkl": b"\x80\x02}.", "m/data/0": b"abcd", "m/data/1": b"efghij", "m/version": b"3"}


def zipped(entries: Mapping[str, bytes], compress: bool = False, comment: bytes = b"") -> bytes:
    target = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        archive.comment = comment
    return target.getvalue()


def with_zip64_end(data: bytes) -> bytes:
    """As a writer of 70,000 entries ends it: the real numbers in the zip64 record."""
    end = data.rindex(b"PK\x05\x06")
    _, _, _, _, n, length, start, _ = struct.unpack("<4s4H2IH", data[end:])
    record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, n, n, length, start)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    small = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    return data[:end] + record + locator + small


def torch_files() -> list[bytes]:
    plain = zipped(TORCH)
    target = io.BytesIO()
    with (
        zipfile.ZipFile(target, "w") as archive,
        archive.open("m/data/0", "w", force_zip64=True) as storage,
    ):
        storage.write(b"abcd")
        storage.close()
        archive.writestr("m/data.pkl", b"\x80\x02}.")
    script = {**TORCH, "m/constants.pkl": b"\x80\x02).", "m/constants/0": b"wxyz"}
    return [plain, zipped(script), zipped(TORCH, compress=True), with_zip64_end(target.getvalue())]


def index_documents() -> list[bytes]:
    digests = ["sha256:" + letter * 64 for letter in "abc"]
    tensor = Tensor("w", "F32", (2, 3), 0, 24)
    outside = Tensor("x", "U8", (4,), 0, 4, "m.safetensors")
    files = {
        "m.safetensors": IndexedFile(
            "m.safetensors", 40, tuple(digests[:2]), "safetensors", {"k": "v"}, (tensor,), (b"",)
        ),
        "m.onnx": IndexedFile(
            "m.onnx", 9, (digests[2],), "onnx", {}, (outside,), (b"\1" * 32,)
        ),
    }  # fmt: skip
    blobs = {digests[0]: BlobChunks((24, 6), b"d" * 64), digests[1]: BlobChunks((10,), b"e" * 32)}
    profiles = {"load": (("m.onnx", 0, 9), ("m.safetensors", 8, 16))}
    return [ChunkIndex(blobs, files, profiles).encode(), ChunkIndex().encode()]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "safetensors": safetensors_files,
    "gguf": gguf_files,
    "onnx": onnx_files,
    "torch": torch_files,
    "index": index_documents,
}


def over(data: bytes) -> Any:
    """A ReadAt over bytes."""
    return lambda offset, length: data[offset : offset + length]
