"""What a weight file says about itself, told from its content by a few bounded reads.

One table of readers by format; each recognises its own magic number first. Nothing is unpickled,
decompressed or executed, and no length in a file is believed before it is checked.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ocimodel.errors import InputError
from ocimodel.spec.tensor import Tensor, count_by_dtype
from ocimodel.weights import gguf, onnx, safetensors, torch_zip, zip_directory
from ocimodel.weights.cursor import ReadAt
from ocimodel.weights.ggml_types import FILE_TYPES, PLAIN
from ocimodel.weights.magic import LFS_POINTER, begins_torch_zip, format_of

_HEAD: Final = 4096
# A file with such a name that is something else is an error, not an unknown file.
_PROMISES: Final = {".safetensors": "safetensors", ".gguf": "gguf", ".onnx": "onnx"}


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """One file. `n_parameters` is None where only unpickling or running code could tell.

    `format`: safetensors, gguf, onnx, torch, torchscript, pickle, hdf5, keras, numpy, tflite,
    executorch or ggml. `dtypes`: (name, number of parameters), the largest share first.
    `quantization`: a GGUF file type such as "Q4_K_M". `architecture`: GGUF's, such as "llama".
    `n_bytes`: of tensor data, or of the file where that is unknown. `n_parts`: files that this
    one says its model is split into, 1 when it says nothing.
    """

    format: str
    n_parameters: int | None
    dtypes: tuple[tuple[str, int], ...] = ()
    quantization: str = ""
    architecture: str = ""
    n_bytes: int = 0
    n_parts: int = 1


def read_facts(read_at: ReadAt, size: int, name: str) -> WeightFacts | None:
    """Facts of the file of `size` bytes, or None when it is no weight format known by content.

    `name`: its path, for messages and for what it promises to be. Raises InputError, naming the
    file, when a format that is certain (by magic number or by name) is malformed or truncated.
    """
    head = read_at(0, min(size, _HEAD))
    promised = _promised(name)
    try:
        if promised and head.startswith(LFS_POINTER):
            raise InputError(
                "a Git LFS pointer stands where the weights should be", hint="run: git lfs pull"
            )
        found = format_of(head)
        if found in _CERTAIN:
            return _CERTAIN[found](read_at, size)
        if found:
            return WeightFacts(found, None, n_bytes=size)
        if promised:
            return _WEAK[promised](read_at, size)
        return _guess(read_at, size, head)
    except InputError as error:
        raise InputError(f"{name}: {error}", hint=error.hint) from error


def _promised(name: str) -> str:
    lowered = name.lower()
    return next((kind for end, kind in _PROMISES.items() if lowered.endswith(end)), "")


def _guess(read_at: ReadAt, size: int, head: bytes) -> WeightFacts | None:
    """Formats without a magic number: only a header that parses to its end is believed."""
    reader: Callable[[ReadAt, int], WeightFacts]
    if safetensors.looks_like(head, size):
        reader = _safetensors
    elif onnx.looks_like(head):
        reader = _onnx
    else:
        return None
    try:
        return reader(read_at, size)
    except InputError:
        return None


def _of_tensors(
    kind: str,
    tensors: tuple[Tensor, ...],
    *,
    quantization: str = "",
    architecture: str = "",
    n_parts: int = 1,
) -> WeightFacts:
    dtypes = count_by_dtype(tensors)
    n_parameters = sum(n for _, n in dtypes)
    n_bytes = sum(tensor.length for tensor in tensors)
    return WeightFacts(kind, n_parameters, dtypes, quantization, architecture, n_bytes, n_parts)


def _safetensors(read_at: ReadAt, size: int) -> WeightFacts:
    return _of_tensors("safetensors", safetensors.tensors(read_at, size))


def _onnx(read_at: ReadAt, size: int) -> WeightFacts:
    return _of_tensors("onnx", onnx.tensors(read_at, size))


def _gguf(read_at: ReadAt, size: int) -> WeightFacts:
    header = gguf.read_header(read_at, size)
    architecture = header.metadata.get("general.architecture", "")
    file_type = header.metadata.get("general.file_type")
    n_parts = header.metadata.get("split.count", 1)
    quantization = FILE_TYPES.get(file_type, "") if isinstance(file_type, int) else None
    if quantization is None:
        # No file type: the most common type says it, unless it is a plain number.
        most = count_by_dtype(header.tensors)[:1]
        quantization = most[0][0] if most and most[0][0] not in PLAIN else ""
    return _of_tensors(
        "gguf",
        header.tensors,
        quantization=quantization,
        architecture=architecture if isinstance(architecture, str) else "",
        n_parts=n_parts if isinstance(n_parts, int) and n_parts > 1 else 1,
    )


def _zip(read_at: ReadAt, size: int) -> WeightFacts | None:
    """A torch checkpoint, Keras archive or numpy archive; None for any other zip file."""
    try:
        entries = zip_directory.read_entries(read_at, size)
    except InputError:
        # Zip is a container for everything: only a checkpoint's damage is ours to report.
        if begins_torch_zip(read_at(0, min(size, _HEAD))):
            raise
        return None
    prefix = torch_zip.prefix_of(entries)
    names = {entry.name for entry in entries}
    if prefix is not None:
        kind = "torchscript" if f"{prefix}constants.pkl" in names else "torch"
        return WeightFacts(kind, None, n_bytes=torch_zip.storage_bytes(entries, prefix))
    if {"metadata.json", "config.json", "model.weights.h5"} <= names:
        return WeightFacts("keras", None, n_bytes=size)
    if names and all(name.endswith(".npy") for name in names):
        return WeightFacts("numpy", None, n_bytes=sum(entry.size for entry in entries))
    return None


def _pickle(read_at: ReadAt, size: int) -> WeightFacts | None:
    """A whole pickle ends with the STOP opcode; without it, two bytes are too weak a sign."""
    last = read_at(size - 1, 1)
    return WeightFacts("pickle", None, n_bytes=size) if last == b"." else None


def _tflite(read_at: ReadAt, size: int) -> WeightFacts | None:
    """A FlatBuffer's root offset must lie in the file, or the identifier stands there by chance."""
    (root,) = struct.unpack("<I", read_at(0, 4))
    return WeightFacts("tflite", None, n_bytes=size) if 8 <= root < size else None


_CERTAIN: Final[dict[str, Callable[[ReadAt, int], WeightFacts | None]]] = {
    "gguf": _gguf,
    "zip": _zip,
    "pickle": _pickle,
    "tflite": _tflite,
}
_WEAK: Final[dict[str, Callable[[ReadAt, int], WeightFacts | None]]] = {
    "safetensors": _safetensors,
    "gguf": _gguf,
    "onnx": _onnx,
}
